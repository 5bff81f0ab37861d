"""The recipes of the reconstruction's losses through the loop: their steps, and resuming."""

import json
import shutil

import jax
import numpy as np
import pytest

from configs import recipes, tiny_full
from unitok_jax.checkpoints import manager
from unitok_jax.tokenizer import losses
from unitok_jax.tokenizer.run import Run
from unitok_jax.training import loop

pytestmark = pytest.mark.slow

STEPS = 4


def configuration(name):
    """A recipe at the smallest size, on seeded stand-ins of the frozen networks."""
    config = tiny_full.get_config()
    config.update_from_flattened_dict(recipes.VARIANTS[name])
    config.steps = STEPS
    config.model.size, config.model.quant_heads = "nano", 2
    config.data.image_size = (48, 48)
    config.data.batch_size = 4
    config.data.num_threads = 1
    config.eval.every, config.eval.batch_size, config.eval.max_images = STEPS, 4, 4
    config.eval.grid_images = 2
    config.checkpoint.every = 2
    config.log.every = 1
    config.log.tensorboard = False
    return config


class Recorded(Run):
    """A Run on one device that a test can look at afterwards."""

    last = None

    def __init__(self, config):
        super().__init__(config, jax.devices()[:1])
        Recorded.last = self


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def saved(workdir):
    items = Recorded.last.programs.abstract.items()
    with manager.Checkpoints(workdir) as checkpoints:
        return jax.tree.leaves(jax.device_get(checkpoints.restore(items, step=STEPS)))


@pytest.mark.parametrize("name", ["gan_constant", "gram"])
def test_resuming_changes_nothing(name, tmp_path):
    config, whole, again = configuration(name), tmp_path / "whole", tmp_path / "again"
    loop.train(Recorded, config, str(whole))
    expected = saved(whole)
    shutil.copytree(whole, again)
    shutil.rmtree(again / "checkpoints" / str(STEPS))
    loop.train(Recorded, config, str(again))
    for ours, theirs in zip(saved(again), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert records(again) == records(whole)

    training = [record for record in records(whole) if "loss" in record]
    weights = {name: config.loss[name] for name in losses.TERMS if config.loss[name]}
    for record in training:
        total = sum(weight * record[f"loss/{term}"] for term, weight in weights.items())
        if name == "gan_constant":  # from the first step on, which a ramp would leave out
            assert record["gan/weight"] == np.float32(0.1)
            total += 0.1 * record["loss/gan"]
        assert record["loss"] == pytest.approx(total, rel=1e-5)
        assert record["skipped"] == 0
    assert len(training) == STEPS and ("loss/gram" in training[0]) == (name == "gram")
    phases = {phase: step._cache_size() for phase, step in Recorded.last.programs.phases.items()}
    assert phases == {False: name == "gram", True: name == "gan_constant"}
