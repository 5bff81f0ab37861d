"""Train steps that were timed on one device: records of their day, which no later code changes."""

from collections.abc import Mapping
from typing import NamedTuple


class TimedStep(NamedTuple):
    """Train step of a known program, and the seconds that it took."""

    product: str  # of its configuration
    phase: str  # of its plan
    keys: Mapping[str, object]  # of its configuration: a step of the same keys is the same step
    operations: float  # of products and convolutions, as that program executed them
    seconds: float
    kind: str  # of chip: a name in machines.GPUS, or cpu
    card: str  # as people call it
    date: str
    jax: str
    command: str

    @property
    def batch(self) -> int:
        """Samples of the step."""
        return self.keys["data.batch_size"]


def _keys(size: str, batch: int, remat: str, dtype: str, **others) -> dict:
    return {
        "model.size": size,
        "model.remat": remat,
        "model.dtype": dtype,
        "data.batch_size": batch,
        **others,
    }


_EARLY, _LATE = "before the adversary", "with the adversary"
_ONCE = {"optim.accumulation": 1}
_LARGE = _keys("large", 32, "none", "bfloat16", **_ONCE)
_BASE = _keys("base", 1, "blocks", "float32", **_ONCE)
_TINY = _keys("tiny", 8, "none", "float32", **_ONCE)
_XL = _keys("xl", 32, "none", "bfloat16")
_GPU = "python -m benchmarks.gpu --batches 32 --remat none --only peaks train"
_CPU = ("cpu", "4 shared x86 cores", "2026-11-23", "0.10.2")
_B16 = "python -m benchmarks --config b16 --batch 1 --only encode decode train stages"
_QUICK = "python -m benchmarks --quick"
_OLDER = f"a script at commit 1c8e7fd, without cuDNN's attention; now: {_GPU}"

# docs/explanation/performance.md and drawing_speed.md tell how they were measured.
TIMED = (
    TimedStep(
        *("tokenizer", _EARLY, _LARGE, 58.671e12, 0.25647),
        *("h200", "NVIDIA H200", "2026-11-27", "0.11.2", _GPU),
    ),
    TimedStep(
        *("tokenizer", _LATE, _LARGE, 63.201e12, 0.345),
        *("h200", "NVIDIA H200", "2026-11-26", "0.11.2", _OLDER),
    ),
    TimedStep("tokenizer", _EARLY, _BASE, 793e9, 3.68, *_CPU, _B16),
    TimedStep("tokenizer", _LATE, _BASE, 959e9, 4.12, *_CPU, _B16),
    TimedStep("tokenizer", _EARLY, _TINY, 71.47e9, 0.355, *_CPU, _QUICK),
    TimedStep("tokenizer", _LATE, _TINY, 137.1e9, 0.473, *_CPU, _QUICK),
    TimedStep(
        *("generator", "every step", _XL, 82.506e12, 0.372),
        *("h100", "NVIDIA H100 80GB HBM3", "2026-11-26", "0.11.2"),
        "python -m benchmarks.generate --train xl --batches 32 --remat none --rounds 2",
    ),
)
