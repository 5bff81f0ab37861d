"""Tells what part of a run's time was training: `unitok goodput WORKDIR`.

Adds up `timing.jsonl` over all starts of a run. `training` is the time of steps that count, of each
step its last execution; `repeated` that of steps which a later start had to do again, because it
began from an earlier checkpoint; `down` the time from the last sign of life of a process to the
beginning of the next. The clock of `timing` tells what the others are. The sum is the time from the
beginning of the first process to the last record.
"""

import argparse

from unitok_jax.runtime import workdir
from unitok_jax.system import console
from unitok_jax.training import goodput


def main() -> None:
    """Runs the command; an error in its input ends as one line and exit code 2."""
    parser = argparse.ArgumentParser(
        prog="unitok goodput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("workdir", help="of a run that trains or has trained")
    args = parser.parse_args()
    try:
        with console.command():
            print(goodput.measure(workdir.open_folder(args.workdir)).table())
    except (ValueError, OSError) as error:
        console.refuse(error)
