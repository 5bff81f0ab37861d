"""Recipes through the loop at the smallest size: the sum of their losses, exact resuming."""

import json
import shutil

import jax
import numpy as np
import pytest

from configs import recipes, tiny, tiny_full
from helpers import one_device
from unitok_jax.checkpoints import manager
from unitok_jax.tokenizer import losses
from unitok_jax.tokenizer.run import Run
from unitok_jax.training import loop

pytestmark = [pytest.mark.slow, pytest.mark.long]

STEPS = 4
# Recipes whose keys one run takes together, and then values that fit the smallest model.
RUNS = {
    ("gram", "gan_constant", "entries16384"): {
        "loss.gram": 1.0,
        "model.vocab_size": 4 * 2048,  # enough for the lookup of the real size
    },
    ("rotation", "quant_causal", "wrong_codes", "muon"): {
        "codebook.wrong_share": 0.9,
        "codebook.wrong_fraction": 1.0,
    },
    ("fsq_groups",): {
        "model.vocab_size": 4 * 4**6,
        "model.latent_width": 4 * 6,
        "model.quant_heads": 4,
    },
    ("books16",): {
        "model.vocab_size": 16 * 64,
        "model.latent_width": 16 * 4,
        "model.quant_heads": 1,
    },
}
THOROUGH = ("gram", "books16")  # in the runs that `make test` leaves out


def configuration(names):
    """Recipes at the smallest size."""
    of_pixels = "gram" in names  # those that need stand-ins of the frozen networks
    config = (tiny_full if of_pixels else tiny).get_config()
    if not of_pixels:
        config.loss.l1 = config.loss.l2 = 0.0  # no decoder to compile
    config.model.size, config.model.quant_heads, config.model.text.layers = "nano", 2, 1
    for name in names:
        config.update_from_flattened_dict(recipes.VARIANTS[name])
    config.update_from_flattened_dict(RUNS[names])
    config.steps = STEPS
    config.data.image_size = (48, 48)
    config.data.batch_size = 4
    config.data.num_threads = 1
    config.eval.every, config.eval.batch_size, config.eval.max_images = STEPS, 4, 4
    config.eval.grid_images = 2
    config.checkpoint.every = 2
    config.log.every = 1
    config.log.tensorboard = False
    return config


OneDevice = one_device.of(Run)


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def saved(workdir):
    items = OneDevice.last.programs.abstract.items()
    with manager.Checkpoints(workdir) as checkpoints:
        return jax.tree.leaves(jax.device_get(checkpoints.restore(items, step=STEPS)))


@pytest.mark.parametrize(
    "names",
    [
        pytest.param(names, marks=pytest.mark.thorough if {*names} & {*THOROUGH} else ())
        for names in RUNS
    ],
    ids=" ".join,
)
def test_resuming_changes_nothing(names, tmp_path):
    config, whole, again = configuration(names), tmp_path / "whole", tmp_path / "again"
    loop.train(OneDevice, config, str(whole))
    expected = saved(whole)
    shutil.copytree(whole, again)
    shutil.rmtree(again / "checkpoints" / str(STEPS))
    loop.train(one_device.of(Run), config, str(again))  # traced anew, as in another process
    for ours, theirs in zip(saved(again), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert records(again) == records(whole)

    training = [record for record in records(whole) if "loss" in record]
    weights = {term: config.loss[term] for term in losses.TERMS if config.loss[term]}
    assert ("gram" in weights) == ("gram" in names)
    adversarial = "gan_constant" in names
    for step, record in enumerate(training):
        total = sum(weight * record[f"loss/{term}"] for term, weight in weights.items())
        if adversarial:  # from the first step on, which a ramp would leave out
            assert record["gan/weight"] == np.float32(0.1)
            total += 0.1 * record["loss/gan"]
        assert record["loss"] == pytest.approx(total, rel=1e-5)
        assert record["skipped"] == 0
        if "wrong_codes" in names:  # also in the steps that were taken twice
            assert record["wrong_share"] == pytest.approx(0.9 * (1 - step / STEPS))
    assert len(training) == STEPS and ("loss/gram" in training[0]) == ("gram" in names)
    phases = OneDevice.last.programs.phases.items()
    compiled = {phase: step._cache_size() for phase, step in phases}
    assert compiled == {False: not adversarial, True: adversarial}
