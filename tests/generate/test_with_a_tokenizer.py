"""A generator beside the tokenizer of its codes: real codes, features of texts, pictures."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from PIL import Image

import unitok_jax
from configs import tiny
from helpers import coded, one_device
from helpers.jobs import records
from unitok_jax.commands import tokenize
from unitok_jax.data.images.transforms import to_uint8
from unitok_jax.data.text import TextTokenizer
from unitok_jax.generate import run as run_module
from unitok_jax.generate.companion import TextStates
from unitok_jax.generate.run import Run
from unitok_jax.generate.step import embed_prompts
from unitok_jax.models.sampling import Filters
from unitok_jax.tokenizer.step import init_params
from unitok_jax.training import loop
from unitok_jax.weights import load

pytestmark = [pytest.mark.slow, pytest.mark.long]

LENGTH = 8  # tokens of a text


def tokenizer_config():
    config = tiny.get_config()
    config.model.size, config.model.quant_heads = "nano", 2
    config.model.text.context_length = LENGTH
    config.data.image_size = (32, 48)
    return config


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A file of fresh weights."""
    config = tokenizer_config()
    path = tmp_path_factory.mktemp("tokenizer") / "nano.safetensors"
    load.write(path, config, init_params(config.model.to_dict(), jax.random.key(0)))
    return path


@pytest.fixture(scope="module")
def codes(tokenizer, tmp_path_factory):
    """Codes of twelve labelled and captioned pictures, in ten views."""
    folder = tmp_path_factory.mktemp("codes")
    for number, name in enumerate(("red dog", "green cat", "blue bird")):
        (folder / "in" / name).mkdir(parents=True)
        for i in range(4):
            pixels = np.random.default_rng(i).integers(0, 60, (9, 7, 3), np.uint8)
            pixels[..., number] += 190
            Image.fromarray(pixels).resize((60, 50)).save(folder / "in" / name / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        arguments = [f"--checkpoint={tokenizer}", f"--data=labelled:{folder}/in", "--views=ten"]
        arguments += [f"--output={folder}/out", "--num_threads=1"]
        patch.setattr(sys, "argv", ["tokenize", *arguments])
        tokenize.main()
    return folder / "out"


@pytest.fixture
def config(tokenizer, codes):
    """Three steps on those codes, with pictures of what is drawn."""
    config = coded.config(codes)
    config.steps, config.eval.every = 3, 3
    config.model.num_codebooks, config.model.vocab_size = 4, 256
    config.data.tokenizer, config.eval.preview, config.eval.scale = str(tokenizer), 6, 1.5
    return config


@pytest.fixture
def text_config(config):
    """The same with captions as prompts."""
    config.model.prompt, config.model.prompt_rope = "text", "identity"
    config.model.text_tokens, config.model.text_features = LENGTH, 64
    return config


OneDevice = one_device.of(Run)


def test_classes(config, tokenizer, tmp_path):
    """From pictures to codes, a generator, and pictures again."""
    last = loop.train(OneDevice, config, str(tmp_path))
    training = [r["loss"] for r in records(tmp_path) if "loss" in r]
    assert training[-1] < training[0] and last["eval/gain"] > 0
    with Image.open(tmp_path / "images" / "drawn_00000003.png") as sheet:
        shown = np.asarray(sheet)
    assert shown.shape[1] == 6 * (192 + 16) + 16 and shown.std() > 20


@pytest.mark.parametrize("prompt", ["class", "text"])
def test_a_drawn_picture_is_a_function_of_its_number_and_prompt(config, text_config, prompt):
    config = text_config if prompt == "text" else config
    config.model.prompt = prompt
    drawn = []
    for devices in (1, 4):
        run = Run(config, devices=jax.devices()[:devices])
        params = run.initial_state().params
        noise = np.random.default_rng(0).normal(0, 1, params["head"]["kernel"].shape)
        kernel = params["head"]["kernel"]
        params["head"]["kernel"] = jax.device_put(noise.astype(np.float32), kernel.sharding)
        if prompt == "class":
            rows = {"labels": np.array([2, 0, 1, 1, 2], np.int32)}
        else:
            rows = {"text": TextTokenizer(LENGTH)(["a dog", "", "cat", "cat", "red green blue"])}
        draw = functools.partial(run.draw, params, filters=Filters(), scale=1.5)

        def prompts(numbers, rows=rows):
            return {key: row[numbers] for key, row in rows.items()}

        drawn.append(draw(prompts, range(5)))
        np.testing.assert_array_equal(draw(prompts, [3, 1]), drawn[-1][[3, 1]])
    np.testing.assert_array_equal(*drawn)
    assert drawn[0].shape == (5, 4, 6) and (drawn[0][2] != drawn[0][3]).any()


def test_pictures_are_the_tokenizers(config, tokenizer):
    run = OneDevice(config)
    codes = np.random.default_rng(0).integers(0, 64, (2, 4, 6), np.int32)
    theirs = unitok_jax.load(tokenizer).decode(codes, (2, 3))
    ours = run._pictures(codes)
    assert ours.dtype == np.uint8 and ours.shape == (2, 32, 48, 3)
    assert abs(ours - 127.5 * (theirs + 1)).max() < 0.51


@pytest.mark.thorough
def test_gfid_is_that_of_the_drawn_pictures(config, tokenizer, tmp_path):
    """Against moments of other pictures, beside the card's own function on the API's pictures."""
    from unitok_jax.evaluation import drawn
    from unitok_jax.evaluation.card import statistics
    from unitok_jax.weights import pretrained

    params = pretrained.load("inception", "seeded", "float32", key="k", turn_off="t")[1]
    config.eval.preview, config.eval.batch_size, config.eval.drawn_images = 0, 4, 6
    config.frozen.inception = "seeded"
    mesh = run_module.sharding.make_mesh(1, 1, jax.devices()[:1])
    inception = drawn.InceptionPass(params, mesh)
    others = np.random.default_rng(0).integers(0, 256, (8, 32, 48, 3), np.uint8)
    reference = inception([others]).pool3
    config.eval.reference = str(tmp_path / "adm.npz")
    np.savez(config.eval.reference, mu=reference.mean, sigma=reference.covariance)
    run = Run(config, jax.devices()[:1])
    state = run.initial_state()
    metrics, picture = run.evaluate(state)
    assert picture is None
    # The second batch, of two images, is padded to the first's size.
    assert run.programs.sample._cache_size() == run._codec._decode._cache_size() == 1

    def labels(numbers):
        return {"labels": np.array(numbers, np.int32) % config.model.classes}

    codes = run.draw(state.params, labels, range(6), Filters(), 1.5)
    images = unitok_jax.load(tokenizer).decode(codes, tuple(config.model.grid))
    images = to_uint8(images)
    expected = drawn.gfid([images], statistics.read(config.eval.reference)[0], inception)
    assert metrics["gfid"] == pytest.approx(expected["gfid"], rel=1e-4)
    assert metrics["gfid"] > 0 and "inception_score" not in metrics  # of ten images or more


def test_a_reference_of_another_inception_or_size(config, tmp_path):
    from unitok_jax.evaluation.card import statistics
    from unitok_jax.evaluation.metrics.frechet import Moments

    config.eval.drawn_images, config.frozen.inception = 8, "seeded"
    config.eval.reference = str(tmp_path / "other.npz")
    facts = {key: "another" for key in statistics.COMPARED}
    moments = Moments(np.zeros(2048), np.eye(2048), 9)
    statistics.write(config.eval.reference, moments, facts)
    with pytest.raises(ValueError, match="^eval.reference=.*other.npz was made with"):
        Run(config, jax.devices()[:1])
    images = {"arr_0": np.zeros((2, 48, 48, 3), np.uint8)}
    np.savez(config.eval.reference, mu=moments.mean, sigma=moments.covariance, **images)
    with pytest.raises(ValueError, match="other.npz is of 48x48 images, .* draws 32x48: give"):
        Run(config, jax.devices()[:1])


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"eval.drawn_images": 1}, "eval.drawn_images=1: gFID needs at least 2"),
        ({"eval.drawn_images": 8}, "eval.drawn_images=8 needs eval.reference"),
        ({"eval.drawn_images": 8, "eval.reference": "x.npz"}, "needs frozen.inception"),
        (
            {"eval.drawn_images": 8, "eval.reference": "x.npz", "frozen.inception": "seeded"},
            "eval.reference=x.npz: .*x.npz",
        ),
    ],
)
def test_gfid_needs_all_that_it_compares(config, keys, message):
    config.update_from_flattened_dict(keys)
    with pytest.raises((ValueError, OSError), match=message):
        Run(config, jax.devices()[:1])


@pytest.mark.parametrize("prompt, shown", [("class", 6), ("text", 4)])
def test_labels_are_shown_beyond_the_records(config, text_config, monkeypatch, prompt, shown):
    """Each caption once; labels need no records."""
    config.eval.max_images, config.model.prompt = 4, prompt
    run, titles = OneDevice(config), []
    monkeypatch.setattr(
        run, "draw", lambda params, prompts, numbers, *_: np.zeros((len(numbers), 4, 6), np.int32)
    )
    monkeypatch.setattr(run_module, "contact_sheet", lambda images, texts, *_: titles.extend(texts))
    run.preview(None)
    assert len(titles) == shown


def test_without_a_tokenizer_there_is_no_picture(config):
    config.data.tokenizer = ""
    run = OneDevice(config)
    assert run.preview(None) is None
    config.data.tokenizer, config.eval.preview = "not read", 0
    assert OneDevice(config).preview(None) is None


class TestTexts:
    @pytest.fixture
    def model(self):
        return tokenizer_config().model.to_dict()

    @pytest.fixture
    def ours(self, text_config):
        return text_config.model.to_dict()

    def test_states_are_those_that_the_towers_feature_is_projected_from(
        self, tokenizer, model, ours
    ):
        """At the end the last state, projected and scaled to length 1, is the tokenizer's own."""
        loaded = unitok_jax.load(tokenizer)
        texts = ["red dog", "a picture of one green cat and a dog", "", "!"]
        states = TextStates(model, ours)
        params = loaded.params["text_encoder"]
        found = jax.jit(states)(params, TextTokenizer(LENGTH)(texts))
        features, valid, null = (np.asarray(found[key]) for key in ("features", "valid", "null"))
        assert features.shape == (4, LENGTH, 64) and features.dtype == np.float32
        last = features[:, -1] @ np.asarray(params["text_projection"])
        last /= np.linalg.norm(last, axis=1, keepdims=True)
        np.testing.assert_allclose(last, loaded.encode_text(texts), atol=1e-5)
        counts = [4, LENGTH, 2, 3]  # start, words, end
        assert valid.tolist() == [[False] * (LENGTH - n) + [True] * n for n in counts]
        assert not features[~valid].any() and features[valid].any(-1).all()
        assert null.tolist() == [False, False, True, False]
        # A causal tower: equal beginnings have equal states.
        np.testing.assert_allclose(features[0, -4], features[2, -2], atol=1e-6)

    @pytest.mark.parametrize(
        "keys, message",
        [
            ({"text_tokens": 77}, "model.text_tokens=77, .*context_length=8; set model.text_tok"),
            ({"text_features": 768}, "model.text_features=768, .*width=64; set"),
        ],
    )
    def test_sizes_that_do_not_fit(self, model, ours, keys, message):
        with pytest.raises(ValueError, match=message):
            TextStates(model, ours | keys)

    def test_a_tower_of_other_tokens(self, model, ours):
        text = model["text"] | {"vocab_size": 512}
        with pytest.raises(ValueError, match="512 token ids, fewer than CLIP's"):
            TextStates(model | {"text": text}, ours)

    def test_training(self, text_config, tmp_path, caplog):
        loop.train(OneDevice, text_config, str(tmp_path))
        training = [r["loss"] for r in records(tmp_path) if "loss" in r]
        assert training[-1] < training[0]
        assert (tmp_path / "images" / "drawn_00000003.png").exists()
        assert "captions are longer than model.text_tokens=8 and lose their last" in caplog.text

    def test_stored_features(self, text_config, codes, tmp_path):
        """Files of a tower's own features bring its numbers."""
        written = unitok_jax.open_codes(codes)
        config = text_config
        states = TextStates(tokenizer_config().model.to_dict(), config.model.to_dict())
        params = load.read(config.data.tokenizer)[1]["text_encoder"]
        losses = []
        for source in ("tower", "files"):
            if source == "files":
                for record in written:
                    text = TextTokenizer(LENGTH)(record["captions"][0])
                    found = jax.device_get(jax.jit(states)(params, text))
                    file = tmp_path / f"{record['key']}.npy"
                    file.parent.mkdir(exist_ok=True)
                    np.save(file, found["features"][0][found["valid"][0]])
                config.data.tokenizer, config.data.text_features = "", str(tmp_path)
            run = OneDevice(config)
            kernel = np.random.default_rng(0).normal(0, 1, (64, 64)).astype(np.float32)
            state = run.initial_state()
            for params_of in (state.generator.params, state.ema):
                params_of["head"]["kernel"] = jnp.array(kernel)
            losses.append(run.evaluate(state)[0]["loss_per_codebook"])
        np.testing.assert_allclose(*losses, rtol=1e-5)
        assert list(run.facts)[-1] == "digest of the features"

    def test_pictures_of_stored_features_without_captions(
        self, text_config, tokenizer, tmp_path, monkeypatch
    ):
        config, hash = text_config, unitok_jax.load(tokenizer).hash
        sizes = {"tokenizer": hash, "num_codebooks": 4, "codebook_size": 64}
        config.data.path = str(
            coded.write(tmp_path / "codes", captions=lambda i: (), class_names=None, **sizes)
        )
        config.data.text_features = str(tmp_path)
        for number in range(24):
            np.save(tmp_path / f"{number:04}.png.npy", np.ones((2, 64), np.float32))
        run, titles = OneDevice(config), []
        monkeypatch.setattr(run, "draw", lambda *given: np.zeros((6, 4, 6), np.int32))
        monkeypatch.setattr(
            run_module, "contact_sheet", lambda images, texts, *_: titles.extend(texts)
        )
        run.preview(None)
        assert titles == [f"{number:04}.png" for number in range(6)]

    def test_a_text_is_listened_to(self, text_config, tmp_path):
        """The null prompt stands for an empty text; other texts change the logits."""
        run = OneDevice(text_config)
        pure, params = run.steps, run.initial_state().params
        model = nnx.merge(pure.graph, params)
        text = TextTokenizer(LENGTH)(["red dog", "blue bird", ""])
        batch = pure.with_features(run.frozen, {"text": jnp.asarray(text)})
        prompt = pure.prompt(model, batch)
        null = embed_prompts(model, batch, 0, guided=True)[0][3:]
        np.testing.assert_array_equal(prompt[2], null[2])
        assert (prompt[:2] != null[:2]).any((1, 2)).all()
        codes = jnp.zeros((3, 4, 6), int)
        hidden = model.hidden(codes, prompt, batch["valid"])
        assert abs(hidden[0] - hidden[1]).max() > 1e-3
        # Features that are not valid are not seen.
        other = prompt.at[:, :4].add(1.0)
        np.testing.assert_array_equal(model.hidden(codes, other, batch["valid"])[0], hidden[0])


class TestAnotherTokenizer:
    def test_is_refused(self, config, tmp_path):
        theirs = tokenizer_config()
        params = init_params(theirs.model.to_dict(), jax.random.key(1))
        load.write(tmp_path / "other.safetensors", theirs, params)
        config.data.tokenizer = str(tmp_path / "other.safetensors")
        told = "is tokenizer [0-9a-f]{32}, and the codes of data.path were made by [0-9a-f]{32}"
        with pytest.raises(ValueError, match=told):
            OneDevice(config)

    def test_a_file_that_is_none(self, config, tmp_path):
        (tmp_path / "x.safetensors").write_bytes(b"")
        with pytest.raises(ValueError, match="data.tokenizer=.*x.safetensors is empty"):
            load.read_maker(str(tmp_path / "x.safetensors"), "", "data.path")
        with pytest.raises(FileNotFoundError, match="data.tokenizer=none: none does not exist"):
            load.read_maker("none", "", "data.path")

    def test_a_generator(self, tmp_path, config):
        config.data.tokenizer = ""
        config.steps = 1
        loop.train(OneDevice, config, str(tmp_path / "run"))
        told = "data.tokenizer=.*run.* holds a generator, not a tokenizer"
        with pytest.raises(ValueError, match=told):
            load.read_maker(str(tmp_path / "run"), "", "data.path")
