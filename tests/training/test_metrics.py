"""Means, writers, progress and the measures of an evaluation."""

import json
import logging

import numpy as np
import pytest
from PIL import Image

from unitok_jax.evaluation.metrics.codebook import CodebookUse
from unitok_jax.evaluation.metrics.reconstruction import Reconstruction, psnr
from unitok_jax.evaluation.metrics.retrieval import caption_retrieval
from unitok_jax.models.quantizers.base import codebook_counts, codebook_health
from unitok_jax.training.boards import TensorBoard
from unitok_jax.training.metrics import Progress, RunningMean, Writer


def test_running_mean():
    mean = RunningMean()
    mean.update({"a": np.float32(1), "v": np.array([1.0, 2.0])})
    mean.update({"a": np.float32(3), "v": np.array([3.0, 4.0])})
    result = mean.result()
    assert result["a"] == 2 and result["v"].tolist() == [2, 3]
    mean.update({"a": 5.0})
    assert mean.result() == {"a": 5}


def test_writer_drops_what_will_come_again(tmp_path):
    """A run killed after step 4 that resumes at step 2 must not write steps 3 and 4 twice."""
    writer = Writer(tmp_path, 0)
    for step in range(1, 5):
        writer.scalars(step, {"loss": np.float32(step), "usage": np.array([0.5, 1.0])})
    writer.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # cut short by the kill
    writer = Writer(tmp_path, 2)
    writer.scalars(3, {"loss": 30.0})
    writer.close()
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(r["step"], r["loss"]) for r in records] == [(1, 1), (2, 2), (3, 30)]
    assert records[0]["usage"] == [0.5, 1.0]


def test_pictures_are_files(tmp_path):
    writer = Writer(tmp_path, 0, [TensorBoard(tmp_path, 0)])
    writer.image(3, "reconstruction", np.full((4, 6, 3), 7, np.uint8))
    writer.close()
    with Image.open(tmp_path / "images" / "reconstruction_00000003.png") as image:
        assert np.all(np.asarray(image) == 7) and image.size == (6, 4)


def test_progress_in_a_log(caplog):
    progress = Progress(start_step=0, steps=10, batch_size=4, unit="rows")
    with caplog.at_level(logging.INFO):
        progress.update(1, {"loss": 0.5}, None)
        progress.update(5, {"loss": 0.25}, 0.5)
    assert "step 1/10  loss 0.5  ? left" in caplog.text
    assert "step 5/10  loss 0.25  0.5 rows/s  0:00:40 left" in caplog.text


def test_psnr():
    # images in [-1, 1]: an error of 0.2 everywhere is 10 log10(4 / 0.04) = 20 dB
    assert psnr(np.array([0.04, 4.0])) == pytest.approx([20.0, 0.0])
    assert psnr(0.0) == np.inf


class TestReconstruction:
    def test_is_a_mean_over_images(self):
        measure = Reconstruction()
        measure.update(np.array([True, True, False]), squared_error=np.array([0.04, 4.0, 9.0]))
        measure.update(np.array([True]), squared_error=np.array([0.4]))
        assert measure.result() == pytest.approx({"psnr": 10.0, "l2": 4.44 / 3})

    def test_any_measures_per_image(self):
        measure = Reconstruction()
        for mask, error, similarity in (([True, False], [0.04, 1], [0.5, 9]), ([True], [0], [1])):
            measure.update(
                np.array(mask),
                squared_error=np.array(error, np.float32),
                ssim=np.array(similarity, np.float32),
            )
        images = measure.per_image()
        assert list(images) == ["psnr", "l2", "ssim"]
        assert all(values.dtype == np.float64 for values in images.values())
        np.testing.assert_allclose(images["psnr"], [20, np.inf])  # the second is identical
        np.testing.assert_allclose(images["ssim"], [0.5, 1])
        assert measure.result() == pytest.approx({"psnr": np.inf, "l2": 0.02, "ssim": 0.75})

    def test_what_does_not_fit(self):
        measure, mask, values = Reconstruction(), np.array([True, True]), np.ones(2)
        with pytest.raises(ValueError, match="no images"):
            measure.per_image()
        with pytest.raises(ValueError, match=r"squared_error is missing .*\['ssim'\]"):
            measure.update(mask, ssim=values)
        with pytest.raises(ValueError, match=r"ssim is \(1,\) and mask \(2,\)"):
            measure.update(mask, squared_error=values, ssim=values[:1])
        measure.update(mask, squared_error=values)
        with pytest.raises(ValueError, match="a batch has the measures"):
            measure.update(mask, squared_error=values, ssim=values)
        assert measure.result() == pytest.approx({"psnr": 10 * np.log10(4), "l2": 1})


def test_codebook_use():
    measure = CodebookUse()
    measure.update(np.array([[1, 1, 0, 0], [4, 0, 0, 0]]))
    measure.update(np.array([[1, 1, 0, 0], [4, 0, 0, 0]]))
    result = measure.result()
    np.testing.assert_allclose(result["usage"], [0.5, 0.25])
    assert result["dead"].tolist() == [2, 3]
    np.testing.assert_allclose(result["perplexity"], [2, 1])
    assert result["bits_per_token"] == pytest.approx(1) and result["max_bits_per_token"] == 4


def test_bits_of_an_uneven_codebook():
    """Rows chosen in 1/2, 1/4, 1/8 and 1/8 of the cases: 1.75 bits; a book never asked has none."""
    measure = CodebookUse()
    measure.update(np.array([[4, 2, 1, 1], [0, 0, 0, 0]]))
    assert measure.result()["bits_per_token"] == pytest.approx(1.75)


def test_counts_of_codes():
    codes = np.array([[[0, 1], [2, 2]], [[0, 0], [1, 1]]])  # (B, K, N)
    counts = codebook_counts(codes, 3)
    assert counts.tolist() == [[3, 1, 0], [0, 2, 2]]
    masked = codebook_counts(codes, 3, np.array([True, False]))
    assert masked.tolist() == [[1, 1, 0], [0, 0, 2]]
    health = codebook_health(counts)
    np.testing.assert_allclose(health["usage"], [2 / 3, 2 / 3])
    np.testing.assert_allclose(health["perplexity"], [np.exp(0.5623351), 2], rtol=1e-5)


def test_retrieval():
    images = np.eye(3)[:, :2]
    images[2] = [0.6, 0.8]
    texts = np.array([[1, 0], [0, 1], [0.6, 0.8], [0, 1.0]])
    owner, tokens = np.array([0, 1, 2, 2]), np.array([[1, 2], [1, 3], [1, 4], [1, 5]])
    result = caption_retrieval(images, texts, owner, tokens)
    assert result == {"image_to_text": 1.0, "text_to_image": 0.75}


def test_retrieval_of_a_caption_that_two_images_share():
    """Image 1 says what image 0 says: either of the two is right, and image 2 is not."""
    images = np.eye(3)
    owner, tokens = np.array([0, 1, 2]), np.array([[1, 2], [1, 2], [1, 3]])
    texts = np.array([[1.0, 0, 0], [1.0, 0, 0], [0, 1.0, 0]])
    result = caption_retrieval(images, texts, owner, tokens)
    assert result == pytest.approx({"image_to_text": 1 / 3, "text_to_image": 2 / 3})
