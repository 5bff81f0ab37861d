"""A generator's weights between files: the release's training checkpoints, and all of ours."""

import argparse
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from configs import generate
from helpers import in_process, parity
from unitok_jax import trees
from unitok_jax.checkpoints.manager import Checkpoints
from unitok_jax.checkpoints.reader import weights_hash
from unitok_jax.commands import convert, inspect
from unitok_jax.generate import config_checks, limits, loading, release
from unitok_jax.generate.api import Sampler, load_generator
from unitok_jax.system.foreign_files import ConversionError
from unitok_jax.weights import load, torch_files, torch_layout
from unitok_jax.weights.generator_layout import ROWS, is_generator

NAMES = ("generator", "generator_text")
HASH = "0123456789abcdef0123456789abcdef"
# Options of the release's training script, as its checkpoints have them.
OPTIONS = {"gpt_model": "GPT-B", "num_classes": 10, "image_size": 64, "downsample_size": 16}


def published(name="generator", **changed):
    """The reference's seeded state dict; an array of None is left out."""
    state = parity.state(name) | changed
    return {key: array for key, array in state.items() if array is not None}


def table(rows):
    """The class table of the state dict, with another number of rows."""
    return {"cls_embedding.embedding_table.weight": np.ones((rows, 64), np.float32)}


def content(state, args=None, weights=None):
    return torch_files.Content(args, state, weights)


def read(args=None, name="generator", given=None, **changed):
    """Reads a checkpoint of the release with these options and arrays."""
    return loading.from_content("x.pt", content(published(name, **changed), args), **(given or {}))


def made(**keys):
    """A generator of random weights, whose model has other values of keys than the reference's."""
    model = read({"block_size": 16, "num_classes": 10}).config.model.to_dict() | keys
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape, np.float32), limits.abstract_params(model)
    )
    return loading.Weights(loading._config(model), params, HASH)


def assert_same(ours, theirs):
    """The same generator: model, arrays and the tokenizer that it belongs to."""
    assert ours.config.model.to_dict() == theirs.config.model.to_dict()
    assert ours.tokenizer_hash == theirs.tokenizer_hash
    assert ours.stored_features == theirs.stored_features
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)


def refused(call, *arguments, **options):
    """The one line that a call is refused with."""
    with pytest.raises(ValueError) as error:
        call(*arguments, **options)
    assert len(str(error.value).splitlines()) == 1, error.value
    return str(error.value)


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def checkpoint(tmp_path, torch):
    """Saves a training checkpoint as the release does, and returns its path."""

    def save(name="x.pt", **entries):
        path = tmp_path / name
        state = {f"module._orig_mod.{k}": torch.tensor(v) for k, v in published().items()}
        whole = {
            "model": state,
            "optimizer": {"state": {0: {"step": torch.ones(())}}, "param_groups": [{"lr": 1e-4}]},
            "steps": 7,
            "args": argparse.Namespace(**OPTIONS),
            **entries,
        }
        torch.save(whole, path)
        return path

    return save


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """A folder that holds one generator in every kind of file that needs no PyTorch."""
    folder, weights = tmp_path_factory.mktemp("kinds"), made()
    loading.write(folder / "x.safetensors", weights)
    safetensors.numpy.save_file(published(), folder / "bare.safetensors")
    loading.write(folder / "folder", weights)
    loading.write_hub(folder / "hub", weights)
    return folder


@pytest.mark.parametrize("name", NAMES)
class TestLayout:
    def options(self, name):
        """The release's options of the manifest, as far as shapes do not tell them."""
        given = parity.manifest(name)["config"]
        return {key: given[key] for key in ("num_classes", "block_size", "token_dropout_p")}

    def test_names_shapes_and_options_are_the_manifests(self, name):
        found, manifest = read(self.options(name), name), parity.manifest(name)
        state = torch_layout.to_torch(found.params, ROWS, {})
        assert {key: list(array.shape) for key, array in state.items()} == manifest["state"]
        assert {array.dtype for array in state.values()} == {np.dtype(np.float32)}
        assert release.to_args(found.config.model.to_dict(), None) == manifest["config"]

    def test_the_release_loads_strictly_what_is_written(self, name, tmp_path, torch):
        """A tree of modules of the release's names and shapes, which `strict` compares."""
        tree = torch.nn.Module()
        for key, shape in parity.manifest(name)["state"].items():
            *parents, leaf = key.split(".")
            module = tree
            for part in parents:
                if part not in dict(module.named_children()):
                    module.add_module(part, torch.nn.Module())
                module = module.get_submodule(part)
            module.register_parameter(leaf, torch.nn.Parameter(torch.zeros(shape)))
        loading.write(tmp_path / "x.pt", read(self.options(name), name))
        tree.load_state_dict(torch.load(tmp_path / "x.pt", weights_only=True)["model"], strict=True)
        for key, tensor in tree.state_dict().items():
            assert tensor.dtype == torch.float32
            np.testing.assert_array_equal(tensor.numpy(), parity.state(name)[key], err_msg=key)


class TestRelease:
    """Training checkpoints and bare state dicts of the release."""

    def test_the_average_is_taken_unless_the_trained_weights_are_asked_for(self, checkpoint, torch):
        average = {key: torch.tensor(array) + 1 for key, array in published().items()}
        path = checkpoint(ema=average)
        assert OPTIONS == torch_files.read(path, b"PK\x03\x04").args
        for weights, shift in ((None, 1), ("ema", 1), ("raw", 0)):
            found = loading.read(path, weights)
            state = torch_layout.to_torch(found.params, ROWS, {})
            for key, array in published().items():
                np.testing.assert_array_equal(state[key], array + np.float32(shift), err_msg=key)
            assert any("an average, which is taken" in note for note in found.notes) == bool(shift)
        assert "holds no average" in refused(loading.read, checkpoint("y.pt"), "ema")

    def test_every_key_of_the_model(self):
        model = read(OPTIONS | {"token_dropout_p": 0.2, "drop_path_rate": 0.3}).config.model
        assert model.to_dict() == {
            "size": "nano",
            "num_codebooks": 4,
            "vocab_size": 256,
            "grid": (4, 4),
            "prompt": "class",
            "prompt_rope": "zero",
            "classes": 10,
            "null_class": True,
            "text_tokens": 77,
            "text_features": 768,
            "head_depth": 2,
            "head_width": 0,
            "dropout": 0.2,
            "drop_path": 0.3,
            "remat": "none",
            "dtype": "float32",
        }
        text = read(name="generator_text").config.model
        assert (text.prompt, text.text_tokens, text.text_features) == ("text", 6, 32)

    @pytest.mark.parametrize(
        "rows, args, given, classes, null",
        [
            (1000, {}, {}, 1000, False),  # as published
            (1001, {}, {}, 1000, True),
            (11, {"num_classes": 11}, {}, 11, False),
            (11, {"num_classes": 10}, {}, 10, True),
            (11, {}, {"classes": 11}, 11, False),
            (1000, {}, {"classes": 999}, 999, True),
        ],
    )
    def test_the_null_class(self, rows, args, given, classes, null):
        found = read(args, given=given, **table(rows))
        assert (found.config.model.classes, found.config.model.null_class) == (classes, null)
        assert len(found.params["prompt"]["table"]) == rows
        assert any("no null class" in note for note in found.notes) != null

    @pytest.mark.parametrize(
        "args, given, grid",
        [
            ({"block_size": 64}, None, (8, 8)),
            ({"image_size": 128, "downsample_size": 8}, None, (16, 16)),
            ({}, None, (16, 16)),
            ({}, (2, 8), (2, 8)),
            ({"block_size": 64}, (8, 8), (8, 8)),
        ],
    )
    def test_the_grid(self, args, given, grid):
        found = read({"num_classes": 10, **args}, given={"grid": given})
        assert found.config.model.grid == grid
        assert any("is assumed" in note for note in found.notes) == (not args and not given)

    @pytest.mark.slow
    def test_a_published_one_draws_what_it_draws_there(self, checkpoint, torch):
        """Greedy codes of the release's own sampler, without the null class that it never read."""
        rows = published()["cls_embedding.embedding_table.weight"][:10]
        state = published(**{"cls_embedding.embedding_table.weight": rows})
        path = checkpoint(model={key: torch.tensor(array) for key, array in state.items()})
        golden = parity.load("generator")
        drawn = load_generator(path, 8).sample(golden["greedy.classes"], temperature=0)
        np.testing.assert_array_equal(drawn, golden["greedy.plain.codes"])

    def test_positions_are_said_to_be_computed(self):
        assert any("rotary positions" in note for note in read(OPTIONS).notes)

    @pytest.mark.parametrize(
        "args, given, changed, words",
        [
            ({}, {}, {}, "11 rows, .*--classes=10 if it is, --classes=11 if not"),
            ({}, {"classes": 9}, {}, "classes=9 does not fit the table of 11 rows"),
            (OPTIONS, {"classes": 11}, {}, "classes=11 was given, but the file tells 10"),
            ({"num_classes": "ten"}, {}, {}, "classes='ten' does not fit"),
            ({"num_classes": 0}, {}, table(1), "classes=0 does not fit"),
            (
                OPTIONS,
                {"grid": (2, 8)},
                {},
                r"grid=\(2, 8\) was given, but the file tells \(4, 4\)",
            ),
            ({"block_size": 15}, {}, {}, "block_size=15 is no square"),
            ({"block_size": -4}, {}, {}, "block_size=-4 is no square"),
            ({"block_size": [4]}, {}, {}, r"block_size=\[4\] is no square"),
            ({"image_size": 65, "downsample_size": 16}, {}, {}, "image_size=65 is no multiple"),
            ({"image_size": 64, "downsample_size": 0}, {}, {}, "downsample_size=0"),
            (OPTIONS | {"image_size": 2**20}, {}, {}, r"model.grid=\(65536, 65536\) must be"),
            (OPTIONS | {"token_dropout_p": 1.5}, {}, {}, "model.dropout=1.5 must be at least 0"),
            (OPTIONS | {"n_head": 8}, {}, {}, "n_head=8: generators of width 64 have 4 heads"),
            (OPTIONS, {}, {"norm.weight": None}, "missing: norm.weight"),
            (OPTIONS, {}, {"layers.7.x": np.ones(3)}, "width 64 and 3 blocks .*xxl 1536 x 48"),
            (OPTIONS, {}, {"tok_embeddings.weight": np.ones(3)}, "on one codebook .*LlamaGen"),
            (OPTIONS, {}, {"tok_embeddings.codebooks.0.weight": np.ones(3)}, r"shape \(3,\), not"),
            (
                OPTIONS,
                {},
                {"tok_embeddings.codebooks.0.weight": None},
                "no entry 'tok_embeddings.codebooks.0.weight'",
            ),
        ],
    )
    def test_what_does_not_fit_is_named(self, args, given, changed, words):
        with pytest.raises(ConversionError, match=f"^x.pt: .*(\n.*)*{words}"):
            read(args, given=given, **changed)

    def test_all_differences_in_one_error(self):
        with pytest.raises(ConversionError) as error:
            read(OPTIONS, **{"output.norm.weight": np.ones(3), "norm.weight": None, "more": table})
        for line in ("missing: norm.weight (64,)", "unknown: more", "output.norm.weight is (3,)"):
            assert line in str(error.value)

    def test_code_in_the_options_is_not_run(self, checkpoint, tmp_path):
        class Evil:
            def __reduce__(self):
                return open, (str(tmp_path / "trace"), "w")

        path = checkpoint(args=argparse.Namespace(**OPTIONS, hook=Evil()))
        assert "cannot be loaded safely" in refused(loading.read, path)
        assert not (tmp_path / "trace").exists()


class TestRoundTrips:
    def test_through_every_kind_of_file(self, tmp_path, torch):
        first = made()
        path, folder = tmp_path / "a.pt", tmp_path / "hub"
        loading.write(path, first)
        for target in ("b.safetensors", "folder", "c.pt"):
            found = loading.read(path)
            assert_same(found, first)
            path = tmp_path / target
            loading.write(path, found)
        loading.write_hub(folder, loading.read(path))
        assert_same(loading.read(folder), first)
        assert (
            weights_hash(first.config.model.to_dict(), first.params)
            in (folder / "README.md").read_text()
        )
        document = json.loads((folder / "config.json").read_text())
        assert (document["product"], document["tokenizer"]) == ("generator", HASH)

    @pytest.mark.parametrize(
        "keys, refusal",
        [
            ({"null_class": False}, ""),
            ({"prompt": "text", "text_tokens": 3, "text_features": 5}, ""),
            ({"head_depth": 0}, "model.head_depth=0"),
            ({"head_width": 128}, "model.head_width=128"),
            ({"num_codebooks": 1}, "model.num_codebooks=1"),
            ({"grid": (2, 8)}, r"model.grid=(2, 8)"),
            ({"prompt_rope": "identity"}, "model.prompt_rope='identity'"),
        ],
    )
    def test_every_model_has_a_file(self, tmp_path, torch, keys, refusal):
        """The public layout holds what the release can build; ours the rest too."""
        weights = made(**keys)
        loading.write(tmp_path / "x.safetensors", weights)
        loading.write_hub(tmp_path / "hub", weights)
        loading.write(tmp_path / "folder", weights)
        for name in ("x.safetensors", "hub", "folder"):
            assert_same(loading.read(tmp_path / name), weights)
        if refusal:
            words = refused(loading.write, tmp_path / "x.pt", weights)
            assert words.startswith(f"{refusal}: the release's code builds no such generator")
            assert not (tmp_path / "x.pt").exists()
        else:
            loading.write(tmp_path / "x.pt", weights)
            read = loading.read(tmp_path / "x.pt").config.model
            assert all(read[key] == value for key, value in keys.items())

    @pytest.mark.parametrize("stored", [None, "fedcba98"])
    def test_features_of_texts_are_told(self, tmp_path, torch, stored):
        """Those of the tokenizer's tower, or stored ones: the release's files have T5's alone."""
        made_of = made(prompt="text", text_tokens=3, text_features=5)
        weights = made_of._replace(stored_features=stored)
        loading.write_hub(tmp_path / "hub", weights)
        assert ("fedcba98" in (tmp_path / "hub" / "README.md").read_text()) == bool(stored)
        for name in ("x.pt", "x.safetensors", "folder"):
            loading.write(tmp_path / name, weights)
        for name in ("x.pt", "x.safetensors", "folder", "hub"):
            assert loading.read(tmp_path / name).stored_features == stored
        assert read({"num_classes": 10}, "generator_text").stored_features == "those of the release"
        assert read({"num_classes": 10}).stored_features is None

    @pytest.mark.parametrize("null", [True, False])
    def test_the_release_builds_the_rows_that_there_are(self, null):
        """Its table has a row more than classes exactly for a class dropout above 0."""
        weights = made(null_class=null)
        args = release.to_args(weights.config.model.to_dict(), None)
        rows = args["num_classes"] + (args["class_dropout_prob"] > 0)
        assert rows == len(weights.params["prompt"]["table"])

    def test_without_a_tokenizer(self, tmp_path, torch):
        weights = made()._replace(tokenizer_hash=None)
        loading.write_hub(tmp_path / "hub", weights)
        assert "not recorded" in (tmp_path / "hub" / "README.md").read_text()
        for name in ("x.pt", "x.safetensors", "folder"):
            loading.write(tmp_path / name, weights)
        for name in ("x.pt", "x.safetensors", "folder", "hub"):
            assert loading.read(tmp_path / name).tokenizer_hash is None

    def test_a_run_has_an_average_and_trained_weights(self, tmp_path):
        weights, config = made(), generate.get_config()
        config.model.update(weights.config.model)
        trained = jax.tree.map(lambda array: array + 1, weights.params)
        items = {"params": weights.params, "training": {"params": trained}}
        with Checkpoints(tmp_path / "run", create=True) as checkpoints:
            checkpoints.save(3, items, config, {}, {loading.TOKENIZER: HASH})
        assert_same(loading.read(tmp_path / "run"), weights)
        assert_same(
            loading.read(tmp_path / "run" / "checkpoints" / "3", "raw"),
            weights._replace(params=trained),
        )
        convert.convert(str(tmp_path / "run"), str(tmp_path / "x.safetensors"))
        assert_same(loading.read(tmp_path / "x.safetensors"), weights)


class TestDocument:
    """Documents in a .safetensors file, a folder for the hub or a checkpoint."""

    def changed(self, kinds, **entries):
        with safetensors.safe_open(kinds / "x.safetensors", framework="numpy") as opened:
            state = {key: opened.get_tensor(key) for key in opened.keys()}
            args = json.loads(opened.metadata()["args"])
        args["model"] |= entries.pop("model", {})
        return content(state, args | entries)

    @pytest.mark.parametrize(
        "entries, words",
        [
            ({"library_name": "other"}, "not of unitok_jax"),
            ({"format_version": 2}, "format_version=2"),
            ({"layout": "own"}, "layout='own'"),
            ({"tokenizer": 3}, "'tokenizer' a hash or null"),
            ({"stored_features": 3}, "'stored_features' must be a digest"),
            ({"model": {"surplus": 1}}, "unknown .*surplus"),
            ({"model": {"size": "huge"}}, "model.size='huge' is none of nano"),
            ({"model": {"size": ["b"]}}, r"model.size=\['b'\] must be a str"),
            ({"model": {"head_depth": 10**7}}, "model.head_depth=10000000 must be an integer"),
            ({"model": {"head_depth": True}}, "model.head_depth=True must be an integer"),
            ({"model": {"classes": -1}}, "model.classes=-1 must be an integer from 1"),
            ({"model": {"null_class": 1}}, "model.null_class=1 must be a bool"),
            ({"model": {"grid": [4]}}, r"model.grid=\(4,\) must be \(rows, columns\)"),
            ({"model": {"grid": "ab"}}, "model.grid='ab' must be"),
            ({"model": {"grid": [4, 10**6]}}, r"model.grid=\(4, 1000000\) must be"),
            ({"model": {"dtype": "int8"}}, "model.dtype='int8' is not one of"),
            ({"model": {"drop_path": float("nan")}}, "model.drop_path=nan must be at least 0"),
            ({"model": {"vocab_size": 255}}, "num_codebooks=4 does not divide .*=255"),
            ({"model": {"size": "7b", "vocab_size": 2**23}}, "at most 17,179,869,184 are allowed"),
        ],
    )
    def test_of_nonsense_is_refused(self, kinds, entries, words):
        found = self.changed(kinds, **entries)
        with pytest.raises(ConversionError, match=f"^x.safetensors.*{words}") as error:
            loading.from_content("x.safetensors", found)
        assert len(str(error.value).splitlines()) == 1

    def test_of_another_product(self, kinds):
        found = self.changed(kinds, product="chat")
        words = refused(loading.from_content, "x", found)
        assert "product='chat'; known: tokenizer, generator" in words
        assert not is_generator(found.args, found.state)
        words = refused(load.from_state, "x", found.args, found.state, {})
        assert words == "x is of product='chat'; known: tokenizer, generator, multimodal"
        assert "product=['a']" in refused(
            loading.from_content, "x", self.changed(kinds, product=["a"])
        )

    def test_of_another_model_lists_the_differences(self, kinds):
        with pytest.raises(ConversionError, match=r"table.weight is \(11, 64\), .* \(10, 64\)"):
            loading.from_content("x", self.changed(kinds, model={"null_class": False}))

    @pytest.mark.parametrize("name", ["x.safetensors", "hub", "folder"])
    def test_given_values_are_compared(self, kinds, name):
        assert "grid=(2, 8) was given" in refused(loading.read, kinds / name, grid=(2, 8))
        assert "classes=9 was given" in refused(loading.read, kinds / name, classes=9)
        loading.read(kinds / name, grid=(4, 4), classes=10)
        assert "does not say whether" in refused(loading.read, kinds / name, "raw")

    def test_keys_that_a_run_saved_are_checked(self, tmp_path):
        config = generate.get_config()
        config.model.update(made().config.model)
        config.model.head_depth = 10**7
        with Checkpoints(tmp_path, create=True) as checkpoints:
            checkpoints.save(0, {"params": {"a": np.ones(1)}}, config, {})
        assert "model.head_depth=10000000 must be" in refused(loading.read, tmp_path)


class TestAnotherKind:
    """A tokenizer where a generator is wanted, and the reverse."""

    @pytest.mark.parametrize("name", ["x.safetensors", "bare.safetensors", "folder", "hub"])
    def test_a_generator_is_no_tokenizer(self, kinds, name):
        words = refused(load.read, kinds / name)
        assert "holds a generator, not a tokenizer: unitok generate" in words

    def test_a_tokenizer_is_no_generator(self, weights, tmp_path):
        bare = tmp_path / "bare.safetensors"
        safetensors.numpy.save_file(dict(parity.state("tiny")), bare)
        convert.convert(str(weights), str(tmp_path / "folder"))
        convert.convert(str(weights), str(tmp_path / "hub"), format="hub")
        for path in (weights, bare, tmp_path / "folder", tmp_path / "hub"):
            words = refused(loading.read, path)
            assert "holds a tokenizer, not a generator: it makes codes" in words

    def test_another_network(self, tmp_path):
        safetensors.numpy.save_file({"conv1.weight": np.ones((4, 3))}, tmp_path / "x.safetensors")
        words = refused(loading.read, tmp_path / "x.safetensors")
        assert "seems to be an unknown network (with conv1.weight), no generator" in words

    def test_a_run_takes_nothing_from_a_generator(self, kinds, capsys, monkeypatch):
        arguments = (kinds / "bare.safetensors", "--config=configs/tiny.py")
        code, _, error = in_process.run(inspect, capsys, monkeypatch, *arguments)
        assert code == 2 and "holds a generator, not a tokenizer" in error

    def test_paths_that_are_nothing(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            loading.read(tmp_path / "nothing")
        assert "'best' is not one of ema, raw" in refused(loading.read, tmp_path, "best")
        assert "an empty folder" in refused(loading.read, tmp_path)
        assert "the suffix names no kind" in refused(loading.write, tmp_path / "x.npz", made())


class TestCommands:
    def test_convert_tells_what_the_checkpoint_lacks(
        self, checkpoint, tmp_path, capsys, monkeypatch
    ):
        path = checkpoint(args=argparse.Namespace(num_classes=11))
        arguments = (path, tmp_path / "out", "--format=hub", "--grid=2,8")
        code, printed, error = in_process.run(convert, capsys, monkeypatch, *arguments)
        assert code == 0, error
        assert "a generator, nano, 296,320 parameters" in printed
        assert "11 rows for 11 classes: no null class" in printed
        assert "its tokenizer is not known; --tokenizer=PATH binds one" in printed
        assert loading.read(tmp_path / "out").config.model.grid == (2, 8)

    def test_convert_binds_a_tokenizer(self, weights, tmp_path):
        loading.write(tmp_path / "x.safetensors", made()._replace(tokenizer_hash=None))
        source, hub = str(tmp_path / "x.safetensors"), str(tmp_path / "hub")
        config, params = load.read(weights)
        hash = weights_hash(config.model.to_dict(), params)
        printed = convert.convert(source, hub, format="hub", tokenizer=str(weights))
        assert f"of the tokenizer {hash}" in printed
        assert loading.read(hub).tokenizer_hash == hash
        convert.convert(hub, str(tmp_path / "again"), tokenizer=str(weights))
        # One that is bound stays so.
        loading.write(tmp_path / "bound.safetensors", made())
        bound, other = str(tmp_path / "bound.safetensors"), str(tmp_path / "other")
        words = refused(convert.convert, bound, other, tokenizer=str(weights))
        assert f"has the hash {hash}" in words and HASH in words
        loading.write(tmp_path / "small.safetensors", made(vocab_size=128))
        small = str(tmp_path / "small.safetensors")
        words = refused(convert.convert, small, other, tokenizer=str(weights))
        assert "model.vocab_size=256, and the generator" in words

    def test_convert_of_a_generator_has_no_heads(self, tmp_path):
        loading.write(tmp_path / "x.safetensors", made())
        source, target = str(tmp_path / "x.safetensors"), tmp_path / "y"
        words = refused(convert.convert, source, str(target), text_heads=3)
        assert words == "--text_heads is of a tokenizer: omit it for a generator"
        assert not target.exists()

    @pytest.mark.parametrize("name", ["tokenizer", "grid", "classes"])
    def test_convert_of_a_tokenizer_has_no_such_flags(self, weights, tmp_path, name):
        words = refused(convert.convert, str(weights), str(tmp_path / "x"), **{name: 3})
        assert words.startswith(f"--{name} is for a generator")

    def test_grid_of_the_command_line(self, tmp_path, capsys, monkeypatch):
        arguments = (tmp_path / "a", tmp_path / "b", "--grid=16")
        code, _, error = in_process.run(convert, capsys, monkeypatch, *arguments)
        assert code == 2 and "'16' is not ROWS,COLUMNS" in error

    @pytest.mark.parametrize("name", ["x.safetensors", "hub", "folder"])
    def test_inspect_describes_a_generator(self, tmp_path, capsys, monkeypatch, name):
        weights = made(null_class=False)
        (loading.write_hub if name == "hub" else loading.write)(tmp_path / name, weights)
        code, printed, error = in_process.run(inspect, capsys, monkeypatch, tmp_path / name)
        assert code == 0, error
        count = sum(array.size for array in trees.flatten(weights.params).values())
        for fact in ("a generator of size nano", f"{count:,}", "10 classes, no null class", HASH):
            assert fact in printed

    def test_inspect_describes_a_tokenizer(self, weights, tmp_path, capsys, monkeypatch):
        code, printed, _ = in_process.run(inspect, capsys, monkeypatch, weights)
        config, params = load.read(weights)
        hash = weights_hash(config.model.to_dict(), params)
        assert code == 0 and "a tokenizer of size tiny" in printed and hash in printed
        safetensors.numpy.save_file({"conv1.weight": np.ones((4, 3))}, tmp_path / "x.safetensors")
        code, _, error = in_process.run(inspect, capsys, monkeypatch, tmp_path / "x.safetensors")
        assert code == 2 and "an unknown network and carries no configuration" in error


class TestNullClass:
    def test_training_that_drops_labels_needs_one(self):
        config = generate.get_config()
        config.model.null_class = False
        assert "loss.drop_prompt=0.1 drops labels" in refused(config_checks.check, config)
        config.loss.drop_prompt = 0.0
        config_checks.check(config)

    def test_guidance_needs_one(self):
        sampler = Sampler(made(null_class=False), batch_size=8)
        words = refused(sampler.sample, [1], scale=1.5)
        assert "no null class (model.null_class=False)" in words

    def test_training_configurations_are_within_the_bounds_too(self):
        config = generate.get_config()
        assert limits.BOUNDS.keys() <= set(config.model)
        config.model.classes = 0
        assert "model.classes=0 must be an integer from 1" in refused(config_checks.check, config)
