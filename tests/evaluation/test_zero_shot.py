"""Zero-shot classification, alone and as a run reports it."""

import jax
import numpy as np
import pytest

from unitok_jax.data.formats.shapes import shape_source
from unitok_jax.data.records import subset
from unitok_jax.data.text import TextTokenizer
from unitok_jax.evaluation import suite
from unitok_jax.evaluation.metrics.zero_shot import class_features, zero_shot

pytestmark = pytest.mark.slow


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def embed(texts):
    """A vector per sentence, in which every word has its own direction."""
    words = sorted({word for text in texts for word in text.split()})
    return unit(np.array([[float(w in text.split()) for w in words] for text in texts]))


class TestClassFeatures:
    def test_normalised_mean_over_templates(self):
        table = {"a x": [1, 0], "the x": [0, 1], "a y": [0.6, 0.8], "the y": [0.6, 0.8]}
        calls = []

        def encode(texts):
            calls.append(texts)
            return np.array([table[text] for text in texts])

        with pytest.raises(ValueError, match="one text, 'cat': give a list"):
            class_features(encode, "cat", ["a {}"])
        features = class_features(encode, ["x", "y"], ["a {}", "the {}"])
        assert features.dtype == np.float32 and len(calls) == 1
        np.testing.assert_allclose(features, [[0.5**0.5, 0.5**0.5], [0.6, 0.8]], rtol=1e-6)

    @pytest.mark.parametrize(
        "names, templates, message",
        [
            ([], ["a {}"], "at least one"),
            (["x", "x"], ["a {}"], "must be different"),
            (["x"], [], "exactly one {}"),
            (["x"], ["a {}", "no name"], r"no name"),
            (["x"], ["{} and {}"], r"{} and {}"),
        ],
    )
    def test_bad_names_and_templates(self, names, templates, message):
        with pytest.raises(ValueError, match=message):
            class_features(embed, names, templates)


class TestZeroShot:
    def test_counts_the_nearest(self):
        classes = np.eye(3)
        images = unit(np.array([[1, 0.1, 0], [0.1, 1, 0], [0.9, 0, 1], [1, 0, 0.2]]))
        assert zero_shot(images, classes, np.array([0, 1, 2, 2])) == {"zero_shot_top1": 0.75}

    def test_top5_needs_more_than_five_classes(self):
        assert zero_shot(np.eye(5), np.eye(5), np.arange(5)).keys() == {"zero_shot_top1"}
        scores = np.arange(7.0)[None] / 10  # class 6 is nearest, then 5, 4, ...
        result = [zero_shot(scores, np.eye(7), np.array([label])) for label in range(7)]
        assert [r["zero_shot_top1"] for r in result] == [0, 0, 0, 0, 0, 0, 1]
        assert [r["zero_shot_top5"] for r in result] == [0, 0, 1, 1, 1, 1, 1]

    def test_a_collapsed_model_guesses(self):
        images, classes = np.ones((32, 4)) / 2, np.ones((16, 4)) / 2
        result = zero_shot(images, classes, np.arange(32) % 16)
        assert result == {"zero_shot_top1": 1 / 16, "zero_shot_top5": 5 / 16}

    @pytest.mark.parametrize(
        "images, classes, labels, message",
        [
            ((3, 4), (2, 5), [0, 1, 0], "do not fit"),
            ((3, 4), (2, 4), [0, 1], "do not fit"),
            ((4,), (2, 4), [0, 1], "do not fit"),
            ((0, 4), (2, 4), [], "no images"),
            ((2, 4), (2, 4), [0, 2], "0 to 2 are not integers from 0 to 1"),
            ((2, 4), (2, 4), [-1, 0], "-1 to 0 are not"),
            ((2, 4), (2, 4), [0.0, 1.0], "float64"),
        ],
    )
    def test_bad_input(self, images, classes, labels, message):
        with pytest.raises(ValueError, match=message):
            zero_shot(np.ones(images), np.ones(classes), np.array(labels))

    def test_not_finite(self):
        with pytest.raises(ValueError, match="not finite"):
            zero_shot(np.full((1, 2), np.nan), np.eye(2), np.array([0]))


def test_a_model_that_reads_the_picture_classifies_held_out_shapes():
    """Images that are given the features of their own sentence are all classified rightly."""
    count = 32
    source = subset(shape_source("held_out"), range(count))
    sentences = [source[i]["captions"][0] for i in range(count)]
    prompts = [t.replace("{}", n) for n in source.class_names for t in source.class_templates]
    texts = sentences + prompts
    tokens = TextTokenizer(24)(texts)
    table = dict(zip(map(bytes, tokens), embed(texts), strict=True))
    images = np.array([table[bytes(row)] for row in tokens[:count]])

    def figures(images):
        return suite.text_figures(
            *(images, source, lambda tokens: np.array([table[bytes(row)] for row in tokens]), 24),
            captions=None,
            labels=suite.label_set_of(source),
        )

    assert figures(images) == {"zero_shot_top1": 1.0, "zero_shot_top5": 1.0}
    assert figures(np.roll(images, 1, axis=0))["zero_shot_top1"] == 0


@pytest.mark.long
@pytest.mark.parametrize("source, path", [("shapes", "held_out"), ("photos", "")])
def test_a_run_reports_it_where_there_are_labels(tiny, source, path):
    from unitok_jax.tokenizer.run import Run

    tiny.eval.source, tiny.eval.path = source, path
    tiny.model.text.context_length = 24
    run = Run(tiny, jax.devices()[:1])
    assert run.eval_images.bad() == []
    metrics, picture = run.evaluate(run.programs.init())
    assert 0 <= metrics["image_to_text"] <= 1 and picture.dtype == np.uint8
    scores = {key: value for key, value in metrics.items() if key.startswith("zero_shot")}
    assert scores.keys() == ({"zero_shot_top1", "zero_shot_top5"} if path else set())
    assert all(0 <= value <= 1 for value in scores.values())


def test_no_zero_shot_without_a_loss_of_pairs(tiny):
    from unitok_jax.tokenizer.run import Run

    tiny.eval.source, tiny.eval.path = "shapes", "held_out"
    tiny.loss.contrastive = 0.0
    tiny.model.text.context_length = 24
    run = Run(tiny, jax.devices()[:1])
    state = run.programs.init()
    metrics, _ = run.evaluate(state)
    assert "psnr" in metrics and not any(key.startswith("zero_shot") for key in metrics)
    run.config.loss.teacher_relation = 1.0  # by which texts are learned too
    metrics, _ = run.evaluate(state)
    assert {"zero_shot_top1", "image_to_text"} <= metrics.keys()
