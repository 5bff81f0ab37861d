"""A run whose images grow on the way, killed before, at and after the change of their size."""

import json
import shutil

import jax
import numpy as np
import pytest

from configs import tiny
from unitok_jax.checkpoints import manager
from unitok_jax.tokenizer.run import Run
from unitok_jax.training import loop

pytestmark = [pytest.mark.slow, pytest.mark.long]

STEPS, SWITCH = 5, 3


def configuration():
    config = tiny.get_config()
    config.steps = STEPS
    config.model.size, config.model.quant_heads, config.model.text.layers = "nano", 2, 1
    config.data.image_size = (48, 48)
    config.data.size_schedule = ((0, 32), (SWITCH / STEPS, 48))
    config.data.batch_size = 4
    config.data.num_threads = 1
    config.eval.every, config.eval.batch_size, config.eval.max_images = STEPS - 1, 4, 4
    config.eval.grid_images = 2
    config.checkpoint.every, config.checkpoint.keep_latest = 1, STEPS
    config.log.every, config.log.tensorboard = 1, False
    return config


class Watched(Run):
    """A Run on one device that notes what it is given; every start uses its compiled steps."""

    def __init__(self):
        super().__init__(configuration(), jax.devices()[:1])
        self.sides, self.pictured = [], []

    def train_step(self, step, state, batch):
        self.sides.append(batch["image"].shape[1])
        return super().train_step(step, state, batch)

    def evaluate(self, state):
        metrics, picture = super().evaluate(state)
        self.pictured.append(picture.shape)
        return metrics, picture

    def train(self, workdir):
        """The sides of the images of one start."""
        self.sides = []
        loop.train(lambda config: self, configuration(), str(workdir))
        return self.sides


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(workdir, Run, sides of the images) of an undisturbed run."""
    workdir, run = tmp_path_factory.mktemp("whole"), Watched()
    return workdir, run, run.train(workdir)


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def saved(workdir, run):
    with manager.Checkpoints(workdir) as checkpoints:
        return jax.device_get(checkpoints.restore(run.programs.abstract.items(), step=STEPS))


def test_every_step_is_of_its_size_and_every_evaluation_of_the_last(finished):
    workdir, run, sides = finished
    assert sides == [32] * SWITCH + [48] * (STEPS - SWITCH)
    gap = 4
    assert run.pictured[:2] == [(2 * (48 + gap), 3 * (48 + gap), 3)] * 2
    training = [record for record in records(workdir) if "loss" in record]
    assert [record["step"] for record in training] == list(range(1, STEPS + 1))
    assert all(record["skipped"] == 0 for record in training)


@pytest.mark.parametrize("done", [SWITCH - 1, SWITCH, SWITCH + 1])
def test_resuming_changes_nothing(finished, tmp_path, done):
    workdir, run, sides = finished
    copy = shutil.copytree(workdir, tmp_path / "copy")
    for step in range(done + 1, STEPS + 1):
        shutil.rmtree(copy / "checkpoints" / str(step))
    assert run.train(copy) == sides[done:]
    again, whole = (saved(folder, run) for folder in (copy, workdir))
    for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert records(copy) == records(workdir)


def test_one_program_per_size(finished):
    """However often the run was started: the shape of a batch alone chooses."""
    _, run, _ = finished
    assert run.programs.phases[False]._cache_size() == 2
