"""Sampling as compiled programs of one batch size, on any number of devices."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unitok_jax.generate import sampling
from unitok_jax.generate.step import abstract_model, embed_prompts
from unitok_jax.models import precision
from unitok_jax.models.sampling import Filters, sample_keys

PROGRAMS = 16  # programs that are kept; beyond these the longest unused are dropped


class Settings(NamedTuple):
    """Settings of sampling that a program is compiled for, but the numbers of its filters."""

    filters: Filters
    guided: int  # number of first tokens that are guided
    completes: bool  # some codes are given


class CompiledSampler:
    """A generator with its weights on devices, which draw `batch_size` samples at a time.

    Every batch is padded to `batch_size`, and each device runs the program of its own samples
    alone: so one program draws all samples, whatever is asked for beside them.
    """

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
        self._graph, _ = abstract_model(dict(model) | {"dtype": found.dtype, "remat": False})
        self._classes, self._batch_size = model["classes"], batch_size
        self._mesh = Mesh(np.array(devices), ("batch",))
        whole = NamedSharding(self._mesh, PartitionSpec())
        # Kernels are used in the compute dtype alone: cast once, they are read as such at each use.
        cast = jax.jit(functools.partial(_cast_kernels, dtype=found.dtype), out_shardings=whole)
        self.params = cast(jax.device_put(params, whole))
        self._program = functools.lru_cache(maxsize=PROGRAMS)(self._make_program)

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
        count, size = len(rows["index"]), self._batch_size
        filters, numbers = settings.filters.split()
        program = self._program(settings._replace(filters=filters), frozenset(rows))
        before = None
        for start in range(0, count, size):
            batch = {name: self._place(array[start : start + size]) for name, array in rows.items()}
            codes = program(self.params, np.uint32(seed), batch, scale, known, numbers)
            if before is not None:
                yield np.asarray(before)
            before = codes
        if before is not None:
            yield np.asarray(before)[: count - start]

    def _place(self, rows: np.ndarray) -> jax.Array:
        padded = np.zeros((self._batch_size, *rows.shape[1:]), rows.dtype)
        padded[: len(rows)] = rows
        return jax.device_put(padded, NamedSharding(self._mesh, PartitionSpec("batch")))

    def _make_program(self, settings, names):
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

        whole, split = PartitionSpec(), PartitionSpec("batch")
        specs = (whole, whole, split, whole, whole, whole)
        # Each device joins its prompts and their null prompts itself: nothing travels.
        return jax.jit(
            jax.shard_map(draw, mesh=self._mesh, in_specs=specs, out_specs=split, check_vma=False)
        )


def _cast_kernels(params, dtype):
    def cast(path, leaf):
        return leaf.astype(dtype) if path[-1].key in ("kernel", "kernels") else leaf

    return jax.tree_util.tree_map_with_path(cast, params)
