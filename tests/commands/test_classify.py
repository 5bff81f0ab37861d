"""The commands classify and retrieve, and the tokenizer's classify, on real files."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from helpers.in_process import run
from unitok_jax.commands import classify, retrieve
from unitok_jax.data.inputs import Inputs
from unitok_jax.evaluation.metrics.zero_shot import probabilities
from unitok_jax.tokenizer.api import load
from unitok_jax.tokenizer.step import init_params
from unitok_jax.weights import load as loading

pytestmark = pytest.mark.slow

LABELS = ["cat", "red car", "moon"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model with CLIP's token ids, as a file."""
    from configs import tiny

    config = tiny.get_config()
    params = init_params(config.model.to_dict(), jax.random.key(0))
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    loading.write(path, config, params)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five pictures of odd sizes."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("images")
    for number in range(5):
        pixels = rng.integers(0, 256, (4, 4, 3), np.uint8)
        Image.fromarray(pixels).resize((70 + number, 90)).save(path / f"{number}.png")
    return path


class TestProbabilities:
    def test_softmax_of_scaled_cosines(self):
        images = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
        found = probabilities(images, np.array([[1, 0], [0.6, 0.8]], np.float32), 10.0)
        expected = 1 / (1 + np.exp([10 * (0.6 - 1), 10 * (0.8 - 0.0)]))
        np.testing.assert_allclose(found[:, 0], expected, rtol=1e-6)
        assert found.dtype == np.float32 and found.shape == (2, 2)

    def test_large_scales_stay_finite(self):
        found = probabilities(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), 1e4)
        np.testing.assert_array_equal(found, np.eye(2))

    def test_one_class(self):
        with pytest.raises(ValueError, match="two classes"):
            probabilities(np.ones((1, 2)), np.ones((1, 2)), 1.0)


class TestTokenizer:
    def test_is_the_formula(self, model, images):
        tokenizer = load(model)
        templates = ("a {}", "no {} here")
        found = tokenizer.classify(images, LABELS, templates)
        assert found.shape == (2, 3) and found.dtype == np.float32
        np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-6)
        texts = np.stack(
            [tokenizer.encode_text([t.replace("{}", x) for t in templates]) for x in LABELS]
        ).mean(axis=1)
        texts /= np.linalg.norm(texts, axis=1, keepdims=True)
        scale = np.exp(np.float64(tokenizer.params["logit_scale"]))
        powers = np.exp(scale * (tokenizer.encode_image(images) @ texts.T).astype(np.float64))
        np.testing.assert_allclose(found, powers / powers.sum(axis=1, keepdims=True), rtol=1e-4)
        assert scale > 10  # or leaving the scale out would hardly be seen

    @pytest.mark.parametrize("labels", [[], ["cat"], ["cat", "cat"]])
    def test_bad_labels(self, model, images, labels):
        with pytest.raises(ValueError, match="class"):
            load(model).classify(images, labels)


class TestClassify:
    def test_folder(self, model, folder, tmp_path, capsys, monkeypatch):
        out = tmp_path / "below" / "results.json"
        code, printed, error = run(
            classify,
            capsys,
            monkeypatch,
            *(f"--checkpoint={model}", f"--data={folder}", f"--labels={','.join(LABELS)}"),
            *("--top=2", f"--output={out}"),
        )
        assert code == 0, error
        results = json.loads(out.read_text())
        assert [result["name"] for result in results] == list("01234")
        inputs, tokenizer = Inputs(folder), load(model)
        images = np.stack([inputs.image(i, (64, 64)) for i in range(5)])
        for line, result, row in zip(
            printed.splitlines(), results, tokenizer.classify(images, LABELS), strict=True
        ):
            best = np.argsort(-row)[:2]
            assert list(result["classes"]) == [LABELS[i] for i in best]
            np.testing.assert_allclose(list(result["classes"].values()), row[best], atol=1e-5)
            assert line.startswith(f"{result['name']}  {LABELS[best[0]]} ")

    @pytest.mark.parametrize(
        "arguments, words",
        [
            (["--labels="], "--labels=''"),
            (["--labels=cat"], "one name only"),
            (["--labels=a,b", "--templates=none"], "--templates='none'"),
            (["--labels=a,b", "--top=0"], "--top=0"),
            (["--labels=a,b", "--data=none"], "--data=none"),
            (["--labels=a,b", "--output=/proc/no/a.json"], "--output=/proc/no/a.json cannot be"),
            (["--labels=a,b", "--output=/tmp", "--data=none"], "--output=/tmp cannot be written"),
        ],
    )
    def test_bad_arguments(self, model, folder, capsys, monkeypatch, arguments, words):
        given = [f"--checkpoint={model}", f"--data={folder}", *arguments]
        code, _, error = run(classify, capsys, monkeypatch, *given)
        assert code == 2 and error.startswith("error: ") and words in error

    def test_no_images(self, model, tmp_path, capsys, monkeypatch):
        given = [f"--checkpoint={model}", f"--data={tmp_path}", "--labels=a,b"]
        code, _, error = run(classify, capsys, monkeypatch, *given)
        assert code == 2 and "no images" in error

    def test_model_without_clip_tokens(self, weights, folder, capsys, monkeypatch):
        given = [f"--checkpoint={weights}", f"--data={folder}"]
        code, _, error = run(classify, capsys, monkeypatch, *given, "--labels=a,b")
        assert code == 2 and "token ids" in error
        code, _, error = run(retrieve, capsys, monkeypatch, *given, "--query=a")
        assert code == 2 and "token ids" in error


class TestRetrieve:
    def test_folder(self, model, folder, tmp_path, capsys, monkeypatch):
        out = tmp_path / "sheet.png"
        given = [f"--checkpoint={model}", f"--data={folder}", "--top=2", f"--output={out}"]
        queries = ["a red car", "the moon"]
        code, printed, error = run(
            retrieve, capsys, monkeypatch, *given, *(f"--query={query}" for query in queries)
        )
        assert code == 0, error
        lines = printed.splitlines()
        assert lines[0] == queries[0] and lines[3] == queries[1] and lines[6] == str(out)
        inputs, tokenizer = Inputs(folder), load(model)
        images = np.stack([inputs.image(i, (64, 64)) for i in range(5)])
        cosines = tokenizer.encode_text(queries) @ tokenizer.encode_image(images).T
        for query, row in enumerate(cosines):
            found = [line.split() for line in lines[3 * query + 1 : 3 * query + 3]]
            best = np.argsort(-row)[:2]
            assert [int(name) for _, name in found] == best.tolist()
            np.testing.assert_allclose([float(c) for c, _ in found], row[best], atol=1e-4)
        with Image.open(out) as sheet:
            pixels = np.asarray(sheet)
        first = inputs.image(int(np.argmax(cosines[0])), (64, 64))
        np.testing.assert_array_equal(pixels[16 : 16 + 192 : 3, 16 : 16 + 192 : 3], first)

    @pytest.mark.parametrize(
        "arguments, words",
        [
            (["--query="], "--query is empty"),
            (["--query=a", "--query= "], "--query is empty"),
            (["--query=a", "--top=0"], "--top=0"),
            (["--query=a", "--output=sheet"], "--output=sheet"),
            (["--query=a", "--output=/proc/no/a.png", "--data=none"], "--output=/proc/no/a.png"),
            (["--query=a", "--data=none"], "--data=none"),
        ],
    )
    def test_bad_arguments(self, model, folder, capsys, monkeypatch, arguments, words):
        given = [f"--checkpoint={model}", f"--data={folder}", *arguments]
        code, _, error = run(retrieve, capsys, monkeypatch, *given)
        assert code == 2 and error.startswith("error: ") and words in error
