"""Sampling as compiled programs of one batch size, on any number of devices."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from unitok_jax.generate import sampling
from unitok_jax.generate.step import abstract_model, embed_prompts
from unitok_jax.models import precision
from unitok_jax.models.batched import BatchedPrograms
from unitok_jax.models.sampling import Filters, sample_keys


class Settings(NamedTuple):
    """Settings of sampling that a program is compiled for, but the numbers of its filters."""

    filters: Filters
    guided: int  # number of first tokens that are guided
    completes: bool  # some codes are given


class CompiledSampler:
    """A generator with its weights on devices, which draw `batch_size` samples at a time."""

    def __init__(
        self, model: Mapping, params, batch_size: int, devices: Sequence[jax.Device], name: str
    ):
        """Places the weights.

        Args:
          model: the keyword arguments of `Generator`; its dtype is that of training, and not used.
          params: nested dict of float32 arrays.
          batch_size: samples at a time, a multiple of the number of devices.
          devices: devices of this process that share the samples.
          name: of the precision, a row of `precision.PRECISIONS`.

        Raises:
          ValueError: keys that do not fit, or a precision that the devices do not support.
        """
        found = precision.find(name, devices[0].platform)
        self._matmul_precision = found.matmul_precision
        self._graph, _ = abstract_model(dict(model) | {"dtype": found.dtype, "remat": "none"})
        self._classes = model["classes"]
        self._programs = BatchedPrograms(self._make_program, batch_size, devices, found.dtype)
        self.params = self._programs.place(params)

    def run(
        self,
        settings: Settings,
        seed: int,
        rows: Mapping[str, np.ndarray],
        scale: np.ndarray,
        known: np.ndarray,
    ) -> Iterator[np.ndarray]:
        """Draws samples, and yields the codes int32 (n, K, N) of one batch after the other.

        Args:
          settings: of sampling.
          seed: of all draws.
          rows: 'index' uint32 (B,) of the samples; 'labels' int32 (B,), or 'features' (B, T, F) and
            'valid' (B, T) of texts; 'given' (B, K, N) if codes are given.
          scale: float32 (N, K) scales of guidance.
          known: bool (N,), which tokens of 'given' are kept.
        """
        filters, numbers = settings.filters.split()
        settings = settings._replace(filters=filters)
        return self._programs.run(settings, self.params, seed, rows, scale, known, numbers)

    def _make_program(self, settings: Settings):
        def draw(params, seed, rows, scale, known, numbers):
            with jax.default_matmul_precision(self._matmul_precision):
                model = nnx.merge(self._graph, params)
                prompt, valid = embed_prompts(model, rows, self._classes, settings.guided > 0)
                codes, _ = sampling.sample(
                    model,
                    prompt,
                    sample_keys(seed, rows["index"]),
                    filters=settings.filters._replace(**numbers),
                    scale=scale if settings.guided else None,
                    until=settings.guided or None,
                    valid=valid,
                    given=rows["given"] if settings.completes else None,
                    known=known if settings.completes else None,
                )
            return codes

        return draw
