"""The generator's gradients with a model of a few numbers, against those of the whole loss."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import recipes, tiny
from unitok_jax.models.layers import l2_normalize
from unitok_jax.models.pretrained.lpips import Lpips
from unitok_jax.models.quantizers.base import PLAIN, Learning
from unitok_jax.models.quantizers.wrong_codes import Wrong
from unitok_jax.models.unitok import Output
from unitok_jax.tokenizer import losses
from unitok_jax.tokenizer.objective import Objective, split_batch
from unitok_jax.tokenizer.teaching import HEADS

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

    def __call__(self, images, text, keys, entropy, decode_every, learning=PLAIN):
        encoder_key, decoder_key = keys
        latent = self.encoder(images)
        if encoder_key is not None:
            latent += jax.random.normal(encoder_key, latent.shape[1:])
        if learning.wrong is not None:
            noise = jax.random.normal(learning.wrong.key, latent.shape[1:])
            latent += learning.wrong.share * noise
        features = jnp.tanh(latent[::decode_every])
        if decoder_key is not None:
            features += jax.random.normal(decoder_key, features.shape[1:])
        pooled = latent.mean(axis=(1, 2))
        return Output(
            reconstruction=self.decoder.to_rgb(features),
            last_features=features,
            tokens=latent.reshape(len(latent), -1, 4),
            codes=jnp.argmax(pooled, axis=-1)[:, None, None],
            vq_loss=jnp.mean(latent**2),
            entropy_loss=jnp.mean(jnp.abs(latent)),
            image_features=l2_normalize(pooled),
            text_features=l2_normalize(self.text(text).mean(axis=1)),
            logit_scale=jnp.exp(self.logit_scale[...]),
            quantized=pooled[:, None, None],
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


class Teaching:
    """A teacher's loss of tokens whose heads are one matrix."""

    temperature = 2.0

    @staticmethod
    def token_loss(heads, tokens, batch):
        return losses.token_loss(tokens @ heads, batch["teacher_deep"])


def make(
    accumulation=1,
    decode_every=1,
    adversary=None,
    teaching=None,
    learning=PLAIN,
    kind="softmax",
    **weights,
):
    config = tiny.get_config()
    config.loss.contrastive_kind = kind
    config.loss.update(l1=0.2, l2=1.0, perceptual=0.0, vq=0.7, entropy=0.3, contrastive=0.9)
    config.loss.update(**weights)
    counts = dict(accumulation=accumulation, decode_every=decode_every)
    counts |= dict(remat="none", learning=learning)
    return Objective(config.loss, GRAPH, adversary, teaching, **counts)


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

    def __call__(self, images, text, keys, entropy, decode_every, learning=PLAIN):
        return super().__call__(images, text, (None, None), entropy, decode_every, learning)


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
    grads, (codes, inputs), rebuilt, metrics = gradients(objective, batch(), accumulation)
    close(grads, jax.grad(total)(PARAMS, batch(), kind=kind))
    expected = float(total(PARAMS, batch(), kind=kind))
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)
    assert ("logit_bias" in metrics) == (kind == "sigmoid") == bool(grads["logit_bias"])
    whole = nnx.merge(GRAPH, PARAMS)(**arguments(batch(), 1))
    np.testing.assert_array_equal(codes, whole.codes)
    assert inputs is None
    np.testing.assert_allclose(rebuilt, split_batch(whole.reconstruction, accumulation), rtol=1e-5)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_moving_means_get_what_each_code_was_chosen_for(still, accumulation):
    objective = make(accumulation, learning=Learning(means=True))
    _, (codes, inputs), *_ = gradients(objective, batch(), accumulation)
    whole = nnx.merge(GRAPH, PARAMS)(**arguments(batch(), 1))
    np.testing.assert_allclose(inputs, whole.quantized, rtol=1e-6)
    np.testing.assert_array_equal(codes, whole.codes)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_wrong_codes_are_drawn_by_a_key_of_their_own(still, accumulation):
    """By that of the step and the micro-batch, which is none of stochastic depth's."""

    def loss(share, keys=KEYS):
        objective, data = make(accumulation), batch()
        data = {key: split_batch(x, accumulation) for key, x in data.items()}
        args = PARAMS, {}, None, {}, data, None, keys
        return float(objective.gradients(*args, wrong_share=share)[3]["loss"])

    assert loss(0.0) == loss(None) and loss(0.5) == loss(0.5)
    other = loss(0.5, jax.random.split(jax.random.key(1)))
    assert len({loss(0.0), loss(0.5), other}) == 3
    model = nnx.merge(GRAPH, PARAMS)
    (key, *_) = jax.random.split(KEYS[0], accumulation)
    used = [*jax.random.split(key), jax.random.fold_in(key, 2)]
    assert len({tuple(jax.random.key_data(each).tolist()) for each in used}) == 3
    if accumulation == 1:
        wrong = Wrong(used[2], 0.5, 0)
        output = model(**arguments(batch(), 1), learning=Learning(wrong=wrong))
        found = make().gradients(
            PARAMS, {}, None, {}, {k: x[None] for k, x in batch().items()}, None, KEYS, 0.5
        )
        np.testing.assert_allclose(found[2][0], output.reconstruction, rtol=1e-5)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_teachers_tokens_and_relations_are_learned(still, accumulation):
    """Heads and model get the gradients of the whole loss, and what the teacher says none."""
    rng = np.random.default_rng(1)
    targets = {
        f"teacher_{name}": rng.standard_normal(size).astype(np.float32)
        for name, size in {"deep": (4, 16, 5), "image": (4, 3), "text": (4, 3)}.items()
    }
    data, heads = batch() | targets, rng.standard_normal((4, 5)).astype(np.float32)

    def taught(learned):
        params = {name: value for name, value in learned.items() if name != HEADS}
        output = Still.__call__(nnx.merge(GRAPH, params), **arguments(data, 1))
        token = losses.token_loss(output.tokens @ learned[HEADS], data["teacher_deep"])
        relation = losses.relation_loss(
            *(output.image_features, output.text_features, output.logit_scale),
            *(data["teacher_image"], data["teacher_text"]),
            temperature=2.0,
        )
        return total(params, data) + 0.8 * token + 0.6 * relation

    objective = make(accumulation, 1, None, Teaching(), teacher_token=0.8, teacher_relation=0.6)
    learned = PARAMS | {HEADS: heads}
    grads, _, _, metrics = gradients(objective, data, accumulation, learned)
    close(grads, jax.grad(taught)(learned))
    assert float(metrics["loss"]) == pytest.approx(float(taught(learned)), rel=1e-5)


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


class Constant(Adversary):
    """An adversary whose weight is that of the schedule, with a logit for every value."""

    adaptive_limits = None

    @staticmethod
    def generator_loss(heads, dinov2, images, schedule, key):
        kind = recipes.get_config("gan_constant").gan.generator_loss
        return losses.generator_loss(kind, jnp.sin(3 * images) * heads)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_constant_weight_is_the_weight(still, accumulation):
    """Of the recipe `gan_constant`, against its formula in NumPy; no gradient is compared."""
    weight, data = np.float32(recipes.get_config("gan_constant").gan.weight), batch()
    objective = make(accumulation, adversary=Constant())
    grads, _, rebuilt, metrics = gradients(
        objective, data, accumulation, schedule=Schedule(jnp.float32(weight))
    )
    logits = 2 * np.sin(3 * np.asarray(rebuilt, np.float64))
    adversarial = np.mean(np.log(1 + np.exp(-logits)))
    assert float(metrics["loss/gan"]) == pytest.approx(adversarial, rel=1e-5)
    assert metrics["gan/weight"] == weight == np.float32(0.1)
    expected = float(total(PARAMS, data)) + 0.1 * adversarial
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)

    def whole(params):
        rebuilt = nnx.merge(GRAPH, params)(**arguments(data, 1)).reconstruction
        return total(params, data) + 0.1 * jnp.mean(jax.nn.softplus(-2 * jnp.sin(3 * rebuilt)))

    close(grads, jax.grad(whole)(PARAMS))


class Network(Lpips):
    """LPIPS with features of a product and a pool, and a count of how often they are asked for."""

    asked = 0

    def __init__(self, *, dtype, rngs, remat="none"):
        self.kernel = nnx.Param(jax.random.normal(jax.random.key(3), (3, 5)))
        self.heads = nnx.List([nnx.Param(jnp.full((5, 1), 0.2)) for _ in range(2)])
        self.remat = remat

    def features(self, images):
        Network.asked += 1
        first = jax.nn.relu(images @ self.kernel[...])
        return [first, first[:, ::2, ::2]]


def test_the_losses_of_the_recipe_without_a_discriminator(still, monkeypatch):
    """Of the recipe `gram`, against their formulas in NumPy."""
    monkeypatch.setattr("unitok_jax.tokenizer.objective.Lpips", Network)
    config, data = recipes.get_config("gram"), batch()
    counts = dict(accumulation=1, decode_every=1)
    objective = Objective(config.loss, GRAPH, None, **counts, remat="none")
    kernel = np.asarray(Network(dtype=None, rngs=None).kernel[...], np.float64)
    frozen = {"lpips": nnx.to_pure_dict(nnx.state(Network(dtype=None, rngs=None)))}
    Network.asked = 0
    batches = {key: x[None] for key, x in data.items()}
    grads, _, rebuilt, metrics = objective.gradients(PARAMS, {}, None, frozen, batches, None, KEYS)
    assert Network.asked == 2  # once for each side, for both losses

    rebuilt, images = np.asarray(rebuilt[0], np.float64), data["image"].astype(np.float64)
    gram = lpips = 0.0
    for stride in (1, 2):
        x, y = (np.maximum(z[:, ::stride, ::stride] @ kernel, 0) for z in (rebuilt, images))
        for a, b in zip(x.reshape(4, -1, 5), y.reshape(4, -1, 5), strict=True):
            gram += np.sum(((a.T @ a - b.T @ b) / a.size) ** 2) / 4
        x, y = (z / np.sqrt(np.sum(z**2, -1, keepdims=True) + 1e-9) for z in (x, y))
        lpips += 0.2 * np.mean(np.sum((x - y) ** 2, -1))
    assert float(metrics["loss/gram"]) == pytest.approx(gram, rel=1e-5)
    assert float(metrics["loss/perceptual"]) == pytest.approx(lpips, rel=1e-4)
    output = nnx.merge(GRAPH, PARAMS)(**arguments(data, 1))
    semantic = losses.contrastive_loss(
        output.image_features, output.text_features, output.logit_scale
    )
    expected = 0.2 * (np.abs(rebuilt - images).mean() + 10 * lpips + 1000 * gram)
    expected += float(semantic) + float(output.vq_loss)
    assert float(metrics["loss"]) == pytest.approx(expected, rel=1e-5)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


class TestStochasticDepth:
    def images(self, frozen, keys, accumulation=1):
        """(codes, reconstructions) of equal images."""
        data = {key: np.repeat(x[:1], 4, axis=0) for key, x in batch().items()}
        trainable, fixed = split_params(*frozen)
        objective = make(accumulation)
        _, (codes, _), rebuilt, _ = gradients(
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
