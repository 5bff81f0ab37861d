"""The named mesh, and where every array lies on it. The only room that knows of devices."""

import math

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp")
_MIN_SHARDED = 2**14  # elements; smaller arrays cost less to replicate than to gather


def make_mesh(data: int, fsdp: int, devices=None) -> Mesh:
    """A mesh ('data', 'fsdp') over all devices.

    Args:
      data: devices along 'data'; -1 for what is left.
      fsdp: devices along 'fsdp'; -1 for what is left.
      devices: the devices to use; all of the job by default.

    Raises:
      ValueError: the sizes do not multiply to the number of devices.
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
    # Auto axes: XLA propagates shardings from the arguments; the default asks for them everywhere.
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 2, devices=devices)


def param_spec(shape: tuple[int, ...], fsdp: int) -> P:
    """Where an array of the state lies: its largest divisible axis over 'fsdp', if it is large."""
    if math.prod(shape) >= _MIN_SHARDED and fsdp > 1:
        for axis in sorted(range(len(shape)), key=lambda axis: -shape[axis]):
            if shape[axis] % fsdp == 0:
                return P(*[None] * axis, "fsdp")
    return P()


def state_shardings(abstract, mesh: Mesh):
    """NamedShardings for a tree of arrays or of shapes, by the rule of `param_spec`."""
    fsdp = mesh.shape["fsdp"]
    return jax.tree.map(lambda a: NamedSharding(mesh, param_spec(a.shape, fsdp)), abstract)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, P())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding of a batch: its first axis over both axes of the mesh."""
    return NamedSharding(mesh, P(AXES))


def shard_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's part of a batch -> global arrays, split over all devices."""
    sharding = batch_sharding(mesh)
    return {
        key: jax.make_array_from_process_local_data(sharding, value) for key, value in batch.items()
    }
