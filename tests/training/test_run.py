"""What a run evaluates: the first images that can be used, and no other."""

import errno
import json
import os

import jax
import numpy as np
import pytest
from PIL import Image

from configs import default
from unitok_jax.checkpoints import differences
from unitok_jax.checkpoints.reader import weights_hash
from unitok_jax.data.formats import folders
from unitok_jax.data.formats.shapes import shape_source
from unitok_jax.data.health import SampleError, TooManyBadSamples
from unitok_jax.data.records import subset
from unitok_jax.tokenizer.run import Run
from unitok_jax.weights import initialize

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path):
    """Twenty pictures, of which 03 and 12 are none."""
    rng = np.random.default_rng(0)
    for index in range(20):
        pixels = rng.integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index:02}.png")
        (tmp_path / f"{index:02}.txt").write_text(f"number {index}")
    for name in ("03.png", "12.png"):
        (tmp_path / name).write_bytes(b"no image")
    return tmp_path


@pytest.fixture
def config(tiny, folder):
    tiny.data.source, tiny.data.path, tiny.data.max_bad = "folder", str(folder), 0.1
    tiny.data.image_size, tiny.model.size, tiny.model.quant_heads = (32, 32), "nano", 2
    tiny.data.batch_size = tiny.eval.batch_size = 8
    tiny.eval.max_images = 10
    return tiny


def test_networks_measure_in_float32_whatever_the_model_computes_in(config):
    config.data.image_size = (48, 48)
    config.model.dtype, config.loss.perceptual, config.frozen.lpips = "bfloat16", 1.0, "seeded"
    assert Run(config, jax.devices()[:1]).evaluator.networks == {"lpips": "float32"}


class TestTrainingImages:
    def test_bad_ones_are_left_out_and_told(self, config, caplog):
        run = Run(config, jax.devices()[:1])
        bad = run.bad_evaluation_images()
        ((index, reason, message),) = bad
        assert (index, reason) == (3, "not_an_image") and message.startswith("03.png: not an")
        run.leave_out(bad)
        assert "1 of 10 images are not evaluated" in caplog.text and "03.png" in caplog.text
        names = [run.eval_source[i]["name"] for i in range(len(run.eval_source))]
        assert names == [f"{i:02}.png" for i in (0, 1, 2, 4, 5, 6, 7, 8, 9)]
        # The last batch ends with the ninth: 12.png, in the rest of it, is not read.
        metrics, _ = run.evaluate(run.programs.init())
        assert np.isfinite(metrics["psnr"])

    def test_too_many(self, config):
        config.data.max_bad = 0.05
        run = Run(config, jax.devices()[:1])
        with pytest.raises(TooManyBadSamples, match="1 of 10 .*data.max_bad=0.05.*\n.*03.png"):
            run.leave_out(run.bad_evaluation_images())

    def test_file_that_has_gone_is_left_out(self, config, folder):
        run = Run(config, jax.devices()[:1])
        (folder / "05.png").unlink()
        found = {index: reason for index, reason, _ in run.bad_evaluation_images()}
        assert found == {3: "not_an_image", 5: "unreadable"}

    def test_disk_that_does_not_answer_is_an_error(self, config, folder, monkeypatch):
        run = Run(config, jax.devices()[:1])

        def read(path, limit):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

        monkeypatch.setattr(folders, "read_regular", read)
        with pytest.raises(OSError, match="Input/output error"):
            run.bad_evaluation_images()


class TestEvaluationSource:
    def test_bad_image_is_an_error(self, config, folder):
        """A set for evaluation must not silently change."""
        config.eval.source, config.eval.path = "folder", str(folder)
        with pytest.raises(SampleError, match="03.png: not an image"):
            Run(config, jax.devices()[:1]).bad_evaluation_images()

    def test_is_not_read_again_on_resuming(self, config, folder):
        config.eval.source, config.eval.path = "folder", str(folder)
        run = Run(config, jax.devices()[:1])
        run.prepare(resumed=True)
        with pytest.raises(SampleError, match="03.png: not an image"):
            run.prepare(resumed=False)

    @pytest.mark.parametrize(
        "source, path, message",
        [
            ("folder", "/data.none", "eval.path=/data.none: there is no such folder"),
            ("mixture", "", "eval.source=mixture: weights mean nothing"),
        ],
    )
    def test_errors_name_its_keys(self, config, source, path, message):
        config.eval.source, config.eval.path = source, path
        with pytest.raises((ValueError, OSError), match=message):
            Run(config, jax.devices()[:1])


def test_subset_keeps_labels():
    source = shape_source("held_out")
    few = subset(source, [5, 2, 9])
    assert len(few) == 3 and few.class_names == source.class_names
    assert [few.label(i) for i in range(3)] == [source.label(i) for i in (5, 2, 9)]
    assert few[1] == source[2]
    assert not hasattr(subset(shape_source("train"), [0]), "label")


class TestSavedConfig:
    def test_where_data_lie_plays_no_part(self):
        """Nor does what changes no meaning of weights; what does is told."""
        saved = default.get_config().to_dict()
        now = json.loads(json.dumps(saved))
        saved["data"] |= {"source": "mixture", "mixture": ((1.0, "tar", "/a/1.tar"),)}
        now["data"] |= {"source": "tar", "path": "/b", "captions": "/c.jsonl", "index": "/d"}
        now["eval"] |= {"source": "folder", "path": "/e"}
        now["model"] |= {"remat": "none", "dtype": "float32", "drop_path": 0.0}
        now["model"] |= {"commitment_weight": 1.0, "residual_dtype": "float32"}
        assert differences.config_differences(saved, now) == []
        now["model"]["num_query"] = 3
        assert differences.config_differences(saved, now) == ["model.num_query: saved 0, now 3"]

    def test_one_that_knows_no_mixtures(self, caplog):
        saved, now = {"data": {"source": "tar"}}, {"data": {"source": "tar", "mixture": ()}}
        with caplog.at_level("INFO"):
            assert differences.config_differences(saved, now) == []
        assert not caplog.text

    def test_one_that_lacks_keys_of_the_model(self):
        """Its weights have the same hash, and start runs of models that say what it did."""
        now = default.get_config().to_dict()
        later = ("fsq_levels", "quant_causal")
        older = {key: value for key, value in now["model"].items() if key not in later}
        assert differences.config_differences({**now, "model": older}, now) == []
        assert initialize.training_differences({**now, "model": older}, now) == []
        assert weights_hash(older, {}) == weights_hash(now["model"], {})
        set_now = now["model"] | {"fsq_levels": (8, 8)}
        assert weights_hash(set_now, {}) != weights_hash(older, {})
        (line,) = initialize.training_differences(now, {**now, "model": set_now})
        assert line == "model.fsq_levels: saved [], now [8, 8]"
        causal = now["model"] | {"quant_causal": True}
        assert weights_hash(causal, {}) != weights_hash(older, {})
        read = json.loads(json.dumps(set_now))
        assert (
            initialize.training_differences({**now, "model": read}, now | {"model": set_now}) == []
        )

    def test_changes_are_logged(self, caplog):
        with caplog.at_level("INFO"):
            differences.config_differences({"model": {"remat": "a"}}, {"model": {"remat": "b"}})
        line = "the configuration changed since the checkpoint: model.remat: saved 'a', now 'b'"
        assert line in caplog.text


class TestFacts:
    def test_the_first_of_many_that_differ_is_told(self):
        saved = {"n": 1, "samples": {"3": "a", "5": "b", "7": "c"}}
        now = {"n": 1, "samples": {"3": "a", "5": "x", "7": "y", "9": "what was not read then"}}
        assert differences.fact_differences(saved, saved) == []
        told = ["samples: 5: saved 'b', now 'x' (and 1 more)"]
        assert differences.fact_differences(saved, now) == told

    def test_what_a_run_does_not_know_is_kept(self):
        saved, now = {"n": 1, "hash": "abc", "old": 2}, {"n": 1, "hash": None}
        assert differences.fact_differences(saved, now) == []
        assert differences.completed(now, saved) == {"n": 1, "hash": "abc"}
        assert differences.completed(now, {"n": 1}) == now

    def test_an_older_checkpoint_that_tells_less(self, caplog):
        assert differences.fact_differences({"n": 1}, {"n": 1, "samples": {"3": "a"}}) == []
        assert "the checkpoint does not tell its samples, which are not compared" in caplog.text
