"""Training on one device in a process of its own, as a user starts it."""

import os
import subprocess
import sys

from helpers.jobs import FAST

# One device, as on a laptop; the session's eight would change the order of sums.
ENVIRONMENT = {**os.environ, "XLA_FLAGS": FAST}
SETTINGS = [
    "--config=configs/tiny.py",
    "--config.steps=6",
    "--config.model.size=nano",
    "--config.model.quant_heads=2",
    "--config.model.text.layers=1",
    "--config.data.batch_size=8",
    "--config.data.num_threads=1",
    "--config.eval.every=3",
    "--config.eval.batch_size=8",
    "--config.eval.max_images=12",
    "--config.eval.grid_images=2",
    "--config.checkpoint.every=2",
    "--config.log.every=1",
]


def command(workdir, *more):
    return [sys.executable, "-m", "unitok_jax.main", f"--workdir={workdir}", *SETTINGS, *more]


def run(workdir, *more):
    return subprocess.run(
        command(workdir, *more), env=ENVIRONMENT, capture_output=True, text=True, timeout=600
    )
