"""Mishaps of a run besides a kill: each must end as documented, and not change the results."""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import time

from benchmarks.victim import Victim, compare

EXIT_INPUT, EXIT_PREEMPTED = 2, 75
GIVES_UP = 60.0  # seconds within which a process must end after its partner was killed


class _Check:
    """Collector of failed checks."""

    def __init__(self):
        self.problems = []

    def __call__(self, ok, what: str, target: Victim | None = None) -> None:
        if not ok:
            self.problems.append(what + (f"; {target.text()[-1500:]}" if target else ""))


def truncated(folder: pathlib.Path, settings: list[str], reference: Victim) -> list[str]:
    """Truncates a file of the newest checkpoint: the previous one is used, with a warning."""
    target, check = Victim(folder, settings), _Check()
    every = target.setting("checkpoint.every")
    target.start()
    ready = target.until(lambda: target.logged() > 2 * every and len(target.steps()) >= 2)
    check(ready, "the process ended before it had two checkpoints", target)
    if check.problems:
        return check.problems
    target.kill()
    *_, before, newest = target.steps()
    files = [p for p in (folder / "checkpoints" / str(newest)).rglob("*") if p.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    target.start()
    check(target.wait() == 0, "the run did not finish", target)
    check(f"checkpoint {newest} is damaged" in target.text(), "no warning", target)
    check(target.resumed() == before, f"resumed at {target.resumed()}, not {before}")
    check((folder / "checkpoints" / "damaged" / str(newest)).is_dir(), "not moved aside")
    return check.problems + compare(reference.workdir, folder, target.setting("steps"))


def disk(folder: pathlib.Path, settings: list[str], reference: Victim) -> list[str] | None:
    """Fills the disk during the second save: exit code 2, and the first save stays usable."""
    check = _Check()
    newest = reference.workdir / "checkpoints" / str(reference.setting("steps"))
    size = sum(p.stat().st_size for p in newest.rglob("*") if p.is_file())
    with _disk(folder, 6 * size) as mounted:
        if not mounted:
            return None
        target = Victim(folder / "run", settings)
        target.log = folder.with_suffix(".log")  # on another disk
        first = target.setting("checkpoint.every")
        target.start()
        target.until(lambda: target.steps() == [first] and target.saving(), poll=0.001)
        with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(2**20))
        code = target.wait()
        check(code == EXIT_INPUT, f"exit code {code} of a full disk", target)
        check("No space left" in target.text() or "GB free" in target.text(), "untold", target)
        check(target.steps() == [first], f"{target.steps()} is left, not {first}")
        target.start()
        code = target.wait()
        check(code == EXIT_INPUT, f"exit code {code} of a disk that is still full", target)
        check("GB free" in target.text(), "no room is told for", target)
        check(target.logged() == 0, "trained without room for a checkpoint")
        (folder / "filler").unlink()
        target.start()
        check(target.wait() == 0, "the run did not finish", target)
        check(target.resumed() == first, f"resumed at {target.resumed()}, not {first}")
        return check.problems + compare(reference.workdir, target.workdir, target.setting("steps"))


def preemption(folder: pathlib.Path, settings: list[str], reference: Victim) -> list[str]:
    """Sends SIGTERM: a checkpoint of the current step and exit code 75."""
    target, check = Victim(folder, settings), _Check()
    every = target.setting("checkpoint.every")
    target.start()
    target.until(lambda: target.logged() == every + 1)
    target.process.send_signal(signal.SIGTERM)
    code = target.wait(GIVES_UP)
    check(code == EXIT_PREEMPTED, f"exit code {code} after SIGTERM", target)
    stopped = target.logged()
    check(target.steps()[-1:] == [stopped], f"stopped after {stopped}, saved {target.steps()}")
    target.start()
    check(target.wait() == 0, "the run did not finish", target)
    check(target.resumed() == stopped, f"resumed at {target.resumed()}, not {stopped}")
    return check.problems + compare(reference.workdir, folder, target.setting("steps"))


def processes(folder: pathlib.Path, settings: list[str], reference: Victim) -> list[str]:
    """Kills one of two processes: the other soon ends with an error; both resume."""
    check = _Check()
    together = _pair(folder / "undisturbed", settings)
    for number, target in enumerate(together):
        check(target.wait() == 0, f"process {number} of two did not finish", target)
    if check.problems:
        return check.problems
    for number in (0, 1):
        workdir = folder / f"killed{number}"
        pair = _pair(workdir, settings)
        killed, other = pair[number], pair[1 - number]
        every = killed.setting("checkpoint.every")
        ready = pair[0].until(lambda lead=pair[0], every=every: every in lead.steps())
        check(ready, "process 0 ended before the kill", pair[0])
        check(other.process.poll() is None, "process 1 ended before the kill", other)
        if check.problems:
            return check.problems
        killed.kill()
        begun = time.monotonic()
        try:
            code = other.wait(GIVES_UP)
            check(code not in (0, EXIT_INPUT), f"exit code {code} of the other", other)
        except subprocess.TimeoutExpired:
            check(False, f"the other waits for longer than {GIVES_UP:.0f} s", other)
            other.kill()
        print(f"process {number} killed: the other ended after {time.monotonic() - begun:.1f} s")
        pair = _pair(workdir, settings)
        for target in pair:
            check(target.wait() == 0, "a process did not finish", target)
        check(pair[0].resumed(), "started anew", pair[0])
        check.problems += compare(together[0].workdir, workdir, killed.setting("steps"))
    return check.problems


SCENARIOS = {
    "truncated": truncated,
    "disk": disk,
    "preemption": preemption,
    "processes": processes,
}


def _pair(workdir, settings) -> list[Victim]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pair = [Victim(workdir, settings, name=f".{number}") for number in range(2)]
    for number, target in enumerate(pair):
        target.start(f"--coordinator=127.0.0.1:{port}", "--processes=2", f"--process={number}")
    return pair


@contextlib.contextmanager
def _disk(folder, size):
    """Mounts a file system of `size` bytes in memory; yields True if mounted."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True).returncode == 0
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
