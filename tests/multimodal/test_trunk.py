"""Language models in Hugging Face folders: read into a multimodal model, and written again."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from helpers import parity
from helpers.language_folders import NAMES, config_of, model_keys, save, state_of
from helpers.language_tokenizers import words
from unitok_jax.data import language_tokenizer
from unitok_jax.models.transformer import segment_mask
from unitok_jax.multimodal import trunk
from unitok_jax.multimodal.model import abstract_model
from unitok_jax.system.foreign_files import ConversionError
from unitok_jax.weights import llama_layout, shards, torch_layout
from unitok_jax.weights.llama_options import to_options

FULL = words(("<unk>", "<eos>"), 96)  # as many ids as the embeddings have rows, none of them spare


def read(folder, **options):
    """(keyword arguments, subtree `language`) of a folder."""
    opened = trunk.open_folder(folder, **options)
    model = model_keys(opened.keys)
    return model, trunk.read(opened, model)


def arrays_of(params, model):
    """The weights under Hugging Face's names."""
    return torch_layout.to_torch({"language": params}, llama_layout.rows(model), {})


def refused(call, *arguments, error=ConversionError, **options):
    """What a call is refused with."""
    with pytest.raises(error) as caught:
        call(*arguments, **options)
    return str(caught.value)


@pytest.mark.parametrize("name", NAMES)
class TestFolders:
    def test_weights_are_the_folders(self, tmp_path, name):
        folder = save(tmp_path / name, name)
        assert len(list(folder.glob("model-*.safetensors"))) > 2
        model, params = read(folder)
        assert {array.dtype for array in jax.tree.leaves(params)} == {np.dtype(np.float32)}
        ours, theirs = arrays_of(params, model), state_of(name)
        assert ours.keys() == theirs.keys()
        for key, array in theirs.items():
            np.testing.assert_array_equal(ours[key], array, err_msg=key)

    def test_what_is_written_is_read_as_the_same(self, tmp_path, name):
        opened = trunk.open_folder(save(tmp_path / name, name))
        model = model_keys(opened.keys)
        params = trunk.read(opened, model)
        new = tmp_path / "new"
        trunk.write(new, model, params, opened.tokenizer, 256, "float32")
        again = trunk.open_folder(new)
        assert again.keys == opened.keys
        assert again.options.positions == 256
        assert again.tokenizer.special == opened.tokenizer.special
        jax.tree.map(np.testing.assert_array_equal, trunk.read(again, model), params)
        config = json.loads((new / "config.json").read_text())
        assert config["architectures"] == config_of(name)["architectures"]
        assert to_options(config).trunk == to_options(config_of(name)).trunk

    @pytest.mark.slow
    def test_the_reference_continues_alike(self, tmp_path, name):
        """Logits of the model that the folder is read to; config.json is the only word on it."""
        model, params = read(save(tmp_path / name, name))
        graph, shapes = abstract_model(model)
        rest = jax.tree.map(lambda a: np.zeros(a.shape, np.float32), shapes)
        language = nnx.merge(graph, rest | {"language": params}).language
        ids = parity.load("llama")[f"{name}.ids"]
        there = ids != 0
        positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        hidden = language.decoder(
            language.embed(ids),
            rope=language.rope(positions),
            mask=segment_mask(jnp.asarray(there, jnp.int32)),
        )[0]
        golden = parity.load("llama")[f"{name}.logits"]
        ours = np.asarray(language.logits(hidden)) * there[..., None]
        assert np.abs(ours - golden).max() <= 1e-4 * golden.std()


class TestReading:
    def test_one_file_without_an_index(self, tmp_path):
        folder = save(tmp_path / "x", most=10**9)
        assert (folder / shards.WEIGHTS).is_file()
        assert read(folder)[1].keys() == {"embedding", "decoder"}

    def test_bfloat16_is_rounded_once(self, tmp_path):
        exact = read(save(tmp_path / "a"))[1]
        rounded = read(save(tmp_path / "b", dtype="bfloat16"))[1]
        to_bf16 = lambda a: np.asarray(jnp.asarray(a, jnp.bfloat16), np.float32)  # noqa: E731
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(to_bf16(a), b), exact, rounded)

    def test_computed_tables_and_a_copy_of_a_tied_head_are_not_read(self, tmp_path):
        more = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(8) for i in range(3)}
        more["lm_head.weight"] = np.ones((96, 48))
        found = read(save(tmp_path / "a", "llama3", **more))
        np.testing.assert_equal(found, read(save(tmp_path / "b", "llama3")))

    def test_weights_that_are_missing_or_too_many_are_named(self, tmp_path):
        changes = {
            "model.norm.weight": None,
            "model.norm.bias": np.ones(48),
            "model.layers.1.mlp.up_proj.weight": np.ones((80, 47)),
        }
        message = refused(read, save(tmp_path / "x", "llama2", **changes))
        assert str(tmp_path / "x") in message
        for line in (
            "missing: model.norm.weight (48,)",
            "unknown: model.norm.bias (48,)",
            "shape: model.layers.1.mlp.up_proj.weight is (80, 47), the model has (80, 48)",
        ):
            assert line in message

    def test_embeddings_of_another_size_than_config_json_says(self, tmp_path):
        message = refused(read, save(tmp_path / "x", config={"vocab_size": 97}))
        assert "model.embed_tokens.weight is (96, 48), the model has (97, 48)" in message

    def test_a_vocabulary_larger_than_the_embeddings(self, tmp_path):
        folder = save(tmp_path / "x", files=words(size=97))
        message = refused(trunk.open_folder, folder, error=ValueError)
        assert "has 97 ids, and the model's embeddings 96 rows" in message

    def test_a_folder_without_a_tokenizer(self, tmp_path):
        folder = save(tmp_path / "x", files={})
        message = refused(trunk.open_folder, folder, error=FileNotFoundError)
        assert "holds no tokenizer.json: give a folder that has it" in message
        other = save(tmp_path / "y", "qwen2")
        assert trunk.open_folder(folder, other).tokenizer.size == 35

    def test_code_of_a_folder_is_not_run(self, tmp_path):
        folder = save(tmp_path / "x", config={"auto_map": {"AutoModelForCausalLM": "m.M"}})
        message = refused(trunk.open_folder, folder)
        assert "config.json: auto_map=" in message
        assert "is refused" in message

    def test_an_unknown_architecture(self, tmp_path):
        folder = save(tmp_path / "x", config={"architectures": ["GPT2LMHeadModel"]})
        assert "known: LlamaForCausalLM, Qwen2" in refused(trunk.open_folder, folder)

    def test_another_model_than_the_configuration_says_is_told_by_its_keys(self, tmp_path):
        opened = trunk.open_folder(save(tmp_path / "x"))
        model = model_keys(opened.keys | {"depth": 4, "tied": False})
        message = refused(trunk.read, opened, model)
        assert "model.depth=4 (the folder: 3), model.tied=False (the folder: True)" in message
        message = refused(trunk.read, opened, model_keys(opened.keys | {"vocabulary": 95}))
        assert "model.vocabulary=95 (the folder: 96)" in message
        assert trunk.read(opened, model_keys(opened.keys | {"vocabulary": 99}))[
            "embedding"
        ].shape == (99, 48)

    @pytest.mark.parametrize("content", ["", "[]", "{", " " * (1 << 20) + "{}"])
    def test_a_damaged_configuration(self, tmp_path, content):
        folder = save(tmp_path / "x")
        (folder / "config.json").write_text(content)
        assert "config.json" in refused(trunk.open_folder, folder)

    def test_no_folder(self, tmp_path):
        message = refused(trunk.open_folder, tmp_path / "x", error=FileNotFoundError)
        assert "is no folder of a language model" in message
        assert "config.json does not exist" in refused(
            trunk.open_folder, tmp_path, error=FileNotFoundError
        )


class TestIdsOfImages:
    @pytest.mark.parametrize("name", ["llama2", "llama3"])
    def test_rows_that_are_added_are_the_mean(self, tmp_path, name):
        opened = trunk.open_folder(save(tmp_path / "x", name, files=FULL))
        assert opened.tokenizer.special[3:] == (96, 97)
        assert opened.keys["vocabulary"] == 98
        model = model_keys(opened.keys)
        params, state = trunk.read(opened, model), state_of(name)
        head = "model.embed_tokens.weight" if name == "llama3" else "lm_head.weight"
        tables = {"model.embed_tokens.weight": params["embedding"]}
        if name == "llama2":
            tables |= {head: params["kernel"].T}
        for key, table in tables.items():
            np.testing.assert_array_equal(table[:96], state[key])
            for row in table[96:]:
                np.testing.assert_allclose(row, state[key].mean(0), rtol=1e-6, atol=1e-7)

    def test_they_are_written_and_read_as_the_same(self, tmp_path):
        opened = trunk.open_folder(save(tmp_path / "x", files=FULL))
        model = model_keys(opened.keys)
        params = trunk.read(opened, model)
        trunk.write(tmp_path / "new", model, params, opened.tokenizer, 64, "float32")
        again = trunk.open_folder(tmp_path / "new")
        assert again.tokenizer.special == opened.tokenizer.special
        assert again.options.trunk["vocabulary"] == again.keys["vocabulary"] == 98
        jax.tree.map(np.testing.assert_array_equal, trunk.read(again, model), params)

    def test_given_ones_are_used_or_refused(self, tmp_path):
        folder = save(tmp_path / "x", files=words(("<unk>", "<eos>"), 90))
        assert trunk.open_folder(folder).tokenizer.special[3:] == (90, 91)
        assert trunk.open_folder(folder).keys["vocabulary"] == 96
        assert trunk.open_folder(folder, boi=95, eoi=94).tokenizer.special[3:] == (95, 94)
        message = refused(trunk.open_folder, folder, boi=80, error=ValueError)
        assert "boi=80 is in use: it is the token 'w80' of text" in message


class TestWriting:
    def test_a_folder_that_holds_something_is_left(self, tmp_path):
        opened = trunk.open_folder(save(tmp_path / "x"))
        model = model_keys(opened.keys)
        before = sorted(tmp_path.rglob("*"))
        message = refused(
            trunk.write,
            *(tmp_path / "x", model, trunk.read(opened, model), opened.tokenizer, 9, "float32"),
        )
        assert "is not empty" in message
        assert sorted(tmp_path.rglob("*")) == before

    def test_bfloat16(self, tmp_path):
        opened = trunk.open_folder(save(tmp_path / "x", dtype="bfloat16"))
        model = model_keys(opened.keys)
        params = trunk.read(opened, model)
        trunk.write(tmp_path / "new", model, params, opened.tokenizer, 9, "bfloat16")
        assert json.loads((tmp_path / "new/config.json").read_text())["torch_dtype"] == "bfloat16"
        with shards.open_folder(tmp_path / "new") as arrays:
            assert {array.kind for array in arrays.values()} == {"BF16"}
        again = trunk.open_folder(tmp_path / "new")
        jax.tree.map(np.testing.assert_array_equal, trunk.read(again, model), params)

    def test_the_tokenizers_files_are_the_same_bytes(self, tmp_path):
        opened = trunk.open_folder(save(tmp_path / "x"))
        model = model_keys(opened.keys)
        params = trunk.read(opened, model)
        trunk.write(tmp_path / "new", model, params, opened.tokenizer, 9, "float32")
        for name in (language_tokenizer.FILE, language_tokenizer.SETTINGS):
            assert (tmp_path / "new" / name).read_bytes() == (tmp_path / "x" / name).read_bytes()


def test_the_hub_is_asked_for_weights_and_tokenizers_alone(monkeypatch, tmp_path):
    folder = save(tmp_path / "x")
    asked = {}

    def download(repo, revision, allow_patterns):
        asked[repo] = allow_patterns
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert trunk.open_folder("hf://someone/model").keys == trunk.open_folder(folder).keys
    assert asked == {"someone/model": trunk.FILES}
    assert set(language_tokenizer.FILES) < set(trunk.FILES)
    assert not any(pattern.endswith((".bin", ".pth", ".py")) for pattern in trunk.FILES)
