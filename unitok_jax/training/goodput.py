"""Goodput of a run: the fraction of its time spent on training steps that count.

Adds up `timing.jsonl` over all starts of a run. `training` is the time of the last execution of
each step; `repeated` is the time of steps that a later start had to run again, because it resumed
from an earlier checkpoint; `down` is the time from the last record of a process to the start of
the next. `clock` defines the other kinds. The sum is the time from the start of the first process
to the last record.
"""

import dataclasses
import itertools
import math
import time
from typing import Any

from etils import epath

from unitok_jax.training import clock

_ROWS = ("training", "repeated", *(kind for kind in clock.KINDS if kind != "training"), "down")


@dataclasses.dataclass(frozen=True)
class Goodput:
    """Time of a run, in seconds by kind, and its progress."""

    seconds: dict[str, float]
    starts: int
    step: int  # last step recorded
    goal: int  # last step of the run
    last: float  # time of the last record, in seconds since 1970
    set_back: float  # seconds by which the clock was set back between starts, at least

    @property
    def share(self) -> float:
        """Productive time over all time; 0 if there is none."""
        total = sum(self.seconds.values())
        return self.seconds["training"] / total if total else 0.0

    def line(self) -> str:
        """Formats the share and the kinds that took at least 1 %."""
        total = sum(self.seconds.values()) or 1.0
        kinds = [f"{k} {s / total:.1%}" for k, s in self.seconds.items() if s >= total / 100]
        return f"goodput {self.share:.3f}, starts: {self.starts}; {', '.join(kinds)}"

    def table(self) -> str:
        """Formats rows of seconds and shares, below a line on the progress of the run."""
        total = sum(self.seconds.values()) or 1.0
        ago = max(time.time() - self.last, 0.0)
        lines = [
            f"step {self.step} of {self.goal}, starts: {self.starts}, last record {ago:.0f} s ago"
        ]
        lines += [f"{k:<12}{s:>12.1f} s {s / total:>7.1%}" for k, s in self.seconds.items()]
        lines.append(f"{'all':<12}{total:>12.1f} s")
        if self.set_back:
            lines.append(
                f"the clock was set back by {self.set_back:.1f} s or more between two starts; the "
                "time between them counts as 0"
            )
        return "\n".join([*lines, f"goodput {self.share:.3f}"])


def goodput(records: list[dict[str, Any]]) -> Goodput:
    """Adds up the records of `clock.read`.

    A start at step s makes the steps beyond s of all previous starts count as repeated: their
    steps and waits for input, not their evaluations and saves. The time of a process after its
    last record is unknown and counts as down.

    Raises:
      ValueError: `records` is empty.
    """
    starts = [list(g) for _, g in itertools.groupby(records, key=lambda record: record["start"])]
    if not starts:
        raise ValueError("there is no record of a start yet; wait until the first step is done")
    seconds, kept = dict.fromkeys(_ROWS, 0.0), math.inf
    for start in reversed(starts):
        step = start[0]["step"]
        for record in start:
            repeated_part = _part_beyond(kept, step, record["step"])
            for kind, spent in record["seconds"].items():
                repeated = spent * repeated_part if kind in ("training", "input") else 0.0
                seconds[kind] += spent - repeated
                seconds["repeated"] += repeated
            step = record["step"]
        kept = min(kept, start[0]["step"])
    set_back = 0.0
    for before, after in itertools.pairwise(starts):
        gap = after[0]["time"] - sum(after[0]["seconds"].values()) - before[-1]["time"]
        seconds["down"] += max(gap, 0.0)
        set_back += max(-gap, 0.0)
    final = starts[-1][-1]
    return Goodput(
        seconds, len(starts), final["step"], starts[-1][0]["goal"], final["time"], set_back
    )


def measure(workdir: epath.PathLike) -> Goodput:
    """Measures the goodput of the run in `workdir` until its last record.

    Raises:
      ValueError, OSError: no timing file can be read; the message names the file.
    """
    records = clock.read(workdir)
    try:
        return goodput(records)
    except ValueError as error:
        raise ValueError(f"{epath.Path(workdir) / clock.FILE}: {error}") from error


def _part_beyond(kept: float, first: int, last: int) -> float:
    """Returns the fraction of the steps first+1..last beyond `kept`."""
    if last == first:
        return float(last > kept)
    return min(max(last - max(first, kept), 0.0) / (last - first), 1.0)
