"""Kernels of a traced step, by kind: milliseconds a step, share, launches."""

import collections
import pathlib
import re
import tempfile
import time
from collections.abc import Callable, Iterable

import jax

# Kind -> pattern of a kernel's name or its operation in the program; the first that fits counts.
KINDS = {
    "attention": "sdpa|fmha|flash",
    "convolutions": r"cudnn|convolution|conv\dd|[fdw](prop|grad)(\dd)?_",
    "float32 products on plain cores": "simt|sgemm|ffma",
    "products, Triton": "gemm_fusion|triton_gemm",
    "products": r"nvjet|gemm|cutlass|cublas|^dot|\bdot",
    "softmax": "softmax",
    "dynamic-update-slice": "dynamic[-_]update[-_]slice",
    "reductions": "reduce",
    "transposes": "transpose",
    "exchange": "nccl|all-reduce|all-gather",
    "copies": "memcpy|memset|copy|slice|concatenate|pad",
    "elementwise": "fusion|wrapped|loop",
}
_PATTERNS = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in KINDS.items()}
_HOLDS_OTHERS = re.compile(r"(while|call|conditional)(\.\d+)?$")


def kind(kernel: str, operation: str = "") -> str:
    """Returns the kind of a kernel, 'other' if no pattern fits its name or its operation's."""
    for name, pattern in _PATTERNS.items():
        if pattern.search(kernel) or pattern.search(operation):
            return name
    return "other"


def table(events: Iterable[tuple[str, str, float]], steps: int) -> dict[str, dict]:
    """Sums (kernel, operation, milliseconds) of `steps` steps by kind, longest first."""
    sums = collections.defaultdict(lambda: [0.0, 0])
    for kernel, operation, ms in events:
        entry = sums[kind(kernel, operation)]
        entry[0] += ms
        entry[1] += 1
    total = sum(ms for ms, _ in sums.values())
    return {
        name: {"ms": ms / steps, "share": ms / total, "launches": count / steps}
        for name, (ms, count) in sorted(sums.items(), key=lambda item: -item[1][0])
    }


def measure(step: Callable[[], object], rounds: int, traced: int = 2) -> dict:
    """Measures steps back to back, without waiting for each, and traces some.

    Args:
      step: dispatches a step and returns arrays of it.
      rounds: number of steps timed.
      traced: number of steps traced.

    Returns:
      `seconds` of a step, and `kinds` as of `table`.

    Raises:
      RuntimeError: the trace has no kernels.
    """
    jax.block_until_ready(step())
    begun = time.perf_counter()
    for _ in range(rounds):
        last = step()
    jax.block_until_ready(last)
    seconds = (time.perf_counter() - begun) / rounds
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(traced):
                last = step()
            jax.block_until_ready(last)
        kinds = table(_events(pathlib.Path(folder)), traced)
    if not kinds:
        raise RuntimeError("the trace has no kernels: does the profiler work on this device?")
    return {"seconds": seconds, "kinds": kinds}


def _events(folder):
    """Yields (kernel, operation, milliseconds) of a trace's devices, or of a CPU's threads."""
    (path,) = folder.rglob("*.xplane.pb")
    planes = list(jax.profiler.ProfileData.from_file(str(path)).planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    for plane in devices or planes:
        for line in plane.lines:
            if devices and "Stream" not in line.name:
                continue
            for event in line.events:
                operation = str(dict(event.stats).get("hlo_op", ""))
                # A stream has kernels alone; a thread has loops too, beside what runs in them.
                if devices or (operation and not _HOLDS_OTHERS.match(operation)):
                    yield event.name, operation, event.duration_ns / 1e6
