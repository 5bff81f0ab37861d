"""Boards: TensorBoard without PyTorch; Weights & Biases, by a stand-in, sent nothing twice."""

import importlib.util
import subprocess
import sys
import types

import numpy as np
import pytest

from helpers.pages import ROOT
from unitok_jax.training import boards
from unitok_jax.training.metrics import Writer


class Run:
    def __init__(self, id, step):
        self.id, self.step, self.logged, self.finished = id, step, [], False

    def log(self, values, step):
        self.step = step
        self.logged.append((step, values))

    def finish(self):
        self.finished = True


@pytest.fixture
def wandb(monkeypatch):
    """The module, with `begun`: (arguments of init, run) of every run."""
    module = types.ModuleType("wandb")
    module.Error, module.Image = type("Error", (Exception,), {}), lambda image: image.shape
    module.begun, module.step = [], 0

    def init(**arguments):
        run = Run(arguments["id"] or "new1", module.step)
        module.begun.append((arguments, run))
        return run

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


def test_scalars_vectors_and_pictures(tmp_path, wandb):
    board = boards.WeightsAndBiases(tmp_path, "shapes", {"steps": 5})
    writer = Writer(tmp_path, 0, [board])
    writer.scalars(1, {"loss": np.float32(0.5), "usage": np.array([0.5, 1.0])})
    writer.curves(1, {"time/step_p50": 2.0})
    writer.curves(1, {})
    writer.image(1, "reconstruction", np.zeros((4, 6, 3), np.uint8))
    writer.close()
    ((arguments, run),) = wandb.begun
    assert (arguments["project"], arguments["config"]) == ("shapes", {"steps": 5})
    assert arguments["id"] is None and arguments["dir"] == str(tmp_path)
    assert run.logged == [
        (1, {"loss": 0.5, "usage/mean": 0.75, "usage/0": 0.5, "usage/1": 1.0}),
        (1, {"time/step_p50": 2.0}),
        (1, {"reconstruction": (4, 6, 3)}),
    ]
    assert run.finished


def test_the_same_workdir_continues_the_run(tmp_path, wandb):
    """One that was killed after step 4 and resumes at 2: steps 3 and 4 come again alike."""
    boards.WeightsAndBiases(tmp_path, "shapes", {}).close()
    assert (tmp_path / "wandb_id").read_text() == "new1\n"
    wandb.step = 4
    board = boards.WeightsAndBiases(tmp_path, "shapes", {})
    for step in range(3, 7):
        board.scalars(step, {"loss": float(step)})
    arguments, run = wandb.begun[1]
    assert (arguments["id"], arguments["resume"]) == ("new1", "allow")
    assert [step for step, _ in run.logged] == [4, 5, 6]


def test_a_run_that_cannot_begin(tmp_path, wandb, monkeypatch):
    def init(**_):
        raise wandb.Error("no API key")

    monkeypatch.setattr(wandb, "init", init)
    with pytest.raises(ValueError, match="log.wandb=shapes: no API key.*log.wandb=''"):
        boards.WeightsAndBiases(tmp_path, "shapes", {})
    assert not (tmp_path / "wandb_id").exists()


def test_no_package(monkeypatch):
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    boards.check_wandb("")
    with pytest.raises(ValueError, match=r"log.wandb=shapes needs .*pip install -e '\.\[wandb\]'"):
        boards.check_wandb("shapes")


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is missing")
@pytest.mark.parametrize("before, after", [("", False), ("import torch", True)])
def test_tensorboard_imports_no_pytorch(tmp_path, before, after):
    """tensorboardX does if it is installed, for seconds; what a user imported stays."""
    program = f"""
import pathlib, sys
import numpy as np
{before}
from unitok_jax.training.boards import TensorBoard
board = TensorBoard(pathlib.Path({str(tmp_path)!r}), 0)
board.scalars(1, {{"loss": 2.0}})
board.image(1, "picture", np.zeros((4, 4, 3), np.uint8))
board.close()
assert ("torch" in sys.modules) == {after}
import torch
assert torch.ones(2).sum() == 2
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"picture" in events.read_bytes()
