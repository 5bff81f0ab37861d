"""A run of the whole recipe through the loop: both phases, resuming, starting from its weights."""

import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from unitok_jax import checkpoint, train
from unitok_jax.run import Run

STEPS = 10


def configuration():
    """Ten steps of the smallest model that cross the start of the adversary and both ramps."""
    from configs import tiny_full

    config = tiny_full.get_config()
    config.steps = STEPS
    config.model.size, config.model.quant_heads = "nano", 2
    config.data.image_size = (48, 48)
    config.data.batch_size = 4
    config.data.num_threads = 1
    config.gan.start_fraction, config.gan.ramp_fraction, config.gan.blur_fraction = 0.3, 0.2, 0.4
    config.eval.every, config.eval.batch_size, config.eval.max_images = STEPS, 4, 4
    config.eval.grid_images = 2
    config.checkpoint.every = 5
    config.log.every = 1
    return config


class Recorded(Run):
    """A Run on one device that a test can look at afterwards."""

    made = []

    def __init__(self, config):
        super().__init__(config, jax.devices()[:1])
        Recorded.made.append(self)


class Broken(Recorded):
    """A Run whose perceptual loss is not a number from the sixth step on."""

    def train_step(self, step, state, batch):
        if step == 5:
            self.frozen["lpips"] = jax.tree.map(lambda x: x * np.nan, self.frozen["lpips"])
        return super().train_step(step, state, batch)


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(workdir, Run, metrics of the last evaluation) of an undisturbed run on one device."""
    workdir = tmp_path_factory.mktemp("full")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "Run", Recorded)
        metrics = train.train(configuration(), str(workdir))
    return workdir, Recorded.made[-1], metrics


def saved(workdir, step):
    run = Recorded.made[-1]
    with checkpoint.Checkpoints(workdir) as checkpoints:
        return jax.device_get(checkpoints.restore(run.abstract.items(), step=step))


def test_each_phase_is_compiled_once(finished):
    _, run, _ = finished
    assert {phase: step._cache_size() for phase, step in run.phases.items()} == {
        False: 1,
        True: 1,
    }


def test_records_tell_both_phases(finished):
    workdir, _, metrics = finished
    training = [record for record in records(workdir) if "loss" in record]
    assert ["gan/weight" in record for record in training] == [False] * 4 + [True] * 6
    blur = [record["gan/blur"] for record in training[4:]]
    assert blur == pytest.approx([0.75, 0.5, 0.25, 0, 0, 0], abs=1e-6)
    assert all(record["skipped"] == 0 for record in training)
    assert metrics["eval/lpips"] > 0 and "eval/psnr" in metrics


def test_resuming_inside_the_adversarial_phase_changes_nothing(finished, tmp_path, monkeypatch):
    workdir, _, _ = finished
    shutil.copytree(workdir, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "checkpoints" / str(STEPS))
    monkeypatch.setattr(train, "Run", Recorded)
    train.train(configuration(), str(tmp_path / "copy"))
    again, whole = (saved(folder, STEPS) for folder in (tmp_path / "copy", workdir))
    for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert records(tmp_path / "copy") == records(workdir)


def test_steps_that_are_not_finite_stop_the_run_and_nothing_bad_is_saved(
    finished, tmp_path, monkeypatch
):
    monkeypatch.setattr(train, "Run", Broken)
    config = configuration()
    config.optim.max_skipped = 3
    config.checkpoint.every = 1
    with pytest.raises(FloatingPointError, match=r"3 steps in a row up to step 8.*loss/perceptual"):
        train.train(config, str(tmp_path))
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 5
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(saved(tmp_path, 5)))
    assert [record["skipped"] for record in records(tmp_path)][-2:] == [1, 2]


class TestStartingFromARun:
    def test_weights_alone(self, finished, tmp_path):
        workdir, first, _ = finished
        config = configuration()
        config.init.path = str(workdir)
        first.config = config
        state = jax.device_get(first.initial_state())
        items = saved(workdir, STEPS)
        for ours, theirs in zip(
            jax.tree.leaves((state.generator.params, state.ema)),
            jax.tree.leaves((items["params"], items["params"])),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, theirs)
        heads = jax.tree.leaves(items["training"]["discriminator"])
        ours = jax.tree.leaves(state.discriminator)
        assert not all(np.array_equal(a, b) for a, b in zip(ours, heads, strict=True))
        assert state.step == 0 and not any(
            leaf.any() for leaf in jax.tree.leaves(state.generator.opt_state)
        )

    def test_with_discriminator_and_optimisers(self, finished):
        workdir, first, _ = finished
        config = configuration()
        config.init.path, config.init.training = str(workdir), True
        first.config = config
        state = jax.device_get(first.initial_state())
        items = saved(workdir, STEPS)
        items["training"]["step"] = np.zeros((), np.int32)
        ours, theirs = jax.tree.leaves(state.items()), jax.tree.leaves(items)
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
        assert state.step == 0

    def test_another_model_is_told_by_its_keys(self, finished):
        workdir, first, _ = finished
        config = configuration()
        config.init.path, config.init.training = str(workdir), True
        config.model.quant_heads, config.model.drop_path = 1, 0.2
        first.config = config
        message = r"another model:\n  model.quant_heads: saved 2, now 1$"
        with pytest.raises(ValueError, match=message):
            first.initial_state()


def test_a_source_of_one_sample_has_no_negatives(tmp_path):
    image = np.zeros((48, 48, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("black\n")
    config = configuration()
    config.data.source, config.data.path = "folder", str(tmp_path)
    with pytest.raises(ValueError, match="holds 1 samples: batches of 1 leave loss.contrastive"):
        Run(config, jax.devices()[:1])
