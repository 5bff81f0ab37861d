"""A multimodal model's folders: the release's, a run's and the hub's, and conversions of them."""

import json

import jax
import numpy as np
import pytest
import safetensors.numpy
from ml_collections import ConfigDict

import unitok_jax
from helpers import in_process, language_folders, multimodal_folders, parity
from helpers.language_tokenizers import words
from helpers.multimodal_folders import save, state
from unitok_jax.checkpoints.manager import Checkpoints
from unitok_jax.commands import convert, inspect
from unitok_jax.data import language_tokenizer
from unitok_jax.generate import loading as generators
from unitok_jax.multimodal import limits, loading, trunk
from unitok_jax.system.foreign_files import ConversionError
from unitok_jax.weights import llama_layout, load, shards, torch_layout

GRID = (4, 4)
HASH = "0123456789abcdef0123456789abcdef"
IMAGE = "model.multi_embedder"


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """The release's folder with the reference's weights."""
    return save(tmp_path_factory.mktemp("release") / "unitok_mllm")


@pytest.fixture(scope="module")
def model(released):
    """The same, read and bound to a tokenizer."""
    return loading.read(released, grid=GRID)._replace(tokenizer_hash=HASH, notes=())


@pytest.fixture(scope="module")
def kinds(model, tmp_path_factory):
    """A folder that holds one model in the two kinds of folder that are written."""
    root = tmp_path_factory.mktemp("kinds")
    loading.write(root / "ours", model)
    loading.write_hub(root / "hub", model)
    return root


def refused(call, *arguments, error=ValueError, **options):
    """What a call is refused with."""
    with pytest.raises(error) as caught:
        call(*arguments, **options)
    return str(caught.value)


def assert_same(ours, theirs):
    """The same model: keys, arrays, the tokenizer that it belongs to, and its text."""
    assert ours.config.model.to_dict() == theirs.config.model.to_dict()
    assert (ours.tokenizer_hash, ours.form) == (theirs.tokenizer_hash, theirs.form)
    assert (ours.text.special, ours.text.hash) == (theirs.text.special, theirs.text.hash)
    jax.tree.map(np.testing.assert_array_equal, ours.params, theirs.params)


def changed(model, **keys):
    """A model of random weights with other values of keys."""
    keys = model.config.model.to_dict() | keys
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: rng.standard_normal(leaf.shape, np.float32), limits.abstract_params(keys)
    )
    return loading.Weights(ConfigDict({"model": keys}), params, HASH, model.text)


class TestRelease:
    def test_the_configuration_is_the_manifests(self, model):
        options, found = multimodal_folders.OPTIONS, model.config.model
        tokenizer, language = options["tokenizer"], options["language_model"]
        assert found.num_codebooks == tokenizer["num_codebooks"]
        assert found.vocab_size == tokenizer["vocab_size"]
        assert found.latent_width == tokenizer["vocab_width"]
        assert found.projection_width == tokenizer["embed_dim"]
        assert found.projection_heads == tokenizer["num_heads"]
        assert found.head_depth == options["depth_head_layers"]
        assert found.vocabulary == language["vocab_size"]
        assert found.groups == language["num_key_value_heads"]
        assert found.projection == "causal"
        assert model.text.special._asdict() == options["special_ids"]
        assert model.form == ("vicuna", True)  # no ids around the images of conversations

    def test_what_is_written_has_the_releases_names_shapes_and_values(self, kinds):
        with shards.open_folder(kinds / "hub") as arrays:
            found = {name: np.asarray(array) for name, array in arrays.items()}
        theirs = state()
        assert {name: list(array.shape) for name, array in found.items()} == (
            multimodal_folders.MANIFEST["state"]
        )
        for name, array in theirs.items():
            if not name.endswith("vocab_usage"):  # a statistic of training
                np.testing.assert_array_equal(found[name], array, err_msg=name)

    def test_what_is_written_is_what_the_releases_code_is_configured_by(self, kinds):
        config = json.loads((kinds / "hub/config.json").read_text())
        theirs = multimodal_folders.config()
        same = theirs.keys() - {"mm_projector_type", "pretraining_tp"}
        assert {key: config[key] for key in same} == {key: theirs[key] for key in same}
        # without our own keys it is read as the release's
        (kinds / "again").mkdir()
        for path in (kinds / "hub").iterdir():
            (kinds / "again" / path.name).write_bytes(path.read_bytes())
        ours = ("library_name", "product", "format_version", "layout", "model", "tokenizer")
        ours += loading.Form._fields
        rest = {key: value for key, value in config.items() if key not in ours}
        (kinds / "again/config.json").write_text(json.dumps(rest))
        again, hub = loading.read(kinds / "again", grid=GRID), loading.read(kinds / "hub")
        assert_same(again._replace(tokenizer_hash=HASH), hub)

    def test_what_a_folder_does_not_tell_is_said(self, released):
        found = loading.read(released)
        assert found.config.model.grid == (16, 16)
        assert "nothing tells the grid of tokens: (16, 16) is assumed" in found.notes[0]
        assert "--tokenizer=PATH binds it" in found.notes[1]
        assert len(loading.read(released, grid=GRID).notes) == 1

    @pytest.mark.parametrize("dtype, compute", [("float32", "float32"), ("bfloat16", "bfloat16")])
    def test_of_16_bits(self, tmp_path, model, dtype, compute):
        folder = save(tmp_path / "x", dtype=dtype, changes={"torch_dtype": dtype})
        found = loading.read(folder, grid=GRID)
        assert found.config.model.dtype == compute
        for ours, theirs in zip(*map(jax.tree.leaves, (found.params, model.params)), strict=True):
            assert ours.dtype == np.float32
            np.testing.assert_allclose(ours, theirs, rtol=0 if dtype == "float32" else 2**-8)

    def test_a_linear_projection(self, tmp_path):
        projection = {
            name: None for name in state() if name.startswith(f"{IMAGE}.attn_projection.")
        }
        linear = {
            f"{IMAGE}.attn_projection.weight": np.ones((128, 32), np.float32),
            f"{IMAGE}.attn_projection.bias": np.ones(128, np.float32),
        }
        found = loading.read(save(tmp_path / "x", **projection | linear), grid=GRID)
        assert found.config.model.projection == "linear"
        assert found.config.model.projection_width == 128
        np.testing.assert_array_equal(found.params["image"]["projection"]["kernel"], 1)

    def test_what_does_not_fit_is_listed(self, tmp_path):
        changes = {
            "ar_head.norm.weight": None,
            "ar_head.norm.bias": np.ones(64, np.float32),
            f"{IMAGE}.mm_projector.3.weight": np.ones((64, 63), np.float32),
            f"{IMAGE}.attn_projection.attn.zero_k_bias": np.ones(128, np.float32),
        }
        message = refused(loading.read, save(tmp_path / "x", **changes), grid=GRID)
        for line in (
            "missing: ar_head.norm.weight (64,)",
            "unknown: ar_head.norm.bias (64,)",
            f"shape: {IMAGE}.mm_projector.3.weight is (64, 63), the model has (64, 64)",
            f"not zero: {IMAGE}.attn_projection.attn.zero_k_bias",
        ):
            assert line in message

    def test_a_folder_without_images_is_told(self, tmp_path):
        images = {name: None for name in state() if name.startswith(f"{IMAGE}.")}
        message = refused(loading.read, save(tmp_path / "x", **images))
        assert "not the state dict of a multimodal model: there is no entry" in message

    def test_a_tokenizer_of_text_may_lie_elsewhere(self, tmp_path, model):
        folder = save(tmp_path / "x", files={"tokenizer.model": b"\n"})
        message = refused(loading.read, folder, error=FileNotFoundError)
        assert "of SentencePiece, is not read; give a folder that has it" in message
        (tmp_path / "text").mkdir()
        language_tokenizer.write(tmp_path / "text", model.text)
        found = loading.read(folder, text=tmp_path / "text", grid=GRID)
        assert found.text.special == model.text.special

    def test_ids_of_images_without_rows_are_refused(self, tmp_path):
        full = words(("<unk>", "<eos>"), 160)
        message = refused(loading.read, save(tmp_path / "x", files=full))
        assert "the ids of images, (160, 161), are behind its 160 rows" in message


class TestKinds:
    @pytest.mark.parametrize("kind", ["ours", "hub"])
    def test_what_is_written_is_read_as_the_same(self, kinds, model, kind):
        assert_same(loading.read(kinds / kind), model)
        assert load.product(kinds / kind) == "multimodal"

    @pytest.mark.parametrize(
        "keys",
        [
            {"head_depth": 0},
            {"depth_head_width": 32},
            {"projection": "linear"},
            {"qkv_bias": True},
            {"qk_norm": True},
            {"tied": True},
            {"head_width": 8},
            {"rope_scaling": {"factor": 8.0, "low": 1.0, "high": 4.0, "original": 64}},
            {"projection_heads": 2},
        ],
        ids=str,
    )
    def test_a_model_that_the_release_cannot_build_has_a_folder_of_ours(
        self, tmp_path, model, keys
    ):
        other = changed(model, **keys)
        loading.write_hub(tmp_path / "hub", other)
        assert "architectures" not in json.loads((tmp_path / "hub/config.json").read_text())
        assert_same(loading.read(tmp_path / "hub"), other)

    def test_a_folder_in_several_files(self, tmp_path, model, monkeypatch):
        monkeypatch.setattr(shards.write, "__defaults__", (100_000,))
        loading.write_hub(tmp_path / "hub", model)
        assert (tmp_path / "hub" / shards.INDEX).is_file()
        assert_same(loading.read(tmp_path / "hub"), model)

    @pytest.mark.parametrize("keys", [{"template": "x"}, {"template": []}, {"bare_images": 1}])
    def test_another_form_of_conversations_is_refused(self, kinds, tmp_path, keys):
        for path in (kinds / "hub").iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        config = json.loads((tmp_path / "config.json").read_text()) | keys
        (tmp_path / "config.json").write_text(json.dumps(config))
        message = refused(loading.read, tmp_path)
        assert "must be '' or one of vicuna, llama3, chatml, plain, and a bool" in message

    def test_a_form_of_words_that_the_tokenizer_of_text_lacks(self, tmp_path, model):
        """As where another tokenizer of text is given than that of the training."""
        loading.write(tmp_path / "x", model._replace(form=loading.Form("chatml")))
        message = refused(loading.read, tmp_path / "x")
        assert "x/checkpoints: template=chatml: the tokenizer has no <|im_start|>" in message

    def test_the_step_of_a_run(self, kinds, model):
        assert_same(loading.read(kinds / "ours/checkpoints/0"), model)

    def test_a_run_on_text_alone_has_no_tokenizer_recorded(self, tmp_path, model):
        """Its data name none, and what is trained behind it, or asked, has one."""
        config = ConfigDict(model.config.to_dict() | {"product": "multimodal", "data": {}})
        with Checkpoints(tmp_path, create=True) as checkpoints:
            checkpoints.save(0, {"params": model.params}, config, {}, {loading.TOKENIZER: ""})
        (tmp_path / loading.LANGUAGE).mkdir()
        language_tokenizer.write(tmp_path / loading.LANGUAGE, model.text)
        assert model.tokenizer_hash and loading.read(tmp_path).tokenizer_hash is None

    def test_a_grid_that_is_told_is_compared(self, kinds):
        for kind in ("ours", "hub"):
            assert loading.read(kinds / kind, grid=GRID).config.model.grid == GRID
            message = refused(loading.read, kinds / kind, grid=(2, 8))
            assert "grid=(2, 8) was given" in message
            assert "has model.grid=(4, 4)" in message

    def test_a_run_without_its_text(self, tmp_path, model):
        loading.write(tmp_path / "x", model)
        for path in (tmp_path / "x" / loading.LANGUAGE).iterdir():
            path.unlink()
        message = refused(loading.read, tmp_path / "x", error=FileNotFoundError)
        assert "x/language holds no tokenizer.json" in message

    def test_a_vocabulary_of_another_model(self, kinds, tmp_path):
        folder = language_folders.language_tokenizers.save(tmp_path / "t", words(size=161))
        message = refused(loading.read, kinds / "hub", text=folder)
        assert "has 161 ids, and the model's embeddings 160 rows" in message

    @pytest.mark.parametrize(
        "keys, words_",
        [
            ({"depth": 10**7}, "model.depth=10000000 must be an integer"),
            ({"head_width": 15}, "model.head_width=15 is odd"),
            ({"rope_scaling": {}}, "model.rope_scaling={} must have the keys factor"),
            ({"rope_base": 0}, "model.rope_base=0 must be above 0"),
            ({"grid": [4]}, "model.grid=(4,) must be (rows, columns)"),
            ({"dtype": "float16"}, "model.dtype='float16' is not one of"),
            ({"tied": 1}, "model.tied=1 must be a bool"),
            ({"new": 1}, "unknown ['new']"),
            ({"vocabulary": 2**24, "width": 2**16}, "parameters"),
        ],
        ids=str,
    )
    def test_a_configuration_is_not_trusted(self, kinds, tmp_path, keys, words_):
        for path in (kinds / "hub").iterdir():
            (tmp_path / path.name).write_bytes(path.read_bytes())
        config = json.loads((tmp_path / "config.json").read_text())
        config["model"] |= keys
        (tmp_path / "config.json").write_text(json.dumps(config))
        message = refused(loading.read, tmp_path)
        assert words_ in message
        assert "config.json" in message

    def test_products_are_told_apart(self, kinds, tmp_path):
        language = language_folders.save(tmp_path / "language")
        holds = f"{kinds / 'hub/config.json'} holds a multimodal model, not"
        assert f"{holds} a tokenizer: unitok chat" in refused(load.read, kinds / "hub")
        assert f"{holds} a generator" in refused(generators.read, kinds / "hub")
        assert "holds a multimodal model, not a tokenizer" in refused(load.read, kinds / "ours")
        message = refused(loading.read, language)
        assert "holds a language model, not a multimodal model: unitok train" in message
        assert "holds a language model, not a tokenizer" in refused(load.read, language)

    def test_a_file_is_no_multimodal_model(self, kinds):
        message = refused(loading.read, kinds / "hub/model.safetensors")
        assert "is a file; a multimodal model is a folder" in message


class TestBinding:
    def tokenizer(self, model, **keys):
        """(configuration, parameters) with the model's codebooks."""
        found = {key: model.config.model[key] for key in ("num_codebooks", "vocab_size")}
        found["latent_width"] = model.config.model.latent_width
        codebook = model.params["image"]["quantizer"]["codebook"]
        return ConfigDict({"model": found | keys}), {"quantizer": {"codebook": codebook}}

    def test_the_tokenizer_of_the_codebooks_is_bound(self, model):
        config, params = self.tokenizer(model)
        free = model._replace(tokenizer_hash=None)
        bound = loading.bind(free, config, params, "t").tokenizer_hash
        assert len(bound) == 32
        rounded = jax.tree.map(lambda a: a.astype(np.float16).astype(np.float32) * 3, params)
        assert loading.bind(free, config, rounded, "t").tokenizer_hash != bound
        again = model._replace(tokenizer_hash=bound)
        assert loading.bind(again, config, params, "t").tokenizer_hash == bound

    def test_others_are_refused(self, model):
        config, params = self.tokenizer(model)
        free = model._replace(tokenizer_hash=None)
        assert "has the hash" in refused(loading.bind, model, config, params, "t")
        wrong, _ = self.tokenizer(model, num_codebooks=8)
        message = refused(loading.bind, free, wrong, params, "t")
        assert "--tokenizer=t has model.num_codebooks=8, and the multimodal model 4" in message
        for other in ({"codebook": -params["quantizer"]["codebook"]}, {}):
            message = refused(loading.bind, free, config, {"quantizer": other}, "t")
            assert "--tokenizer=t has other codebooks" in message


class TestCommands:
    def test_conversion_both_ways(self, released, tmp_path, model):
        ours, hub = tmp_path / "ours", tmp_path / "hub"
        lines = convert.convert(str(released), str(ours), grid=GRID).splitlines()
        assert lines[0] == f"{ours}: a multimodal model, 354,240 parameters"
        assert "its codebooks are a tokenizer's" in lines[1]
        convert.convert(str(ours), str(hub), format="hub")
        assert_same(loading.read(hub), model._replace(tokenizer_hash=None))
        with shards.open_folder(hub) as arrays:
            assert arrays.keys() == state().keys()

    def test_a_tokenizer_is_bound(self, released, weights, tmp_path):
        """The tiny tokenizer has the sizes of the model's codes."""
        theirs = parity.state("tiny")
        name = "quantizer.codebooks.{}.codebook.weight"
        books = {f"{IMAGE}.{name.format(i)}": theirs[name.format(i)] for i in range(4)}
        source, target = save(tmp_path / "mllm", **books), tmp_path / "x"
        given = {"tokenizer": str(weights), "grid": GRID}
        lines = convert.convert(str(source), str(target), **given).splitlines()
        hash = unitok_jax.load(weights).hash
        assert lines[1:] == [f"its codes are of the tokenizer {hash}"]
        assert loading.read(target).tokenizer_hash == hash
        message = refused(convert.convert, str(released), str(tmp_path / "y"), **given)
        assert f"--tokenizer={weights} has other codebooks than the multimodal model" in message

    def test_the_longest_row_of_training_is_kept(self, kinds, tmp_path):
        convert.convert(str(kinds / "hub"), str(tmp_path / "language"), format="language")
        told = json.loads((tmp_path / "language/config.json").read_text())
        theirs = multimodal_folders.config()["max_position_embeddings"]
        assert told["max_position_embeddings"] == theirs != loading.POSITIONS

    def test_the_language_model_alone(self, kinds, tmp_path, model):
        target = tmp_path / "language"
        line = convert.convert(str(kinds / "ours"), str(target), format="language")
        assert line.startswith(f"{target}: its language model, ")
        folder = trunk.open_folder(target)
        keys = model.config.model.to_dict()
        assert folder.keys == {key: keys[key] for key in folder.keys}
        params = trunk.read(folder, keys)
        jax.tree.map(np.testing.assert_array_equal, params, model.params["language"])
        rows = llama_layout.rows(keys)
        assert torch_layout.to_torch({"language": params}, rows, {}).keys() == {
            name for name in state() if not name.startswith((IMAGE, "ar_head."))
        }

    def test_flags_of_other_products_are_refused(self, kinds, released, tmp_path, weights):
        target = str(tmp_path / "x")
        for source, options, words_ in (
            (released, {"classes": 3}, "--classes is for a generator, which"),
            (released, {"heads": 3}, "--heads is of a tokenizer: omit it without one"),
            (weights, {"text_tokenizer": "x"}, "--text_tokenizer is for a multimodal model, which"),
            (weights, {"format": "language"}, "--format=language is for a multimodal model"),
            (weights, {"grid": GRID}, "--grid is for a generator or a multimodal model, which"),
        ):
            message = refused(convert.convert, str(source), target, **options)
            assert words_ in message
        message = refused(convert.convert, str(kinds / "ours"), f"{target}.safetensors")
        assert "give a path without a suffix" in message
        assert not (tmp_path / "x").exists()

    def test_a_file_of_a_folder_is_told(self, tmp_path):
        for names, words_ in (
            (["ar_head.norm.weight"], "part of a multimodal model, which is read as a folder"),
            (["model.embed_tokens.weight"], "part of a language model, which is read as a folder"),
        ):
            path = tmp_path / "x.safetensors"
            safetensors.numpy.save_file({name: np.ones(3) for name in names}, path)
            assert words_ in refused(convert.convert, str(path), str(tmp_path / "y"))

    def test_arguments(self, released, model, tmp_path, capsys, monkeypatch):
        text, target = tmp_path / "text", tmp_path / "x"
        text.mkdir()
        language_tokenizer.write(text, model.text)
        code, printed, _ = in_process.run(
            *(convert, capsys, monkeypatch, released, target),
            *("--format=language", "--grid=4,4", f"--text_tokenizer={text}"),
        )
        assert (code, printed.startswith(f"{target}: its language model")) == (0, True)
        code, _, error = in_process.run(convert, capsys, monkeypatch, released, target)
        assert code == 2
        assert "is there and not empty" in error

    def test_inspect(self, kinds, released, tmp_path):
        told = inspect._described(str(kinds / "hub"))
        assert told.startswith(f"{kinds / 'hub'}: a multimodal model\n")
        for line in ("codes of an image (K x N) 4 x 16", f"tokenizer.hash            {HASH}"):
            assert line in told
        assert "bos 1, eos 2, pad 0, boi 3, eoi 4" in told
        assert "(16, 16) is assumed" in inspect._described(str(released))
        language = language_folders.save(tmp_path / "language", "qwen2")
        told = inspect._described(str(language))
        assert told.startswith(f"{language}: a language model\n")
        for key in ("model.width               48", "model.qkv_bias            True", "id of boi"):
            assert key in told


def test_nothing_is_written_over(kinds, model):
    before = {path: path.read_bytes() for path in (kinds / "hub").iterdir()}
    for write in (loading.write, loading.write_hub):
        with pytest.raises(ConversionError, match="not empty"):
            write(kinds / "hub", model)
    assert {path: path.read_bytes() for path in (kinds / "hub").iterdir()} == before
