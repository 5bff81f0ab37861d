"""Named mesh, and the placement of every array on it. The only room that handles devices."""

import functools
import logging
import math
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

log = logging.getLogger(__name__)

AXES = ("data", "fsdp")
_MIN_SHARDED = 2**14  # elements; smaller arrays cost less to replicate than to gather


def make_mesh(data: int, fsdp: int, devices=None) -> Mesh:
    """Builds a mesh ('data', 'fsdp') over all devices.

    Between slices of TPUs, or hosts of GPUs, the network is slow. 'data' reaches over it, which
    carries a gradient a step; 'fsdp' gathers every large array and stays inside, on TPUs always.

    Args:
      data: devices along 'data'; -1 for what is left.
      fsdp: devices along 'fsdp'; -1 for what is left.
      devices: the devices to use; all of the job by default.

    Raises:
      ValueError: the sizes do not multiply to the number of devices, or 'fsdp' leaves a slice.
    """
    devices = jax.devices() if devices is None else devices
    sizes, count = [data, fsdp], len(devices)
    if sizes.count(-1) == 1:
        known = -math.prod(sizes)
        sizes = [count // known if known > 0 and size == -1 else size for size in sizes]
    if min(sizes) < 1 or math.prod(sizes) != count:
        raise ValueError(
            f"mesh.data={data} x mesh.fsdp={fsdp} does not cover the {count} devices of this job; "
            f"set one of them to a divisor of {count} and the other to -1"
        )
    data, fsdp = sizes
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    # Auto axes: XLA propagates shardings from the arguments; the default asks for them everywhere.
    auto = (AxisType.Auto,) * 2
    if slices > 1 and data % slices == 0:
        grid = mesh_utils.create_hybrid_device_mesh(
            (data // slices, fsdp), (slices, 1), devices, allow_split_physical_axes=True
        )
        return Mesh(grid, AXES, axis_types=auto)
    if slices > 1 and devices[0].platform == "tpu":
        raise ValueError(
            f"mesh.fsdp={fsdp} does not fit into a slice: the {count} devices are {slices} slices "
            f"of {count // slices}; set mesh.fsdp to a divisor of {count // slices}"
        )
    if slices > 1:
        log.warning("mesh.fsdp=%d reaches over hosts: every step waits for the network", fsdp)
    # Any two sizes will do, whether or not they are sides of the slice.
    grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=auto)


def param_spec(shape: tuple[int, ...], fsdp: int) -> P:
    """Returns the spec of a state array: its largest divisible axis over 'fsdp', if large."""
    if math.prod(shape) >= _MIN_SHARDED and fsdp > 1:
        for axis in sorted(range(len(shape)), key=lambda axis: -shape[axis]):
            if shape[axis] % fsdp == 0:
                return P(*[None] * axis, "fsdp")
    return P()


def place_shapes(tree, mesh: Mesh) -> tuple[Any, Any]:
    """Says where the arrays of a state lie on a mesh, without making any.

    Args:
      tree: arrays or shapes.
      mesh: mesh of devices, or of the devices of a topology.

    Returns:
      the tree of ShapeDtypeStructs with shardings by the rule of `param_spec`, and that of their
      NamedShardings.
    """

    def place(leaf):
        split = NamedSharding(mesh, param_spec(leaf.shape, mesh.shape["fsdp"]))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=split)

    shapes = jax.tree.map(place, tree)
    return shapes, jax.tree.map(lambda leaf: leaf.sharding, shapes)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding that replicates an array on every device."""
    return NamedSharding(mesh, P())


def replicate(tree, mesh: Mesh):
    """Replicates arrays that are equal on every process to each device, without extra copies.

    The arrays lie on the host, or on devices of the process; nothing is sent between processes.
    """

    def place(x):
        return jax.make_array_from_callback(x.shape, replicated(mesh), lambda index: x[index])

    return jax.tree.map(place, tree)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its first axis over both axes of the mesh."""
    return NamedSharding(mesh, P(AXES))


def rounded_up(batch_size: int, devices: int) -> int:
    """Returns the smallest batch of at least `batch_size` rows that devices share evenly."""
    return -(-batch_size // devices) * devices


def local_rows(mesh: Mesh, batch_size: int) -> tuple[int, ...]:
    """Returns the ascending rows of a global batch that this process's devices hold."""
    spans = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return tuple(sorted(row for (span,) in spans for row in range(*span.indices(batch_size))))


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Makes global arrays from this process's rows, ordered as `local_rows`."""
    here = sum(device.process_index == jax.process_index() for device in mesh.devices.flat)
    return {
        key: _global(value, mesh, _starts(mesh, len(value) // here * mesh.size))
        for key, value in batch.items()
    }


def shard_whole(array: np.ndarray, mesh: Mesh) -> jax.Array:
    """Makes a global array from a batch that every process holds whole; nothing is sent."""
    sharding = batch_sharding(mesh)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def _global(value, mesh, starts):
    def part(index):
        start, stop, _ = index[0].indices(shape[0])
        return value[starts[start] : starts[start] + stop - start]

    shape = (mesh.size * (len(value) // len(starts)), *value.shape[1:])
    return jax.make_array_from_callback(shape, batch_sharding(mesh), part)


@functools.lru_cache
def _starts(mesh: Mesh, batch_size: int) -> dict[int, int]:
    """Maps each local device's first global row to its offset in the process's rows."""
    rows, each = local_rows(mesh, batch_size), batch_size // mesh.size
    return {rows[position]: position for position in range(0, len(rows), each)}
