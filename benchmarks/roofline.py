"""What a program does, and how fast it could be on a machine.

The least time of a program is max(operations / peak, bytes / bandwidth), with the peaks that
`timing.peaks` measured in the same run: the roofline (doi.org/10.1145/1498765.1498785). Its share
is that least time over the measured one. Bytes are those between fusions, as if nothing stayed in a
cache: a stage whose arrays fit into one may exceed 1.
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
    """A function and what it is compiled for."""

    function: Callable
    args: tuple  # arrays or their shapes
    dtype: str  # whose peak bounds it, 'float32' or 'bfloat16'
    reference: Callable | None = None  # the same without recomputation, if there is any
    donate: tuple[int, ...] = ()  # positions of arguments whose memory it may use


def compiled(jobs: Mapping[Hashable, Job], at_once: int = 1) -> dict[Hashable, tuple]:
    """Compiles functions, `at_once` of them side by side, and tells what they do.

    Returns:
      Key -> (program, work). `work` is a dict of `dtype`; `flops` of products and convolutions as
      they are executed; `model_flops`, those of the published model, which neither recomputes nor
      saves; `bytes` read and written, `argument_bytes`, `temporary_bytes`; `xla_flops` and
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
            "flops": flops.of_jaxpr(traced[key].jaxpr.jaxpr, jax.default_backend()),
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


def _compile(traced):
    lowered = traced.lower()
    begun = time.perf_counter()
    return lowered.compile(), time.perf_counter() - begun


def model_flops(function: Callable, *args) -> float:
    """As `flops.count`, with each up-sampling convolution as it is published.

    What is computed on the small grid for one 3x3 convolution on the large one has 4/9 of its
    products, or a quarter.
    """
    with _published():
        # A function of its own: what was traced before is remembered by the function.
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
    """The least time of some work at some peaks.

    Work without `bytes` or `flops` has none of these; work with neither is taken as one operation:
    its figures compare by the machines' matrix products.
    """
    operations = work.get("flops", 0.0 if "bytes" in work else 1.0)
    bound = operations / peaks[work.get("dtype", "float32")]
    return max(bound, work.get("bytes", 0.0) / peaks["bytes"])


def figures(work: Mapping, seconds: float, peaks: Mapping) -> dict:
    """Work with its time and its share of the roofline."""
    share = least_seconds(work, peaks) / seconds
    return dict(work) | {"seconds": seconds, "of_roofline": share}
