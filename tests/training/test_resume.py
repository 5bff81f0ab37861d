"""Resuming where something changed since the checkpoint that decides nothing, and what does."""

import json
import logging
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from configs import tiny
from helpers import one_device
from unitok_jax.checkpoints.manager import CheckpointError, Checkpoints
from unitok_jax.tokenizer.run import Run
from unitok_jax.training import loop

pytestmark = [pytest.mark.slow, pytest.mark.long]

OneDevice = one_device.of(Run)


def configuration(path):
    """Four steps of the smallest model on a folder, without an adversary."""
    config = tiny.get_config()
    config.steps = 4
    config.model.size, config.model.quant_heads, config.model.text.layers = "nano", 2, 1
    config.data.source, config.data.path = "folder", str(path)
    config.data.image_size = (48, 48)
    config.data.batch_size, config.data.num_threads = 8, 1
    config.eval.every, config.eval.batch_size, config.eval.max_images = 4, 8, 8
    config.eval.grid_images = 2
    config.checkpoint.every, config.log.every, config.log.tensorboard = 2, 1, False
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixteen captioned pictures."""
    folder, rng = tmp_path_factory.mktemp("data") / "first", np.random.default_rng(0)
    folder.mkdir()
    for index in range(16):
        pixels = rng.integers(0, 256, (50, 50, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
        (folder / f"{index:02}.txt").write_text(f"number {index}")
    return folder


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """An undisturbed run of four steps."""
    workdir = tmp_path_factory.mktemp("whole")
    loop.train(OneDevice, configuration(folder), str(workdir))
    return workdir


@pytest.fixture
def half(whole, tmp_path):
    """The same run after its second step."""
    workdir = pathlib.Path(shutil.copytree(whole, tmp_path / "half"))
    shutil.rmtree(workdir / "checkpoints" / "4")
    return workdir


def digests(workdir):
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.meta(4)["digests"]


@pytest.fixture
def told(caplog):
    """What a run tells."""
    caplog.set_level(logging.INFO)
    return caplog


def test_data_that_moved(folder, whole, half, tmp_path, monkeypatch, told):
    """Bit for bit the run that it would have become; `~` is a home in every path."""
    shutil.copytree(folder, tmp_path / "second")
    monkeypatch.setenv("HOME", str(tmp_path))
    loop.train(OneDevice, configuration("~/second"), "~/half")
    assert f"data.path: saved '{folder}', now '~/second'" in told.text
    assert (half / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    assert digests(half) == digests(whole)
    assert json.loads((half / "config.json").read_text())["data"]["path"] == "~/second"


def test_other_samples_are_refused(folder, half, tmp_path):
    other = pathlib.Path(shutil.copytree(folder, tmp_path / "other"))
    for suffix in (".png", ".txt"):
        (other / f"07{suffix}").rename(other / f"07b{suffix}")
    with pytest.raises(CheckpointError) as refused:
        loop.train(OneDevice, configuration(other), str(half))
    assert "samples of the data: sample 7: saved '07.png, image " in str(refused.value)
    assert "now '07b.png, image " in str(refused.value)
    assert "names of the data: digest: saved" in str(refused.value)


def test_what_changes_no_meaning_of_weights_may_change(folder, half, told):
    config = configuration(folder)
    config.model.remat, config.model.drop_path, config.model.dtype = "blocks", 0.2, "bfloat16"
    loop.train(OneDevice, config, str(half))
    for line in (
        "model.remat: saved 'none', now 'blocks'",
        "model.drop_path: saved 0.1, now 0.2",
        "model.dtype: saved 'float32', now 'bfloat16'",
    ):
        assert f"the configuration changed since the checkpoint: {line}" in told.text


def test_a_workdir_among_the_images(folder):
    """Pictures of its evaluations would be samples of the next start."""
    for key in ("data", "eval"):
        config = configuration(folder)
        config.data.source = "photos"
        config.data.path = ""
        config[key].source, config[key].path = "folder", str(folder)
        with pytest.raises(ValueError, match=f"--workdir=.* is in {key}.path={folder}, where"):
            loop.train(OneDevice, config, str(folder / "run"))
    assert not (folder / "run").exists()


def test_an_evaluation_that_is_made_up_for_counts_for_the_best(folder, half):
    """The half run was stopped before the evaluation of its second step."""
    config = configuration(folder)
    config.eval.every = config.checkpoint.keep_best = 2
    config.checkpoint.keep_latest = 1
    loop.train(OneDevice, config, str(half))
    records = map(json.loads, (half / "metrics.jsonl").read_text().splitlines())
    measured = {record["step"]: record["eval/psnr"] for record in records if "eval/psnr" in record}
    with Checkpoints(half) as checkpoints:
        assert checkpoints.steps() == [2, 4] == list(measured)
        for step, psnr in measured.items():
            meta = checkpoints.meta(step)
            assert meta["evaluated"] and meta["metrics"] == {"eval/psnr": psnr}


def test_a_checkpoint_that_does_not_tell_its_samples(folder, half, told):
    meta = half / "checkpoints" / "2" / "meta" / "metadata"
    content = json.loads(meta.read_text())
    content["data"] = {"samples in the data": 16, "batch size": 8}
    meta.write_text(json.dumps(content))
    loop.train(OneDevice, configuration(folder), str(half))
    assert "does not tell its samples of the data, which are not compared" in told.text
