"""Images that a tokenizer is evaluated on during training."""

import concurrent.futures
import functools
import logging
import re

import jax
from ml_collections import ConfigDict

from unitok_jax.data.health import Health, SampleError, Tally
from unitok_jax.data.images.transforms import decode_image
from unitok_jax.data.patience import read_patiently
from unitok_jax.data.records import Source, subset
from unitok_jax.data.sources import open_source
from unitok_jax.evaluation import suite
from unitok_jax.runtime import processes
from unitok_jax.system.passing import may_pass

log = logging.getLogger(__name__)


class EvaluationImages:
    """First images of `eval.source`, or of the training images where it is empty.

    Attributes:
      source: source of the images, without those that were left out.
    """

    def __init__(self, data: ConfigDict, settings: ConfigDict, training: Source):
        """Opens the images.

        Args:
          data: `config.data`.
          settings: `config.eval`.
          training: source of the training images.

        Raises:
          ValueError, OSError: `eval.source` cannot be opened; the message names the key.
        """
        self._data, self._settings = data, settings
        source = _open(data, settings) if settings.source else training
        self.source = subset(source, range(min(len(source), settings.max_images)))

    def prepare(self, resumed: bool) -> None:
        """Decodes the images once. All processes call it, before the first evaluation.

        A `resumed` run skips the images of `eval.source`, decoded when the run first started.

        Raises:
          SampleError: an image of `eval.source` cannot be used; the message names it.
          TooManyBadSamples: more of the training images evaluated than `data.max_bad`.
          OSError: one cannot be read.
        """
        if resumed and self._settings.source:
            return
        with processes.fail_together():
            bad = self.bad()
        self.leave_out([found for share in processes.from_all(bad) for found in share])

    def bad(self) -> list[tuple[int, str, str]]:
        """Decodes this process's share of the images once, at the start of a run.

        Returns:
          (position, reason, message) of each training image that cannot be used, if training
          images are evaluated.

        Raises:
          SampleError: an image of `eval.source` cannot be used; the message names it.
          OSError: one cannot be read.
        """

        def problem(index):
            try:
                record = read_patiently(self.source.__getitem__, index)
                decode_image(record["image"], record["name"])
            except (SampleError, OSError) as error:
                if self._settings.source or may_pass(error):
                    raise
                return index, getattr(error, "reason", "unreadable"), str(error)
            return None

        share = range(jax.process_index(), len(self.source), jax.process_count())
        with concurrent.futures.ThreadPoolExecutor(self._data.num_threads) as pool:
            return [found for found in pool.map(problem, share) if found]

    def leave_out(self, bad: list[tuple[int, str, str]]) -> None:
        """Leaves some training images, of all processes, out of later evaluations.

        Raises:
          TooManyBadSamples: `bad` is more than `data.max_bad` of the images evaluated.
        """
        if not bad:
            return
        count, tally = len(self.source), Tally()
        for _, reason, message in bad:
            tally.add(reason, message)
        Health(self._data.max_bad).check(tally, count)
        log.warning("%d of %d images are not evaluated:\n%s", len(bad), count, tally)
        left_out = {index for index, _, _ in bad}
        good = [index for index in range(count) if index not in left_out]
        self.source = subset(self.source, good)

    @functools.cached_property
    def captions(self) -> suite.Captions:
        """Captions of the images, tokenized; read once, so not before `prepare`."""
        return suite.captions_of(self.source, self._data.context_length)


def _open(data: ConfigDict, settings: ConfigDict) -> Source:
    data = data.copy_and_resolve_references()
    for key in ("source", "path", "captions"):
        data[key] = settings[key]
    if data.source == "mixture":
        raise ValueError("eval.source=mixture: weights mean nothing to an evaluation; name one set")
    try:
        return open_source(data, require_captions=False)
    except (ValueError, OSError) as error:
        # Only the keys: a path may contain "data." too.
        message = re.sub(r"\bdata\.(source|path|captions)\b(?=[ =])", r"eval.\1", str(error))
        raise (OSError if isinstance(error, OSError) else ValueError)(message) from error
