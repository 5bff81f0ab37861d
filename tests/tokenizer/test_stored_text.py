"""Runs on stored text features: the same gradients, no text tower in a step, and no other one's."""

import functools
import json
import shutil

import jax
import numpy as np
import optax
import pytest
from PIL import Image

from configs import tiny
from helpers import jaxprs, one_device
from unitok_jax import trees
from unitok_jax.checkpoints.manager import Checkpoints
from unitok_jax.commands import data_text
from unitok_jax.data.text_features import open_text_features
from unitok_jax.models.unitok import abstract_model
from unitok_jax.tokenizer.objective import split_batch
from unitok_jax.tokenizer.plan import batch_shapes, plan
from unitok_jax.tokenizer.run import Run
from unitok_jax.tokenizer.step import TokenizerSteps, init_params
from unitok_jax.training import loop
from unitok_jax.weights import load
from unitok_jax.weights.text_tower import load_tower, tower_hash

pytestmark = [pytest.mark.slow, pytest.mark.long]

WIDTH = 40  # of the text tower: no other part has arrays of this size


def configuration(folder, **changes):
    """Eight pictures of 32 px, and a text tower that is not trained; `room__key` changes a key."""
    config = tiny.get_config()
    config.steps = 4
    config.model.size, config.model.quant_heads = "nano", 2
    config.model.drop_path = 0.0
    config.model.text.width, config.model.text.layers = WIDTH, 1
    config.data.source, config.data.path = "folder", str(folder / "images")
    config.data.image_size, config.data.batch_size = (32, 32), 4
    config.data.num_threads = 1
    config.init.path = str(folder / "tower.safetensors")
    config.init.include = config.optim.frozen = ("text_encoder.*", "logit_scale")
    config.eval.batch_size = config.eval.max_images = 8
    config.eval.every, config.eval.grid_images = 4, 2
    config.checkpoint.every, config.log.every = 2, 1
    config.log.tensorboard = False
    config.loss.l1 = config.loss.l2 = 0.0  # no decoder to compile
    config.optim.ema_decay = 0.5
    for key, value in changes.items():
        room, leaf = key.split("__")
        config[room][leaf] = value
    return config


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Captioned pictures, weights to start from, and the features of their text tower."""
    folder, rng = tmp_path_factory.mktemp("stored"), np.random.default_rng(0)
    (folder / "images").mkdir()
    for index in range(8):
        pixels = rng.integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
        (folder / "images" / f"{index}.txt").write_text(f"number {index}\na picture {index}")
    config = configuration(folder)
    params = init_params(config.model.to_dict(), jax.random.key(3))
    load.write(folder / "tower.safetensors", config, params)
    data_text.store(config, folder / "features", shard_size=3)
    return folder


def stored(folder, **changes):
    return configuration(folder, data__text_features=str(folder / "features"), **changes)


OneDevice = one_device.of(Run)


class TestStep:
    def gradients(self, config, batch):
        steps = TokenizerSteps(config)
        params = init_params(config.model.to_dict(), jax.random.key(3))
        fixed, trainable = trees.split(params, config.optim.frozen)
        batch = {"image": batch["image"].astype(np.float32) / 127.5 - 1, "text": batch["text"]}
        batch = {key: split_batch(x, config.optim.accumulation) for key, x in batch.items()}
        compute = jax.jit(
            lambda params, batch, keys: steps.objective.gradients(
                params, fixed, None, {}, batch, None, (keys, keys)
            )
        )
        grads, _, _, metrics = compute(trainable, batch, jax.random.key(0))
        return trees.flatten(jax.device_get(grads)), float(metrics["loss/contrastive"])

    def test_gradients_are_those_with_the_tower(self, folder):
        """Also of several micro-batches, which share one contrastive loss."""
        config, batches = configuration(folder), []
        for each in (config, stored(folder)):
            run = OneDevice(each)
            batches.append(next(run.batches(1)))
        assert batches[0]["text"].shape == (4, 77) and batches[1]["text"].shape == (4, 64)
        wanted, loss = self.gradients(config, batches[0])
        assert not any("text_encoder" in name or name == "logit_scale" for name in wanted)
        for accumulation in (1, 2):
            config.optim.accumulation = accumulation
            found, of_features = self.gradients(config, batches[1])
            assert of_features == pytest.approx(loss, rel=1e-6)
            for name, array in wanted.items():
                scale = np.abs(array).max()
                np.testing.assert_allclose(
                    found[name], array, rtol=1e-4, atol=1e-5 * scale, err_msg=name
                )

    def test_a_step_computes_no_text_tower(self, folder):
        """No product has a side of the tower's width; with tokens there are such."""
        found = {}
        for name, config in {"tower": configuration(folder), "stored": stored(folder)}.items():
            steps = TokenizerSteps(config)
            step = functools.partial(steps.train_step, adversarial=False, gather=lambda x: x)
            state = jax.eval_shape(steps.init)
            traced = jax.make_jaxpr(step)(state, {}, batch_shapes(config, config.data.image_size))
            shapes = [
                side for sides in jaxprs.products(traced) for shape in sides for side in shape
            ]
            found[name] = WIDTH in shapes
            looked_up = [
                equation
                for equation in jaxprs.equations(traced)
                if equation.primitive.name == "gather"
                and equation.invars[0].aval.shape == (49_408, WIDTH)
            ]
            assert bool(looked_up) == found[name]
        assert found == {"tower": True, "stored": False}


def test_a_plan_needs_no_folder(folder):
    config = configuration(folder, data__text_features="what is not there yet")
    [phase] = plan(config, jax.devices()[:2]).phases
    batch = phase.batch
    assert (batch["text"].shape, batch["text"].dtype) == ((4, 64), np.float32)
    [phase] = plan(configuration(folder), jax.devices()[:2]).phases
    batch = phase.batch
    assert (batch["text"].shape, batch["text"].dtype) == ((4, 77), np.int32)


class TestRefusals:
    def test_a_tower_that_is_trained(self, folder):
        config = stored(folder, optim__frozen=("text_encoder.blocks.*",))
        with pytest.raises(ValueError, match=r"optim.frozen=.*trains text_encoder\.ln_f.*add 'tex"):
            Run(config, jax.devices()[:1])

    def test_a_loss_that_does_not_read_them(self, folder):
        config = stored(folder, loss__contrastive=0.0, loss__l1=1.0)
        with pytest.raises(ValueError, match=r"data.text_features=.*is not read with loss.contra"):
            Run(config, jax.devices()[:1])

    def test_another_width(self, folder):
        config = stored(folder)
        config.model.embed_dim = 32
        with pytest.raises(ValueError, match="features of 64 numbers, and model.embed_dim=32"):
            Run(config, jax.devices()[:1])

    def test_other_data(self, folder, tmp_path):
        other = shutil.copytree(folder / "images", tmp_path / "images")
        (other / "4.txt").write_text("another one")
        with pytest.raises(ValueError, match="other captions for sample 4, 4.png.*other data"):
            Run(stored(folder, data__path=str(other)), jax.devices()[:1])

    def test_another_tower(self, folder, tmp_path):
        """At the start of a run and on resuming."""
        config = stored(folder)
        params = init_params(config.model.to_dict(), jax.random.key(4))
        load.write(tmp_path / "other.safetensors", config, params)
        config.init.path = str(tmp_path / "other.safetensors")
        run = OneDevice(config)
        message = "features=.*is of text tower .*, and this run's is .*init.path, or make them aga"
        with pytest.raises(ValueError, match=message):
            run.initial_state()
        items = run.programs.init().items()
        with pytest.raises(ValueError, match=message):
            run.state_from(items)


def test_what_is_frozen_is_given_by_the_file(folder):
    """Without stored features too, which tell a tower that is partly random."""
    config = configuration(folder, init__include=("logit_scale",))
    told = (
        r"optim.frozen=\('text_.*does not give all of them: 17 of its arrays are missing, such as"
    )
    with pytest.raises(ValueError, match=told):
        OneDevice(config).initial_state()


class TestTower:
    def test_is_that_of_the_file(self, folder):
        config = configuration(folder)
        model = config.model.to_dict()
        tower = load_tower(config.init.path, model, config.init.include)
        params = init_params(model, jax.random.key(3))["text_encoder"]
        jax.tree.map(np.testing.assert_array_equal, tower, jax.device_get(params))
        settings = open_text_features(str(folder / "features")).settings
        assert tower_hash(model, tower) == tower_hash(model, params) == settings["tower"]
        model["text"]["heads"] = 8  # another computation with the same weights
        assert tower_hash(model, tower) != settings["tower"]

    @pytest.mark.parametrize(
        "changes, told",
        [
            ({"init__path": ""}, "init.path is empty; name the file with the text tower"),
            (
                {"init__include": ("encoder.*",)},
                "no whole text tower: 17 of its arrays are missing, such as text",
            ),
        ],
    )
    def test_there_must_be_a_whole_one(self, folder, changes, told):
        config = configuration(folder, **changes)
        with pytest.raises(ValueError, match=told):
            load_tower(config.init.path, config.model.to_dict(), config.init.include)


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """The workdir of an undisturbed run of four steps, and its last evaluation."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, loop.train(OneDevice, stored(folder), str(workdir))


class TestRun:
    def digests(self, workdir):
        with Checkpoints(workdir) as checkpoints:
            return checkpoints.meta(4)["digests"]

    def test_resuming_is_exact(self, folder, whole, tmp_path):
        half = shutil.copytree(whole[0], tmp_path / "half")
        shutil.rmtree(half / "checkpoints" / "4")
        loop.train(OneDevice, stored(folder), str(half))
        assert self.digests(half) == self.digests(whole[0])
        lines = (half / "metrics.jsonl").read_text().splitlines()
        assert lines == (whole[0] / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]

    def test_the_tower_stays_in_the_weights_and_evaluates(self, folder, whole):
        """The tokens of a caption give what is stored of it, and what an evaluation compares."""
        config = stored(folder)
        assert whole[1]["eval/image_to_text"] >= 0
        tokenizer = load.read(str(whole[0]))[1]
        params = init_params(config.model.to_dict(), jax.random.key(3))
        for name in ("text_encoder", "logit_scale"):
            jax.tree.map(np.testing.assert_array_equal, tokenizer[name], params[name])
        assert abstract_model(config.model.to_dict())[1].keys() == tokenizer.keys()

    def test_another_run_goes_on_from_it_with_its_optimisers(self, folder, whole, tmp_path):
        """On features of the average's tower, which is the one that is trained beside."""
        config = configuration(folder, init__path=str(whole[0]), init__include=("*",))
        config.init.training = True
        data_text.store(config, tmp_path / "features")
        config.data.text_features = str(tmp_path / "features")
        state = OneDevice(config).initial_state()
        assert state.step == 0
        assert int(optax.tree.get(state.generator.opt_state, "count")) == 4
