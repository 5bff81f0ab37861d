"""What a run evaluates: the first images that can be used, and no other."""

import errno
import os

import jax
import numpy as np
import pytest
from PIL import Image

from unitok_jax.data.formats import folders
from unitok_jax.data.health import SampleError, TooManyBadSamples
from unitok_jax.data.sources import open_source
from unitok_jax.tokenizer.evaluation_images import EvaluationImages
from unitok_jax.tokenizer.run import Run


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
    tiny.eval.max_images = 10
    return tiny


def opened(config):
    return EvaluationImages(config.data, config.eval, open_source(config.data))


class TestTrainingImages:
    @pytest.mark.parametrize("resumed", [False, True])
    def test_bad_ones_are_left_out_and_told(self, config, caplog, resumed):
        images = opened(config)
        ((index, reason, message),) = images.bad()
        assert (index, reason) == (3, "not_an_image") and message.startswith("03.png: not an")
        images.prepare(resumed)
        assert "1 of 10 images are not evaluated" in caplog.text and "03.png" in caplog.text
        names = [images.source[i]["name"] for i in range(len(images.source))]
        assert names == [f"{i:02}.png" for i in (0, 1, 2, 4, 5, 6, 7, 8, 9)]
        # The captions are those of the images that are left.
        assert images.captions.owner.tolist() == list(range(9))

    def test_too_many(self, config):
        config.data.max_bad = 0.05
        with pytest.raises(TooManyBadSamples, match="1 of 10 .*data.max_bad=0.05.*\n.*03.png"):
            opened(config).prepare(resumed=False)

    def test_file_that_has_gone_is_left_out(self, config, folder):
        images = opened(config)
        (folder / "05.png").unlink()
        found = {index: reason for index, reason, _ in images.bad()}
        assert found == {3: "not_an_image", 5: "unreadable"}

    def test_disk_that_does_not_answer_is_an_error(self, config, monkeypatch):
        images = opened(config)

        def read(path, limit):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)

        monkeypatch.setattr(folders, "read_regular", read)
        with pytest.raises(OSError, match="Input/output error"):
            images.bad()


class TestEvaluationSource:
    def test_bad_image_is_an_error(self, config, folder):
        """A set for evaluation must not silently change."""
        config.eval.source, config.eval.path = "folder", str(folder)
        with pytest.raises(SampleError, match="03.png: not an image"):
            opened(config).bad()

    def test_is_not_read_again_on_resuming(self, config, folder):
        config.eval.source, config.eval.path = "folder", str(folder)
        images = opened(config)
        images.prepare(resumed=True)
        with pytest.raises(SampleError, match="03.png: not an image"):
            images.prepare(resumed=False)

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
            opened(config)


@pytest.mark.slow
class TestRun:
    def test_evaluates_what_can_be_used(self, config):
        config.data.image_size = (32, 32)
        run = Run(config, jax.devices()[:1])
        assert run.shared["samples to evaluate"] == 10
        run.prepare(resumed=False)
        assert run.shared["samples to evaluate"] == 9
        # The last batch ends with the ninth: 12.png, in the rest of it, is not read.
        metrics, _ = run.evaluate(run.programs.init())
        assert np.isfinite(metrics["psnr"])

    def test_tells_its_images_whether_it_resumed(self, config, folder):
        config.eval.source, config.eval.path = "folder", str(folder)
        run = Run(config, jax.devices()[:1])
        run.prepare(resumed=True)
        with pytest.raises(SampleError, match="03.png: not an image"):
            run.prepare(resumed=False)
