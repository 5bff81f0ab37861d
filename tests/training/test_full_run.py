"""A run of the whole recipe through the loop: both phases, resuming, starting from its weights."""

import json
import re
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

from helpers import one_device
from unitok_jax.checkpoints import manager
from unitok_jax.data.health import SampleError
from unitok_jax.tokenizer.run import Run
from unitok_jax.training import loop

pytestmark = [pytest.mark.slow, pytest.mark.long]

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


OneDevice = one_device.of(Run)


class Broken(OneDevice):
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
    metrics = loop.train(OneDevice, configuration(), str(workdir))
    return workdir, OneDevice.last, metrics


def saved(workdir, step):
    run = OneDevice.last
    with manager.Checkpoints(workdir) as checkpoints:
        return jax.device_get(checkpoints.restore(run.programs.abstract.items(), step=step))


def test_each_phase_is_compiled_once(finished):
    _, run, _ = finished
    assert {phase: step._cache_size() for phase, step in run.programs.phases.items()} == {
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


def test_resuming_inside_the_adversarial_phase_changes_nothing(finished, tmp_path):
    workdir, _, _ = finished
    shutil.copytree(workdir, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "checkpoints" / str(STEPS))
    loop.train(OneDevice, configuration(), str(tmp_path / "copy"))
    again, whole = (saved(folder, STEPS) for folder in (tmp_path / "copy", workdir))
    for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert records(tmp_path / "copy") == records(workdir)


def test_steps_that_are_not_finite_stop_the_run_and_nothing_bad_is_saved(finished, tmp_path):
    config = configuration()
    config.optim.max_skipped = 3
    config.checkpoint.every = 1
    with pytest.raises(FloatingPointError, match=r"3 steps in a row up to step 8.*loss/perceptual"):
        loop.train(Broken, config, str(tmp_path))
    with manager.Checkpoints(tmp_path) as checkpoints:
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

    @pytest.mark.parametrize("ema_decay", [0.99, 0.0])
    def test_with_discriminator_and_optimisers(self, finished, ema_decay):
        """The average, if there is to be one, starts anew from the raw weights."""
        workdir, _, _ = finished
        config = configuration()
        config.init.path, config.init.training = str(workdir), True
        config.gan.start_fraction = 0.0
        config.optim.ema_decay = ema_decay
        state = jax.device_get(Run(config, jax.devices()[:1]).initial_state())
        training = saved(workdir, STEPS)["training"]
        ours = state.generator, state.discriminator
        raw = training["params"]
        theirs = (raw, training["generator"]), training["discriminator"]
        for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
            np.testing.assert_array_equal(a, b)
        if ema_decay:
            for a, b in zip(jax.tree.leaves(state.ema), jax.tree.leaves(raw), strict=True):
                np.testing.assert_array_equal(a, b)
        else:
            assert state.ema is None
        assert state.step == state.skipped == 0

    @pytest.mark.parametrize(
        "key, value, message",
        [
            ("model.quant_heads", 1, r"model\.quant_heads: saved 2, now 1$"),
            ("optim.frozen", ("encoder.*",), r"optim\.frozen: saved \(\), now \('encoder\.\*',\)$"),
            ("gan.weight", 0.0, r"gan\.weight: saved 0\.4, now 0\.0$"),
        ],
    )
    def test_another_state_is_told_by_its_keys(self, finished, key, value, message):
        workdir, _, _ = finished
        config = configuration()
        config.init.path, config.init.training = str(workdir), True
        config.model.drop_path = 0.2  # free
        room, leaf = key.split(".")
        config[room][leaf] = value
        with pytest.raises(ValueError, match=r"another configuration:\n  " + message):
            Run(config, jax.devices()[:1]).initial_state()

    def test_a_discriminator_that_has_acted_may_not_wait(self, finished):
        """The run could be stopped in its first phase, and would not start again."""
        workdir, _, _ = finished
        config = configuration()
        config.init.path, config.init.training = str(workdir), True
        config.gan.start_fraction = 0.5
        with pytest.raises(ValueError, match="has acted, but with gan.start_fraction=0.5.*after"):
            Run(config, jax.devices()[:1]).initial_state()

    def test_another_dinov2_behind_the_heads(self, finished):
        workdir, _, _ = finished
        config = configuration()
        config.init.path, config.init.training = str(workdir), True
        run = Run(config, jax.devices()[:1])
        run._digests = {"digest of frozen.dinov2": 1}
        with pytest.raises(ValueError, match="digest of frozen.dinov2: saved [0-9]+, now 1"):
            run.initial_state()


class TestResumingWithOtherKeys:
    @pytest.mark.parametrize(
        "key, value, message",
        [
            ("optim.ema_decay", 0.0, r"optim\.ema_decay: saved 0\.99, now 0\.0$"),
            ("gan.weight", 0.0, r"gan\.weight: saved 0\.4, now 0\.0$"),
            ("optim.frozen", ("encoder.*",), r"optim\.frozen: saved \[\], now \['encoder\.\*'\]$"),
        ],
    )
    def test_parts_of_the_state_must_agree(self, finished, tmp_path, key, value, message):
        shutil.copytree(finished[0], tmp_path / "copy")
        config = configuration()
        config.init.path = "weights"
        room, leaf = key.split(".")
        config[room][leaf] = value
        with pytest.raises(ValueError) as error:
            loop.train(OneDevice, config, str(tmp_path / "copy"))
        assert re.search(message, str(error.value), re.M), error.value

    def test_other_images_of_the_evaluation_are_looked_at(self, finished, tmp_path):
        """At the start, and not when they are measured first."""
        shutil.copytree(finished[0], tmp_path / "copy")
        (tmp_path / "images").mkdir()
        (tmp_path / "images" / "a.png").write_bytes(b"no image")
        config = configuration()
        loop.train(OneDevice, config, str(tmp_path / "copy"))  # is done
        config.eval.source, config.eval.path = "folder", str(tmp_path / "images")
        with pytest.raises(SampleError, match="a.png: not an image"):
            loop.train(OneDevice, config, str(tmp_path / "copy"))

    def test_the_adversary_is_not_sent_back(self, finished, tmp_path):
        shutil.copytree(finished[0], tmp_path / "copy")
        config = configuration()
        config.steps = 100
        with pytest.raises(ValueError, match="has acted by step 10, .* to at most 0.09"):
            loop.train(OneDevice, config, str(tmp_path / "copy"))


def test_a_source_of_one_sample_has_no_negatives(tmp_path):
    image = np.zeros((48, 48, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("black\n")
    config = configuration()
    config.data.source, config.data.path = "folder", str(tmp_path)
    with pytest.raises(ValueError, match="holds 1 samples: batches of 1 leave loss.contrastive"):
        Run(config, jax.devices()[:1])
