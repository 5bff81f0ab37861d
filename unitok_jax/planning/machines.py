"""Names of machines to compile for, without having them: TPU slices, GPUs, simulated devices."""

import math
import os
import re
from typing import NamedTuple

import jax
from jax.experimental import topologies

from unitok_jax.planning import gpus
from unitok_jax.system.extras import how_to_install

_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBE = tuple("2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16 16x16x16".split())


class Chip(NamedTuple):
    """Capacity and speed of one chip, by its maker's documentation."""

    capacity: int  # bytes of HBM
    flops: float  # bfloat16 operations per second
    bandwidth: float  # bytes of HBM per second
    links: float  # bytes that all its links to other chips send per second, one way
    shapes: tuple[str, ...]  # of slices
    name: str  # the compiler's name of the chip
    options: dict[str, str]  # of the compiler, for one device per chip
    devices: int = 1  # devices per chip
    node: int = 0  # chips that `links` connect; 0: all of a slice
    network: float = 0.0  # bytes that a chip sends per second to other nodes, one way


# https://docs.cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e,tpu7x}, "System architecture". The links'
# two-way bandwidth of those pages is halved; v4's are six of 50 GB/s (arXiv 2304.01433).
CHIPS = {
    "v4": Chip(32 * 2**30, 275e12, 1200e9, 300e9, _CUBE, "v4", {"chip_config_name": "megacore"}),
    "v5e": Chip(16 * 2**30, 197e12, 819e9, 200e9, _FLAT, "v5e", {}),
    "v5p": Chip(95 * 2**30, 459e12, 2765e9, 600e9, (*_CUBE, "16x16x24"), "v5p", {}),
    "v6e": Chip(32 * 2**30, 918e12, 1638e9, 400e9, _FLAT, "v6e", {}),
    "v7x": Chip(192 * 2**30, 2307e12, 7380e9, 600e9, _CUBE, "tpu7x", {}, devices=2),
}
# https://www.nvidia.com/en-us/data-center/h100/ (SXM, without sparsity; NVLink's two-way bandwidth
# is halved), https://docs.nvidia.com/dgx/dgxh100-user-guide (8 adapters of 400 Gb/s a node);
# https://www.nvidia.com/en-us/data-center/h200/. The RTX 4090, by the whitepaper of NVIDIA's Ada
# architecture, has 165 TFLOP/s with sums in float32; its links are PCIe 4.0 with 16 lanes.
GPUS = {
    "h100": Chip(80 * 2**30, 989e12, 3350e9, 450e9, (), "h100", {}, node=8, network=50e9),
    "h200": Chip(141 * 10**9, 989e12, 4800e9, 450e9, (), "h200", {}, node=8, network=50e9),
    "rtx4090": Chip(24 * 2**30, 165e12, 1008e9, 32e9, (), "rtx4090", {}, node=8, network=12.5e9),
}


class Topology(NamedTuple):
    """Devices to lower programs for, with their capacity and speed."""

    name: str
    devices: list
    chip: Chip | None  # None: not known, of simulated devices
    chips: int
    axes: int  # of the torus that connects the chips of a slice

    @property
    def kind(self) -> str:
        """Name of its chips: a key of CHIPS or GPUS, or host."""
        return self.name.partition(":")[0]

    @property
    def simulated(self) -> bool:
        """True if a compiler other than the chip's own makes the programs."""
        return self.is_gpu and self.devices[0].platform == "cpu"

    @property
    def is_gpu(self) -> bool:
        """True if its chips are GPUs."""
        return self.chip is not None and not self.chip.shapes

    @property
    def platform(self) -> str:
        """Platform of its chips, whose forms of operations a step there computes."""
        if self.chip is None:
            return "cpu"
        return "cuda" if self.is_gpu else "tpu"

    @property
    def options(self) -> dict[str, int | bool]:
        """Options of the compiler: code that never runs needs no optimisation."""
        if self.is_gpu and not self.simulated:
            return gpus.OPTIONS
        processors = all(device.platform == "cpu" for device in self.devices)
        return {"xla_backend_optimization_level": 0} if processors else {}

    @property
    def per_device(self) -> Chip | None:
        """Share of a chip's resources that one device has."""
        chip = self.chip
        if chip is None:
            return None
        capacity = int(chip.capacity * gpus.share()) if self.is_gpu else chip.capacity
        return chip._replace(
            capacity=capacity // chip.devices,
            flops=chip.flops / chip.devices,
            bandwidth=chip.bandwidth / chip.devices,
            links=chip.links / chip.devices,
        )


def find(name: str) -> Topology:
    """Returns the machine of a name: `v5e:16x16`, `v5e:16x16*2` (two slices), `h100:8`, `host:8`.

    Without the compiler of GPUs, the extra `gpu-compile`, simulated CPU devices stand for them: a
    program is divided among those in the same way. Of `host` no chip is known.

    Call it before JAX has made a backend. No accelerator is touched or needed.

    Raises:
      ValueError: unknown machine, the message lists all; or `libtpu` is missing.
    """
    counted = re.fullmatch(r"(\w+):([1-9]\d{0,3})", name)
    if counted and counted[1] in ("host", *GPUS):
        chip, count = GPUS.get(counted[1]), int(counted[2])
        if chip and count > chip.node and count % chip.node:
            raise ValueError(
                f"--topology={name} is not whole nodes of {chip.node} GPUs; "
                f"try {counted[1]}:{count // chip.node * chip.node}"
            )
        if chip and gpus.has_compiler():
            nodes = max(1, count // chip.node)
            return Topology(name, gpus.devices(counted[1], nodes, count // nodes), chip, count, 1)
        return Topology(name, _simulated(name, count), chip, count, 1)
    found = re.fullmatch(r"(\w+):([\dx]+)(?:\*([1-9]\d?))?", name)
    if not found or found[1] not in CHIPS or found[2] not in CHIPS[found[1]].shapes:
        raise ValueError(_unknown(name))
    chip, slices = CHIPS[found[1]], int(found[3] or 1)
    sides = [int(side) for side in found[2].split("x")]
    return Topology(
        name,
        _slices(chip, found[2], slices),
        chip,
        math.prod(sides) * slices,
        sum(side > 1 for side in sides) or 1,
    )


def _simulated(name: str, count: int) -> list:
    flag = "--xla_force_host_platform_device_count"
    others = (
        re.sub(rf"{flag}=\d+", "", os.environ["XLA_FLAGS"]) if "XLA_FLAGS" in os.environ else ""
    )
    os.environ["XLA_FLAGS"] = f"{others} {flag}={count}".strip()
    jax.config.update("jax_platforms", "cpu")
    devices = jax.devices()
    if len(devices) != count:
        raise RuntimeError(f"JAX runs with {len(devices)} devices already: {name} is too late")
    return devices


def _slices(chip: Chip, shape: str, slices: int) -> list:
    try:
        import libtpu  # noqa: F401  JAX finds the compiler in it
    except ImportError as error:
        raise ValueError(
            "--topology of a TPU needs its compiler, the package libtpu: "
            + how_to_install("tpu-compile")
        ) from error
    # The compiler asks a cloud machine's metadata for these, and waits where there is none.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-16")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    # Compilers do not compete for chips; a killed one would leave its lock behind.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    jax.config.update("jax_platforms", "cpu")
    options = dict(chip.options)
    if shape == "1x1":
        options["chips_per_host_bounds"] = [1, 1, 1]
    if slices > 1:
        options["num_slices"] = slices
    return topologies.get_topology_desc(
        platform="tpu", topology_name=f"{chip.name}:{shape}", **options
    ).devices


def _unknown(name):
    lines = [f"--topology={name!r} is not a machine to compile for; valid names are"]
    for kind, chip in CHIPS.items():
        shapes = " ".join(chip.shapes)
        lines.append(f"  {kind}:SHAPE, {chip.capacity / 2**30:.0f} GiB a chip; SHAPE: {shapes}")
    lines.append("  any of these with *N for N slices, as v5e:16x16*2")
    for kind, chip in GPUS.items():
        size = f"{chip.capacity / 2**30:.0f} GiB a GPU"
        lines.append(f"  {kind}:N, {size}; N: up to {chip.node}, or whole nodes of {chip.node}")
    lines.append("  host:N, N simulated CPU devices, as host:8")
    return "\n".join(lines)
