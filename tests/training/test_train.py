"""Training as a user runs it: real processes, really killed, and what they leave."""

import json
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import unitok_jax
from helpers.jobs import records
from helpers.runs import ENVIRONMENT, command, run
from helpers.tar_files import make_tar, sample
from unitok_jax.checkpoints.manager import CheckpointError, Checkpoints
from unitok_jax.training.loop import _Window

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """An undisturbed run: its workdir and what it printed."""
    workdir = tmp_path_factory.mktemp("finished")
    result = run(workdir)
    assert result.returncode == 0, result.stderr
    return workdir, result.stderr


def finished_config():
    """The configuration of `SETTINGS`, in what a checkpoint compares."""
    from configs import tiny

    config = tiny.get_config()
    config.model.size, config.model.quant_heads, config.model.text.layers = "nano", 2, 1
    config.data.batch_size = 8
    return config


class TestWindow:
    def metrics(self, loss, skipped, in_a_row):
        return {"loss": np.float32(loss), "skipped": skipped, "skipped_in_a_row": in_a_row}

    def test_means_leave_skipped_steps_out(self):
        window = _Window(max_skipped=3)
        for step, values in enumerate([(1, 0, 0), (np.nan, 1, 1), (np.inf, 2, 2), (3, 2, 0)]):
            window.update(step, self.metrics(*values))
        assert window.result() == {"loss": 2.0, "skipped": 2}
        assert window.result() == {"skipped": 2}

    def test_too_many_in_a_row_name_what_is_not_finite(self):
        window = _Window(max_skipped=2)
        window.update(7, self.metrics(np.nan, 5, 1))
        with pytest.raises(FloatingPointError, match="2 steps in a row up to step 8.*: loss;"):
            window.update(8, self.metrics(np.nan, 6, 2))


class TestWhatARunLeaves:
    def test_progress_lines(self, finished):
        _, log = finished
        assert "step 6/6  loss " in log and "images/s" in log and "left" in log
        assert re.search(r"  encoder +[\d,]+ .*\n(.*\n)*  total +3,740,484 +15\.0 MB", log)
        assert "data: 18 samples of photos, batches of 8 images: 2.2 steps an epoch" in log
        assert "compiling the first step ..." in log

    def test_records(self, finished):
        training = [r for r in records(finished[0]) if "loss" in r]
        assert [r["step"] for r in training] == [1, 2, 3, 4, 5, 6]
        first, last = training[0], training[-1]
        assert last["loss"] < first["loss"]
        weights = {"l1": 0.2, "l2": 1.0, "vq": 1.0, "contrastive": 1.0}
        total = sum(weight * first[f"loss/{name}"] for name, weight in weights.items())
        assert first["loss"] == pytest.approx(total, rel=1e-5)
        assert [record["skipped"] for record in training] == [0] * 6
        assert first["learning_rate"] == pytest.approx(2e-3) and last[
            "learning_rate"
        ] == pytest.approx(2e-4)
        assert all(record["data/samples"] == 8 for record in training)
        assert all(8 * 500 < record["data/bytes"] < 8 * 10**6 for record in training)
        assert len(first["usage"]) == len(first["perplexity"]) == 4
        assert all(1 <= p <= 64 for p in first["perplexity"])
        assert first["logit_scale"] == pytest.approx(1 / 0.07, rel=1e-5)

    def test_evaluation(self, finished):
        evaluations = [r for r in records(finished[0]) if "eval/psnr" in r]
        assert [r["step"] for r in evaluations] == [3, 6]
        assert 5 < evaluations[0]["eval/psnr"] < 30
        assert 0 <= evaluations[0]["eval/image_to_text"] <= 1
        assert len(evaluations[0]["eval/usage"]) == 4

    def test_picture(self, finished):
        with Image.open(finished[0] / "images" / "reconstruction_00000006.png") as image:
            assert image.size == (3 * 68, 2 * 68)
            assert np.asarray(image).std() > 20

    def test_tensorboard(self, finished):
        (events,) = (finished[0] / "tensorboard").iterdir()
        content = events.read_bytes()
        for name in (b"loss/contrastive", b"usage/3", b"eval/psnr", b"reconstruction"):
            assert name in content

    def test_configuration(self, finished):
        config = json.loads((finished[0] / "config.json").read_text())
        assert config["model"]["size"] == "nano" and config["steps"] == 6

    def test_tokenizer_loads_from_the_workdir(self, finished):
        tokenizer = unitok_jax.load(finished[0])
        assert tokenizer.image_size == (64, 64)
        codes = tokenizer.encode(np.zeros((1, 32, 32, 3), np.uint8))
        assert codes.shape == (1, 4, 4)

    def test_checkpoints_kept(self, finished):
        with Checkpoints(finished[0]) as checkpoints:
            assert checkpoints.latest_step() == 6
            assert checkpoints.meta()["data_position"] == 6
        kept = {int(p.name) for p in (finished[0] / "checkpoints").iterdir()}
        assert {4, 6} <= kept <= {2, 4, 6}


class TestResume:
    @pytest.mark.long
    def test_killed_run_continues_bit_identically(self, finished, tmp_path):
        process = subprocess.Popen(
            command(tmp_path), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 300
        while not (tmp_path / "checkpoints" / "2").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed_at = max(r["step"] for r in records(tmp_path))
        assert killed_at < 6, "the run ended before it was killed"

        result = run(tmp_path)
        assert result.returncode == 0, result.stderr
        assert "resumed" in result.stderr
        ours, theirs = records(tmp_path), records(finished[0])
        assert ours == theirs

    def test_finished_run_has_nothing_to_do(self, finished):
        before = records(finished[0]), (finished[0] / "timing.jsonl").read_text()
        result = run(finished[0])
        assert result.returncode == 0 and "nothing to train" in result.stderr
        assert (records(finished[0]), (finished[0] / "timing.jsonl").read_text()) == before

    def test_another_model_is_refused_with_the_differences(self, finished):
        result = run(
            finished[0], "--config.model.vocab_size=512", "--config.seed=5", "--config.steps=8"
        )
        assert result.returncode == 2
        assert "model.vocab_size: saved 256, now 512" in result.stderr
        assert "seed: saved 0, now 5" in result.stderr
        assert "steps" not in result.stderr.split("error:")[1]
        assert "Traceback" not in result.stderr

    def test_other_data_are_refused(self, finished):
        """The same keys, other devices: 12 photographs a batch on one are 8 on eight."""
        config = finished_config()
        with Checkpoints(finished[0]) as checkpoints:
            with pytest.raises(CheckpointError, match="batch size: saved 8, now 6"):
                checkpoints.restore({}, config, {"samples in the data": 18, "batch size": 6})

    def test_a_step_can_be_named(self, finished):
        tokenizer = unitok_jax.load(finished[0] / "checkpoints" / "4")
        latest = unitok_jax.load(finished[0])
        books = [t.params["quantizer"]["codebook"] for t in (tokenizer, latest)]
        assert not np.array_equal(*books)

    def test_weights_alone_cannot_be_resumed(self, finished, tmp_path):
        tokenizer = unitok_jax.load(finished[0])
        tokenizer.save(tmp_path / "model")
        with Checkpoints(tmp_path / "model") as checkpoints:
            with pytest.raises(CheckpointError, match="weights only"):
                checkpoints.restore({"training": {}})


class TestCommandLine:
    @pytest.mark.parametrize(
        "flag, words",
        [
            ("--config.optim.learing_rate=1", ["optim.learing_rate", "optim.learning_rate"]),
            ("--config.stpes=5", ["stpes", "steps"]),
            ("--config.steps=1.5", ["--config.steps=1.5", "int"]),
            ("--config.log.tensorboard=maybe", ["log.tensorboard=maybe", "type bool"]),
            ("--config.data.source.x=1", ["data.source.x", "data.source"]),
            ("--config=configs/nothing.py", ["configs/nothing.py"]),
            ("--config=configs/ablations.py:book4", ["no variant 'book4'", "books4", "bsq"]),
            ("--stepz=3", ["stepz"]),
        ],
    )
    def test_unknown_keys_and_wrong_types(self, flag, words):
        argv = ["main", "--config=configs/tiny.py", flag]
        if flag.startswith("--config="):
            argv.pop(1)
        result = subprocess.run(
            [sys.executable, "-m", "unitok_jax.main", *argv[1:], "--workdir=x"],
            capture_output=True,
            text=True,
        )
        assert result.returncode == 2, result.stderr
        assert result.stderr.startswith("error: ") and "Traceback" not in result.stderr
        assert all(word in result.stderr for word in words), result.stderr

    @pytest.mark.parametrize(
        "settings, words",
        [
            (["--config=configs/b16.py"], "set --config.data.path"),
            (["--config=configs/tiny.py", "--config.data.image_size=(60,64)"], "multiple"),
            (["--config=configs/tiny.py", "--config.data.image_size=(8,8)"], "16"),
            (["--config=configs/tiny.py", "--config.mesh.fsdp=3"], "mesh.fsdp=3"),
            (["--config=configs/tiny.py", "--config.model.num_codebooks=3"], "num_codebooks=3"),
            (["--config=configs/tiny.py", "--config.optim.betas=0.9"], "optim.betas"),
            (["--config=configs/tiny.py", "--config.loss.l1=-1.0"], "loss.l1"),
            (["--config=configs/tiny.py", "--config.eval.every=0"], "eval.every"),
            (["--config=configs/tiny.py", "--config.eval.path=x"], "eval.source"),
            (["--config=configs/tiny.py", "--config.model.text.vocab_size=512"], "49408"),
            (
                ["--config=configs/tiny.py", "--config.checkpoint.best_metric=eval/fid"],
                "best_metric",
            ),
        ],
    )
    def test_values_that_do_not_fit(self, tmp_path, settings, words):
        result = subprocess.run(
            [sys.executable, "-m", "unitok_jax.main", f"--workdir={tmp_path}", *settings],
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 2, result.stderr
        assert words in result.stderr.split("error:")[1]

    def test_too_many_bad_samples(self, tmp_path):
        make_tar(tmp_path / "a.tar", [*sample("a"), *sample("b"), ("c.jpg", b""), ("c.txt", "c")])
        data = ["--config.data.source=tar", f"--config.data.path={tmp_path}/a.tar"]
        result = run(tmp_path / "run", *data)
        assert result.returncode == 2, result.stderr
        message = result.stderr.split("error:")[1]
        assert "1 of 3 samples are unusable, more than data.max_bad=0.01 allows" in message
        assert "1 empty: a.tar/c" in message

    @pytest.mark.parametrize("workdir", ["", "/proc/nothing", "file/below"])
    def test_unwritable_workdir(self, tmp_path, workdir):
        (tmp_path / "file").touch()
        target = tmp_path / workdir if workdir.startswith("file") else workdir
        result = run(target)
        assert result.returncode == 2 and "--workdir" in result.stderr
