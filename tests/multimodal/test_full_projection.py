"""The probe of a tokenizer's features: its own tokens enter, whole images alone, and none leave."""

import functools
import types

import jax
import numpy as np
import pytest
from flax import nnx

from configs import multimodal, tiny
from helpers import multimodals
from unitok_jax.data.images.padding import GREY, MEAN, pad_and_resize
from unitok_jax.models.layers import Keys
from unitok_jax.models.unitok import UniTok
from unitok_jax.multimodal import run
from unitok_jax.multimodal.api import MultimodalModel
from unitok_jax.multimodal.config_checks import check
from unitok_jax.multimodal.loading import Form, Weights
from unitok_jax.multimodal.model import Connector, ImageInput

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tokenizer():
    """A nano tokenizer with random weights, as a module."""
    model = tiny.get_config().model
    model.size = "nano"
    return noisy(UniTok(**model.to_dict(), rngs=Keys(0)))


@pytest.fixture(scope="module")
def causal():
    """The same with `model.quant_causal`."""
    model = tiny.get_config().model
    model.size, model.quant_causal = "nano", True
    return noisy(UniTok(**model.to_dict(), rngs=Keys(0)))


def noisy(module):
    """Adds noise to all parameters, by which none is too small to be noticed."""
    rng = np.random.default_rng(0)
    state = nnx.to_pure_dict(nnx.state(module, nnx.Param))
    noise = jax.tree.map(lambda a: a + 0.1 * rng.normal(size=a.shape).astype(np.float32), state)
    nnx.update(module, noise)
    return module


def image_input(tokenizer, projection):
    """What embeds codes, with the tokenizer's codebooks and projection."""
    books, entries, width = tokenizer.quantizer.codebook[...].shape
    features = tokenizer.post_quant_proj
    made = ImageInput(
        num_codebooks=books,
        vocab_size=books * entries,
        latent_width=books * width,
        projection=projection,
        projection_width=features.attn.outputs,
        projection_heads=features.attn.heads,
        width=24,
        dtype=jax.numpy.float32,
        rngs=Keys(1),
    )
    noisy(made.mlp)
    nnx.update(made.quantizer, nnx.state(tokenizer.quantizer))
    nnx.update(made.projection, nnx.state(features))
    return made


def test_the_tokenizers_own_features_enter(tokenizer):
    """Its tokens with full attention, then LLaVA's MLP without a norm."""
    made = image_input(tokenizer, "full")
    codes = np.random.default_rng(0).integers(0, 64, (2, 4, 6)).astype(np.int32)
    features = tokenizer.tokens(codes)
    mlp = made.mlp
    expected = jax.nn.gelu(features @ mlp.fc1.kernel[...] + mlp.fc1.bias[...], approximate=False)
    expected = expected @ mlp.fc2.kernel[...] + mlp.fc2.bias[...]
    np.testing.assert_allclose(made(codes), expected, atol=1e-4)
    assert mlp.norm is None and np.abs(np.asarray(expected)).std() > 0.1


@pytest.mark.parametrize("projection, sees", [("full", True), ("causal", False)])
def test_tokens_see_those_behind_them(tokenizer, projection, sees):
    made = image_input(tokenizer, projection)
    codes = np.zeros((1, 4, 6), np.int32)
    other = codes.copy()
    other[..., -1] = 1
    first = [np.asarray(made.projection(made.quantized(each)))[0, 0] for each in (codes, other)]
    assert (np.abs(first[0] - first[1]).max() > 1e-7) == sees


class TestCausalTokenizer:
    """One that was trained with `model.quant_causal`, whose tokens can be drawn in turn."""

    CODES = np.random.default_rng(0).integers(0, 64, (2, 4, 6)).astype(np.int32)

    def test_its_features_are_those_of_a_causal_projection(self, causal, tokenizer):
        """And those of a tokenizer with a full one are not, with the very same weights."""
        tokens = image_input(causal, "causal")
        features = tokens.projection(tokens.quantized(self.CODES))
        np.testing.assert_array_equal(features, causal.tokens(self.CODES))
        assert np.abs(np.asarray(features - tokenizer.tokens(self.CODES))).max() > 1e-3

    def test_tokens_drawn_in_turn_are_those_of_the_whole_image(self, causal):
        made, whole = image_input(causal, "causal"), causal.tokens(self.CODES)
        past, found = made.empty(2, 6), []
        for at in range(6):
            quantized = made.quantized(self.CODES[..., at : at + 1])
            token, past = made.projection.extend(quantized, past, at)
            found.append(token)
        np.testing.assert_allclose(np.concatenate(found, axis=1), whole, atol=1e-5)

    def test_only_the_tokens_behind_the_quantizer_are_masked(self, causal, tokenizer):
        """The codes are those of the same weights without the mask."""
        width = causal.quant_proj.norm1.scale[...].size
        latent = np.random.default_rng(1).normal(size=(1, 4, width)).astype(np.float32)
        np.testing.assert_array_equal(causal.quant_proj(latent), tokenizer.quant_proj(latent))

    def test_a_full_projection_is_not_its_own(self, monkeypatch):
        theirs = tiny.get_config()
        theirs.model.quant_causal = True
        monkeypatch.setattr(run.load, "read_maker", lambda *_: (theirs, {}))
        config = multimodal.get_config()
        config.model.projection, config.data.tokenizer = "full", "a"
        began = types.SimpleNamespace(config=config, _codes=types.SimpleNamespace(tokenizer=""))
        with pytest.raises(ValueError, match="data.tokenizer=a is causal: set model.projection=c"):
            run.Run._of_the_tokenizer(began)


def test_whole_images_alone(tokenizer):
    made = image_input(tokenizer, "full")
    with pytest.raises(ValueError, match="whole images alone"):
        made.extend(np.zeros((1, 4, 1), np.int32), None, 0)


@pytest.fixture(scope="module")
def mm():
    """A probe of random weights on the words of shapes."""
    found = multimodals.saved(None)
    model = multimodals.model_keys(vocabulary=found.text.rows, projection="full", head_depth=0)
    weights = Weights(
        type(found.config)({"model": model}), multimodals.parameters(model), None, found.text,
        Form("plain", True),
    )  # fmt: skip
    return MultimodalModel(weights, None, 2, jax.devices()[:1])


def test_it_answers_and_draws_nothing(mm):
    codes = np.random.default_rng(0).integers(0, 8, (2, 2, 6)).astype(np.int32)
    ask = functools.partial(mm.answers, questions=["what colour is the circle ?"] * 2, limit=4)
    assert ask(list(codes)) != ask(list(codes[:1]) * 2)
    for call in (
        lambda: mm.draw("a red circle"),
        lambda: mm.check_texts(["a red circle"]),
        lambda: mm.edit(codes[0], "make it red"),
    ):
        with pytest.raises(ValueError, match="model.projection=full.*draws nothing"):
            call()


def test_pictures_are_padded_with_grey(mm, monkeypatch):
    picture = np.random.default_rng(0).integers(0, 256, (20, 60, 3), np.uint8)
    seen = []

    class Tokenizer:
        batch_size = 2

        def encode(self, images):
            seen.append(images)
            return np.zeros((len(images), 2, 6), np.int32)

    monkeypatch.setattr(mm, "tokenizer", Tokenizer())
    mm.encode([picture])
    np.testing.assert_array_equal(seen[0][0], pad_and_resize(picture, (32, 48), GREY))
    assert (seen[0][0][0] == 127).all()
    assert (seen[0][0] != pad_and_resize(picture, (32, 48), MEAN)).any()


@pytest.mark.parametrize("key, kind", [("data", "draw"), ("eval", "edit")])
def test_data_that_draw_are_refused(key, kind):
    from configs import llava_probe

    config = llava_probe.get_config("align")
    check(config)
    config[key].mixture = ((1.0, "chat", "a.json", "codes"), (1.0, kind, "codes"))
    with pytest.raises(
        ValueError, match=f"{key}.mixture has a part '{kind}', and model.projection"
    ):
        check(config)


def test_the_norm_of_the_published_mlp_stays():
    made = Connector(8, 4, normed=True, dtype=jax.numpy.float32, rngs=Keys(0))
    x = np.random.default_rng(0).normal(size=(1, 2, 8)).astype(np.float32)
    np.testing.assert_allclose(made(x), made(3 * x + 1), atol=1e-5)
