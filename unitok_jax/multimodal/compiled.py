"""Answers and drawings as compiled programs of one batch size, on any number of devices."""

import copy
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from unitok_jax.models import precision
from unitok_jax.models.sampling import Filters, sample_keys
from unitok_jax.multimodal import sampling
from unitok_jax.multimodal.model import abstract_model
from unitok_jax.multimodal.sampling import Answer, Prompt

PROGRAMS = 16  # programs that are kept; beyond these the longest unused are dropped
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

    Every batch is padded to `batch_size`, and each device runs the program of its own rows alone:
    a result is a function of the seed, its index and its prompt, whatever is asked beside it.
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
        self._graph, _ = abstract_model(dict(model) | {"dtype": found.dtype, "remat": False})
        self._batch_size = batch_size
        self._mesh = Mesh(np.array(devices), ("batch",))
        self._whole = NamedSharding(self._mesh, PartitionSpec())
        # Kernels are used in the compute dtype alone: cast once, they are read as such at each use.
        self._cast = jax.jit(
            functools.partial(_cast_kernels, dtype=found.dtype), out_shardings=self._whole
        )
        self.params = self._cast(jax.device_put(params, self._whole))
        self._program = functools.lru_cache(maxsize=PROGRAMS)(self._make_program)

    def with_params(self, params) -> "CompiledModel":
        """Returns the same model with other weights, which shares the compiled programs."""
        other = copy.copy(self)
        other.params = self._cast(jax.device_put(params, self._whole))
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
        yield from self._run(settings, seed, rows, ())

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
        yield from self._run(settings, seed, rows, (scale,))

    def _run(self, settings: Answering | Drawing, seed: int, rows, rest):
        """Yields the results of all batches; each is fetched while the next is computed."""
        filters, numbers = settings.filters.split()
        program = self._program(settings._replace(filters=filters))
        count, size = len(rows["index"]), self._batch_size
        before = None
        for start in range(0, count, size):
            batch = jax.tree.map(lambda x, start=start: self._place(x[start : start + size]), rows)
            found = program(self.params, np.uint32(seed), batch, numbers, *rest)
            if before is not None:
                yield jax.device_get(before)
            before = found
        if before is not None:
            yield jax.tree.map(lambda x: x[: count - start], jax.device_get(before))

    def _place(self, rows: np.ndarray) -> jax.Array:
        # The first row again: a row of padding alone has no last position.
        padded = np.concatenate([rows, rows[:1].repeat(self._batch_size - len(rows), axis=0)])
        return jax.device_put(padded, NamedSharding(self._mesh, PartitionSpec("batch")))

    def _make_program(self, settings: Answering | Drawing):
        whole, split = PartitionSpec(), PartitionSpec("batch")

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

        run, specs = answer, (whole, whole, split, whole)
        if isinstance(settings, Drawing):
            run, specs = draw, (*specs, whole)
        # Each device joins its prompts and their null prompts itself: nothing travels.
        return jax.jit(
            jax.shard_map(run, mesh=self._mesh, in_specs=specs, out_specs=split, check_vma=False)
        )


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


def _cast_kernels(params, dtype):
    """Casts kernels but those of the projection, which stays float32."""

    def cast(path, leaf):
        name = [key.key for key in path]
        rounded = name[-1] in ("kernel", "kernels") and name[:2] != ["image", "projection"]
        return leaf.astype(dtype) if rounded else leaf

    return jax.tree_util.tree_map_with_path(cast, params)
