"""Recipes through the loop at the smallest size: the sum of their losses, and exact resuming."""

import json
import shutil

import jax
import numpy as np
import pytest

from configs import recipes, tiny, tiny_full
from unitok_jax.checkpoints import manager
from unitok_jax.tokenizer import losses
from unitok_jax.tokenizer.run import Run
from unitok_jax.training import loop

pytestmark = pytest.mark.slow

STEPS = 4
OF_PIXELS = ("gan_constant", "gram")  # those that need stand-ins of the frozen networks
# Values that fit the smallest model, in place of a recipe's own for UniTok-B.
SCALED = {
    "books16": {"model.vocab_size": 16 * 64, "model.latent_width": 16 * 4, "model.quant_heads": 1},
    "entries16384": {"model.vocab_size": 4 * 2048},  # enough for the lookup of the real size
    "fsq_groups": {
        "model.vocab_size": 4 * 4**6,
        "model.latent_width": 4 * 6,
        "model.quant_heads": 4,
    },
    "wrong_codes": {"codebook.wrong_share": 0.9, "codebook.wrong_fraction": 1.0},
}


def configuration(name):
    """A recipe at the smallest size."""
    config = (tiny_full if name in OF_PIXELS else tiny).get_config()
    if name not in OF_PIXELS:
        config.loss.l1 = config.loss.l2 = 0.0  # no decoder to compile
    config.model.size, config.model.quant_heads, config.model.text.layers = "nano", 2, 1
    config.update_from_flattened_dict(recipes.VARIANTS[name] | SCALED.get(name, {}))
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


@pytest.mark.parametrize(
    "name",
    [
        *OF_PIXELS,
        *("rotation", "wrong_codes", "quant_causal", "fsq_groups", "books16", "entries16384"),
        "muon",
    ],
)
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
    for step, record in enumerate(training):
        total = sum(weight * record[f"loss/{term}"] for term, weight in weights.items())
        if name == "gan_constant":  # from the first step on, which a ramp would leave out
            assert record["gan/weight"] == np.float32(0.1)
            total += 0.1 * record["loss/gan"]
        assert record["loss"] == pytest.approx(total, rel=1e-5)
        assert record["skipped"] == 0
        if name == "wrong_codes":  # also in the steps that were taken twice
            assert record["wrong_share"] == pytest.approx(0.9 * (1 - step / STEPS))
    assert len(training) == STEPS and ("loss/gram" in training[0]) == (name == "gram")
    phases = {phase: step._cache_size() for phase, step in Recorded.last.programs.phases.items()}
    assert phases == {False: name != "gan_constant", True: name == "gan_constant"}
