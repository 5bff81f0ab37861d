"""Kills of a command that continues: its files are those of an undisturbed run."""

import collections
import hashlib
import pathlib
import random
import subprocess
from collections.abc import Callable

REOPENED = 20  # files at most that are removed of an output that is finished before its kills


def torture(
    command: Callable[[pathlib.Path], list[str]],
    folder: pathlib.Path,
    life: Callable[[list[str], pathlib.Path, random.Random, object], str | None],
    reopen: Callable[[pathlib.Path, random.Random], None],
    kills: int,
    seed: int,
) -> tuple[bool, str]:
    """Runs a command undisturbed, and killed time after time until it is finished.

    Args:
      command: returns the command line for an output folder.
      folder: a new folder, of both outputs and the log.
      life: starts and kills one process: returns the phase of the kill, or None if it ended before.
      reopen: removes files of a finished output, so that there is more to do.
      kills: number of kills.
      seed: of the moments.

    Returns:
      True if both wrote the same files, and what happened, in words.
    """
    rng, phases, starts = random.Random(seed), collections.Counter(), 0
    alone, output = folder / "alone", folder / "killed"
    folder.mkdir()
    with open(folder / "log", "w") as log:
        subprocess.run(command(alone), stdout=log, stderr=log, check=True)
        while phases.total() < kills:
            starts += 1
            phase = life(command(output), output, rng, log)
            if phase is None:
                reopen(output, rng)
            else:
                phases[phase] += 1
        subprocess.run(command(output), stdout=log, stderr=log, check=True)
    same = hashes(alone) == hashes(output)
    told = ", ".join(f"{count} {phase}" for phase, count in phases.most_common())
    result = f"{len(hashes(alone))} files {'are equal' if same else 'DIFFER'}"
    return same, f"{kills} kills in {starts} starts ({told}); {result}"


def some(files: list[pathlib.Path], rng: random.Random) -> list[pathlib.Path]:
    """Picks `REOPENED` of files, or all if there are fewer."""
    return rng.sample(sorted(files), min(REOPENED, len(files)))


def hashes(output: pathlib.Path) -> dict[str, str]:
    """Returns path -> SHA-256 of every file of a folder and of those within."""
    files = [path for path in output.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
