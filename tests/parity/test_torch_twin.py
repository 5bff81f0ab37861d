"""The PyTorch twin of the tokenizer gives the reference's numbers, and loads nothing by half."""

import numpy as np
import pytest

from helpers import parity

torch = pytest.importorskip("torch")

from benchmarks.torch_unitok import UniTok  # noqa: E402  (it imports torch)

pytestmark = pytest.mark.slow

NAMES = ("tiny", "tiny_linear")
CLEAR_MARGIN = 1e-4  # two codebook rows closer than this in cosine may swap
TOLERANCE = 1e-4  # of the reference's standard deviation, or of a scalar itself


def build(name: str) -> UniTok:
    """The twin of ``name`` with the seeded reference weights."""
    model = UniTok(**parity.manifest(name)["config"])
    # ``torch.tensor`` copies: the arrays of ``parity`` are read-only and shared.
    model.load_state_dict({key: torch.tensor(value) for key, value in parity.state(name).items()})
    return model


@pytest.fixture(scope="module", params=NAMES)
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(name) -> UniTok:
    return build(name)


@pytest.fixture(scope="module")
def inputs(name) -> tuple:
    """Images [4, 3, 64, 64] and token ids [4, 16]."""
    config = parity.manifest(name)["config"]
    batch = parity.load(name)["encoder_tokens"].shape[0]
    images = parity.weights.reference_images(batch, config["img_size"], parity.SEED)
    text = parity.weights.reference_text(
        batch, config["text_context_length"], config["text_vocab_size"], parity.SEED
    )
    return torch.tensor(images.transpose(0, 3, 1, 2)), torch.tensor(text.astype(np.int64))


@pytest.fixture(scope="module")
def results(model, inputs) -> dict[str, np.ndarray]:
    """Every result of the twin, images as NHWC."""
    images, text = inputs
    arrays = {key: value.numpy() for key, value in model(images, text).items()}
    arrays["reconstruction"] = arrays["reconstruction"].transpose(0, 2, 3, 1)
    return arrays


@pytest.mark.parametrize("config_name", ["tiny", "tiny_linear", "base"])
def test_names_and_shapes_are_the_reference_s(config_name):
    manifest = parity.manifest(config_name)
    with torch.device("meta"):
        model = UniTok(**manifest["config"])
    state = {key: list(value.shape) for key, value in model.state_dict().items()}
    assert state == manifest["state"]


@pytest.mark.parametrize(
    "key",
    [
        "encoder_tokens",
        "quant_proj",
        "quantized",
        "post_quant_proj",
        "reconstruction",
        "vq_loss",
        "clip_image_features",
        "clip_text_features",
        "logit_scale",
    ],
)
def test_tensor_equals_the_reference(name, results, key):
    expected = parity.load(name)[key]
    assert results[key].shape == expected.shape
    scale = np.std(expected) if expected.ndim else np.abs(expected)
    np.testing.assert_allclose(results[key], expected, rtol=0, atol=TOLERANCE * scale)


def test_codes_equal_the_reference(name, results):
    golden = parity.load(name)
    clear = golden["code_margin"] > CLEAR_MARGIN
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(results["codes"][clear], golden["codes"][clear])


def test_codes_and_images_through_the_public_calls(model, inputs, results):
    images, text = inputs
    codes = model.img_to_idx(images)
    np.testing.assert_array_equal(codes.numpy(), results["codes"])
    decoded = model.idx_to_img(codes).numpy().transpose(0, 2, 3, 1)
    np.testing.assert_allclose(decoded, results["reconstruction"].clip(-1, 1), rtol=0, atol=1e-5)
    assert np.abs(results["reconstruction"]).max() > 1  # or the clip above was never tested
    features = model.encode_image(images).numpy()
    np.testing.assert_allclose(features, results["clip_image_features"], rtol=0, atol=1e-6)
    features = model.encode_text(text).numpy()
    np.testing.assert_allclose(features, results["clip_text_features"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("key", ["encoder.pos_embed", "quantizer.codebooks.0.codebook.weight"])
def test_a_missing_entry_is_refused(model, name, key):
    state = {k: torch.tensor(v) for k, v in parity.state(name).items() if k != key}
    with pytest.raises(RuntimeError, match=key):
        model.load_state_dict(state)


def test_unknown_options_are_refused():
    config = parity.manifest("tiny")["config"]
    with pytest.raises(ValueError, match="quant_proj='mlp'"):
        UniTok(**{**config, "quant_proj": "mlp"})
    with pytest.raises(ValueError, match="num_query=4"):
        UniTok(**{**config, "num_query": 4})
    with pytest.raises(ValueError, match="num_codebooks=5"):
        UniTok(**{**config, "num_codebooks": 5})
    with pytest.raises(KeyError, match="vitamin_huge"):
        UniTok(**{**config, "model": "vitamin_huge"})
