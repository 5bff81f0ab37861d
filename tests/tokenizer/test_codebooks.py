"""What `config.codebook` says and does to a run."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default, tiny, tiny_full
from unitok_jax.checkpoints import differences
from unitok_jax.checkpoints.manager import Checkpoints
from unitok_jax.runtime import sharding
from unitok_jax.tokenizer.codebooks import MovingMeans
from unitok_jax.tokenizer.config_checks import check
from unitok_jax.tokenizer.objective import Assigned
from unitok_jax.tokenizer.step import TokenizerSteps, TrainState
from unitok_jax.weights import initialize

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"codebook.gradient": "rotated"},
            r"codebook\.gradient='rotated' is not one of straight_through, rotation",
        ),
        (
            {"codebook.gradient": "rotation", "model.quantizer": "bsq"},
            r"codebook\.gradient=rotation .*model\.quantizer=bsq has none; set codebook\.gradient=",
        ),
        ({"codebook.learning": "EMA"}, r"codebook\.learning='EMA' is not one of loss, ema"),
        (
            {"codebook.learning": "ema", "model.quantizer": "fsq"},
            r"codebook\.learning=ema .*model\.quantizer=fsq has none; set codebook\.learning=loss",
        ),
        (
            {"codebook.learning": "ema", "codebook.ema_decay": 1.0},
            r"codebook\.ema_decay=1\.0 must be above 0 and below 1",
        ),
        (
            {"codebook.learning": "ema", "codebook.restart": float("nan")},
            r"codebook\.restart=nan must be at least 0 and below 1",
        ),
        ({"codebook.wrong_share": 1.5}, r"codebook\.wrong_share=1\.5 must lie between 0 and 1"),
        (
            {"codebook.wrong_share": 0.1, "codebook.wrong_fraction": -0.5},
            r"codebook\.wrong_fraction=-0\.5 must lie between 0 and 1",
        ),
        (
            {"codebook.wrong_share": 0.1, "codebook.wrong_fraction": 0.0},
            r"codebook\.wrong_fraction=0\.0 of steps=\d+ leaves no step to codebook\.wrong_sh",
        ),
        (
            {"codebook.wrong_share": 0.1, "codebook.wrong_near": 64},
            r"codebook\.wrong_near=64 must be from 1 to 63",
        ),
        (
            {"codebook.wrong_share": 0.1, "model.quantizer": "fsq"},
            r"codebook\.wrong_share=0\.1 .*model\.quantizer=fsq has none; set codebook\.wrong",
        ),
        (
            {"codebook.learning": "ema", "optim.frozen": ("quant*",), "init.path": "a"},
            r"optim\.frozen=\('quant\*',\) keeps quantizer\.codebook .*codebook\.learning=loss",
        ),
    ],
)
def test_bad_values(changes, message):
    config = tiny_full.get_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(ValueError, match=message):
        check(config)


BOOKS, ENTRIES, WIDTH = 2, 16, 4


def assigned(seed, images=8, tokens=6, entries=ENTRIES):
    """Random (codes, inputs) of a batch, with codes under `entries` only."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, entries, (images, BOOKS, tokens)).astype(np.int32)
    return codes, rng.standard_normal((*codes.shape, WIDTH)).astype(np.float32)


ROWS = np.random.default_rng(9).standard_normal((BOOKS, ENTRIES, WIDTH)).astype(np.float32)


def moved(means, steps, key=0, **options):
    """(rows, usage, metrics of the last) after some batches."""
    update, rows = jax.jit(means.update), {"codebook": ROWS}
    usage, found = means.start(rows), None
    for step in range(steps):
        batch = assigned(step, **options)
        rows, usage, found = update(rows, usage, *batch, jax.random.key(key + step))
    return rows["codebook"], usage, found


class TestMovingMeans:
    def test_rows_are_the_papers_sums_over_counts(self):
        """Its N and m by two loops in float64, N in shares of an even use."""
        rows, usage, _ = moved(MovingMeans(0.8, 0.0), 5)
        counts, sums = np.ones((BOOKS, ENTRIES)), ROWS.astype(np.float64)
        for step in range(5):
            codes, inputs = assigned(step)
            new, total = np.zeros_like(counts), np.zeros_like(sums)
            for b, k, n in np.ndindex(codes.shape):
                new[k, codes[b, k, n]] += 1
                total[k, codes[b, k, n]] += inputs[b, k, n]
            even = codes.shape[0] * codes.shape[2] / ENTRIES
            counts = 0.8 * counts + 0.2 * new / even
            sums = 0.8 * sums + 0.2 * total / even
        np.testing.assert_allclose(usage, counts, rtol=1e-5)
        np.testing.assert_allclose(rows, sums / counts[..., None], rtol=1e-4, atol=1e-5)

    def test_what_nothing_chooses_stays_bit_by_bit(self):
        rows, usage, metrics = moved(MovingMeans(0.001, 0.0), 20, entries=3)
        np.testing.assert_array_equal(rows[:, 3:], ROWS[:, 3:])
        assert (usage[:, 3:] == 0).all() and np.isfinite(rows).all()
        assert metrics["restarted"] == 0

    def test_dead_rows_become_inputs_of_their_own_book(self):
        """0.5^3 is under 0.2: rows that three batches did not choose; nothing else moves."""
        (_, inputs), means = assigned(2, entries=3), MovingMeans(0.5, 0.2)
        rows, usage, metrics = moved(means, 3, entries=3)
        assert metrics["restarted"] == 2 * 13 and (usage[:, 3:] == 1).all()
        for book in range(BOOKS):
            own = {tuple(x) for x in inputs[:, book].reshape(-1, WIDTH)}
            placed = [tuple(row) for row in np.asarray(rows[book, 3:])]
            assert own.issuperset(placed) and len(set(placed)) > 5
        without, *_ = moved(means._replace(restart=0.0), 3, entries=3)
        np.testing.assert_array_equal(rows[:, :3], without[:, :3])
        assert moved(means, 2, entries=3)[2]["restarted"] == 0

    def test_places_are_the_keys(self):
        first, again, other = (moved(MovingMeans(0.5, 0.2), 3, key, entries=3) for key in (0, 0, 7))
        np.testing.assert_array_equal(first[0], again[0])
        assert (first[0] != other[0])[:, 3:].mean() > 0.5

    def test_any_mesh_moves_alike_and_gathers_no_batch(self):
        means, batch = MovingMeans(0.5, 0.99), assigned(0, images=64, tokens=16)
        args = {"codebook": ROWS}, means.start({"codebook": ROWS}), *batch, jax.random.key(0)
        expected = jax.jit(means.update)(*args)
        mesh = sharding.make_mesh(4, 2, jax.devices()[:8])
        whole, split = sharding.replicated(mesh), sharding.batch_sharding(mesh)
        update = jax.jit(
            means.update, in_shardings=(whole, whole, split, split, whole), out_shardings=whole
        )
        compiled = update.lower(*args).compile()
        assert "all-gather" not in compiled.as_text()
        found = compiled(*jax.device_put(args, update_shardings(whole, split)))
        assert expected[2]["restarted"] > 0
        jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-6), found, expected)


def update_shardings(whole, split):
    return {"codebook": whole}, whole, split, split, whole


def configuration(**changes):
    """A small run with moving means; `room__key` changes a key."""
    config = tiny.get_config()
    config.model.size, config.model.quant_heads = "nano", 2
    config.codebook.update(learning="ema", ema_decay=0.9, restart=0.95)
    config.optim.ema_decay, config.optim.warmup_fraction = 0.5, 0.0
    for key, value in changes.items():
        room, leaf = key.split("__")
        config[room][leaf] = value
    return config


class Objective:
    """An objective whose codes and vectors are those of a batch, of 4 books with 64 entries."""

    decode_every = 1

    def __init__(self, loss=1.0):
        self.loss = loss

    def gradients(self, trainable, fixed, heads, frozen, batches, schedule, keys):
        self.trainable, self.fixed = trainable, fixed
        key = jax.random.fold_in(jax.random.key(0), jnp.int32(batches["image"].sum()))
        codes = jax.random.randint(key, (8, 4, 9), 0, 64)
        inputs = jax.random.normal(key, (8, 4, 9, 8))
        grads = jax.tree.map(lambda p: jnp.full_like(p, 0.5), trainable)
        return grads, Assigned(codes, inputs), None, {"loss": jnp.float32(self.loss)}


@pytest.fixture
def steps():
    steps = TokenizerSteps(configuration())
    steps.objective = Objective()
    return steps


def begin(steps):
    rows = jax.random.normal(jax.random.key(4), (4, 64, 8))
    params = {"layer": {"kernel": jnp.ones(3)}, "logit_scale": jnp.float32(2.0)}
    return steps.start(params | {"quantizer": {"codebook": rows}}, None)


def take(steps, state, batch=0):
    batch = {"image": jnp.full((1, 2, 2, 3), float(batch)), "text": jnp.zeros((1, 4), jnp.int32)}
    gather = dict(gather=lambda params: params)
    return steps.train_step(state, {}, batch, adversarial=False, **gather)


class TestStep:
    def test_the_optimiser_knows_no_rows(self, steps):
        before = begin(steps)
        after, metrics = take(steps, before)
        assert before.generator.opt_state[1].mu.keys() == {"layer", "logit_scale"}
        assert steps.objective.trainable.keys() == {"layer", "logit_scale"}
        rows = [state.generator.params["quantizer"]["codebook"] for state in (before, after)]
        assert (rows[0] != rows[1]).any() and metrics["restarted"] > 0
        average = after.ema["quantizer"]["codebook"]
        np.testing.assert_allclose(average, 0.1 * rows[0] + 0.9 * rows[1], atol=1e-6)

    @pytest.mark.parametrize("step", [0, 3])
    def test_rows_are_placed_by_the_key_of_the_step(self, steps, step):
        before = begin(steps).replace(step=jnp.int32(step))
        after, _ = take(steps, before)
        assigned = steps.objective.gradients({}, {}, None, {}, {"image": jnp.zeros(1)}, None, ())[1]
        key = jax.random.fold_in(steps._key("codebooks"), step)
        rows = before.generator.params["quantizer"]
        expected, usage, _ = MovingMeans(0.9, 0.95).update(rows, before.usage, *assigned, key)
        jax.tree.map(np.testing.assert_array_equal, after.generator.params["quantizer"], expected)
        np.testing.assert_array_equal(after.usage, usage)

    def test_a_skipped_step_moves_no_row(self, steps):
        before, steps.objective = begin(steps), Objective(np.nan)
        after, metrics = take(steps, before)
        assert metrics["skipped"] == 1
        jax.tree.map(np.testing.assert_array_equal, after.generator.params, before.generator.params)
        np.testing.assert_array_equal(after.usage, before.usage)

    def test_rows_that_are_not_finite_are_not_kept(self, steps):
        broken = begin(steps)
        broken.generator.params["quantizer"]["codebook"] *= np.inf
        assert take(steps, broken)[1]["skipped"] == 1

    def test_resuming_from_a_checkpoint_is_exact(self, steps, tmp_path):
        one, _ = take(steps, begin(steps), 1)
        abstract, _ = sharding.place_shapes(one, sharding.make_mesh(1, 1, jax.devices()[:1]))
        with Checkpoints(tmp_path, create=True) as checkpoints:
            checkpoints.save(1, one.items(), configuration(), {})
            checkpoints.wait()
            again = TrainState.from_items(checkpoints.restore(abstract.items()))
        for step in (2, 3):
            one, again = take(steps, one, step)[0], take(steps, again, step)[0]
        assert jax.tree.structure(again) == jax.tree.structure(one)
        jax.tree.map(np.testing.assert_array_equal, again, one)

    def test_the_share_of_wrong_codes_falls_to_0(self, steps):
        """Evenly over the fraction of the run; the objective hears of it at each step."""
        config = configuration(codebook__wrong_share=0.2, codebook__wrong_fraction=0.5)
        config.steps = 80
        of_config, told = TokenizerSteps(config), []

        class Told(Objective):
            def gradients(self, *args, wrong_share):
                told.append(float(wrong_share))
                return super().gradients(*args)

        of_config.objective = Told()
        state = begin(of_config)
        for step in (0, 10, 30, 40, 79):
            _, metrics = take(of_config, state.replace(step=jnp.int32(step)))
            assert metrics["wrong_share"] == pytest.approx(told[-1])
        np.testing.assert_allclose(told, [0.2, 0.15, 0.05, 0.0, 0.0], atol=1e-7)
        assert "wrong_share" not in take(steps, begin(steps))[1]

    @pytest.mark.parametrize("kind", ["multi_codebook", "residual"])
    def test_the_whole_model_keeps_the_shapes_of_its_state(self, kind):
        config = configuration(model__quantizer=kind, optim__accumulation=2)
        config.codebook.update(gradient="rotation", wrong_share=0.1)
        steps = TokenizerSteps(config)
        state = jax.eval_shape(steps.init)
        batch = {
            "image": jax.ShapeDtypeStruct((4, 32, 32, 3), jnp.float32),
            "text": jax.ShapeDtypeStruct((4, 77), jnp.int32),
        }
        step = functools.partial(steps.train_step, adversarial=False, gather=lambda params: params)
        after, metrics = jax.eval_shape(step, state, {}, batch)
        assert jax.tree.structure(after) == jax.tree.structure(state)
        shapes = [[leaf.shape for leaf in jax.tree.leaves(tree)] for tree in (after, state)]
        assert shapes[0] == shapes[1] and metrics["restarted"].shape == ()


class TestOlderRuns:
    """Those that knew no `config.codebook` go on as they were, and only so."""

    def test_their_checkpoints(self):
        now = default.get_config().to_dict()
        saved = {key: value for key, value in now.items() if key != "codebook"}
        assert differences.config_differences(saved, now) == []
        assert initialize.training_differences(saved, now) == []
        now["codebook"]["gradient"] = "rotation"
        assert differences.config_differences(saved, now) == []
        now["codebook"]["learning"] = "ema"
        (line,) = differences.config_differences(saved, now)
        assert line == "codebook.learning: saved None, now 'ema'"
        (line,) = initialize.training_differences(saved, now)
        assert line == "codebook.learning: saved 'loss', now 'ema'"

    def test_their_states(self):
        state = jax.eval_shape(TokenizerSteps(configuration(codebook__learning="loss")).init)
        assert "codebook_usage" not in state.items()["training"]
        assert TrainState.from_items(state.items()) == state
