"""Training fed from tars of JPEGs: how long a step waits for its batch, with saves between."""

import itertools
import pathlib
import tempfile

from benchmarks import data, timing
from unitok_jax.tokenizer.run import Run
from unitok_jax.training import clock, loop
from unitok_jax.weights.pretrained import SEEDED


def measure(name: str, dtype: str | None, batch: int, steps: int, remat: str, quick: bool) -> dict:
    """Trains in a temporary folder, on tars of 512 x 384 px made there.

    The first phase, whose steps are the shortest, with a save in the middle and at the end.

    Args:
      name, dtype: as for `timing.configuration`.
      batch: images a step.
      steps: number of steps.
      remat: `model.remat`.
      quick: True for a small data set.

    Returns:
      `wait_share`, the share of the steps' time in which the device waited for a batch;
      `saving_share`, of steps and saves together; `images_per_second` of the steps; `seconds` of
      a step; `shares` of the whole time after the first step, by kind of `clock.KINDS`.
    """
    config = timing.configuration(name, dtype)
    config.steps = steps
    config.model.remat, config.optim.accumulation = remat, 1
    config.gan.weight = 0.0
    config.frozen.lpips = config.frozen.lpips or SEEDED
    config.data.source, config.data.batch_size = "tar", batch
    config.log.every, config.log.tensorboard = max(1, steps // 20), False
    config.eval.every, config.eval.max_images, config.eval.batch_size = steps, batch, batch
    config.checkpoint.every = max(1, steps // 2)
    with tempfile.TemporaryDirectory() as folder:
        tars = pathlib.Path(folder, "tars")
        tars.mkdir()
        shards, each, pictures = (1, 2 * batch, 4) if quick else (8, 512, 64)
        config.data.path = data.write_tars(tars, shards, each, pictures, real=False)
        workdir = pathlib.Path(folder, "run")
        loop.train(Run, config, str(workdir))
        return shares(clock.read(workdir), batch) | {"batch": batch, "remat": remat, "steps": steps}


def shares(records: list[dict], batch: int) -> dict:
    """Adds up the records of one start, from the first step on."""
    seconds, steps = dict.fromkeys(clock.KINDS, 0.0), 0
    for before, record in itertools.pairwise(records):
        if "starting" in record["seconds"]:
            continue
        steps += record["step"] - before["step"]
        for kind, spent in record["seconds"].items():
            seconds[kind] += spent
    stepping, total = seconds["training"] + seconds["input"], sum(seconds.values())
    return {
        "wait_share": seconds["input"] / stepping,
        "saving_share": seconds["saving"] / (stepping + seconds["saving"]),
        "images_per_second": steps * batch / stepping,
        "seconds": stepping / steps,
        "shares": {kind: spent / total for kind, spent in seconds.items() if spent},
    }
