"""The generator's gradients with a model of a few numbers, against those of the whole loss."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import tiny
from unitok_jax.models.layers import l2_normalize
from unitok_jax.models.unitok import Output
from unitok_jax.tokenizer import losses
from unitok_jax.tokenizer.objective import Objective, split_batch

pytestmark = pytest.mark.slow


class Last(nnx.Module):
    def __init__(self, rngs):
        self.conv2 = nnx.Linear(4, 3, rngs=rngs)


class Decoder(nnx.Module):
    def __init__(self, rngs):
        self.up_conv4 = Last(rngs)

    def to_rgb(self, features, kernel=None):
        last = self.up_conv4.conv2
        return features @ (last.kernel[...] if kernel is None else kernel) + last.bias[...]


class Toy(nnx.Module):
    """What `Objective` needs of a UniTok; noise takes the place of stochastic depth."""

    def __init__(self, rngs):
        self.encoder = nnx.Linear(3, 4, rngs=rngs)
        self.decoder = Decoder(rngs)
        self.text = nnx.Embed(8, 4, rngs=rngs)
        self.logit_scale = nnx.Param(jnp.float32(1.5))
        self.logit_bias = nnx.Param(jnp.float32(-2.0))

    def __call__(self, images, text, keys, entropy, decode_every):
        encoder_key, decoder_key = keys
        latent = self.encoder(images)
        if encoder_key is not None:
            latent += jax.random.normal(encoder_key, latent.shape[1:])
        features = jnp.tanh(latent[::decode_every])
        if decoder_key is not None:
            features += jax.random.normal(decoder_key, features.shape[1:])
        pooled = latent.mean(axis=(1, 2))
        return Output(
            reconstruction=self.decoder.to_rgb(features),
            last_features=features,
            codes=jnp.argmax(pooled, axis=-1)[:, None, None],
            vq_loss=jnp.mean(latent**2),
            entropy_loss=jnp.mean(jnp.abs(latent)),
            image_features=l2_normalize(pooled),
            text_features=l2_normalize(self.text(text).mean(axis=1)),
            logit_scale=jnp.exp(self.logit_scale[...]),
            logit_bias=self.logit_bias[...],
        )


GRAPH = nnx.graphdef(nnx.eval_shape(lambda: Toy(nnx.Rngs(0))))
PARAMS = nnx.to_pure_dict(nnx.state(Toy(nnx.Rngs(0))))
KEYS = jax.random.split(jax.random.key(0))


class Schedule(NamedTuple):
    weight: float


class Adversary:
    """A loss that is far from that of the pixels."""

    adaptive_limits = (0.0, 1e4)

    @staticmethod
    def generator_loss(heads, dinov2, images, schedule, key):
        return jnp.mean(jnp.sin(3 * images) * heads)


def make(accumulation=1, decode_every=1, adversary=None, kind="softmax"):
    config = tiny.get_config()
    config.loss.contrastive_kind = kind
    config.loss.update(l1=0.2, l2=1.0, perceptual=0.0, vq=0.7, entropy=0.3, contrastive=0.9)
    counts = dict(accumulation=accumulation, decode_every=decode_every)
    return Objective(config.loss, GRAPH, adversary, **counts, remat=False)


def batch(size=4):
    rng = np.random.default_rng(0)
    return {
        "image": rng.uniform(-1, 1, (size, 4, 4, 3)).astype(np.float32),
        "text": rng.integers(0, 8, (size, 5)).astype(np.int32),
    }


def gradients(
    objective, data, accumulation=1, trainable=PARAMS, fixed=None, schedule=None, keys=KEYS
):
    data = {key: split_batch(x, accumulation) for key, x in data.items()}
    heads, frozen = 2.0, {"dinov2": None}
    return objective.gradients(trainable, fixed or {}, heads, frozen, data, schedule, keys)


def split_params(*names):
    fixed = {name: PARAMS[name] for name in names}
    return {name: value for name, value in PARAMS.items() if name not in names}, fixed


def close(one, other):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)


class Still(Toy):
    """Without noise, so that micro-batches can be compared with the whole."""

    def __call__(self, images, text, keys, entropy, decode_every):
        return super().__call__(images, text, (None, None), entropy, decode_every)


@pytest.fixture
def still(monkeypatch):
    graph = nnx.graphdef(nnx.eval_shape(lambda: Still(nnx.Rngs(0))))
    monkeypatch.setitem(globals(), "GRAPH", graph)


def total(params, data, gan_weight=0.0, decode_every=1, kind="softmax"):
    """The whole loss in one formula."""
    output = Still.__call__(nnx.merge(GRAPH, params), **arguments(data, decode_every))
    images = data["image"][::decode_every]
    features = output.image_features, output.text_features, output.logit_scale
    contrastive = losses.contrastive_loss(*features)
    if kind == "sigmoid":
        logits = features[2] * features[0] @ features[1].T + output.logit_bias
        signs = 2 * jnp.eye(len(logits)) - 1
        contrastive = -jax.nn.log_sigmoid(signs * logits).sum() / len(logits)
    pixels = 0.2 * losses.l1_loss(output.reconstruction, images)
    pixels += losses.l2_loss(output.reconstruction, images)
    gan = Adversary.generator_loss(2.0, None, output.reconstruction, None, None)
    rest = 0.7 * output.vq_loss + 0.3 * output.entropy_loss + 0.9 * contrastive
    return pixels + rest + gan_weight * gan


def arguments(data, decode_every):
    return dict(
        images=data["image"],
        text=data["text"],
        keys=(None, None),
        entropy=True,
        decode_every=decode_every,
    )


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_gradients_are_those_of_the_whole_loss(still, accumulation, kind):
    objective = make(accumulation, kind=kind)
    grads, codes, rebuilt, metrics = gradients(objective, batch(), accumulation)
    close(grads, jax.grad(total)(PARAMS, batch(), kind=kind))
    expected = float(total(PARAMS, batch(), kind=kind))
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)
    assert ("logit_bias" in metrics) == (kind == "sigmoid") == bool(grads["logit_bias"])
    whole = nnx.merge(GRAPH, PARAMS)(**arguments(batch(), 1))
    np.testing.assert_array_equal(codes, whole.codes)
    np.testing.assert_allclose(rebuilt, split_batch(whole.reconstruction, accumulation), rtol=1e-5)


def test_every_second_image_alone_is_compared(still):
    grads, _, rebuilt, _ = gradients(make(decode_every=2), batch())
    close(grads, jax.grad(total)(PARAMS, batch(), decode_every=2))
    assert rebuilt.shape == (1, 2, 4, 4, 3)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_the_adversarial_loss_has_its_adaptive_weight(still, accumulation):
    """The ratio of both gradients at the decoder's last kernel, times the ramp."""
    data, objective = batch(), make(accumulation, adversary=Adversary())
    grads, _, _, metrics = gradients(objective, data, accumulation, schedule=Schedule(0.4))

    def at_kernel(kernel, loss):
        model = nnx.merge(GRAPH, PARAMS)
        features = model(**arguments(data, 1)).last_features
        return loss(model.decoder.to_rgb(features, kernel), data["image"])

    kernel = PARAMS["decoder"]["up_conv4"]["conv2"]["kernel"]
    norms = [
        np.linalg.norm(jax.grad(at_kernel)(kernel, loss))
        for loss in (
            lambda x, y: 0.2 * losses.l1_loss(x, y) + losses.l2_loss(x, y),
            lambda x, y: Adversary.generator_loss(2.0, None, x, None, None),
        )
    ]
    weight = 0.4 * norms[0] / norms[1]
    assert float(metrics["gan/weight"]) == pytest.approx(weight, rel=1e-4)
    close(grads, jax.grad(total)(PARAMS, data, gan_weight=weight))
    expected = float(total(PARAMS, data, gan_weight=weight))
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-4)


class TestStochasticDepth:
    def images(self, frozen, keys, accumulation=1):
        """(codes, reconstructions) of equal images."""
        data = {key: np.repeat(x[:1], 4, axis=0) for key, x in batch().items()}
        trainable, fixed = split_params(*frozen)
        objective = make(accumulation)
        _, codes, rebuilt, _ = gradients(
            objective, data, accumulation, trainable, fixed, None, keys
        )
        return np.asarray(codes), np.asarray(rebuilt)

    @pytest.mark.parametrize("frozen", ["encoder", "decoder"])
    def test_each_tower_that_is_trained_has_it(self, frozen):
        other = jax.random.split(jax.random.key(1))
        one, two = (self.images([frozen], keys)[1] for keys in (KEYS, other))
        assert np.abs(one - two).max() > 0.1
        np.testing.assert_array_equal(one, self.images([frozen], KEYS)[1])

    def test_a_tower_that_is_frozen_has_none(self):
        other = jax.random.split(jax.random.key(1))
        both = [self.images(["encoder", "decoder"], keys)[1] for keys in (KEYS, other)]
        np.testing.assert_array_equal(*both)

    def test_the_towers_draw_apart(self):
        """Noise of one key in both towers would be the same noise."""
        noise = []
        for frozen in ("encoder", "decoder"):
            _, rebuilt = self.images([frozen], KEYS)
            noise.append(rebuilt[0, 0] - self.images(["encoder", "decoder"], KEYS)[1][0, 0])
        assert abs(np.corrcoef(*(x.ravel() for x in noise))[0, 1]) < 0.9

    def test_every_micro_batch_draws_for_itself(self):
        _, rebuilt = self.images([], KEYS, accumulation=2)
        assert np.abs(rebuilt[0] - rebuilt[1]).max() > 0.1
        np.testing.assert_allclose(rebuilt[0, 0], rebuilt[0, 1], atol=1e-6)
