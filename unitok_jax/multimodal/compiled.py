"""Answers and drawings as compiled programs of one batch size, on any number of devices."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from unitok_jax.models import precision
from unitok_jax.models.batched import BatchedPrograms
from unitok_jax.models.sampling import Filters, sample_keys
from unitok_jax.multimodal import sampling
from unitok_jax.multimodal.model import abstract_model
from unitok_jax.multimodal.sampling import Answer, Prompt

STEP = 32  # lengths of prompts are rounded up to its multiples, by padding: few programs serve all


class Answering(NamedTuple):
    """Settings of answers that a program is compiled for."""

    filters: Filters
    stops: tuple[int, ...]
    limit: int  # ids of an answer, the stop id included


class Drawing(NamedTuple):
    """Settings of drawings that a program is compiled for."""

    filters: Filters
    guided: bool
    released: bool  # as for `sampling.draw`


class CompiledModel:
    """A model with its weights on devices, which answer or draw `batch_size` prompts at a time.

    A result is a function of the seed, its index and its prompt, whatever is asked beside it.
    """

    def __init__(
        self, model: Mapping, params, batch_size: int, devices: Sequence[jax.Device], name: str
    ):
        """Places the weights.

        Args:
          model: the keyword arguments of `Multimodal`; its dtype is that of training, and not used.
          params: nested dict of float32 arrays.
          batch_size: rows at a time, a multiple of the number of devices.
          devices: devices of this process that share the rows.
          name: of the precision, a row of `precision.PRECISIONS`.

        Raises:
          ValueError: keys that do not fit, or a precision that the devices do not support.
        """
        found = precision.find(name, devices[0].platform)
        self._matmul_precision = found.matmul_precision
        self._graph, _ = abstract_model(dict(model) | {"dtype": found.dtype, "remat": "none"})
        self._programs = BatchedPrograms(
            *(self._make_program, batch_size, devices, found.dtype),
            exact=("image", "projection"),  # float32 in training too
        )
        self.params = self._programs.place(params)

    def with_params(self, params) -> "CompiledModel":
        """Returns the same model with other weights, which shares the compiled programs."""
        other = copy.copy(self)
        other.params = self._programs.place(params)
        return other

    def answer(
        self, settings: Answering, seed: int, index: np.ndarray, prompt: Prompt
    ) -> Iterator[Answer]:
        """Answers prompts, and yields what is found for one batch after the other.

        Args:
          settings: of the program.
          seed: of all draws.
          index: uint32 (B,) of the answers.
          prompt: B rows, as for `sampling.answer`.
        """
        rows = {"index": index, "prompt": aligned(prompt)}
        return self._run(settings, seed, rows)

    def draw(
        self,
        settings: Drawing,
        seed: int,
        index: np.ndarray,
        prompt: Prompt,
        null: Prompt | None,
        scale: np.ndarray,
    ) -> Iterator[np.ndarray]:
        """Draws images, and yields the codes int32 (n, K, L) of one batch after the other.

        Args:
          settings: of the program.
          seed: of all draws.
          index: uint32 (B,) of the images.
          prompt: B rows, as for `sampling.draw`.
          null: the unconditional prompts, B rows too; None without guidance.
          scale: (L, K) float32, scales of guidance.
        """
        rows = {"index": index, "prompt": aligned(prompt)}
        if settings.guided:
            length = max(each.ids.shape[1] for each in (prompt, null))
            rows |= {"prompt": aligned(prompt, length), "null": aligned(null, length)}
        return self._run(settings, seed, rows, scale)

    def _run(self, settings: Answering | Drawing, seed: int, rows, *rest):
        filters, numbers = settings.filters.split()
        settings = settings._replace(filters=filters)
        return self._programs.run(settings, self.params, seed, rows, numbers, *rest)

    def _make_program(self, settings: Answering | Drawing):
        def answer(params, seed, rows, numbers):
            filters = settings.filters._replace(**numbers)
            with jax.default_matmul_precision(self._matmul_precision):
                return sampling.answer(
                    nnx.merge(self._graph, params),
                    rows["prompt"],
                    sample_keys(seed, rows["index"]),
                    filters=filters,
                    stops=settings.stops,
                    limit=settings.limit,
                )

        def draw(params, seed, rows, numbers, scale):
            prompt = rows["prompt"]
            if settings.guided:
                prompt = jax.tree.map(lambda *x: jax.numpy.concatenate(x), prompt, rows["null"])
            with jax.default_matmul_precision(self._matmul_precision):
                return sampling.draw(
                    nnx.merge(self._graph, params),
                    prompt,
                    sample_keys(seed, rows["index"]),
                    filters=settings.filters._replace(**numbers),
                    scale=scale if settings.guided else None,
                    released=settings.released,
                )[0]

        return draw if isinstance(settings, Drawing) else answer


def aligned(prompt: Prompt, length: int = 0) -> Prompt:
    """Pads prompts on the left to a multiple of `STEP` that is at least `length`."""
    width = max(prompt.ids.shape[1], length)
    more = -(-width // STEP) * STEP - prompt.ids.shape[1]
    left = [(0, 0), (more, 0)]
    return Prompt(
        ids=np.pad(prompt.ids, left),
        image_at=np.pad(prompt.image_at, left, constant_values=-1),
        codes=prompt.codes,
        valid=np.pad(prompt.valid, left),
    )
