"""GPUs to compile for without having one, by the compiler that JAX's plugin for CUDA holds."""

import importlib.util
import math
import os
from typing import NamedTuple

import jax
from jax.experimental import topologies

_SHARE = "XLA_PYTHON_CLIENT_MEM_FRACTION"
# Nothing can be timed here: no kernel is chosen by trying it, and products are cuBLAS's. What
# turns the program into machine code is left out, as it never runs.
OPTIONS = {
    "xla_gpu_autotune_level": 0,
    "xla_gpu_enable_triton_gemm": False,
    "xla_gpu_unsafe_fallback_to_driver_on_ptxas_not_found": True,
    "xla_llvm_disable_expensive_passes": True,
}


class Processor(NamedTuple):
    """Numbers of a GPU that its compiler asks for."""

    name: str
    capability: tuple[int, int]  # of CUDA
    cores: int  # streaming multiprocessors
    shared: int  # bytes of a core that its threads share
    cache: int  # bytes of the second level
    clock: float  # GHz
    memory: int  # bytes
    bandwidth: int  # bytes per second


# https://docs.nvidia.com/cuda/cuda-c-programming-guide/#features-and-technical-specifications
# has the shared memory of each capability; `memory` is a little less than the card holds.
PROCESSORS = {
    "h100": Processor(
        *("NVIDIA H100 80GB HBM3", (9, 0), 132, 228 * 1024, 50 * 2**20, 1.98),
        *(84_978_434_048, 3_352_320_000_000),
    ),
    "h200": Processor(
        *("NVIDIA H200", (9, 0), 132, 228 * 1024, 50 * 2**20, 1.98),
        *(150_000_000_000, 4_800_000_000_000),
    ),
    "rtx4090": Processor(
        *("NVIDIA GeForce RTX 4090", (8, 9), 128, 100 * 1024, 72 * 2**20, 2.52),
        *(25_250_000_000, 1_008_000_000_000),
    ),
}


def has_compiler() -> bool:
    """Returns True if a plugin of JAX for CUDA is installed."""
    return bool(
        importlib.util.find_spec("jax_plugins")
        and any(importlib.util.find_spec(f"jax_plugins.xla_cuda{n}") for n in (12, 13))
    )


def share() -> float:
    """Returns the part of a GPU's memory that JAX takes.

    Raises:
      ValueError: the environment says another than a share.
    """
    told = os.environ.get(_SHARE, "0.75")
    try:
        found = float(told)
    except ValueError:
        found = math.nan
    if not 0 < found <= 1:
        raise ValueError(f"{_SHARE}={told} in the environment must be above 0 and at most 1")
    return found


def devices(kind: str, nodes: int, of_a_node: int) -> list:
    """Returns devices of a kind to lower programs for. None is touched or needed."""
    jax.config.update("jax_platforms", "cpu")
    return topologies.get_topology_desc(
        platform="cuda",
        topology=f"1x{nodes}x{of_a_node}",
        target_config=_target(PROCESSORS[kind]),
    ).devices


def _target(processor: Processor) -> str:
    """Formats a GPU as the compiler's protocol buffer."""
    major, minor = processor.capability
    return f"""
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {processor.shared - 1024}
  shared_memory_per_core: {processor.shared}
  threads_per_core_limit: {2048 if major == 9 else 1536}
  core_count: {processor.cores}
  fpus_per_core: 128
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {processor.bandwidth}
  l2_cache_size: {processor.cache}
  clock_rate_ghz: {processor.clock}
  device_memory_size: {processor.memory}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 }}
runtime_version {{ major: 12 minor: 9 }}
device_description_str: "{processor.name}"
"""
