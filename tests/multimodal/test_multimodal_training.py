"""Training of a multimodal model: through the loop, resumed, on any mesh, in several parts."""

import contextlib
import json
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from helpers import arrays, language_folders, one_device, sequences
from helpers.jobs import Job, records
from unitok_jax import trees
from unitok_jax.checkpoints.manager import CheckpointError, Checkpoints
from unitok_jax.checkpoints.reader import weights_hash
from unitok_jax.data import language_tokenizer
from unitok_jax.data.language_tokenizer import TEMPLATE, LanguageTokenizer
from unitok_jax.multimodal import adapters, loading, objective, trunk
from unitok_jax.multimodal.rows import NO_LABEL
from unitok_jax.multimodal.run import Run
from unitok_jax.multimodal.step import MultimodalSteps
from unitok_jax.multimodal.words import shape_tokenizer
from unitok_jax.runtime import sharding
from unitok_jax.training import loop
from unitok_jax.weights import load

pytestmark = pytest.mark.slow

OneDevice = one_device.of(Run)
BOOKS, ENTRIES, GRID = 4, 64, (2, 3)


@pytest.fixture(scope="module")
def tokenizer(weights):
    """(path, configuration, parameters) of the tokenizer of the codes."""
    return str(weights), *load.read(weights)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """A folder of codes that tell their picture."""
    _, config, params = tokenizer
    return sequences.shapes(
        tmp_path_factory.mktemp("codes") / "codes",
        tokenizer=weights_hash(config.model.to_dict(), params),
        num_codebooks=BOOKS,
        codebook_size=ENTRIES,
        codes=lambda number: np.full((BOOKS, 6), number % ENTRIES),
    )


def configured(tokenizer, folder):
    from configs import multimodal

    config = multimodal.get_config()
    config.steps = 6
    model = config.model
    multimodal.set_codes(model, tokenizer[1])
    model.update(
        vocabulary=shape_tokenizer().rows,
        **{"width": 32, "heads": 4, "groups": 2, "head_width": 8, "hidden": 48, "depth": 2},
        **{"head_depth": 1, "grid": GRID, "dtype": "float32"},
    )
    kinds = ((0.5, "draw"), (0.5, "caption"))
    mixture = tuple((weight, kind, str(folder)) for weight, kind in kinds)
    data = sequences.data(*mixture, length=48, group_rows=4, group_samples=8)
    config.data.update(data)
    config.data.text, config.data.tokenizer = "shapes", tokenizer[0]
    config.loss.chunk = 24
    config.optim.update(learning_rate=2e-2, warmup_fraction=0.0, accumulation=1)
    config.mesh.update(data=1, fsdp=1)
    config.eval.update(every=3, batch_size=8, max_rows=16)
    config.checkpoint.every, config.log.every, config.log.tensorboard = 2, 1, False
    return config


@pytest.fixture
def config(tokenizer, folder):
    return configured(tokenizer, folder)


@pytest.fixture(scope="module")
def whole(tokenizer, folder, tmp_path_factory):
    """An undisturbed run: its workdir, and its last evaluation."""
    workdir = tmp_path_factory.mktemp("whole")
    return workdir, loop.train(OneDevice, configured(tokenizer, folder), str(workdir))


@pytest.fixture(scope="module")
def adapted(whole, tokenizer, folder, tmp_path_factory):
    """A run of adapters that begins from another: its workdir, and its configuration."""
    config = configured(tokenizer, folder)
    config.steps, config.optim.lora_rank, config.init.path = 4, 2, str(whole[0])
    workdir = tmp_path_factory.mktemp("adapted")
    loop.train(OneDevice, config, str(workdir))
    return workdir, config


class TestThroughTheLoop:
    def test_losses_fall_and_are_told_by_kind_and_codebook(self, whole, config):
        training = [r for r in records(whole[0]) if "loss" in r]
        assert [r["step"] for r in training] == [1, 2, 3, 4, 5, 6]
        # Fresh logits of codes are zero.
        assert training[0]["image_loss"] == pytest.approx(np.log(ENTRIES), rel=1e-5)
        for kind in ("text_loss", "image_loss", "loss"):
            assert training[-1][kind] < training[0][kind]
        for record in training:
            assert len(record["loss_per_codebook"]) == BOOKS
            assert record["image_loss"] == pytest.approx(np.mean(record["loss_per_codebook"]))
            ids, codes = record["predicted_ids"], BOOKS * record["drawn_tokens"]
            assert ids > 0 and codes > 0 and record["data/samples"] > 8
            parts = ids * record["text_loss"]
            parts += codes * (record["image_loss"] + record["z_loss"])
            assert record["loss"] == pytest.approx(parts / (ids + codes), rel=1e-5)
            names = {name for name in record if name.startswith("loss/")}
            assert names == {f"loss/{kind}" for _, kind, *_ in config.data.mixture}

    @pytest.mark.long
    def test_weighted_ids(self, config):
        """The step descends the loss that it tells."""
        config.loss.text_weight = 5.0
        run = OneDevice(config)
        state = run.initial_state()
        with contextlib.closing(run.batches(0)) as batches:
            batch = sharding.shard_batch(next(batches), run.mesh)

        def loss(params):
            return objective.losses(run.steps.sums(params, batch), run.steps.weights).total

        grads = jax.jit(jax.grad(loss))(state.params)
        expected = optax.tree.norm(run.steps._split(grads)[1])
        metrics = run.train_step(0, state, batch)[1]
        assert float(metrics["grad_norm"]) == pytest.approx(float(expected), rel=1e-4)
        ids, codes = float(metrics["predicted_ids"]), BOOKS * float(metrics["drawn_tokens"])
        total = 5 * ids * metrics["text_loss"] + codes * (metrics["image_loss"] + metrics["z_loss"])
        assert float(metrics["loss"]) == pytest.approx(float(total) / (5 * ids + codes), rel=1e-5)

    @pytest.mark.long
    def test_a_group_may_be_larger_than_a_batch(self, config, tmp_path):
        """Its samples are counted with its first row, which every second step reads."""
        config.steps, size = 2, config.data.batch_size
        config.data.group_rows, config.data.group_samples = 2 * size, 4 * size
        loop.train(OneDevice, config, str(tmp_path))
        told = [record["data/samples"] for record in records(tmp_path) if "loss" in record]
        assert told[0] > 0 and told[1] == 0
        assert Checkpoints(tmp_path).latest_step() == 2

    def test_speed_is_of_rows(self, whole, config):
        """Each of them holds two samples here: an epoch is half as many steps as there are rows."""
        timed = [json.loads(line) for line in (whole[0] / "timing.jsonl").read_text().splitlines()]
        rates = [r["time/rows_per_second"] for r in timed if "time/step_p50" in r]
        assert rates and all(rate > 0 for rate in rates)
        assert not any("time/images_per_second" in r for r in timed)
        assert Run(config, jax.devices()[:1]).samples_per_row == 2

    def test_evaluation(self, whole, config):
        evaluations = [r for r in records(whole[0]) if "eval/loss" in r]
        assert [r["step"] for r in evaluations] == [3, 6]
        first, last = evaluations
        assert last["eval/loss"] < first["eval/loss"] and last["eval/gain"] > first["eval/gain"]
        assert last["eval/image_loss"] < 0.95 * np.log(ENTRIES)
        assert whole[1]["eval/loss_per_codebook"].shape == (BOOKS,)
        kinds = {name for name in last if name.startswith("eval/loss/")}
        assert kinds == {f"eval/loss/{kind}" for _, kind, *_ in config.data.mixture}

    def test_what_it_leaves_is_read(self, whole, tokenizer):
        """Weights, both tokenizers; codebooks as they were, and a projection that was trained."""
        found = loading.read(whole[0])
        assert found.text.hash == shape_tokenizer().hash
        _, config, theirs = tokenizer
        assert found.tokenizer_hash == weights_hash(config.model.to_dict(), theirs)
        image = found.params["image"]
        np.testing.assert_array_equal(
            image["quantizer"]["codebook"], theirs["quantizer"]["codebook"]
        )
        moved = arrays.error(image["projection"], theirs["post_quant_proj"])
        assert 0 < moved < 0.5

    def test_resumed_bit_for_bit(self, whole, config, tmp_path):
        workdir = shutil.copytree(whole[0], tmp_path / "half")
        shutil.rmtree(workdir / "checkpoints" / "6")
        loop.train(OneDevice, config, str(workdir))
        assert records(workdir) == records(whole[0])
        digests = []
        for each in (whole[0], workdir):
            with Checkpoints(each) as checkpoints:
                digests.append(checkpoints.meta(6)["digests"])
        assert digests[0] == digests[1]

    def test_other_data_are_refused(self, whole, config, tmp_path):
        workdir = shutil.copytree(whole[0], tmp_path / "half")
        shutil.rmtree(workdir / "checkpoints" / "6")
        config.data.group_samples = 9
        with pytest.raises(CheckpointError, match="packing"):
            loop.train(OneDevice, config, str(workdir))

    @pytest.mark.parametrize(
        "changed, message",
        [
            (None, "has another tokenizer than data.text: 2 tokens have other ids, such as "),
            ({"boi": 4, "eoi": 3}, "its special ids are SpecialIds.*eoi=4.*boi=4"),
        ],
    )
    def test_another_text_than_the_weights_are_of(self, whole, config, changed, message, tmp_path):
        text = shape_tokenizer()
        files = dict(text.files)
        if changed:
            special = text.special._asdict() | changed
            files[language_tokenizer.NAMED] = json.dumps(special).encode()
        else:
            words = files[language_tokenizer.FILE].decode()
            swapped = words.replace('"red":', '"other":').replace('"blue":', '"red":')
            files[language_tokenizer.FILE] = swapped.replace('"other":', '"blue":').encode()
        language_tokenizer.write(tmp_path, LanguageTokenizer(files))
        config.init.path, config.data.tokenizer = str(whole[0]), ""
        config.data.text = str(tmp_path)
        with pytest.raises(ValueError, match=f"init.path=.*{message}"):
            OneDevice(config).initial_params()

    def test_a_language_model_of_the_hub(self, config, tmp_path):
        folder = language_folders.save(tmp_path / "llama3")
        opened = trunk.open_folder(str(folder))
        config.init.language = config.data.text = str(folder)
        config.model.update(opened.keys)
        found = OneDevice(config).initial_params()
        expected = trunk.read(opened, config.model.to_dict())
        jax.tree.map(np.testing.assert_array_equal, found["language"], expected)
        config.data.text = "shapes"
        config.model.vocabulary = max(shape_tokenizer().rows, config.model.vocabulary)
        with pytest.raises(ValueError, match="init.language=.*: its text has another tokenizer"):
            OneDevice(config).initial_params()

    def test_another_model_or_tokenizer_of_codes(self, whole, config, tokenizer, tmp_path):
        path, theirs, params = tokenizer
        config.init.path, config.data.tokenizer = str(whole[0]), ""
        run = OneDevice(config)
        run._codes = run._codes._replace(tokenizer="f" * 32)
        with pytest.raises(ValueError, match="init.path=.* reads codes of tokenizer .* made by ff"):
            run.initial_params()
        quantizer = params["quantizer"] | {"codebook": params["quantizer"]["codebook"][::-1]}
        load.write(tmp_path / "other", theirs, params | {"quantizer": quantizer})
        config.data.tokenizer = str(tmp_path / "other")
        run._codes = run._codes._replace(tokenizer="")  # as of a run on text alone
        with pytest.raises(ValueError, match="has other codebooks than init.path="):
            run.initial_params()
        config.model.hidden += 4
        with pytest.raises(ValueError, match=r"is another model: model.hidden=52 \(there: 48\)"):
            OneDevice(config).initial_params()

    @pytest.mark.long
    def test_a_run_begins_from_another(self, whole, config):
        config.init.path, config.data.tokenizer = str(whole[0]), ""
        config.optim.frozen = ("language.*",)
        run = OneDevice(config)
        state = run.initial_state()
        there = loading.read(whole[0]).params
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(state.params), there)
        with contextlib.closing(run.batches(0)) as batches:
            batch = sharding.shard_batch(next(batches), run.mesh)
        after = jax.device_get(run.train_step(0, state, batch)[0].params)
        for name, leaf in trees.flatten(after).items():
            still = name.startswith(("language.", "image.quantizer."))
            assert np.array_equal(leaf, trees.flatten(there)[name]) == still, name
        assert json.loads((whole[0] / "config.json").read_text())["product"] == "multimodal"


class TestHeldOutRows:
    """`eval.max_rows` of them count, whatever the batches, the mesh and the hosts."""

    def counted(self, config, devices, batch_size, most):
        """Metrics, ids and visual tokens of an evaluation."""
        config.mesh.data, config.data.batch_size = devices, 24
        config.eval.update(batch_size=batch_size, max_rows=most)
        run, sums = Run(config, jax.devices()[:devices]), []
        evaluate = run.programs.evaluate

        def told(*given):
            sums.append(jax.device_get(evaluate(*given)))
            return sums[-1]

        run.programs.evaluate = told
        metrics, _ = run.evaluate(run.initial_state())
        return metrics, sum(each.ids for each in sums), sum(each.image_tokens for each in sums)

    def test_the_same_on_any_mesh(self, config):
        """The last batches have 2 of 8 rows and 4 of 6 that count."""
        metrics, ids, tokens = self.counted(config, 1, 8, 10)
        run = OneDevice(config)
        with contextlib.closing(run._held_out.batches(config.data, config.seed)) as batches:
            rows = {key: value[:10] for key, value in next(batches).items()}
        assert ids == objective.predicted_ids(rows) and tokens == objective.drawn_tokens(rows)
        ours, *counts = self.counted(config, 3, 5, 10)
        assert counts == [ids, tokens]
        assert ours.keys() == metrics.keys()
        for key, value in metrics.items():
            np.testing.assert_allclose(ours[key], value, rtol=1e-5, atol=1e-6, err_msg=key)

    @pytest.mark.parametrize("most, batches", [(3, [3]), (8, [8]), (13, [8, 5]), (16, [8, 8])])
    def test_those_past_them_have_nothing_to_predict(self, config, monkeypatch, most, batches):
        """By their number in the whole batch, of which a host has a part."""
        config.eval.update(batch_size=8, max_rows=most)
        run = OneDevice(config)
        whole = [*run._held_out_batches()]
        config.eval.max_rows = 16
        every = [*run._held_out_batches()]
        size = len(whole[0]["ids"])
        assert [len(each["ids"]) for each in whole] == [size] * len(batches)
        for found, rows, count in zip(whole, every, batches, strict=False):
            counts = (np.arange(size) < count)[:, None]
            for key, value in rows.items():
                expected = value[:size]
                if key == "labels":
                    expected = np.where(counts, expected, NO_LABEL)
                if key == "drawn":
                    expected = counts & expected
                np.testing.assert_array_equal(found[key], expected)
        config.eval.max_rows = most
        second = size // 2  # the first row of the second of two hosts
        monkeypatch.setattr(sharding, "local_rows", lambda mesh, rows: tuple(range(second, rows)))
        for found, rows in zip(run._held_out_batches(), whole, strict=True):
            for key, value in rows.items():
                np.testing.assert_array_equal(found[key], value[second:])


@pytest.mark.long
class TestAdapters:
    """Runs with `optim.lora_rank`: what is saved, read, resumed and begun from."""

    def raw(self, workdir, config):
        """The parameters of the last checkpoint, with the adapters."""
        shapes = MultimodalSteps(config).abstract_params
        with load.open_run(workdir) as (checkpoints, step):
            return load.restore_params(checkpoints, step, shapes, None)

    def test_the_decoder_stays_and_is_read_with_them(self, whole, adapted):
        workdir, config = adapted
        before = trees.flatten(loading.read(whole[0]).params)
        saved, found = self.raw(*adapted), loading.read(workdir)
        flat = trees.flatten(saved)
        for name, leaf in before.items():
            still = name.startswith(("language.decoder.", "image.quantizer."))
            assert np.array_equal(flat[name], leaf) == still, name
        assert flat.keys() - before.keys() == set(adapters.NAMES)
        assert all(np.abs(flat[name]).max() > 0 for name in adapters.NAMES)
        told = [r["loss"] for r in records(workdir) if "loss" in r]
        assert told[-1] < told[0]
        # The same losses, by a model without adapters; without what they have learnt, others.
        with contextlib.closing(OneDevice(config).batches(0)) as batches:
            batch = dict(next(batches))
        plain = config.copy_and_resolve_references()
        plain.optim.lora_rank = 0
        unchanged = found.params | {"language": loading.read(whole[0]).params["language"]}
        losses = [
            jax.device_get(jax.jit(MultimodalSteps(each).sums)(params, batch))
            for each, params in ((config, saved), (plain, found.params), (plain, unchanged))
        ]
        np.testing.assert_allclose(losses[0].text, losses[1].text, rtol=1e-5)
        np.testing.assert_allclose(losses[0].codes, losses[1].codes, rtol=1e-5)
        assert abs(losses[0].text / losses[2].text - 1) > 1e-3

    def test_resumed_bit_for_bit_and_not_with_another_rank(self, adapted, tmp_path):
        workdir, config = adapted
        half = shutil.copytree(workdir, tmp_path / "half")
        shutil.rmtree(half / "checkpoints" / "4")
        other = config.copy_and_resolve_references()
        other.optim.lora_rank = 3
        with pytest.raises(CheckpointError, match="optim.lora_rank: saved 2, now 3"):
            loop.train(OneDevice, other, str(half))
        loop.train(OneDevice, config, str(half))
        assert records(half) == records(workdir)
        digests = []
        for each in (workdir, half):
            with Checkpoints(each) as checkpoints:
                digests.append(checkpoints.meta(4)["digests"])
        assert digests[0] == digests[1]

    def test_another_run_begins_from_it(self, adapted, config):
        config.init.path, config.optim.lora_rank = str(adapted[0]), 2
        params = jax.device_get(OneDevice(config).initial_state().params)
        there = trees.flatten(loading.read(adapted[0]).params)
        for name, leaf in trees.flatten(params).items():
            if name in there:
                np.testing.assert_array_equal(leaf, there[name])
            else:
                assert name.endswith("lora_a") or not leaf.any()


@pytest.mark.processes
def test_text_alone_keeps_the_tokenizer_of_images(tokenizer, config, tmp_path):
    """Of the weights that it begins from: in its first checkpoint, and once it has resumed."""
    run = OneDevice(config)
    named = run.facts[loading.TOKENIZER]
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": "a red circle"}) + "\n" for _ in range(20)))
    model = ConfigDict({"model": config.model.to_dict()})
    params = jax.device_get(run.initial_state().params)
    loading.write(tmp_path / "before", loading.Weights(model, params, named, run.text))
    config.init.path, config.data.tokenizer = str(tmp_path / "before"), ""
    config.data.mixture = ((1.0, "text", str(file)),)
    config.eval.max_rows = 8
    for steps in (1, 2):
        config.steps = steps
        loop.train(OneDevice, config, str(tmp_path / "run"))
        with Checkpoints(tmp_path / "run") as checkpoints:
            assert checkpoints.meta(steps)["data"][loading.TOKENIZER] == named
        # What it began from is no longer needed.
        shutil.rmtree(tmp_path / "before", ignore_errors=True)
    assert loading.read(tmp_path / "run").tokenizer_hash == named


@pytest.mark.thorough
def test_two_processes_and_then_one(tokenizer, folder, tmp_path):
    """Records of other hosts are equal, through a resumption on another mesh."""
    config = configured(tokenizer, folder)
    config.model.update(width=128, hidden=256)  # large enough to be sharded
    config.update_from_flattened_dict({"steps": 4, "checkpoint.every": 2, "eval.every": 2})
    config.eval.max_rows = 13  # of the last batch, rows of one process do not count
    config.optim.learning_rate = 1e-3
    file = tmp_path / "config.py"
    file.write_text(
        "from ml_collections import ConfigDict\n\n\n"
        f"def get_config():\n    return ConfigDict({config.to_dict()!r})\n"
    )
    settings = [f"--config={file}"]

    def run(workdir, processes, devices, data, fsdp):
        mesh = f"--config.mesh.data={data}", f"--config.mesh.fsdp={fsdp}"
        where = tmp_path / f"{processes} {data}", tmp_path / workdir
        job = Job(*where, processes, devices, *mesh, settings=settings)
        assert job.wait() == [0] * processes, job.output()
        return records(tmp_path / workdir)

    expected = run("alone", 1, 2, 2, 1)
    assert run("moved", 2, 1, 1, 2)[-1]["step"] == 4
    shutil.rmtree(tmp_path / "moved" / "checkpoints" / "4")
    ours = run("moved", 1, 2, 2, 1)
    assert [record.keys() for record in ours] == [record.keys() for record in expected]
    for record, other in zip(ours, expected, strict=True):
        for key in record:
            # What is gained is a difference of two losses of 6 bits each.
            atol = 1e-4 if key == "eval/gain" else 1e-6
            np.testing.assert_allclose(record[key], other[key], rtol=1e-4, atol=atol, err_msg=key)


class TestMeshesAndParts:
    """One step of a batch: every id and code weighs the same on any mesh, in any parts."""

    def step(self, config, data, fsdp, parts):
        config.mesh.update(data=data, fsdp=fsdp)
        config.optim.accumulation = parts
        config.model.update(width=128, hidden=256)  # large enough to be sharded
        run = Run(config, jax.devices()[: data * fsdp])
        state = run.initial_state()
        params = state.network.params
        if fsdp > 1:
            kernel = params["language"]["decoder"]["blocks"]["mlp"]["gate"]["kernel"]
            assert "fsdp" in kernel.sharding.spec
        # Fresh logits of codes are zero, and send no gradient to what lies before them; so is half
        # of an adapter.
        rng = np.random.default_rng(0)
        fresh = [(params["head"], "kernel")]
        if config.optim.lora_rank:
            mlp = params["language"]["decoder"]["blocks"]["mlp"]
            fresh += [(mlp[name]["lora"], "lora_b") for name in ("gate", "up", "down")]
        for part, name in fresh:
            values = rng.normal(0, 0.1, part[name].shape).astype(np.float32)
            part[name] = jax.device_put(values, part[name].sharding)
        with contextlib.closing(run.batches(3)) as batches:
            batch = sharding.shard_batch(next(batches), run.mesh)
        state, metrics = run.train_step(0, state, batch)
        # The first moments are the gradients, scaled; AdamW's update would make noise as large.
        return jax.device_get((metrics, state.network.opt_state[1].mu))

    @pytest.mark.long
    @pytest.mark.parametrize("lora_rank, others", [(0, [(1, 1, 4), (2, 2, 2)]), (2, [(2, 2, 2)])])
    def test_equal_losses_and_gradients(self, config, lora_rank, others):
        config.optim.lora_rank = lora_rank
        metrics, moments = self.step(config, 1, 1, 1)
        still = {name for name, value in trees.flatten(moments).items() if not np.any(value)}
        attention = [name for name in adapters.NAMES if "attention" in name and "lora_a" in name]
        assert still == (set(attention) if lora_rank else set())
        for data, fsdp, parts in others:
            found, ours = self.step(config, data, fsdp, parts)
            for key, value in metrics.items():
                np.testing.assert_allclose(found[key], value, rtol=1e-4, err_msg=key)
            assert arrays.error(ours, moments) < 1e-4

    def test_a_step_that_is_not_finite_changes_counters_alone(self, config):
        run = OneDevice(config)
        state = run.initial_state()
        with contextlib.closing(run.batches(0)) as batches:
            batch = sharding.shard_batch(next(batches), run.mesh)
        params = state.network.params
        params["head"]["bias"] = params["head"]["bias"].at[3].set(jnp.nan)
        before = jax.device_get(state.network)
        after, metrics = run.train_step(0, state, batch)
        assert not np.isfinite(metrics["loss"])
        assert (int(after.step), int(after.skipped), int(after.skipped_in_a_row)) == (1, 1, 1)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(after.network), before)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"data.tokenizer": ""}, "data.tokenizer is empty: a model that begins"),
        ({"data.text": ""}, "data.text is empty"),
        ({"model.vocabulary": 10}, "model.vocabulary=10 is less than the .* ids of data.text"),
        ({"data.batch_size": 9, "optim.accumulation": 2}, "data.batch_size=9 is not a multiple"),
        ({"optim.frozen": ("lang.*",)}, "optim.frozen: 'lang.*' matches no parameter"),
        ({"init.path": "a", "init.language": "b"}, "init.path=a is a whole model"),
        ({"model.num_codebooks": 2}, "^data.mixture"),
        ({"eval.mixture": ((1.0, "draw", "none"),)}, r"^eval.mixture\[0\]=none"),
        ({"loss.chunk": 0}, "loss.chunk=0 must be at least 1"),
        ({"loss.text_weight": -1.0}, "loss.text_weight=-1.0 must not be negative"),
        ({"model.groups": 3}, "model.groups=3 does not divide model.heads=4"),
        ({"model.depth_head_width": 8}, "depth_head_width=8 is 8/32 of model.width, and model.gr"),
    ],
    ids=str,
)
def test_what_does_not_fit(config, changes, message):
    config.update_from_flattened_dict(changes)
    with pytest.raises((ValueError, OSError), match=message):
        OneDevice(config).initial_state()


def test_a_chat_template_that_is_no_utf_8_is_kept_as_it_is_read():
    files = {**shape_tokenizer().files, TEMPLATE: b"\xff{{ x }}"}
    text = LanguageTokenizer(files)
    kept = Run.files.fget(types.SimpleNamespace(text=text))
    assert kept[f"{loading.LANGUAGE}/{TEMPLATE}"] == text.chat_template == "\ufffd{{ x }}"


def test_parts_may_be_lists(config, folder):
    """As of a configuration in JSON; the loss of each kind is told all the same."""
    config.data.mixture = ([0.5, "caption", str(folder)], [0.5, "draw", str(folder)])
    assert OneDevice(config).steps.kinds == ["draw", "caption"]


def test_a_probe_begins_with_the_tokenizers_features(config, folder, tokenizer):
    config.model.projection = "full"
    config.data.mixture = ((1.0, "caption", str(folder)),)
    run = OneDevice(config)
    assert not any(packed._rows.draws for packed in (run._packed, run._held_out))
    found = run.initial_params()["image"]
    assert sorted(found) == ["projection", "quantizer"]
    theirs = tokenizer[2]["post_quant_proj"]
    jax.tree.map(np.testing.assert_array_equal, found["projection"], theirs)
    config.model.projection_heads = 2
    with pytest.raises(ValueError, match="model.projection_heads=2, and data.tokenizer=.* has 4"):
        OneDevice(config).initial_params()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model.latent_width": 64}, "model.latent_width=64, and data.tokenizer=.* has 32"),
        ({"model.projection_heads": 2}, "model.projection_heads=2, and data.tokenizer=.* has 4"),
        ({"init.language": "none"}, "init.language=none"),
        ({"init.path": "none"}, "init.path=none"),
    ],
    ids=str,
)
def test_weights_that_do_not_fit(config, changes, message):
    config.update_from_flattened_dict(changes)
    with pytest.raises((ValueError, OSError), match=message):
        OneDevice(config).initial_params()
