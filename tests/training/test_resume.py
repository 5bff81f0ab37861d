"""Resuming where something changed since the checkpoint that decides nothing, and what does."""

import json
import pathlib
import shutil

import numpy as np
import pytest
from PIL import Image

from helpers.jobs import Job
from unitok_jax.checkpoints.manager import Checkpoints

pytestmark = pytest.mark.slow

SETTINGS = [
    "--config.steps=4",
    "--config.loss.perceptual=0.0",
    "--config.data.source=folder",
    "--config.eval.max_images=8",
    "--config.checkpoint.every=2",
    "--config.log.tensorboard=False",
]


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


def train(workdir, path, logs, *more):
    """(exit code, output) of a run."""
    job = Job(logs, workdir, 1, 1, *SETTINGS, f"--config.data.path={path}", *more)
    (code,) = job.wait()
    return code, job.output()


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """An undisturbed run of four steps."""
    workdir = tmp_path_factory.mktemp("whole")
    code, output = train(workdir, folder, workdir / "logs")
    assert code == 0, output
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


def test_data_that_moved(folder, whole, half, tmp_path, monkeypatch):
    """Bit for bit the run that it would have become; `~` is a home in every path."""
    shutil.copytree(folder, tmp_path / "second")
    monkeypatch.setenv("HOME", str(tmp_path))
    code, output = train("~/half", "~/second", tmp_path / "logs")
    assert code == 0, output
    assert f"data.path: saved '{folder}', now '~/second'" in output
    assert (half / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    assert digests(half) == digests(whole)
    assert json.loads((half / "config.json").read_text())["data"]["path"] == "~/second"


def test_other_samples_are_refused(folder, half, tmp_path):
    other = pathlib.Path(shutil.copytree(folder, tmp_path / "other"))
    for suffix in (".png", ".txt"):
        (other / f"07{suffix}").rename(other / f"07b{suffix}")
    code, output = train(half, other, tmp_path / "logs")
    assert code == 2 and "Traceback" not in output
    assert "samples of the data: sample 7: saved '07.png, image " in output
    assert "now '07b.png, image " in output
    assert "names of the data: digest: saved" in output


def test_what_changes_no_meaning_of_weights_may_change(folder, half, tmp_path):
    more = ["--config.model.remat=blocks", "--config.model.drop_path=0.2"]
    more += ["--config.model.dtype=bfloat16"]
    code, output = train(half, folder, tmp_path / "logs", *more)
    assert code == 0, output
    for line in (
        "model.remat: saved 'none', now 'blocks'",
        "model.drop_path: saved 0.1, now 0.2",
        "model.dtype: saved 'float32', now 'bfloat16'",
    ):
        assert f"the configuration changed since the checkpoint: {line}" in output


def test_a_checkpoint_that_does_not_tell_its_samples(folder, half, tmp_path):
    meta = half / "checkpoints" / "2" / "meta" / "metadata"
    content = json.loads(meta.read_text())
    content["data"] = {"samples in the data": 16, "batch size": 8}
    meta.write_text(json.dumps(content))
    code, output = train(half, folder, tmp_path / "logs")
    assert code == 0, output
    assert "does not tell its samples of the data, which are not compared" in output
