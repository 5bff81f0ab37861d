"""Tells whether a step fits machines that are not here: `unitok train --mode=compile`."""

import sys

from unitok_jax.commands import train


def main() -> None:
    """Runs the command; its exit codes are those of `unitok_jax.main`."""
    sys.argv.insert(1, "--mode=compile")
    train.main()
