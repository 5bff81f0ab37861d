"""Schedule, decay mask and optimiser against the reference's own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from configs import tiny, tiny_full
from helpers import parity
from unitok_jax import trees
from unitok_jax.checkpoints import differences
from unitok_jax.models.discriminator import DiscriminatorHeads
from unitok_jax.models.unitok import abstract_model
from unitok_jax.runtime import sharding
from unitok_jax.tokenizer.step import TokenizerSteps
from unitok_jax.training import optim
from unitok_jax.weights import initialize, torch_layout

pytestmark = pytest.mark.usefixtures("strict_shapes")

KINDS = {"cos": "cosine", "lin0": "linear", "exp": "exponential"}


@pytest.mark.parametrize("name", ["generator", "discriminator", "linear", "exponential"])
def test_schedule(name):
    golden = parity.json_file("schedules.json")[name]
    config = golden["config"]
    schedule = jax.jit(
        lambda step: optim.learning_rate_schedule(
            step,
            kind=KINDS[config["type"]],
            steps=config["max_iter"],
            warmup_steps=config["warmup_iter"],
            start_fraction=config["start_factor"],
            final_fraction=config["end_factor"],
        )
    )
    ours = [float(schedule(jnp.int32(step))) for step in golden["steps"]]
    np.testing.assert_allclose(ours, golden["multiplier"], rtol=1e-5, atol=1e-7)


def test_a_constant_schedule_never_decays():
    """Neither player's rate, whatever `final_fraction` is; the warm-ups stay."""
    config = tiny_full.get_config()
    config.steps, config.optim.schedule = 100, "constant"
    config.optim.warmup_fraction, config.optim.learning_rate = 0.04, 3e-4
    config.gan.start_fraction, config.gan.warmup_fraction = 0.1, 0.02
    config.gan.learning_rate = 2e-4
    pure = TokenizerSteps(config)
    steps = jnp.array([0, 1, 4, 50, 99])
    np.testing.assert_allclose(
        jax.vmap(pure.learning_rate)(steps) / 3e-4, [0, 0.25, 1, 1, 1], rtol=1e-6
    )
    ours = jax.vmap(pure.adversary.learning_rate)(steps + 10) / 2e-4
    np.testing.assert_allclose(ours, [0, 0.5, 1, 1, 1], rtol=1e-6)


def test_ramps_of_the_adversary():
    golden = parity.json_file("schedules.json")["gan_ramps"]
    config = tiny_full.get_config()
    config.steps = golden["iters_per_epoch"]
    config.gan.start_fraction = golden["disc_start_ep"]
    config.gan.ramp_fraction = golden["disc_warmup_ep"]
    config.gan.blur_fraction = 2 * golden["disc_warmup_ep"]
    adversary = TokenizerSteps(config).adversary
    schedule = jax.vmap(adversary.schedule, (0, None))(
        jnp.array(golden["steps"]), jax.random.key(0)
    )
    weights = config.gan.weight * np.array(golden["disc_weight"])
    np.testing.assert_allclose(schedule.weight, weights, atol=1e-6)
    np.testing.assert_allclose(schedule.fade, golden["blur"], atol=1e-6)
    acts = [adversary.acts(step) for step in golden["steps"]]
    assert acts == [weight > 0 for weight in golden["disc_weight"]]


def test_a_ramp_without_length_is_a_step():
    assert [float(optim.ramp(jnp.int32(step), 3, 0)) for step in (2, 3, 4)] == [0, 1, 1]


def test_an_adversary_without_start_and_ramp_acts_from_the_first_step_on():
    config = tiny_full.get_config()
    config.steps, config.gan.weight, config.gan.adaptive = 100, 0.1, False
    config.gan.start_fraction = config.gan.ramp_fraction = config.gan.blur_fraction = 0.0
    adversary = TokenizerSteps(config).adversary
    assert adversary.adaptive_limits is None
    for step in (0, 1, 99):
        schedule = adversary.schedule(jnp.int32(step), jax.random.key(0))
        assert adversary.acts(step) and schedule.weight == np.float32(0.1) and schedule.fade == 0
    config.gan.ramp_fraction = 0.02
    adversary = TokenizerSteps(config).adversary
    weights = jax.vmap(adversary.schedule, (0, None))(jnp.arange(4), jax.random.key(0)).weight
    np.testing.assert_allclose(weights, [0, 0.05, 0.1, 0.1], rtol=1e-6)
    assert [adversary.acts(step) for step in range(4)] == [False, True, True, True]


def test_the_discriminators_schedule_begins_with_it():
    golden = parity.json_file("schedules.json")["discriminator"]
    config = tiny_full.get_config()
    config.steps, config.gan.learning_rate = 10_000, 1.0
    adversary = TokenizerSteps(config).adversary
    ours = [float(adversary.learning_rate(jnp.int32(3750 + step))) for step in golden["steps"]]
    np.testing.assert_allclose(ours, golden["multiplier"], rtol=1e-5, atol=1e-7)


def test_decay_mask_is_the_references():
    model = tiny.get_config().model
    model.text.vocab_size, model.text.context_length = 512, 16
    _, params = abstract_model(model.to_dict())
    mask = optim.decay_mask(params)
    ours = set()
    for name, entry in torch_layout.entries(params).items():
        leaf = mask
        for key in entry.path:
            leaf = leaf[key]
        if leaf:
            ours.add(name)
    assert ours == set(parity.json_file("param_groups.json")["weight_decay"])


def test_decay_mask_of_the_discriminator_is_the_references():
    params = nnx.to_pure_dict(
        nnx.state(nnx.eval_shape(lambda: DiscriminatorHeads(rngs=nnx.Rngs(0))))
    )
    mask = trees.flatten(optim.decay_mask(params))
    names = torch_layout.entries(params, torch_layout.DISCRIMINATOR_ROWS)
    ours = {name for name, e in names.items() if mask[".".join(map(str, e.path))]}
    assert ours == set(parity.json_file("param_groups.json")["disc_weight_decay"])


def test_adamw_is_optax_adamw():
    params = {"kernel": jnp.array([[1.0, -2.0]]), "bias": jnp.array([3.0])}
    grads = {"kernel": jnp.array([[0.3, 0.1]]), "bias": jnp.array([-0.2])}
    ours = optim.adamw(betas=(0.9, 0.95), eps=1e-6, weight_decay=0.02, clip_norm=10.0)
    theirs = optax.adamw(0.1, 0.9, 0.95, 1e-6, weight_decay=0.02, mask=optim.decay_mask)
    states = ours.init(params), theirs.init(params)
    for factor in (1.0, -3.0):  # the first update has the same size whatever the decays
        given = jax.tree.map(lambda g, factor=factor: factor * g, grads)
        updates, mine = ours.update(given, states[0], params)
        expected, other = theirs.update(given, states[1], params)
        states = mine, other
        for key in params:
            np.testing.assert_allclose(-0.1 * updates[key], expected[key], rtol=1e-5)


def test_clipping_is_by_the_global_norm():
    params = {"kernel": jnp.zeros((2, 2)), "bias": jnp.zeros(2)}
    optimizer = optim.adamw(betas=(0.0, 0.95), eps=1e-6, weight_decay=0.0, clip_norm=10.0)
    grads = jax.tree.map(lambda p: p + 100.0, params)
    _, state = optimizer.update(grads, optimizer.init(params), params)
    assert float(optax.tree.norm(state[1].mu)) == pytest.approx(10.0)


def test_one_update_takes_the_learning_rate_of_the_step():
    trainable = optim.Trainable({"kernel": jnp.array([1.0])}, optax.EmptyState())
    after = optim.apply(optax.identity(), trainable, {"kernel": jnp.array([2.0])}, 0.25)
    assert float(after.params["kernel"][0]) == 0.5


def test_ema_forgets_its_youth_and_then_decays():
    average, params = {"a": jnp.array([0.0])}, {"a": jnp.array([1.0])}
    first = optim.ema(average, params, 0.999, jnp.int32(0))
    late = optim.ema(average, params, 0.999, jnp.int32(10**6))
    assert float(first["a"][0]) == pytest.approx(0.9)
    assert float(late["a"][0]) == pytest.approx(0.001, rel=1e-4)


class TestMuon:
    KEYS = dict(betas=(0.9, 0.95), eps=1e-8, weight_decay=0.02, clip_norm=1e9)

    def updates(self, params, gradients, **keys):
        """Updates of a gradient each, with the same parameters."""
        optimizer, found = optim.muon(**self.KEYS | keys), []
        state = optimizer.init(params)
        for given in gradients:
            update, state = optimizer.update(given, state, params)
            found.append(update)
        return found

    @staticmethod
    def orthogonal(matrix):
        """Five steps of Newton and Schulz, as Jordan et al. 2024 give them."""
        x = matrix / np.linalg.norm(matrix)
        x = x.T if matrix.shape[0] > matrix.shape[1] else x
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x - 4.775 * gram @ x + 2.0315 * gram @ gram @ x
        return x.T if matrix.shape[0] > matrix.shape[1] else x

    def test_it_is_the_formula(self):
        rng = np.random.default_rng(0)
        param, *gradients = rng.normal(size=(3, 6, 4))
        params = {"kernel": jnp.float32(param)}
        found = self.updates(params, [{"kernel": jnp.float32(each)} for each in gradients])
        momentum = np.zeros((6, 4))
        for step, (update, gradient) in enumerate(zip(found, gradients, strict=True), 1):
            momentum = 0.95 * momentum + 0.05 * gradient
            ahead = 0.95 * momentum / (1 - 0.95 ** (step + 1))  # both without bias, as NAdam's
            step = self.orthogonal(ahead + 0.05 * gradient / (1 - 0.95**step))
            expected = 0.2 * np.sqrt(6) * step + 0.02 * param
            np.testing.assert_allclose(update["kernel"], expected, rtol=2e-4, atol=2e-5)

    def test_blocks_and_windows_are_matrices(self):
        """Scanned blocks each by themselves; a convolution's rows are the inputs of its window."""
        rng = np.random.default_rng(1)
        linear, window = rng.normal(size=(3, 6, 4)), rng.normal(size=(2, 3, 3, 5, 7))
        scanned = {"a": {"kernel": jnp.float32(linear)}, "b": {"kernel": jnp.float32(window)}}
        (found,) = self.updates(scanned, [scanned], weight_decay=0.0)
        for block in range(3):
            alone = {"kernel": scanned["a"]["kernel"][block]}
            (expected,) = self.updates(alone, [alone], weight_decay=0.0)
            np.testing.assert_allclose(found["a"]["kernel"][block], expected["kernel"], rtol=1e-4)
        for block in range(2):
            alone = {"kernel": scanned["b"]["kernel"][block].reshape(45, 7)}
            (expected,) = self.updates(alone, [alone], weight_decay=0.0)
            ours = found["b"]["kernel"][block].reshape(45, 7)
            np.testing.assert_allclose(ours, expected["kernel"], rtol=1e-3, atol=1e-5)

    def test_all_else_is_adamw_with_nesterov(self):
        """Depthwise convolutions, biases and tables are no matrices; a scale does not decay."""
        rng = np.random.default_rng(2)
        shapes = {"kernel": (3, 3, 1, 8), "bias": (4, 8), "codebook": (2, 5, 8), "scale": (8,)}
        params = {name: jnp.float32(rng.normal(size=shape)) for name, shape in shapes.items()}
        gradients = [jax.tree.map(lambda p, f=f: f * p, params) for f in (1.0, -3.0)]
        theirs = optax.nadamw(0.1, 0.9, 0.95, 1e-8, weight_decay=0.02, mask=optim.decay_mask)
        state = theirs.init(params)
        for ours, given in zip(self.updates(params, gradients), gradients, strict=True):
            expected, state = theirs.update(given, state, params)
            for key in params:
                np.testing.assert_allclose(-0.1 * ours[key], expected[key], rtol=1e-5, atol=1e-8)

    def test_the_gradient_is_clipped(self):
        params = {"bias": jnp.ones(4)}
        gradients = [{"bias": jnp.array(each)} for each in ([9e9, 0, 0, 0], [0.0, 1, 0, 0])]
        found = self.updates(params, gradients, clip_norm=1.0)
        alone = self.updates(params, [{"bias": jnp.array([1.0, 0, 0, 0])}, gradients[1]])
        np.testing.assert_allclose(found[1]["bias"], alone[1]["bias"], rtol=1e-6)

    def test_an_update_is_the_same_on_any_mesh(self):
        """Matrices that lie in parts on the devices, along one axis or another, among them."""
        rng, shapes = np.random.default_rng(3), ((256, 128), (2, 64, 512), (3, 3, 64, 64))
        params = {n: {"kernel": jnp.float32(rng.normal(size=s))} for n, s in enumerate(shapes)}
        optimizer = optim.muon(**self.KEYS)

        @jax.jit
        def twice(params, state):
            for _ in range(2):
                updates, state = optimizer.update(params, state, params)
                params = jax.tree.map(lambda p, u: p - 0.1 * u, params, updates)
            return params

        alone = twice(params, optimizer.init(params))
        mesh = sharding.make_mesh(2, 4)
        state = (params, optimizer.init(params))
        _, places = sharding.place_shapes(jax.eval_shape(lambda: state), mesh)
        params, state = jax.device_put(state, places)
        assert not any(each.is_fully_replicated for each in jax.tree.leaves(params))
        found = jax.tree.leaves(twice(params, state))
        for ours, theirs in zip(found, jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)

    def test_a_state_has_one_array_of_a_matrix(self):
        """And every array has the shape of its parameter, by which it is laid over the mesh."""
        params = TokenizerSteps(tiny.get_config()).abstract_params
        state = jax.eval_shape(optim.muon(**self.KEYS).init, params)
        whole, kept = (sum(x.size for x in jax.tree.leaves(tree)) for tree in (params, state))
        axes = optim.matrices(params)
        once = sum(jax.tree.leaves(jax.tree.map(lambda p, a: p.size if a else 0, params, axes)))
        assert once > 0.3 * whole
        shapes = {each.shape for each in jax.tree.leaves(params)} | {(), (3,)}  # Newton's factors
        assert {each.shape for each in jax.tree.leaves(state)} <= shapes
        assert kept == pytest.approx(2 * whole - once, abs=10)


def test_the_configuration_chooses():
    config = tiny.get_config().optim
    assert len(jax.tree.leaves(optim.chosen(config).init({"kernel": jnp.ones((2, 2))}))) == 3
    config.kind = "muon"
    state = optim.chosen(config).init({"kernel": jnp.ones((2, 2))})
    assert not [each for each in jax.tree.leaves(state) if each.shape == (2, 2)][1:]


def test_no_run_resumes_with_another_optimiser():
    """Whose state has other arrays; one from before the key was AdamW's."""
    before, now = tiny.get_config().to_dict(), tiny.get_config().to_dict()
    del before["optim"]["kind"]
    assert differences.config_differences(before, now) == []
    assert initialize.training_differences(before, now) == []
    now["optim"]["kind"] = "muon"
    for saved, line in ((before, "None"), (tiny.get_config().to_dict(), "'adamw'")):
        line = f"optim.kind: saved {line}, now 'muon'"
        assert differences.config_differences(saved, now) == [line]
    (line,) = initialize.training_differences(before, now)
    assert line == "optim.kind: saved 'adamw', now 'muon'"
