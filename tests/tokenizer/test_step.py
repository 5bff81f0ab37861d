"""What a step does besides lowering losses: phases, skipped steps, averages, frozen parts."""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from configs import tiny_full
from helpers import arrays
from unitok_jax import trees
from unitok_jax.tokenizer import augment
from unitok_jax.tokenizer.objective import split_batch
from unitok_jax.tokenizer.step import TokenizerSteps, TrainState
from unitok_jax.weights import pretrained

pytestmark = pytest.mark.slow


# Changes of `configuration` that leave out what a test does not look at, and need not compile.
NO_NETWORKS = {"loss__perceptual": 0.0, "gan__weight": 0.0}
NO_PIXELS = {"loss__l1": 0.0, "loss__l2": 0.0, **NO_NETWORKS}


def configuration(**changes):
    """Every loss and both players at the smallest size; `room__key` changes a key."""
    config = tiny_full.get_config()
    config.steps = 20
    config.model.size, config.model.quant_heads = "nano", 2
    config.model.drop_path = 0.0
    config.model.text.vocab_size, config.model.text.context_length = 512, 16
    config.data.image_size = (48, 48)
    config.gan.augment_probability = config.gan.crop_probability = 0.0
    config.optim.warmup_fraction = 0.0
    for key, value in changes.items():
        room, leaf = key.split("__")
        config[room][leaf] = value
    return config


@pytest.fixture(scope="module")
def networks():
    """The stand-ins of the frozen networks."""
    load = functools.partial(pretrained.load, path="seeded", dtype="float32", key="", turn_off="")
    return jax.device_put({kind: load(kind)[1] for kind in ("lpips", "dinov2")})


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    return {
        "image": rng.uniform(-1, 1, (4, 48, 48, 3)).astype(np.float32),
        "text": rng.integers(1, 511, (4, 16)).astype(np.int32),
    }


@pytest.fixture(scope="module")
def pure():
    return TokenizerSteps(configuration())


@pytest.fixture(scope="module")
def steps(pure, networks):
    """{phase: compiled step of (state, batch)}, and the state before them."""
    state = jax.jit(pure.init)()
    step = {phase: jax.jit(train_step(pure, phase)) for phase in (False, True)}
    return {phase: lambda s, b, f=f: f(s, networks, b) for phase, f in step.items()}, state


def train_step(pure, adversarial):
    """The step of one device, where nothing is to be gathered."""
    gather = dict(gather=lambda params: params)
    return functools.partial(pure.train_step, adversarial=adversarial, **gather)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def equal(a, b):
    return all(np.array_equal(x, y) for x, y in zip(leaves(a), leaves(b), strict=True))


class TestPhases:
    def test_before_the_adversary_only_the_generator_moves(self, steps, batch):
        after, metrics = steps[0][False](steps[1], batch)
        assert equal(after.discriminator, steps[1].discriminator)
        assert not equal(after.generator, steps[1].generator)
        assert not any(key.startswith("gan/") for key in metrics)

    def test_the_first_phase_needs_nothing_of_the_adversary(self, pure, networks, batch):
        """It is not computed and masked: the program does not even take DINOv2's weights."""
        state = jax.eval_shape(pure.init)
        step = train_step(pure, False)
        after, _ = jax.eval_shape(step, state, {"lpips": networks["lpips"]}, batch)
        assert jax.tree.structure(after) == jax.tree.structure(state)

    def test_both_players_move_with_the_adversary(self, steps, batch):
        late = steps[1].replace(step=jnp.int32(10))
        after, metrics = steps[0][True](late, batch)
        assert not equal(after.discriminator.params, late.discriminator.params)
        assert not equal(after.generator.params, late.generator.params)
        assert metrics["gan/weight"] > 0 and metrics["gan/grad_norm"] > 0
        total = sum(
            weight * metrics[f"loss/{name}"]
            for name, weight in {"l1": 0.2, "l2": 1, "perceptual": 1, "vq": 1}.items()
        )
        total += metrics["loss/contrastive"] + metrics["gan/weight"] * metrics["loss/gan"]
        assert metrics["loss"] == pytest.approx(float(total), rel=1e-5)


def test_consistencys_strong_views_are_always_augmented(pure, batch):
    """Whatever `gan.augment_probability` is, here 0; the other views follow it."""
    adversary, images, key = pure.adversary, jnp.asarray(batch["image"]), jax.random.key(3)
    weak, strong = (jax.jit(adversary._augment)(images, fade, key) for fade in (0.0, None))
    np.testing.assert_array_equal(weak, images)
    always = augment.draw(key, len(images), 1.0)
    np.testing.assert_allclose(strong, jax.jit(augment.diff_aug)(images, always), atol=1e-6)
    assert np.abs(strong - images).mean() > 0.1


class TestStepsThatAreNotFinite:
    @pytest.mark.parametrize("phase", [False, True])
    @pytest.mark.parametrize("bad", [[1], [0, 1, 2, 3]], ids=["one image", "all images"])
    def test_are_counted_and_change_nothing(self, steps, batch, phase, bad):
        state = steps[1].replace(step=jnp.int32(10))
        images = batch["image"].copy()
        images[bad, 3, 4, 1] = np.nan
        after, metrics = steps[0][phase](state, {**batch, "image": images})
        assert not np.isfinite(metrics["loss"])
        assert (after.step, after.skipped, after.skipped_in_a_row) == (11, 1, 1)
        assert equal(after.replace(step=state.step, skipped=0, skipped_in_a_row=0), state)
        again, metrics = steps[0][phase](after, {**batch, "image": images})
        assert (metrics["skipped"], metrics["skipped_in_a_row"]) == (2, 2)
        good, metrics = steps[0][phase](again, batch)
        assert (metrics["skipped"], metrics["skipped_in_a_row"]) == (2, 0)
        assert np.isfinite(metrics["loss"]) and not equal(good.generator, state.generator)

    @pytest.mark.long
    def test_one_gradient_is_enough(self, networks, batch, steps):
        pure = TokenizerSteps(configuration(**NO_PIXELS))
        broken = copy.copy(pure)
        broken.objective = copy.copy(pure.objective)

        def gradients(*args):
            grads, *rest = pure.objective.gradients(*args)
            grads["fc_norm"]["bias"] = grads["fc_norm"]["bias"].at[3].set(jnp.nan)
            return grads, *rest

        broken.objective.gradients = gradients
        state = pure.start(steps[1].generator.params, None)
        step = jax.jit(train_step(broken, False))
        after, metrics = step(state, networks, batch)
        assert np.isfinite(metrics["loss"]) and not np.isfinite(metrics["grad_norm"])
        assert equal(after.generator, state.generator) and after.skipped == 1


class TestAverage:
    def test_is_what_evaluation_uses(self, steps, batch):
        state = steps[1]
        assert state.params is state.ema and equal(state.ema, state.generator.params)
        after, _ = steps[0][False](state, batch)
        expected = jax.tree.map(
            lambda old, new: 0.1 * old + 0.9 * new, state.ema, after.generator.params
        )
        for ours, theirs in zip(leaves(after.ema), leaves(expected), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-6)

    def test_items_hold_both(self, steps):
        items = steps[1].items()
        assert items["params"] is steps[1].ema
        assert items["training"]["params"] is steps[1].generator.params
        assert TrainState.from_items(items) == steps[1]

    def test_without_one_there_is_one_tree(self):
        state = jax.eval_shape(TokenizerSteps(configuration(optim__ema_decay=0.0)).init)
        assert state.ema is None and "params" not in state.items()["training"]
        assert TrainState.from_items(state.items()) == state


@pytest.mark.long
def test_micro_batches_share_one_contrastive_loss_and_one_weight(networks, batch, steps):
    """Gradients and losses of 2 x 2 images are those of 4, with every loss."""
    state = steps[1].replace(step=jnp.int32(10))
    whole, expected = steps[0][True](state, batch)
    split, metrics = jax.jit(
        train_step(TokenizerSteps(configuration(optim__accumulation=2)), True)
    )(state, networks, batch)
    # First moments are gradients, scaled.
    mu, expected_mu = (after.generator.opt_state[1].mu for after in (split, whole))
    assert arrays.error(mu, expected_mu) < 1e-4
    # Consistency compares views that every micro-batch draws.
    for key in expected.keys() - {"gan/consistency", "gan/grad_norm"}:
        np.testing.assert_allclose(metrics[key], expected[key], rtol=1e-4, err_msg=key)
    assert {"loss/contrastive", "loss/gan", "gan/weight", "usage"} <= metrics.keys()


@pytest.mark.thorough
def test_the_discriminators_update_is_that_of_the_whole_batch(
    pure, networks, batch, steps, monkeypatch
):
    # Smooth: a rounding that crosses a kink moved this gradient by a thousandth.
    monkeypatch.setattr(jax.nn, "leaky_relu", lambda x, slope: jax.nn.gelu(x))
    discriminator, images = steps[1].discriminator, batch["image"]
    adversary = copy.copy(pure.adversary)
    # Every micro-batch has its own draws.
    adversary._augment = lambda x, fade, key: x if fade is None else augment.blur(x, fade)
    schedule = adversary.schedule(jnp.int32(10), jax.random.key(0))._replace(fade=0.5)
    found = []
    for count in (1, 2):

        @jax.jit
        def update(discriminator, real, fake, count=count):
            real, fake = (split_batch(x, count) for x in (real, fake))
            key, dinov2 = jax.random.key(1), networks["dinov2"]
            heads, step = discriminator.params, jnp.int32(10)
            return adversary.update(discriminator, heads, dinov2, real, fake, schedule, step, key)

        found.append(update(discriminator, images, images[::-1] * 0.9))
    (whole, expected), (split, metrics) = found
    for key in expected:
        np.testing.assert_allclose(metrics[key], expected[key], rtol=1e-4, err_msg=key)
    assert arrays.error(split.opt_state[1].mu, whole.opt_state[1].mu) < 1e-4
    assert metrics["gan/consistency"] > 0


class TestFrozenParts:
    def test_a_frozen_encoder_makes_the_codes_of_inference(self, networks, batch, steps):
        """Stochastic depth would make others."""
        codes = {}
        for names in ((), ("encoder.*",)):
            pure = TokenizerSteps(configuration(model__drop_path=0.9, optim__frozen=names))
            fixed, trainable = pure._split(steps[1].generator.params)
            codes[names] = jax.jit(
                lambda trainable, fixed, pure=pure: (
                    pure.objective.gradients(
                        trainable,
                        fixed,
                        None,
                        networks,
                        {key: x[None] for key, x in batch.items()},
                        None,
                        jax.random.split(jax.random.key(0)),
                    )[1].codes
                )
            )(trainable, fixed)
        model = nnx.merge(pure.graph, steps[1].generator.params)
        expected = jax.jit(model.encode)(batch["image"])
        assert np.mean(codes[("encoder.*",)] == expected) > 0.99
        assert np.mean(codes[()] == expected) < 0.9

    def test_stay_as_they_are(self, networks, batch, steps):
        frozen = ("encoder.*", "text_encoder.*", "logit_scale")
        pure = TokenizerSteps(configuration(optim__frozen=frozen, **NO_NETWORKS))
        state = pure.start(steps[1].generator.params, None)
        step = jax.jit(train_step(pure, False))
        after, _ = step(state, networks, batch)
        before, now = state.generator.params, after.generator.params
        for part in ("encoder", "text_encoder", "logit_scale"):
            assert equal(before[part], now[part]), part
        for part in ("decoder", "quantizer", "projection"):
            assert not equal(before[part], now[part]), part
        moments = trees.flatten(state.generator.opt_state[1].mu)
        assert not any(name.startswith("encoder.") for name in moments)
        assert jax.tree.structure(before) == jax.tree.structure(now)

    def test_a_pattern_without_parameters(self):
        pure = TokenizerSteps(configuration(optim__frozen=("enconder.*",)))
        with pytest.raises(ValueError, match="optim.frozen: 'enconder.*' matches no parameter"):
            jax.eval_shape(pure.init)


def test_the_perceptual_loss_is_float32_whatever_the_model_is(networks, batch):
    objective = TokenizerSteps(configuration(model__dtype="bfloat16")).objective
    images = batch["image"]
    text = str(jax.make_jaxpr(objective._pixel_terms)(images, images, networks))
    assert text.count("conv_general_dilated") >= 26 and "bf16" not in text  # 13 for each image


@pytest.mark.long
@pytest.mark.parametrize(
    "changes, adversarial, tolerance",
    [
        pytest.param({"model__remat": "everything"}, True, 1e-4, marks=pytest.mark.thorough),
        ({"model__remat": "products"}, False, 1e-4),
        ({"model__remat": "blocks", "model__dtype": "bfloat16"}, False, 0.05),
    ],
    ids=["everything recomputed", "all but products recomputed", "bf16"],
)
def test_other_ways_to_compute_the_same_step(
    networks, batch, steps, changes, adversarial, tolerance
):
    state = steps[1].replace(step=jnp.int32(10))
    _, expected = steps[0][adversarial](state, batch)
    pure = TokenizerSteps(configuration(**changes))
    step = jax.jit(train_step(pure, adversarial))
    _, metrics = step(state, networks, batch)
    keys = ["loss", "grad_norm", "loss/perceptual", "loss/contrastive"]
    for key in keys + ["gan/weight"] * adversarial:
        np.testing.assert_allclose(metrics[key], expected[key], rtol=tolerance, err_msg=key)


@pytest.mark.long
def test_a_part_of_the_batch_is_decoded(networks, batch, steps):
    """Every second image: its pixels alone are compared, and all of them are encoded."""
    pure, (_, state) = TokenizerSteps(configuration(data__decode_fraction=0.5)), steps
    step = jax.jit(train_step(pure, True))
    _, half = step(state, networks, batch)
    _, whole = steps[0][True](state, batch)
    model = nnx.merge(pure.graph, state.generator.params)
    rebuilt, _, _ = jax.jit(model.reconstruct)(batch["image"])
    expected = np.abs(np.asarray(rebuilt) - batch["image"])[::2].mean()
    np.testing.assert_allclose(half["loss/l1"], expected, rtol=1e-5)
    assert abs(half["loss/l1"] - whole["loss/l1"]) > 1e-4
    for key in ("loss/vq", "loss/contrastive"):
        np.testing.assert_allclose(half[key], whole[key], rtol=1e-5)
    for key in ("loss/perceptual", "loss/gan", "gan/discriminator"):
        assert half[key] != whole[key]
