"""Training of a generator: through the loop, resumed, on any mesh, and what it draws at random."""

import contextlib
import functools
import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from helpers import arrays, coded, one_device
from helpers.jaxprs import equations
from helpers.jobs import records
from unitok_jax.checkpoints.manager import CheckpointError, Checkpoints
from unitok_jax.generate import run as run_module
from unitok_jax.generate.run import Run
from unitok_jax.generate.step import GeneratorSteps, embed_prompts
from unitok_jax.runtime import sharding
from unitok_jax.training import loop

pytestmark = pytest.mark.slow

OneDevice = one_device.of(Run)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return coded.write(tmp_path_factory.mktemp("codes") / "codes")


@pytest.fixture
def config(folder):
    return coded.config(folder)


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """An undisturbed run: its workdir, and its last evaluation."""
    workdir = tmp_path_factory.mktemp("whole")
    config = coded.config(folder)
    config.log.tensorboard = True
    return workdir, loop.train(OneDevice, config, str(workdir))


@pytest.fixture
def half(whole, tmp_path):
    """The same run after its fourth step."""
    workdir = shutil.copytree(whole[0], tmp_path / "half")
    shutil.rmtree(workdir / "checkpoints" / "6")
    return workdir


class TestThroughTheLoop:
    def test_losses_fall_and_are_told_by_codebook(self, whole):
        training = [r for r in records(whole[0]) if "loss" in r]
        assert [r["step"] for r in training] == [1, 2, 3, 4, 5, 6]
        assert training[0]["loss"] == pytest.approx(math.log(coded.ENTRIES), rel=1e-6)
        assert training[-1]["loss"] < 0.9 * training[0]["loss"]
        for record in training:
            assert len(record["loss_per_codebook"]) == coded.BOOKS
            assert record["loss"] == pytest.approx(np.mean(record["loss_per_codebook"]), rel=1e-6)
            assert record["data/samples"] == 8
            assert record["data/bytes"] == 8 * coded.BOOKS * 6 * 2

    def test_evaluation(self, whole):
        workdir, last = whole
        evaluations = [r for r in records(workdir) if "eval/loss" in r]
        assert [r["step"] for r in evaluations] == [3, 6]
        loss = last["eval/loss"]
        assert evaluations[1]["eval/loss"] == loss == np.mean(last["eval/loss_per_codebook"])
        assert loss < evaluations[0]["eval/loss"] < math.log(coded.ENTRIES)
        bits = loss / math.log(2)
        assert last["eval/bits_per_image"] == pytest.approx(bits * coded.BOOKS * 6)
        assert last["eval/gain"] == pytest.approx(math.log2(coded.ENTRIES) - bits)

    def test_codebooks_have_curves_of_their_own(self, whole):
        (events,) = (whole[0] / "tensorboard").iterdir()
        content = events.read_bytes()
        for name in (b"loss_per_codebook/1", b"eval/loss_per_codebook/mean", b"eval/gain"):
            assert name in content

    def test_evaluation_does_not_depend_on_batches(self, whole, config):
        """Twelve images in one batch, or in batches with rows past the end."""
        found = []
        for size in (12, 8, 5):
            config.eval.batch_size = size
            run = OneDevice(config)
            with Checkpoints(whole[0]) as checkpoints:
                state = run.state_from(checkpoints.restore(run.abstract.items()))
            found.append(run.evaluate(state)[0]["loss_per_codebook"])
        np.testing.assert_allclose(found[1:], [found[0]] * 2, rtol=1e-6)

    def test_a_process_reads_its_own_rows_alone(self, config, monkeypatch):
        """Of evaluation batches of 8, the first of two processes reads four."""
        run, read = Run(config, jax.devices()[:2]), []
        prompts = run.prompts

        def counted(record, rng=None):
            read.append(record["key"])
            return prompts(record, rng)

        def first_half(mesh, size):
            return tuple(range(size // 2))

        def twice(rows, mesh):
            return {k: sharding.shard_whole(np.concatenate([r, r]), mesh) for k, r in rows.items()}

        monkeypatch.setattr(run, "prompts", counted)
        monkeypatch.setattr(run_module.sharding, "local_rows", first_half)
        monkeypatch.setattr(run_module.sharding, "shard_batch", twice)
        run.evaluate(run.initial_state())
        assert read == [f"{number:04}.png" for number in (0, 1, 2, 3, 8, 9, 10, 11)]

    def test_held_out_codes(self, whole, config, tmp_path):
        coded.write(tmp_path / "other", 5, seed=1)
        config.eval.path = str(tmp_path / "other")
        run = OneDevice(config)
        assert len(run.eval_records) == 5
        assert run.facts["samples in the data"] == 24

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"tokenizer": "b" * 32}, "eval.path=.* holds codes of tokenizer b{32}, and data.path"),
            (
                {"class_names": ("a", "c", "b")},
                "eval.path=.* other classes .*: a, c, b and",
            ),
            ({"grid": [3, 2]}, r"model.grid=.*but the codes of eval.path=.* have \(3, 2\)"),
        ],
        ids=str,
    )
    def test_held_out_codes_of_another_kind(self, config, tmp_path, changes, message):
        config.eval.path = str(coded.write(tmp_path / "other", 5, **changes))
        with pytest.raises(ValueError, match=message):
            OneDevice(config)

    def test_the_average_is_what_is_saved_as_params(self, whole, config):
        run = OneDevice(config)
        with Checkpoints(whole[0]) as checkpoints:
            items = checkpoints.restore(run.abstract.items())
        state = run.state_from(items)
        assert state.params is state.ema and state.params is items["params"]
        assert 0 < arrays.error(state.ema, state.generator.params) < 0.5
        assert int(state.step) == 6


class TestResume:
    def test_bit_for_bit(self, whole, half, config):
        loop.train(OneDevice, config, str(half))
        assert records(half) == records(whole[0])
        digests = []
        for workdir in (whole[0], half):
            with Checkpoints(workdir) as checkpoints:
                digests.append(checkpoints.meta(6)["digests"])
        assert digests[0] == digests[1]

    def test_codes_that_moved(self, half, config, tmp_path):
        config.data.path = str(shutil.copytree(config.data.path, tmp_path / "moved"))
        run = OneDevice(config)
        with Checkpoints(half) as checkpoints:
            checkpoints.restore(run.abstract.items(), config, run.facts)

    @pytest.mark.parametrize(
        "settings, keys, message",
        [
            ({"tokenizer": "b" * 32}, {}, "tokenizer of the codes: saved a{32}, now b{32}"),
            ({"precision": "bfloat16"}, {}, "precision of the codes: saved float32, now bfloat16"),
            ({"seed": 1}, {}, "digest of the codes: saved [0-9a-f]{8}, now [0-9a-f]{8}"),
            ({"count": 25}, {}, "samples in the data: saved 24, now 25"),
            (
                {"grid": [3, 2]},
                {"model.grid": (3, 2)},
                r"model.grid: saved \[2, 3\], now \[3, 2\]",
            ),
            (
                {"codebook_size": 32},
                {"model.vocab_size": 64},
                "model.vocab_size: saved 32, now 64",
            ),
            (
                {"num_codebooks": 4},
                {"model.num_codebooks": 4, "model.vocab_size": 64},
                "model.num_codebooks: saved 2, now 4",
            ),
        ],
        ids=lambda value: str(value)[:30],
    )
    def test_other_codes_are_refused(self, half, config, tmp_path, settings, keys, message):
        config.data.path = str(coded.write(tmp_path / "other", **settings))
        config.update_from_flattened_dict(keys)
        with pytest.raises(CheckpointError, match=message):
            loop.train(OneDevice, config, str(half))
        assert not (half / "checkpoints" / "6").exists()

    def test_what_changes_no_meaning_of_weights_may_change(self, half, config):
        config.model.update(dropout=0.0, drop_path=0.1, remat="none", dtype="bfloat16")
        run = OneDevice(config)
        with Checkpoints(half) as checkpoints:
            checkpoints.restore(run.abstract.items(), config, run.facts)

    def test_a_tokenizers_workdir(self, half, config):
        """And a generator's for a tokenizer: its configuration is compared before any array."""
        path = half / "checkpoints" / "4" / "meta" / "metadata"
        meta = json.loads(path.read_text())
        meta["config"]["product"] = "tokenizer"
        path.write_text(json.dumps(meta))
        told = "checkpoints/4 was saved by the run of a tokenizer, and product=generator is to be"
        with pytest.raises(CheckpointError, match=told):
            loop.train(OneDevice, config, str(half))


class TestMeshes:
    """One step of a batch on any mesh, with everything that is drawn at random."""

    def step(self, config, data, fsdp):
        config.mesh.data, config.mesh.fsdp = data, fsdp
        config.loss.drop_prompt = 0.5
        run = Run(config, jax.devices()[: data * fsdp])
        state = run.initial_state()
        params = state.generator.params
        if fsdp > 1:
            assert "fsdp" in params["trunk"]["blocks"]["mlp"]["gate"]["kernel"].sharding.spec
        # Fresh logits are zero, and send no gradient to what lies before them.
        kernel = params["head"]["kernel"]
        values = np.random.default_rng(0).normal(0, 0.1, kernel.shape).astype(np.float32)
        params["head"]["kernel"] = jax.device_put(values, kernel.sharding)
        with contextlib.closing(run.batches(3)) as batches:
            batch = sharding.shard_batch(next(batches), run.mesh)
        state, metrics = run.train_step(0, state, batch)
        # The first moments are the gradients, scaled; AdamW's update would make noise as large.
        return jax.device_get((metrics, state.generator.opt_state[1].mu))

    @pytest.mark.long
    def test_equal_losses_and_gradients(self, config):
        metrics, moments = self.step(config, 1, 1)
        assert all(map(np.any, jax.tree.leaves(moments)))
        for data, fsdp in ((2, 2), (1, 4)):
            found, ours = self.step(config, data, fsdp)
            for key, value in metrics.items():
                np.testing.assert_allclose(found[key], value, rtol=1e-5, err_msg=key)
            assert arrays.error(ours, moments) < 1e-5


class TestSteps:
    @pytest.fixture
    def pure(self, config):
        config.optim.ema_decay = 0.5
        return GeneratorSteps(config)

    def batch(self):
        codes = np.random.default_rng(0).integers(0, coded.ENTRIES, (8, 2, 6), np.uint16)
        return {"codes": codes, "labels": np.arange(8, dtype=np.int32) % 3}

    def test_a_step_that_is_not_finite_changes_counters_alone(self, pure, config):
        step = jax.jit(functools.partial(pure.train_step, gather=lambda params: params))
        good = jax.jit(pure.init)()
        params = jax.tree.map(jnp.copy, good.generator.params)
        params["head"]["bias"] = params["head"]["bias"].at[3].set(jnp.nan)
        bad = good.replace(generator=good.generator.replace(params=params))
        batch = self.batch()
        after, metrics = step(bad, batch)
        assert not np.isfinite(metrics["loss"])
        assert (int(after.step), int(after.skipped), int(after.skipped_in_a_row)) == (1, 1, 1)
        unchanged = jax.tree.map(
            functools.partial(np.array_equal, equal_nan=True),
            (after.generator, after.ema),
            (bad.generator, bad.ema),
        )
        assert all(jax.tree.leaves(unchanged))
        after, _ = step(good, batch)
        assert (int(after.step), int(after.skipped)) == (1, 0)
        # The decay of a first step is a tenth, as of any average.
        expected = jax.tree.map(lambda a, p: 0.1 * a + 0.9 * p, good.ema, after.generator.params)
        assert arrays.error(after.ema, expected) < 1e-6

    def test_every_step_drops_anew_and_again_the_same(self, pure):
        step = jax.jit(functools.partial(pure.train_step, gather=lambda params: params))
        state, batch = jax.jit(pure.init)(), self.batch()
        kernel = state.generator.params["head"]["kernel"]
        noise = np.random.default_rng(0).normal(0, 0.1, kernel.shape).astype(np.float32)
        state.generator.params["head"]["kernel"] = jnp.asarray(noise)  # fresh logits are zero
        numbers = (jnp.int32(number) for number in (3, 4, 4))
        losses = [float(step(state.replace(step=n), batch)[1]["loss"]) for n in numbers]
        assert losses[0] != losses[1] == losses[2]


def trunk_and_head(config, part):
    """The decoders of fresh weights whose blocks add nothing but by attention or by the MLP."""
    pure = GeneratorSteps(config)
    params = jax.jit(pure.init)().generator.params
    for decoder in (params["trunk"], params["head"]["decoder"]):
        other, last = {"attention": ("mlp", "down"), "mlp": ("attention", "out")}[part]
        decoder["blocks"][other][last]["kernel"] *= 0
    model = nnx.merge(pure.graph, params)
    return model.trunk, model.head.decoder


def streams(decoder, count, seed):
    """The stream (1 + L, B, 3, D), random before the blocks; no seed: all of it is kept."""
    x = np.random.default_rng(0).normal(size=(count, 3, 64)).astype(np.float32)
    key = None if seed is None else jax.random.key(seed)
    after = jax.jit(lambda x: decoder._scan(x, None, None, key, every=True)[2])(x)
    return np.concatenate([x[None], after])


@pytest.fixture(scope="module")
def initialised(folder):
    """Steps, and a model of fresh weights."""
    pure = GeneratorSteps(coded.config(folder))
    return pure, nnx.merge(pure.graph, jax.jit(pure.init)().generator.params)


class TestWhatIsDropped:
    def test_a_tenth_of_the_labels(self, initialised):
        pure, model = initialised
        batch = {"labels": jnp.arange(6000) % 3}
        kept = pure.prompt(model, batch)
        prompts = [pure.prompt(model, batch, jax.random.key(i)) for i in range(2)]
        dropped = [np.asarray((p != kept).any((1, 2))) for p in prompts]
        null = np.asarray(model.prompt(jnp.array([3])))[0]
        for prompt, rows in zip(prompts, dropped, strict=True):
            assert abs(rows.mean() - 0.1) < 0.017
            assert (np.asarray(prompt)[rows] == null).all()
        assert abs((dropped[0] & dropped[1]).mean() - 0.01) < 0.006
        both, _ = embed_prompts(model, batch, 3, guided=True)
        np.testing.assert_array_equal(both, np.concatenate([kept, null[None].repeat(6000, 0)]))

    def test_a_tenth_of_the_texts(self, folder):
        """And those without a word always; what stands for them is trained."""
        config = coded.config(folder)
        config.model.update(prompt="text", text_tokens=3, text_features=5)
        pure = GeneratorSteps(config)
        params = jax.jit(pure.init)().generator.params
        model, rng = nnx.merge(pure.graph, params), np.random.default_rng(0)
        batch = {
            "features": rng.normal(size=(6000, 3, 5)).astype(np.float32),
            "valid": np.ones((6000, 3), bool),
            "null": np.arange(6000) % 100 == 0,
        }
        null = np.asarray(model.prompt(batch["features"][:1], jnp.array([True])))[0]
        prompts = [pure.prompt(model, batch, key) for key in (None, jax.random.key(0))]
        kept, dropped = (np.asarray(p == null).all((1, 2)) for p in prompts)
        np.testing.assert_array_equal(kept, batch["null"])
        assert dropped[kept].all() and abs(dropped[~kept].mean() - 0.1) < 0.017
        # Fresh logits are zero, and send no gradient to what lies before them.
        params["head"]["kernel"] = jnp.asarray(rng.normal(size=params["head"]["kernel"].shape))
        few = {key: rows[1:33] for key, rows in batch.items()}
        few["codes"] = rng.integers(0, coded.ENTRIES, (32, 2, 6))
        grads = jax.jit(jax.grad(lambda p: pure.losses(p, few, jax.random.key(0)).mean()))(params)
        assert not few["null"].any() and np.asarray(grads["prompt"]["null"] != 0).all()

    def test_a_tenth_of_the_values_of_the_input(self, initialised):
        _, model = initialised
        codes = jnp.zeros((200, 2, 6), int)
        prompt = model.prompt(jnp.zeros(200, int))
        x, out = (model.inputs(codes, prompt, key) for key in (None, jax.random.key(0)))
        kept = np.asarray(out != 0)
        assert abs(kept.mean() - 0.9) < 0.005  # single values, of the prompt too
        assert (abs(kept.mean((0, 2)) - 0.9) < 0.01).all()
        assert (abs(kept.mean((0, 1)) - 0.9) < 0.04).all()
        np.testing.assert_allclose(np.asarray(out)[kept], np.asarray(x / 0.9)[kept], rtol=1e-6)

    @pytest.mark.parametrize(
        "drop_path, shapes",
        [
            (0.0, [(8,), *[(8, 6, 64)] * 3, *[(24, 2, 64)] * 2]),
            (0.3, [(8,), (8, 6, 64), *[(8, 1, 1)] * 2]),
        ],
    )
    def test_what_is_drawn_at_random(self, config, drop_path, shapes):
        """Labels and the input; behind attention and MLP values of trunk and head, or images of the
        trunk alone."""
        config.model.update(remat="none", drop_path=drop_path)
        pure = GeneratorSteps(config)

        def losses(params):
            return pure.losses(params, self.batch(), jax.random.key(0))

        drawn = equations(jax.make_jaxpr(losses)(pure.abstract_params))
        drawn = [e.outvars[0].aval.shape for e in drawn if e.primitive.name == "random_bits"]
        assert drawn == shapes

    def batch(self):
        return {"codes": jnp.zeros((8, 2, 6), int), "labels": jnp.zeros(8, int)}

    @pytest.mark.parametrize("part", ["attention", "mlp"])
    def test_a_tenth_of_what_a_block_adds(self, config, part):
        """Single values of one residual while the other is nothing, in trunk and head."""
        for decoder in trunk_and_head(config, part):
            kept, out = streams(decoder, 100, None), streams(decoder, 100, 0)
            added, left = kept[1] - kept[0], out[1] - out[0]
            is_left = left != 0
            assert (
                abs(is_left.mean() - 0.9) < 0.01 and (abs(is_left.mean((0, 1)) - 0.9) < 0.1).all()
            )
            np.testing.assert_allclose(left[is_left], added[is_left] / 0.9, rtol=1e-3, atol=1e-5)

    @pytest.mark.parametrize("part", ["attention", "mlp"])
    def test_images_leave_out_a_block_of_the_trunk(self, config, part):
        """Rates grow from 0 to that of the last block; nothing is dropped of the head."""
        config.model.drop_path = 0.4
        trunk, head = trunk_and_head(config, part)
        np.testing.assert_array_equal(streams(head, 100, None), streams(head, 100, 0))
        kept, out = streams(trunk, 1000, None), streams(trunk, 1000, 0)
        np.testing.assert_array_equal(kept[1], out[1])
        added, left = kept[2] - kept[1], out[2] - out[1]
        is_left = (left != 0).any((1, 2))
        assert abs(is_left.mean() - 0.6) < 0.07
        np.testing.assert_allclose(left[is_left], added[is_left] / 0.6, rtol=1e-3, atol=1e-5)

    def test_the_null_class_is_trained(self, whole, config):
        run = OneDevice(config)
        with Checkpoints(whole[0]) as checkpoints:
            trained = checkpoints.restore(run.abstract.items())["training"]["params"]
        before = run.initial_state().generator.params
        moved = abs(trained["prompt"]["table"] - before["prompt"]["table"]).max(1)
        assert moved.shape == (4,) and (moved > 2e-4).all()  # weight decay alone: 2e-5


@pytest.mark.parametrize(
    "changes, keys",
    [
        ({"num_codebooks": 1}, {"model.num_codebooks": 1, "model.vocab_size": 16}),
        ({}, {"model.head_depth": 0}),
        ({}, {"model.head_width": 32}),
    ],
    ids=["one codebook", "independent codes", "a narrow head"],
)
def test_other_heads(tmp_path, changes, keys):
    config = coded.config(coded.write(tmp_path / "codes", **changes))
    config.update_from_flattened_dict(keys | {"steps": 2, "eval.every": 2})
    loop.train(OneDevice, config, str(tmp_path / "run"))
    training = [r["loss"] for r in records(tmp_path / "run") if "loss" in r]
    assert training[1] < training[0]
    assert loop.train(OneDevice, config, str(tmp_path / "run"))["eval/loss"] < math.log(16)


@pytest.mark.parametrize("prompt", ["class", "text"])
def test_the_plan_takes_the_batches_of_training(config, folder, tmp_path, prompt):
    config.model.prompt = prompt
    if prompt == "text":
        config.model.prompt_rope = "identity"
        config.model.text_tokens, config.model.text_features = 4, 3
        config.data.text_features = str(tmp_path)
        for number in range(24):
            np.save(tmp_path / f"{number:04}.png.npy", np.zeros((2, 3), np.float32))
    with contextlib.closing(OneDevice(config).batches(0)) as batches:
        read = {key: (rows.shape, rows.dtype) for key, rows in next(batches).items()}
    config.data.path = ""
    (phase,) = Run.plan(config, jax.devices()[:1]).phases
    assert read == {key: (rows.shape, rows.dtype) for key, rows in phase.batch.items()}
