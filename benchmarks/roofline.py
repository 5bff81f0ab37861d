"""Roofline of programs: their operations and bytes, and the least time on a machine.

The least time of a program is max(operations / peak, bytes / bandwidth), with the peaks that
`timing.peaks` measured in the same run: the roofline (doi.org/10.1145/1498765.1498785). The share
of a program is its least time over its measured time. Bytes are those between fusions, without
caches: the share of a stage whose arrays fit into a cache may exceed 1.
"""

import concurrent.futures
import contextlib
import time
from collections.abc import Callable, Hashable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from unitok_jax.models import convolutions
from unitok_jax.planning import flops, hlo


class Job(NamedTuple):
    """Function with the arguments to compile it for."""

    function: Callable
    args: tuple  # arrays or their shapes
    dtype: str  # dtype of the peak that bounds the function, 'float32' or 'bfloat16'
    reference: Callable | None = None  # the function without recomputation, if it has any
    donate: tuple[int, ...] = ()  # positions of donated arguments


def compiled(jobs: Mapping[Hashable, Job], at_once: int = 1) -> dict[Hashable, tuple]:
    """Compiles functions, `at_once` of them in parallel, and counts their work.

    Returns:
      Key -> (program, work). `work` is a dict of `dtype`; `flops` of products and convolutions as
      executed; `model_flops`, those of the published model, without recomputation or faster forms;
      `bytes` read and written, `argument_bytes`, `temporary_bytes`; `xla_flops` and
      `xla_bytes` of XLA's own analysis, which counts elementwise operations too, but the body of a
      loop once; `compile_seconds`.
    """
    traced = {
        key: jax.jit(job.function, donate_argnums=job.donate).trace(*job.args)
        for key, job in jobs.items()
    }
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        programs = dict(zip(jobs, pool.map(_compile, traced.values()), strict=True))
    out = {}
    for key, (program, seconds) in programs.items():
        job, cost, memory = jobs[key], program.cost_analysis(), program.memory_analysis()
        work = {
            "dtype": job.dtype,
            "flops": flops.of_jaxpr(traced[key].jaxpr.jaxpr, _platform()),
            "model_flops": model_flops(job.reference or job.function, *job.args),
            "bytes": float(hlo.traffic(program.as_text(), 1).bytes),
            "xla_flops": float(cost["flops"]),
            "xla_bytes": float(cost["bytes accessed"]),
            "argument_bytes": memory.argument_size_in_bytes,
            "temporary_bytes": memory.temp_size_in_bytes,
            "compile_seconds": seconds,
        }
        out[key] = program, work
    return out


def _platform() -> str:
    """Returns the platform of the devices as branches are named for it: 'cuda' of NVIDIA's GPUs."""
    backend = jax.default_backend()
    return "cuda" if backend == "gpu" else backend


def _compile(traced):
    lowered = traced.lower()
    begun = time.perf_counter()
    return lowered.compile(), time.perf_counter() - begun


def model_flops(function: Callable, *args) -> float:
    """Counts operations as `flops.count`, with each up-sampling convolution in its published form.

    The form on the small grid has 4/9 or a quarter of the products of the 3x3 convolution on the
    large grid.
    """
    with _published():
        # A new function, as JAX caches traces by function.
        return flops.count(lambda *args: function(*args), *args)


@contextlib.contextmanager
def _published():
    ours = convolutions.upsample_conv3x3
    convolutions.upsample_conv3x3 = _upsample_then_convolve
    try:
        yield
    finally:
        convolutions.upsample_conv3x3 = ours


def _upsample_then_convolve(x, kernel):
    large = jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)
    return jax.lax.conv_general_dilated(
        large,
        kernel.astype(x.dtype),
        (1, 1),
        ((1, 1), (1, 1)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def least_seconds(work: Mapping, peaks: Mapping) -> float:
    """Computes the least time of some work at some peaks.

    Missing `bytes` or `flops` count as 0; work with neither counts as one operation, so that its
    figures are compared by the machines' matrix products.
    """
    operations = work.get("flops", 0.0 if "bytes" in work else 1.0)
    bound = operations / peaks[work.get("dtype", "float32")]
    return max(bound, work.get("bytes", 0.0) / peaks["bytes"])


def figures(work: Mapping, seconds: float, peaks: Mapping) -> dict:
    """Returns work with its time and its share of the roofline."""
    share = least_seconds(work, peaks) / seconds
    return dict(work) | {"seconds": seconds, "of_roofline": share}
