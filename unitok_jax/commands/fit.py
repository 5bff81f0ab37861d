"""Tells what a run costs, and whether its step fits a machine: `unitok train --mode=compile`."""

import sys

from unitok_jax.commands import train


def main() -> None:
    """Runs the command; its exit codes are those of `unitok_jax.main`."""
    sys.argv.insert(1, "--mode=compile")
    train.main()
