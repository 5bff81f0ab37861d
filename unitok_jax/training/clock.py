"""Clock of a training process: times of its steps, and its time by kind of work.

`timing.jsonl` in a workdir only grows. Every start of a process that trains writes
`{"start": n, "time": ..., "step": ..., "seconds": {...}, "goal": ..., ...facts}`, and then a record
`{"start": n, "time": ..., "step": ..., "seconds": {...}, "time/...": ...}` with each record of the
metrics. `time` is in seconds since 1970. `seconds`, by a monotonic clock, splits the time since
the previous record by kind, so that the `seconds` of a start sum up to the process's lifetime.
`goodput` adds them up over all starts.
"""

import collections
import contextlib
import json
import time
from typing import Any

import numpy as np
from etils import epath

from unitok_jax.runtime.workdir import Lines

FILE = "timing.jsonl"
# The import, the restore, the compilation and the first step are `starting`.
KINDS = ("starting", "training", "input", "evaluation", "saving", "profiling")


def read(workdir: epath.PathLike) -> list[dict[str, Any]]:
    """Reads all records of a workdir, oldest first, without lines cut short by a kill.

    Raises:
      ValueError: the file is not a timing file.
      OSError: the file does not exist or cannot be read.
    """
    path = epath.Path(workdir) / FILE
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give the workdir of a run that has begun")
    records = []
    for number, line in enumerate(path.read_bytes().decode(errors="replace").splitlines(), 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if not isinstance(record, dict) or not {"start", "time", "step", "seconds"} <= set(record):
            raise ValueError(f"{path} line {number} is no record of timings: {line[:60]}")
        records.append(record)
    return records


class Clock:
    """Attributes every second of this process to one of `KINDS`, and times the steps.

    A step lasts from the arrival of the previous step's metrics to the arrival of its own, without
    evaluations and saves. The loop fetches metrics one step late, so that the host is ahead of the
    device and the step time is that of the slower of the two.

    A wait for a batch costs nothing while the device still computes the previous step. So `input`
    is the time of the steps beyond the device time, but at most the wait. The device time is
    measured for the last step of a record, whose metrics the loop fetches at once: from its
    dispatch, or from the end of the previous step if that is later, until it is done; the median
    of five such steps is taken. The rest, logging included, is `training`. A program that is
    compiled later, such as that of the adversarial phase, counts in the step that waits for it.

    Used as a context manager, the clock attributes the remaining time on exit.

    Attributes:
      rate: key of the rows a second among what `record` returns; set by `open`.
    """

    def __init__(self, workdir: epath.Path, began: float, lead: bool):
        """Starts the clock; the file is touched only by `open`.

        Args:
          workdir: folder of timing.jsonl, which need not exist yet.
          began: start time of the process, in seconds since 1970.
          lead: True on process 0, which writes the file.
        """
        self.workdir, self.lead, self._file = workdir, lead, None
        self._kind, self._since = "starting", time.monotonic() - max(time.time() - began, 0)
        self._seconds = dict.fromkeys(KINDS, 0.0)
        self._steps, self._stepped, self._span = [], 0.0, 0.0
        self._device_steps = collections.deque(maxlen=5)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._file is not None:
            self.record()
            self._file.close()

    def open(self, step: int, goal: int, batch_size: int, unit: str, facts: dict[str, Any]) -> None:
        """Writes the record of this start, once the state is loaded.

        Args:
          step: number of steps done before.
          goal: last step of the run.
          batch_size: global batch size.
          unit: what a row of a batch is, `images` or `rows`.
          facts: further fields of the record.

        Raises:
          ValueError: the file is not a timing file.
        """
        self._step, self._batch_size, self._start = step, batch_size, 1
        self.rate = f"time/{unit}_per_second"
        if self.lead:
            path = self.workdir / FILE
            if path.exists():
                self._start += max((r["start"] for r in read(self.workdir)), default=0)
            self._file = Lines(path)
        self._book()
        self._write({"goal": goal} | facts)

    @contextlib.contextmanager
    def during(self, kind: str):
        """Attributes the block to `kind`; until the first step is done, to `starting`."""
        before = self._kind
        self.switch(kind)
        try:
            yield
        finally:
            self.switch(before)

    def switch(self, kind: str) -> None:
        """Attributes the time from now on to `kind`; before the first step is done, `starting`."""
        if self._kind != "starting":
            self._book()
            self._kind = kind

    def tick(self, step: int) -> None:
        """Notes that the metrics of `step` have arrived; the first call ends the start."""
        self._span, self._step = self._book(), step
        if self._kind == "starting":
            self._kind = "training"
            self._write({})
            return
        stepping = self._seconds["training"] + self._seconds["input"]
        self._steps.append(stepping - self._stepped)
        self._stepped = stepping

    def record(self) -> dict[str, float]:
        """Writes a record of the time since the previous one.

        Returns:
          `time/step_p50`, `time/step_p90`, `time/step_max` and `time/step_device`, in seconds;
          `time/input_share`, the fraction of the steps' time in which the device waited for a
          batch; `time/images_per_second` or `time/rows_per_second`, of all processes. Empty if
          there was no step.
        """
        self._book()
        values, count = {}, len(self._steps)
        if count:
            total = self._seconds["training"] + self._seconds["input"]
            self._device_steps.append(self._span)
            device_step = float(np.median(self._device_steps))
            idle = max(total - count * device_step, 0.0)
            self._seconds["input"] = min(self._seconds["input"], idle)
            self._seconds["training"] = total - self._seconds["input"]
            median, percentile_90 = np.percentile(self._steps, [50, 90])
            values = {
                "time/step_p50": float(median),
                "time/step_p90": float(percentile_90),
                "time/step_max": max(self._steps),
                "time/step_device": device_step,
                "time/input_share": self._seconds["input"] / total,
                self.rate: count * self._batch_size / total,
            }
        self._write({key: float(f"{value:.6g}") for key, value in values.items()})
        return values

    def _book(self) -> float:
        """Attributes the seconds since the last call to the current kind, and returns them."""
        now = time.monotonic()
        span, self._since = now - self._since, now
        self._seconds[self._kind] += span
        return span

    def _write(self, more):
        if self._file is not None:
            seconds = {kind: round(s, 6) for kind, s in self._seconds.items() if s}
            record = {"start": self._start, "time": round(time.time(), 3), "step": self._step}
            self._file.append(json.dumps(record | {"seconds": seconds} | more))
        self._seconds = dict.fromkeys(KINDS, 0.0)
        self._steps, self._stepped = [], 0.0
