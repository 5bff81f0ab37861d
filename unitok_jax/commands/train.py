"""Trains a model: `unitok train` is `python -m unitok_jax.main`, which launch scripts start."""

import runpy


def main() -> None:
    """Runs the command; its exit codes are those of `unitok_jax.main`."""
    # Runs as the main module, which worker processes import and absl's --help describes.
    runpy.run_module("unitok_jax.main", run_name="__main__", alter_sys=True)
