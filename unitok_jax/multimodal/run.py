"""Training run of a multimodal model: mesh, data and steps of one configuration."""

import contextlib
import functools
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from unitok_jax.checkpoints import differences
from unitok_jax.checkpoints.reader import weights_hash
from unitok_jax.data.language_tokenizer import LanguageTokenizer
from unitok_jax.models.vitamin import SIZES
from unitok_jax.multimodal import data, loading, objective, trunk
from unitok_jax.multimodal.config_checks import check, check_batch, check_beginning
from unitok_jax.multimodal.plan import plan
from unitok_jax.multimodal.quality import ShapeQuality
from unitok_jax.multimodal.rows import KINDS, NO_LABEL
from unitok_jax.multimodal.sources import ImageCodes
from unitok_jax.multimodal.step import MultimodalSteps, Programs, TrainState
from unitok_jax.runtime import sharding
from unitok_jax.system.passing import with_text
from unitok_jax.training.plan import memory
from unitok_jax.weights import load

log = logging.getLogger(__name__)


class Run:
    """Training run of a multimodal model, from one configuration."""

    picture, unit = "shapes", "rows"
    origin = "data.mixture"
    plan = staticmethod(plan)

    def __init__(self, config: ConfigDict, devices=None):
        """Builds everything but the weights.

        Args:
          config: the whole configuration.
          devices: devices of the mesh; by default all devices of the job.

        Raises:
          ValueError: a value of the configuration does not fit; the message names its key.
          OSError: a part of the data, or the tokenizer of the text, cannot be read.
        """
        check(config)
        check_beginning(config)
        self.config = config
        self.mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, devices)
        self.batch_size = config.data.batch_size
        self.samples_per_row = config.data.group_samples / config.data.group_rows
        check_batch(config, self.mesh.size)
        self.text = data.open_text(config.data.text)
        if self.text.rows > config.model.vocabulary:
            raise ValueError(
                f"model.vocabulary={config.model.vocabulary} is less than the {self.text.rows} ids "
                f"of data.text={config.data.text}"
            )
        self._packed, self._codes = self._open("data.mixture", config.data.mixture, "")
        held_out = config.eval.mixture or config.data.mixture
        self._held_out, _ = self._open("eval.mixture", held_out, self._codes.tokenizer)
        self.samples = len(self._packed)
        self._tokenizer = None  # hash of the tokenizer of images of the first weights
        self._quality = None
        if config.eval.shapes:
            tokenizer = self._codes.tokenizer
            self._quality = ShapeQuality(config, self.mesh, self.text, tokenizer)
        self.steps = MultimodalSteps(config)
        self.programs = Programs(self.steps, self.mesh)

    def _open(self, name: str, mixture, tokenizer: str):
        """Opens the mixture of a key, of codes of a tokenizer, '' for any; and the codes' facts."""
        model, settings = self.config.model, self.config.data.copy_and_resolve_references()
        settings.mixture = mixture
        entries = model.vocab_size // model.num_codebooks
        codes = ImageCodes(model.num_codebooks, entries, tuple(model.grid), tokenizer)
        draws = model.projection != "full"
        packed = data.open_data(settings, self.text, codes, name, draws=draws)
        return packed, packed.codes

    @property
    def abstract(self) -> TrainState:
        """Shapes, dtypes and shardings of a state."""
        return self.programs.abstract

    @property
    def facts(self) -> dict[str, Any]:
        """Facts that a checkpoint depends on: the parts, their packing, and both tokenizers.

        Text alone does not tell the tokenizer of images; the weights that a run begins from do.
        """
        return self._data_facts | {loading.TOKENIZER: self._codes.tokenizer or self._tokenizer}

    @functools.cached_property
    def _data_facts(self) -> dict[str, Any]:
        return self._packed.facts

    @property
    def shared(self) -> dict[str, Any]:
        """Values that must be equal on all processes of a job."""
        return differences.flat(self.facts) | {"held-out samples": len(self._held_out)}

    @property
    def files(self) -> Mapping[str, str]:
        """Files that users of the weights need: the tokenizer of the text."""
        files = self.text.files.items()
        # A chat template of other bytes is read so too.
        return {f"{loading.LANGUAGE}/{name}": text.decode(errors="replace") for name, text in files}

    def prepare(self, resumed: bool) -> None:
        """Reads held-out rows, so that what is wrong is told at the start.

        Raises:
          ValueError, OSError: a sample cannot be used.
        """
        next(self._held_out_batches())

    def initial_state(self) -> TrainState:
        """Builds the state before the first step: fresh, but for the weights that are named.

        Raises:
          ValueError, OSError: the weights of `init` or of `data.tokenizer` do not fit.
        """
        state, shardings = self.programs.init(), self.programs.shardings.network.params
        params = _replaced(state.params, self.initial_params(), shardings)
        return state.replace(network=state.network.replace(params=params))

    def initial_params(self) -> dict:
        """Reads the parameters that do not begin at random: a subtree, on the host.

        Raises:
          ValueError, OSError: the weights of `init` or of `data.tokenizer` do not fit.
        """
        config, model = self.config, self.config.model.to_dict()
        if config.init.path:
            whole = _whole(config.init.path, model, self._codes.tokenizer, self.text)
            self._check_codebooks(whole.params["image"]["quantizer"]["codebook"])
            self._tokenizer = whole.tokenizer_hash
            return whole.params
        found = {"image": self._of_the_tokenizer()}
        if config.init.language:
            try:
                folder = trunk.open_folder(config.init.language)
                _check_text(self.text, folder.tokenizer)
                found["language"] = trunk.read(folder, model)
            except (ValueError, OSError) as error:
                where = f"init.language={config.init.language}"
                raise with_text(error, f"{where}: {error}") from error
        return found

    def _check_codebooks(self, codebook) -> None:
        """Refuses a `data.tokenizer` of other codebooks than the model of `init.path`."""
        path = self.config.data.tokenizer
        if not path:
            return
        _, theirs = load.read_maker(path, self._codes.tokenizer, "data.mixture")
        if not loading.is_codebook_of(codebook, theirs):
            raise ValueError(
                f"data.tokenizer={path} has other codebooks than init.path="
                f"{self.config.init.path}: name the tokenizer of the codes that it reads"
            )

    def _of_the_tokenizer(self) -> dict:
        """Returns the codebooks, and the projection if it is of the same kind."""
        model, path = self.config.model, self.config.data.tokenizer
        theirs, params = load.read_maker(path, self._codes.tokenizer, "data.mixture")
        if theirs.model.quantizer != "multi_codebook":
            raise ValueError(
                f"data.tokenizer={path} has model.quantizer={theirs.model.quantizer}: only codes "
                "of multi_codebook have rows to read"
            )
        kind = theirs.model.quant_proj
        is_theirs = (model.projection == "linear") == (kind == "linear")
        if model.projection == "full" and not is_theirs:
            raise ValueError(
                f"model.projection=full is a tokenizer's own, and that of data.tokenizer={path} is "
                "linear: set model.projection=linear"
            )
        causal = "quant_causal" in differences.stated(theirs.model.to_dict())  # older: no such key
        if model.projection == "full" and causal:
            raise ValueError(
                f"model.projection=full is a tokenizer's own, and that of data.tokenizer={path} is "
                "causal: set model.projection=causal"
            )
        same = {"latent_width": theirs.model.latent_width}
        if is_theirs:
            same["projection_width"] = SIZES[theirs.model.size].width
        if is_theirs and kind == "attention":
            same["projection_heads"] = theirs.model.quant_heads
        for key, value in same.items():
            if model[key] != value:
                raise ValueError(
                    f"model.{key}={model[key]}, and data.tokenizer={path} has {value}: set it so"
                )
        self._tokenizer = self._codes.tokenizer or weights_hash(theirs.model.to_dict(), params)
        found = {"quantizer": params["quantizer"]}
        if is_theirs:
            return found | {"projection": params["post_quant_proj"]}
        log.info(
            "model.projection=%s begins at random: that of data.tokenizer is %s",
            model.projection,
            kind,
        )
        return found

    def state_from(self, items: dict[str, Any]) -> TrainState:
        """Builds the state from a checkpoint's items."""
        return TrainState.from_items(items)

    def parameters(self, state: TrainState) -> dict[str, Any]:
        """Returns the arrays by part of the model."""
        return dict(state.params)

    def batches(self, start_step: int):
        """Returns this process's rows of the batches from `start_step` on; close after use."""
        return self._packed.batches(
            self.config.data,
            self.config.seed,
            start_step=start_step,
            rows=sharding.local_rows(self.mesh, self.batch_size),
        )

    def train_step(self, step: int, state: TrainState, batch) -> tuple[TrainState, dict]:
        """Runs update number `step`, from 0: `MultimodalSteps.train_step`."""
        return self.programs.step(state, batch)

    def planned_memory(self, step: int, state: TrainState, batch) -> dict[str, int]:
        """Returns the bytes on each device that the compiled `train_step` needs."""
        return memory(self.programs.step, state, batch)

    def evaluate(
        self, state: TrainState
    ) -> tuple[dict[str, float | np.ndarray], np.ndarray | None]:
        """Measures the losses of held-out rows, the same at every evaluation.

        Returns:
          In nats: `loss`, the mean over ids and codes with the z-loss; `text_loss`; `image_loss`;
          `loss_per_codebook` (K,); `loss/KIND` of each kind of samples. `gain`, the bits an id or
          a code fewer than a uniform guess needs. With `eval.shapes` those of `ShapeQuality`, and
          its sheet.
        """
        total = None
        for rows in self._held_out_batches():
            sums = self.programs.evaluate(state.params, sharding.shard_batch(rows, self.mesh))
            sums = jax.device_get(sums)
            total = sums if total is None else jax.tree.map(np.add, total, sums)
        losses = jax.device_get(objective.losses(total, self.steps.weights))
        model = self.config.model
        codes = float(total.all_codes)
        guess = float(total.ids) * math.log(model.vocabulary)
        guess += codes * math.log(model.vocab_size // model.num_codebooks)
        nats = float(total.text) + float(total.codes.sum())
        kinds = zip(KINDS, losses.per_kind, total.of_kinds, strict=True)
        metrics = {
            "loss": float(losses.total),
            "text_loss": float(losses.text),
            "image_loss": float(losses.image),
            "loss_per_codebook": losses.per_codebook,
            **{f"loss/{kind}": float(loss) for kind, loss, count in kinds if count},
            "gain": (guess - nats) / max(float(total.predictions), 1) / math.log(2),
        }
        if self._quality is None:
            return metrics, None
        scores, picture = self._quality(state.params)
        return metrics | scores, picture

    def _held_out_batches(self) -> Iterator[dict[str, np.ndarray]]:
        """Yields this process's part of `eval.max_rows` rows, in whole batches.

        The rows of the last batch that are past them have nothing to predict: so the same rows
        count on any mesh.
        """
        settings, most = self.config.data.copy_and_resolve_references(), self.config.eval.max_rows
        size = min(self.config.eval.batch_size, most)
        settings.batch_size = sharding.rounded_up(size, self.mesh.size)
        rows = sharding.local_rows(self.mesh, settings.batch_size)
        opened = self._held_out.batches(settings, self.config.seed, rows=rows)
        with contextlib.closing(opened):
            for begin in range(0, most, settings.batch_size):
                counts = begin + np.array(rows) < most
                yield _blanked(next(opened), ~counts)


def _blanked(batch: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """Returns a batch in which nothing is to be predicted in some rows, a mask (B,)."""
    labels = np.where(rows[:, None], NO_LABEL, batch["labels"])
    return dict(batch) | {"labels": labels, "drawn": batch["drawn"] & ~rows[:, None]}


def _check_text(ours: LanguageTokenizer, theirs: LanguageTokenizer) -> None:
    """Refuses ids that are other tokens to a model that some weights are of.

    Raises:
      ValueError: the message names a token, and its ids.
    """
    known = ours.vocabulary
    other = {token: id for token, id in theirs.vocabulary.items() if known.get(token) != id}
    if other:
        token, id = min(other.items(), key=lambda item: item[1])
        raise ValueError(
            f"its text has another tokenizer than data.text: {len(other):,} tokens have other ids, "
            f"such as {token!r}, which is {id}, and {known.get(token, 'none')} of data.text"
        )


def _whole(
    path: str, model: Mapping[str, Any], tokenizer: str, text: LanguageTokenizer
) -> loading.Weights:
    """Reads the weights of a model, which must be the one that is trained."""
    try:
        found = loading.read(path)
        _check_text(text, found.text)
        if found.text.special != text.special:
            raise ValueError(
                f"its special ids are {found.text.special}, and those of data.text {text.special}"
            )
    except (ValueError, OSError) as error:
        raise with_text(error, f"init.path={path}: {error}") from error
    theirs = found.config.model.to_dict()
    wrong = [
        f"model.{key}={value!r} (there: {theirs[key]!r})"
        for key, value in model.items()
        if key not in differences.FREE_OF_MODEL and theirs[key] != value
    ]
    if wrong:
        raise ValueError(f"init.path={path} is another model: {', '.join(wrong)}")
    if tokenizer and found.tokenizer_hash not in (None, tokenizer):
        raise ValueError(
            f"init.path={path} reads codes of tokenizer {found.tokenizer_hash}, and those of "
            f"data.mixture were made by {tokenizer}"
        )
    return found


def _replaced(fresh, found, shardings):
    """Places arrays of the host where there are any; the others stay."""
    if not isinstance(fresh, dict):
        array = np.asarray(found)
        return jax.make_array_from_callback(array.shape, shardings, lambda index: array[index])
    return {
        key: _replaced(value, found[key], shardings[key]) if key in found else value
        for key, value in fresh.items()
    }
