"""Helpers of the benchmarks: calls timed in turns, peaks of a machine, random arrays, tables."""

import datetime
import functools
import importlib
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from unitok_jax.system import markdown

# A faster call is repeated for this long, as clocks and threads' wake-ups limit the resolution.
SHORTEST = 0.02
# Heads of the quantizer's projections, by the model's size: trunk width / latent width.
HEADS = {"nano": 2, "tiny": 2, "small": 6, "base": 12, "large": 16}


def configuration(name: str, dtype: str | None = None):
    """Returns a configuration in configs/ by name: `b16`, `configs.b16` or `configs/b16.py`.

    Args:
      name: name of the configuration.
      dtype: compute dtype instead of the configuration's.

    Raises:
      ValueError: unknown configuration.
    """
    module = "configs." + name.removesuffix(".py").replace("/", ".").removeprefix("configs.")
    try:
        config = importlib.import_module(module).get_config()
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise ValueError(f"--config={name}: there is no {module.replace('.', '/')}.py") from error
    config.model.dtype = dtype or config.model.dtype
    return config


def fill(shapes, seed: int = 0):
    """Fills shapes with small random floats, and zeros of other dtypes, on the device."""
    rng = np.random.default_rng(seed)

    def make(a):
        if jnp.issubdtype(a.dtype, jnp.floating):
            return jax.device_put((rng.standard_normal(a.shape, np.float32) * 0.02).astype(a.dtype))
        return jnp.zeros(a.shape, a.dtype)

    return jax.block_until_ready(jax.tree.map(make, shapes))


def in_turns(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Measures seconds of every call in each of `rounds` rounds, after one warm-up round.

    On a shared machine only ratios of neighbouring measurements are meaningful. A call must return
    when its work is done.
    """
    once = {name: _seconds(call, 1) for name, call in calls.items()}
    once = {name: min(first, _seconds(calls[name], 1)) for name, first in once.items()}
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(_seconds(call, math.ceil(SHORTEST / once[name])))
    return times


def medians(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Measures seconds of every call: medians of `in_turns`."""
    return {name: statistics.median(times) for name, times in in_turns(calls, rounds).items()}


def _seconds(call, repeats):
    begun = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - begun) / repeats


def peaks(seconds: float = 1.0) -> dict[str, float]:
    """Measures the current peaks of this machine.

    Args:
      seconds: duration of the tries of each of the three; the fastest try counts.

    Returns:
      `float32` and `bfloat16`: operations per second of a large matrix product of that dtype;
      `bytes`: read and written per second by a copy too large for any cache.
    """
    found = {dtype: peak_flops(dtype, seconds) for dtype in ("float32", "bfloat16")}
    large = jnp.ones((2**28 if jax.default_backend() != "cpu" else 2**26,), jnp.float32)
    size = large.nbytes
    # In place: a new array of this size costs the system more than the copy.
    turn = jax.jit(jnp.negative, donate_argnums=0)

    def copy():
        nonlocal large
        large = finish(turn, large)

    return found | {"bytes": 2 * size / _fastest(copy, seconds)}


def peak_flops(dtype, seconds: float = 1.0) -> float:
    """Measures operations per second of a large matrix product of random numbers.

    A GPU computes faster on equal ones, which need less power.
    """
    side = 8192 if jax.default_backend() != "cpu" else 1024
    x = fill(jax.ShapeDtypeStruct((side, side), jnp.dtype(dtype)))
    product = jax.jit(jnp.matmul)
    return 2 * side**3 / _fastest(lambda: finish(product, x, x), seconds)


def train_medians(
    programs: Mapping[str, Callable], state, arguments: Sequence, rounds: int
) -> dict[str, float]:
    """Measures train steps in turns: `medians` of programs that share and donate one state.

    Args:
      programs: name -> compiled step of (state, *arguments), which returns the next state first.
      state: state to begin from, with `skipped`.
      arguments: on the devices.
      rounds: as for `medians`.

    Raises:
      RuntimeError: a step was skipped: what is not finite may take another time.
    """

    def step(program):
        nonlocal state
        state, _ = finish(program, state, *arguments)

    calls = {name: functools.partial(step, program) for name, program in programs.items()}
    seconds = medians(calls, rounds)
    if int(state.skipped):
        raise RuntimeError(f"{int(state.skipped)} steps were skipped: not finite")
    return seconds


def finish(program: Callable, *args):
    """Returns program(*args), after the devices are done."""
    return jax.block_until_ready(program(*args))


def _fastest(call, seconds):
    call()
    best, begun = math.inf, time.perf_counter()
    while time.perf_counter() - begun < seconds or best == math.inf:
        best = min(best, _seconds(call, 1))
    return best


def machine() -> dict:
    """Describes the machine and the time of a run."""
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "jax": jax.__version__,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }


def table(columns: Sequence[str], rows: Sequence[Sequence]) -> str:
    """Formats a markdown table; floats to three digits, None as a dash."""
    return markdown.table(columns, [[_cell(cell) for cell in row] for row in rows])


def _cell(value):
    if value is None:
        return "–"
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
