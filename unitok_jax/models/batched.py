"""Programs of one batch size, whose rows devices share."""

import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

# Pairs of settings and shapes of rows that are kept; beyond these the longest unused are dropped.
PROGRAMS = 64

_WHOLE, _SPLIT = PartitionSpec(), PartitionSpec("batch")


def choose_batch_size(batch_size: int | None, devices: Sequence[jax.Device]) -> int:
    """Returns the number of rows at a time; None: 8 for each device on a CPU, and 32 elsewhere.

    Raises:
      ValueError: it is not a positive multiple of the number of devices.
    """
    if batch_size is None:
        return len(devices) * (8 if devices[0].platform == "cpu" else 32)
    if batch_size < 1 or batch_size % len(devices):
        raise ValueError(
            f"batch_size={batch_size} must be a positive multiple of the {len(devices)} devices"
        )
    return batch_size


class BatchedPrograms:
    """Weights on devices, and programs that compute `batch_size` rows at a time with them.

    Every batch is padded to `batch_size`, and each device runs the program of its own rows alone:
    so what is computed of a row does not depend on the rows beside it.
    """

    def __init__(
        self,
        make: Callable[[Hashable], Callable],
        batch_size: int,
        devices: Sequence[jax.Device],
        dtype: str,
        exact: tuple[str, ...] = (),
    ):
        """Builds no program yet.

        Args:
          make: makes a function of (params, seed, rows, *rest) from settings, which is compiled
            once for each of them and each shape of rows.
          batch_size: rows at a time, a multiple of the number of devices.
          devices: devices of this process that share the rows.
          dtype: of the kernels.
          exact: path of a part of the parameters whose kernels stay as they are.
        """
        self._make, self._batch_size = make, batch_size
        mesh = Mesh(np.array(devices), ("batch",))
        self._mesh, self._whole = mesh, NamedSharding(mesh, _WHOLE)
        # Kernels are used in the compute dtype alone: cast once, they are read as such at each use.
        cast = functools.partial(_cast_kernels, dtype=dtype, exact=exact)
        self._cast = jax.jit(cast, out_shardings=self._whole)
        self._program = functools.lru_cache(maxsize=PROGRAMS)(self._of_shapes)

    def place(self, params) -> Any:
        """Puts parameters, a nested dict of float32 arrays, on every device, kernels cast."""
        return self._cast(jax.device_put(params, self._whole))

    def run(self, settings: Hashable, params, seed: int, rows, *rest) -> Iterator[Any]:
        """Computes rows, and yields results of one batch after the other, as NumPy arrays.

        Each is fetched while the next is computed.

        Args:
          settings: of the function.
          params: as `place` returns them.
          seed: of all draws.
          rows: a tree of arrays, (B, ...) each.
          *rest: arrays that all rows share.
        """
        leaves, tree = jax.tree.flatten(rows)
        shapes = tree, *[(x.shape[1:], x.dtype) for x in leaves]
        program, size = self._program(settings, len(rest), shapes), self._batch_size
        count, before = len(leaves[0]), None
        for start in range(0, count, size):
            batch = jax.tree.map(lambda x, start=start: self._split(x[start : start + size]), rows)
            found = program(params, np.uint32(seed), batch, *rest)
            if before is not None:
                yield jax.device_get(before)
            before = found
        if before is not None:
            yield jax.tree.map(lambda x: x[: count - start], jax.device_get(before))

    def _split(self, rows: np.ndarray) -> jax.Array:
        # The first row again: a prompt of padding alone has no last position.
        padded = np.concatenate([rows, rows[:1].repeat(self._batch_size - len(rows), axis=0)])
        return jax.device_put(padded, NamedSharding(self._mesh, _SPLIT))

    def _of_shapes(self, settings: Hashable, shared: int, shapes: Hashable):
        # The shapes only key the programs: each has its own jit, to be dropped alone.
        return self._compile(settings, shared)

    def _compile(self, settings: Hashable, shared: int):
        specs = (_WHOLE, _WHOLE, _SPLIT, *[_WHOLE] * shared)
        # Each device joins its prompts and their null prompts itself: nothing travels.
        return jax.jit(
            jax.shard_map(
                self._make(settings),
                mesh=self._mesh,
                in_specs=specs,
                out_specs=_SPLIT,
                check_vma=False,
            )
        )


def _cast_kernels(params, dtype, exact):
    def cast(path, leaf):
        name = tuple(key.key for key in path)
        rounded = name[-1] in ("kernel", "kernels")
        stays = exact and name[: len(exact)] == exact
        return leaf.astype(dtype) if rounded and not stays else leaf

    return jax.tree_util.tree_map_with_path(cast, params)
