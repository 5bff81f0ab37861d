"""Resuming where something changed since the checkpoint that decides nothing, and what does."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from unitok_jax.checkpoint import CheckpointError, Checkpoints
from unitok_jax.train import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixteen captioned pictures."""
    folder, rng = tmp_path_factory.mktemp("data") / "first", np.random.default_rng(0)
    folder.mkdir()
    for index in range(16):
        pixels = rng.integers(0, 256, (20, 20, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:02}.png")
        (folder / f"{index:02}.txt").write_text(f"number {index}")
    return folder


def nano(path):
    from configs import tiny

    config = tiny.get_config()
    config.model.size, config.model.quant_heads, config.steps = "nano", 2, 4
    config.data.source, config.data.path = "folder", str(path)
    config.data.image_size, config.data.num_threads = (16, 16), 1
    config.data.batch_size = config.eval.batch_size = 8
    config.eval.every = config.eval.max_images = 8
    config.eval.grid_images = 1
    config.checkpoint.every, config.checkpoint.keep_latest = 2, 9
    config.log.every, config.log.tensorboard = 1, False
    return config


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """An undisturbed run of four steps."""
    workdir = tmp_path_factory.mktemp("whole")
    train(nano(folder), str(workdir))
    return workdir


@pytest.fixture
def half(whole, tmp_path):
    """The same run after its second step."""
    workdir = shutil.copytree(whole, tmp_path / "half")
    shutil.rmtree(workdir / "checkpoints" / "4")
    return workdir


def digests(workdir):
    with Checkpoints(workdir) as checkpoints:
        return checkpoints.meta(4)["digests"]


def test_data_that_moved(folder, whole, half, tmp_path, monkeypatch, caplog):
    """Bit for bit the run that it would have become; `~` is a home in every path."""
    shutil.copytree(folder, tmp_path / "second")
    monkeypatch.setenv("HOME", str(tmp_path))
    with caplog.at_level("INFO"):
        train(nano("~/second"), "~/half")
    assert f"data.path: saved '{folder}', now '~/second'" in caplog.text
    assert (half / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    assert digests(half) == digests(whole)
    saved = json.loads((half / "config.json").read_text())
    assert saved["data"]["path"] == "~/second"


def test_other_samples_are_refused(folder, half, tmp_path):
    other = shutil.copytree(folder, tmp_path / "other")
    for suffix in (".png", ".txt"):
        (other / f"07{suffix}").rename(other / f"07b{suffix}")
    with pytest.raises(CheckpointError) as error:
        train(nano(other), str(half))
    assert "samples of the data: sample 7: saved '07.png, image " in str(error.value)
    assert "now '07b.png, image " in str(error.value)


def test_what_changes_no_meaning_of_weights_may_change(folder, half, caplog):
    config = nano(folder)
    config.model.remat, config.model.drop_path, config.model.dtype = "blocks", 0.2, "bfloat16"
    with caplog.at_level("INFO"):
        train(config, str(half))
    for line in (
        "model.remat: saved 'none', now 'blocks'",
        "model.drop_path: saved 0.1, now 0.2",
        "model.dtype: saved 'float32', now 'bfloat16'",
    ):
        assert f"the configuration changed since the checkpoint: {line}" in caplog.text
    assert set(digests(half)["params"])


def test_a_checkpoint_that_does_not_tell_its_samples(folder, half, caplog):
    meta = half / "checkpoints" / "2" / "meta" / "metadata"
    content = json.loads(meta.read_text())
    content["data"] = {"samples in the data": 16, "batch size": 8}
    meta.write_text(json.dumps(content))
    train(nano(folder), str(half))
    assert "does not tell its samples of the data, which are not compared" in caplog.text
