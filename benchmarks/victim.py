"""Run of `unitok_jax.main` that is observed from outside, killed, and compared with another."""

import datetime
import json
import math
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import orbax.checkpoint as ocp

from unitok_jax import trees

ROOT = pathlib.Path(__file__).parents[1]
POLL = 0.002  # seconds
_TEMPORARY = ".orbax-checkpoint-tmp"


def _without_devices(flags: str) -> str:
    return " ".join(f for f in flags.split() if "host_platform_device_count" not in f)


class Victim:
    """Training run in one workdir, by one process after another."""

    def __init__(self, workdir: pathlib.Path, settings: list[str], name: str = ""):
        """Sets up the run.

        Args:
          workdir: the workdir.
          settings: flags of main.
          name: name of this process, if several share a workdir.
        """
        self.workdir, self.settings = pathlib.Path(workdir), settings
        self.log = self.workdir.with_name(f"{self.workdir.name}{name}.log")
        self.cache = None  # compilation cache; None: the machine's
        self.process, self._begun, self._clock = None, 0.0, 0.0

    def start(self, *more: str) -> None:
        """Starts the command, with more flags and a new log."""
        command = [sys.executable, "-m", "benchmarks.watched", f"--workdir={self.workdir}"]
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._notes.unlink(missing_ok=True)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, *self.settings, *more],
                cwd=ROOT,
                env=self._environment(),
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._begun = time.monotonic()
        now = datetime.datetime.now()
        self._clock = 3600 * now.hour + 60 * now.minute + now.second

    def _environment(self):
        folder = pathlib.Path(tempfile.gettempdir()) / f"unitok_jax_torture_cache_{os.getuid()}"
        environment = {
            "JAX_PLATFORMS": "cpu",
            "JAX_COMPILATION_CACHE_DIR": str(folder),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            **os.environ,
            "NOTES": str(self._notes),
            # One device: several would share its threads and change the order of sums.
            "XLA_FLAGS": _without_devices(os.environ.get("XLA_FLAGS", "")),
        }
        if self.cache is not None:
            environment["JAX_COMPILATION_CACHE_DIR"] = str(self.cache)
        return environment

    def wait(self, timeout: float = 900) -> int:
        """Waits for the process to end, and returns its exit code."""
        return self.process.wait(timeout)

    def until(self, happens, timeout: float = 900, poll: float = POLL) -> bool:
        """Waits until `happens()`; returns False if the process ends before.

        Raises:
          TimeoutError: neither happened in time.
        """
        while self.process.poll() is None:
            if happens():
                return True
            if time.monotonic() - self._begun > timeout:
                raise TimeoutError(f"{timeout} s without what was waited for; see {self.log}")
            time.sleep(poll)
        return False

    def kill(self) -> None:
        """Sends SIGKILL: no handler runs, nothing is flushed."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    @property
    def seconds(self) -> float:
        """Returns the seconds since the start of the process."""
        return time.monotonic() - self._begun

    def text(self) -> str:
        """Returns the output of the process."""
        return self.log.read_text(errors="replace")

    @property
    def _notes(self) -> pathlib.Path:
        return self.log.with_name(f"{self.log.name}.batches")

    def reads(self) -> dict[int, int]:
        """Returns step -> checksum of the batch that the process read for the step."""
        lines = self._notes.read_text().splitlines() if self._notes.exists() else []
        return {int(step): int(checksum) for step, checksum in map(str.split, lines)}

    def resumed(self) -> int | None:
        """Returns the step that the process starts from; None before the log has it."""
        text = self.text()
        match = re.search(r"resumed .* at step (\d+)", text)
        return int(match[1]) if match else 0 if "parameters:" in text else None

    def logged(self) -> int:
        """Returns the newest logged step; 0 before the first."""
        return max(map(int, re.findall(r"\] step (\d+)/", self.text())), default=0)

    def evaluating(self) -> bool:
        """Returns True if the newest step has an evaluation that is not logged yet."""
        every = self.setting("eval.every")
        lines = re.findall(r"\] step (\d+)(/| )", self.text())
        return bool(lines) and lines[-1][1] == "/" and int(lines[-1][0]) % every == 0

    def first_step_seconds(self) -> float:
        """Returns the seconds from the start of the process to the end of its first step."""
        match = re.search(r"^I\d+ (\d+):(\d+):([\d.]+) .*\] step \d+/", self.text(), re.M)
        if not match:
            return math.nan
        hours, minutes, seconds = map(float, match.groups())
        return (3600 * hours + 60 * minutes + seconds - self._clock) % 86400

    def records(self) -> list[dict]:
        """Reads metrics.jsonl, without a last line cut short by a kill."""
        path = self.workdir / "metrics.jsonl"
        if not path.exists():
            return []
        return [json.loads(line) for line in path.read_text().split("\n")[:-1]]

    def setting(self, key: str) -> int:
        """Returns the integer value of a configuration key in the flags."""
        (value,) = (s.split("=")[1] for s in self.settings if s.startswith(f"--config.{key}="))
        return int(value)

    def saving(self) -> bool:
        """Returns True while a save is being written."""
        folder = self.workdir / "checkpoints"
        return folder.is_dir() and any(_TEMPORARY in name for name in os.listdir(folder))

    def steps(self) -> list[int]:
        """Returns the steps of the complete checkpoints."""
        folder = self.workdir / "checkpoints"
        return sorted(int(p.name) for p in folder.glob("*") if p.is_dir() and p.name.isdigit())

    def workers(self) -> list[int]:
        """Returns the process ids of the data workers."""
        found = []
        for children in pathlib.Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            for child in children.read_text().split():
                if b"spawn_main" in pathlib.Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(int(child))
        return found


def alive(process: int) -> bool:
    """Returns True if a process exists and is not a zombie."""
    try:
        return "\nState:\tZ" not in pathlib.Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False


def arrays(workdir: pathlib.Path, step: int) -> dict[str, np.ndarray]:
    """Reads all arrays of a checkpoint from disk, by dotted name."""
    out = {}
    for item in ("params", "training"):
        path = workdir / "checkpoints" / str(step) / item
        with ocp.PyTreeCheckpointer() as reader:
            metadata = reader.metadata(path).item_metadata.tree
            wanted = ocp.checkpoint_utils.construct_restore_args(metadata)
            for args in trees.flatten(wanted).values():
                args.restore_type, args.sharding = np.ndarray, None
            tree = reader.restore(path, restore_args=wanted)
        out |= {f"{item}.{name}": leaf for name, leaf in trees.flatten(tree).items()}
    return out


def compare(reference: pathlib.Path, workdir: pathlib.Path, step: int) -> list[str]:
    """Lists differences of two finished runs: records of metrics.jsonl, arrays of `step`."""
    if not (workdir / "checkpoints" / str(step)).is_dir():
        return [f"{workdir} has no checkpoint {step}"]
    problems = []
    ours, theirs = ((f / "metrics.jsonl").read_text().splitlines() for f in (workdir, reference))
    if len(ours) != len(theirs):
        problems.append(f"{len(ours)} records, {len(theirs)} in the undisturbed run")
    for number, (a, b) in enumerate(zip(ours, theirs, strict=False), 1):
        if a != b:
            problems.append(f"record {number} differs:\n    {a[:200]}\n    {b[:200]}")
            break
    ours, theirs = arrays(workdir, step), arrays(reference, step)
    if ours.keys() != theirs.keys():
        problems.append(f"arrays: {sorted(ours.keys() ^ theirs.keys())}")
    for name in sorted(ours.keys() & theirs.keys()):
        if ours[name].tobytes() != theirs[name].tobytes():
            problems.append(f"{name} differs")
    return problems
