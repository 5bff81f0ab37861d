"""SigLIP's loss: the formula, any mesh, memory, and the parameters that only it has."""

import functools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import unitok_jax
from configs import tiny
from unitok_jax import trees
from unitok_jax.checkpoints import differences
from unitok_jax.checkpoints.reader import weights_hash
from unitok_jax.models.unitok import LOGITS, abstract_model
from unitok_jax.runtime import sharding
from unitok_jax.system.foreign_files import ConversionError
from unitok_jax.tokenizer.losses import CHUNK, CONTRASTIVE, sigmoid_loss
from unitok_jax.tokenizer.run import Run
from unitok_jax.tokenizer.step import TokenizerSteps
from unitok_jax.training import loop, optim
from unitok_jax.weights import hub, initialize, torch_options

SCALE, BIAS = 7.0, -3.0


def features(size, width=16, seed=0):
    """Unit vectors of images, and of texts near them."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(size, width))
    text = image + rng.normal(size=(size, width))
    return [
        (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32) for x in (image, text)
    ]


def formula(image, text, scale, bias):
    """The loss and its four gradients in float64, pair by pair."""
    image, text = image.astype(np.float64), text.astype(np.float64)
    size, total = len(image), 0.0
    slopes = np.zeros((size, size))
    for i in range(size):
        for j in range(size):
            label = 1 if i == j else -1
            logit = scale * image[i] @ text[j] + bias
            total += np.log1p(np.exp(-label * logit))
            slopes[i, j] = -label / (1 + np.exp(label * logit))
    slopes /= size
    products = image @ text.T
    grads = scale * slopes @ text, scale * slopes.T @ image, (slopes * products).sum()
    return total / size, (*grads, slopes.sum())


def value_and_grads(chunk):
    return jax.value_and_grad(functools.partial(sigmoid_loss, chunk=chunk), argnums=(0, 1, 2, 3))


def close(found, expected):
    (value, grads), (wanted, slopes) = found, expected
    assert float(value) == pytest.approx(wanted, rel=1e-6)
    for ours, theirs in zip(grads, slopes, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "size, chunk", [(1, 4), (8, 8), (8, 100), (12, 4), (10, 4), (7, 3), (5, 1)]
)
def test_the_formula_for_chunks_of_any_size(size, chunk):
    """Chunks that fill the batch, and such as are padded."""
    image, text = features(size)
    found = value_and_grads(chunk)(image, text, jnp.float32(SCALE), jnp.float32(BIAS))
    close(found, formula(image, text, SCALE, BIAS))


def test_the_order_of_pairs_plays_no_part():
    image, text = features(12)
    order = np.random.default_rng(1).permutation(12)
    one = sigmoid_loss(image, text, SCALE, BIAS, 5)
    two = sigmoid_loss(image[order], text[order], SCALE, BIAS, 5)
    assert float(one) == pytest.approx(float(two), rel=1e-6)
    assert float(sigmoid_loss(image, text[order], SCALE, BIAS, 5)) > float(one) + 0.1


@pytest.mark.parametrize("axes", [(8, 1), (2, 4), (1, 8)])
@pytest.mark.parametrize("chunk", [8, 24, 10])
def test_any_mesh(axes, chunk):
    """`data` and `fsdp` share the batch; chunks of less than a row a device, and padded ones."""
    image, text = features(48)
    mesh = sharding.make_mesh(*axes)
    split, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    program = jax.jit(value_and_grads(chunk), in_shardings=(split, split, whole, whole))
    scalars = np.float32(SCALE), np.float32(BIAS)
    close(jax.device_get(program(image, text, *scalars)), formula(image, text, SCALE, BIAS))


def test_float32_of_full_precision():
    text = str(jax.make_jaxpr(sigmoid_loss)(*features(4), SCALE, BIAS))
    assert text.count("dot_general") == text.count("precision=(Precision.HIGHEST") >= 1


def test_memory_is_that_of_a_chunk():
    """Forward and backward keep no array of all pairs, on a device or before the compiler."""
    size, chunk, devices = 4096, 256, 8
    mesh = sharding.make_mesh(devices, 1)
    rows = jax.ShapeDtypeStruct((size, 64), jnp.float32, sharding=sharding.batch_sharding(mesh))
    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    compiled = jax.jit(value_and_grads(chunk)).lower(rows, rows, scalar, scalar).compile()
    largest = max(
        int(np.prod([int(side) for side in shape.split(",")]))
        for shape in re.findall(r"f32\[([\d,]+)\]", compiled.as_text())
    )
    assert largest <= size * 64  # the texts; all pairs of a device are 8 times that
    pairs = 4 * size * size // devices
    assert compiled.memory_analysis().temp_size_in_bytes < pairs / 3
    assert CHUNK == 1024  # of 16 384 pairs on 64 devices: 1 MiB of logits


def configuration(kind):
    config = tiny.get_config()
    config.model.size, config.model.quant_heads = "nano", 2
    config.loss.contrastive_kind = kind
    return config


def parameters(kind):
    return trees.flatten(abstract_model(configuration(kind).model.to_dict())[1])


def test_only_it_has_a_bias():
    assert parameters("sigmoid").keys() - parameters("softmax").keys() == {"logit_bias"}
    assert parameters("softmax").keys() < parameters("sigmoid").keys()


def test_models_and_losses_know_the_same_kinds():
    """A loss takes the bias of the models that have one."""
    assert CONTRASTIVE.keys() == LOGITS.keys()
    for kind, term in CONTRASTIVE.items():
        assert ("logit_bias" in term.outputs) == ("logit_bias" in parameters(kind))


def test_it_begins_as_the_paper_says_and_its_scalars_do_not_decay():
    params = TokenizerSteps(configuration("sigmoid")).init().generator.params
    assert float(params["logit_scale"]) == pytest.approx(np.log(10))
    assert float(params["logit_bias"]) == -10
    mask = optim.decay_mask(params)
    assert not mask["logit_scale"] and not mask["logit_bias"]


class TestOlderModels:
    """Of before the key, which are softmax."""

    def test_keep_their_hash(self):
        model, params = configuration("softmax").model.to_dict(), {"x": np.ones(3, np.float32)}
        old = {key: value for key, value in model.items() if key != "contrastive_kind"}
        assert weights_hash(model, params) == weights_hash(old, params)
        model["contrastive_kind"] = "sigmoid"
        assert weights_hash(model, params) != weights_hash(old, params)

    @pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
    def test_resume_as_what_they_are(self, kind):
        now = configuration(kind).to_dict()
        saved = configuration("softmax").to_dict()
        del saved["model"]["contrastive_kind"], saved["loss"]["contrastive_kind"]
        found = differences.config_differences(saved, now)
        told = ["model.contrastive_kind: saved None, now 'sigmoid'"] if kind == "sigmoid" else []
        assert found == told
        found = initialize.training_differences(saved, now)
        told = ["model.contrastive_kind: saved 'softmax', now 'sigmoid'"] if told else []
        assert found == told


def test_the_public_layout_has_no_place_for_it():
    config = configuration("sigmoid")
    config.model.quant_heads = 64 // config.model.latent_width
    with pytest.raises(ConversionError, match="contrastive_kind='sigmoid': the public layout has"):
        torch_options.from_config(config)


@pytest.mark.slow
@pytest.mark.thorough
def test_a_run_trains_saves_and_writes_it(tmp_path):
    config = configuration("sigmoid")
    config.steps = config.log.every = 1
    config.optim.warmup_fraction = 0.0
    config.data.image_size, config.data.batch_size, config.data.num_threads = (32, 32), 8, 1
    config.eval.batch_size = config.eval.max_images = 8
    config.log.tensorboard = False
    loop.train(functools.partial(Run, devices=jax.devices()[:4]), config, str(tmp_path / "run"))
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    record = next(r for r in map(json.loads, lines) if "loss" in r)
    # Eight pairs of which each logit is near -10: a pair's own text costs 10, another's nothing.
    assert record["loss/contrastive"] == pytest.approx(10, abs=6) and record["skipped"] == 0
    assert record["logit_scale"] == pytest.approx(10) and record["logit_bias"] == -10
    tokenizer = unitok_jax.load(tmp_path / "run")
    rate = config.optim.learning_rate
    assert abs(float(tokenizer.params["logit_bias"]) + 10) == pytest.approx(rate, rel=1e-2)
    hub.write(tmp_path / "hub", tokenizer.config, tokenizer.params)
    assert json.loads((tmp_path / "hub" / "config.json").read_text())["layout"] == "unitok_jax"
    assert unitok_jax.load(tmp_path / "hub").hash == tokenizer.hash
    # Another kind may start from it: all but the bias is of the same meaning.
    model = configuration("softmax").model.to_dict()
    taken, _ = initialize.match(tmp_path / "run", abstract_model(model)[1], model=model)
    assert taken.keys() == parameters("softmax").keys()
