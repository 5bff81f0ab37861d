"""Starting from weights: real files of each layout, made from the reference's seeded weights."""

import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from helpers import parity
from helpers.clip_files import text, timm_vit, vit_clip, vitamin, vitamin_clip, write
from unitok_jax import trees
from unitok_jax.models.unitok import abstract_model
from unitok_jax.runtime import sharding
from unitok_jax.weights import initialize, load, torch_layout, torch_options

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model():
    return torch_options.to_config(parity.manifest("tiny")["config"]).model.to_dict()


@pytest.fixture(scope="module")
def abstract(model):
    return abstract_model(model)[1]


@pytest.fixture(scope="module")
def fresh(abstract):
    """Parameters that no file has."""
    return jax.tree.map(lambda leaf: np.full(leaf.shape, -7, np.float32), abstract)


@pytest.fixture(scope="module")
def expected(abstract):
    """The reference's weights as our parameters: dotted path -> array."""
    return trees.flatten(torch_layout.from_torch(parity.state("tiny"), abstract))


def start(path, abstract, fresh, model, **kwargs):
    params, found = initialize.initial_params(path, abstract, fresh, model=model, **kwargs)
    assert jax.tree.structure(params) == jax.tree.structure(fresh)
    return trees.flatten(params), found


def check(params, expected, patterns):
    """What the patterns match is the reference's, the rest is fresh."""
    mask = trees.name_mask(params, patterns)
    for name, array in params.items():
        wanted = expected[name] if mask[name] else np.full(expected[name].shape, -7, np.float32)
        np.testing.assert_array_equal(jax.device_get(array), wanted, err_msg=name)


class TestOtherPaths:
    """What `init.path` should not name is called by what it is."""

    @pytest.mark.parametrize(
        "names, words",
        [
            (["a.jpg"], "a folder of images"),
            (["manifest.json"], "what tokenize or data.pack wrote"),
            (["export.json", "encode.jax"], "an exported tokenizer"),
            (["00.tar", "01.tar"], "a folder with data"),
            (["tiny.py"], "Python code, such as the configuration of a run"),
            ([], "an empty folder"),
        ],
    )
    def test_folders(self, tmp_path, abstract, fresh, model, names, words):
        for name in names:
            (tmp_path / name).touch()
        with pytest.raises(load.ConversionError, match=f"{words}.*no workdir.*is wanted"):
            start(tmp_path, abstract, fresh, model)

    @pytest.mark.parametrize(
        "name, words", [("tiny.py", "Python code"), ("a.png", "an image"), ("a.npz", "arrays")]
    )
    def test_files(self, tmp_path, abstract, fresh, model, name, words):
        (tmp_path / name).write_text("content")
        with pytest.raises(load.ConversionError, match=f"{words}.*known: .pth"):
            start(tmp_path / name, abstract, fresh, model)

    def test_home_folder(self, tmp_path, abstract, fresh, model, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        write(tmp_path / "clip.safetensors", vitamin_clip())
        assert start("~/clip.safetensors", abstract, fresh, model)[1].used

    def test_arrays_without_axes(self, tmp_path, abstract, fresh, model):
        names = (
            "visual.trunk.patch_embed.backbone.stem.conv1.weight",
            "text.token_embedding.weight",
        )
        state = vitamin_clip() | {name: np.float32(0).reshape(()) for name in names}
        _, found = start(write(tmp_path / "x.safetensors", state), abstract, fresh, model)
        assert found.unused.keys() >= set(names)

    def test_training_of_a_folder_that_holds_weights_only(self, model):
        (line,) = initialize.training_differences({"model": model, "data": {}}, {"model": model})
        assert "weights only" in line


class TestClip:
    @pytest.mark.parametrize("prefix", ["text.", ""])
    @pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
    def test_both_towers(self, tmp_path, abstract, fresh, model, expected, prefix, suffix):
        path = write(tmp_path / f"clip{suffix}", vitamin_clip(prefix))
        params, found = start(path, abstract, fresh, model)
        taken = ("encoder.stem.*", "encoder.stages.*", "encoder.pool.*", "encoder.blocks.*")
        taken += ("fc_norm.*", "projection.kernel", "text_encoder.*", "logit_scale")
        check(params, expected, taken)
        assert {name for name in found.fresh if name.startswith("encoder.")} == {
            "encoder.norm.scale",
            "encoder.norm.bias",
        }
        assert set(found.unused) == {"visual.trunk.pos_embed", f"{prefix}attn_mask"}
        assert "ViTamin" in found.kind and "pos_embed" in str(found)

    def test_a_quantizer_without_names_in_that_layout(self, tmp_path, model):
        model = dict(model, quantizer="residual")
        path = write(tmp_path / "clip.safetensors", vitamin_clip())
        taken, _ = initialize.match(path, abstract_model(model)[1], model=model)
        assert {"text_encoder.ln_final.scale", "encoder.stem.conv1.kernel"} <= taken.keys()

    @pytest.mark.parametrize(
        "wrap",
        [
            lambda state: {"epoch": 3, "state_dict": state},
            lambda state: {"state_dict": {f"module.{k}": v for k, v in state.items()}},
            lambda state: {k: v.half() for k, v in state.items()},
        ],
        ids=["state_dict", "module", "half"],
    )
    def test_torch_files_of_training_runs(self, tmp_path, abstract, model, wrap):
        path = write(tmp_path / "clip.pt", vitamin_clip(), wrap)
        _, found = initialize.match(path, abstract, model=model)
        assert len(found.used) == len(vitamin_clip()) - 2

    def test_half_precision_safetensors(self, tmp_path, abstract, model):
        state = {k: jax.numpy.asarray(v, "bfloat16") for k, v in vitamin_clip().items()}
        path = write(tmp_path / "clip.safetensors", state)
        taken, _ = initialize.match(path, abstract, model=model)
        array = taken["encoder.blocks.block.attn.qkv.kernel"].array
        wanted = np.asarray(state["visual.trunk.blocks.1.attn.qkv.weight"], np.float32).T
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array[1], wanted)

    def test_a_norm_of_every_token(self, tmp_path, abstract, fresh, model, expected):
        """ViTamin without average pooling calls it as UniTok does."""
        state = {name: a for name, a in vitamin("").items() if not name.startswith("fc_norm")}
        state |= {
            f"norm.{k}": parity.state("tiny")[f"encoder.norm.{k}"] for k in ("weight", "bias")
        }
        params, _ = start(write(tmp_path / "x.safetensors", state), abstract, fresh, model)
        check(params, expected, ("encoder.*",))

    def test_bare_trunk(self, tmp_path, abstract, fresh, model, expected):
        """Its classifier of 1000 classes has another shape, both of which are told."""
        state = vitamin("") | {"head.weight": np.ones((1000, 128), np.float32)}
        path = write(tmp_path / "trunk.safetensors", state)
        params, found = start(path, abstract, fresh, model)
        check(params, expected, ("encoder.[spb]*", "fc_norm.*"))
        assert "(1000, 128)" in found.unused["head.weight"]
        assert "(64, 128)" in found.unused["head.weight"]

    def test_text_tower_of_a_vit(self, tmp_path, abstract, fresh, model, expected):
        path = write(tmp_path / "vit.safetensors", vit_clip())
        params, found = start(path, abstract, fresh, model)
        check(params, expected, ("text_encoder.*",))
        assert "  visual.*: no counterpart" in str(found)

    def test_logit_scale_without_a_tower_is_told(self, tmp_path, abstract, model):
        state = vit_clip() | {"logit_scale": np.float32(4.6)}
        _, found = initialize.match(write(tmp_path / "x.pt", state), abstract, model=model)
        assert any("logit_scale is used though the image tower" in note for note in found.notes)

    def test_blocks_of_a_plain_vit_are_not_vitamins(self, tmp_path, abstract, model):
        state = timm_vit("visual.trunk.") | text()
        _, found = initialize.match(write(tmp_path / "x.pt", state), abstract, model=model)
        assert all(used.path.startswith("text_encoder.") for used in found.used.values())
        assert "no ViTamin" in found.unused["visual.trunk.blocks.0.attn.qkv.weight"]

    def test_fewer_blocks_fill_the_first(self, tmp_path, abstract, fresh, model, expected):
        state = {name: a for name, a in vitamin_clip().items() if ".resblocks.1." not in name}
        params, found = start(write(tmp_path / "x.pt", state), abstract, fresh, model)
        name = "text_encoder.blocks.block.mlp.c_fc.kernel"
        np.testing.assert_array_equal(params[name][0], expected[name][0])
        assert np.all(params[name][1] == -7) and found.fresh[name] == 1
        assert f"{name}, 1 of its blocks" in str(found)
        told = f"1 of its arrays are missing, such as {name}"
        assert found.lacks([name]) == "; ".join((told, *found.notes))
        assert found.lacks(["encoder.stem.conv1.kernel"]) == ""

    def test_more_blocks_than_the_model_are_told(self, tmp_path, abstract, model):
        state = vitamin_clip()
        bias = "transformer.resblocks.2.ln_1.bias"
        state[f"text.{bias}"] = np.ones(64, np.float32)
        _, found = initialize.match(write(tmp_path / "x.pt", state), abstract, model=model)
        assert found.unused[f"text.{bias}"] == (
            f"no counterpart: the model has no text_encoder.{bias}"
        )
        told = f"it is deeper: 1 of its arrays are left out, such as text.{bias}"
        assert found.lacks(["text_encoder.ln_final.scale"]) == "; ".join((told, *found.notes))
        assert found.lacks(["logit_scale", "encoder.stem.conv1.kernel"]) == ""

    def test_values_that_are_not_finite(self, tmp_path, abstract, model):
        state = vitamin_clip()
        name = next(name for name in state if name.endswith("ln_1.bias"))
        state[name] = np.full(64, np.nan, np.float32)
        with pytest.raises(ValueError, match=rf"x\.pt: {name} holds values that are not finite"):
            initialize.match(write(tmp_path / "x.pt", state), abstract, model=model)

    @pytest.mark.parametrize("rows", [(77, 512), (16, 600)])
    def test_another_tokenization(self, tmp_path, abstract, fresh, model, expected, rows):
        state = vitamin_clip()
        state["text.positional_embedding"] = np.ones((rows[0], 64), np.float32)
        state["text.token_embedding.weight"] = np.ones((rows[1], 64), np.float32)
        path = write(tmp_path / "clip.safetensors", state)
        words = (
            "set model.text.context_length=77"
            if rows[0] == 77
            else "600 rows, model.text.vocab_size=512"
        )
        with pytest.raises(ValueError, match=words):
            initialize.match(path, abstract, model=model)
        params, _ = start(path, abstract, fresh, model, include=("encoder.*",))
        check(params, expected, ("encoder.[spb]*",))

    def test_text_tower_of_another_width(self, tmp_path, abstract, fresh, model, expected):
        """As ViTamin-B's of 512 in a model of 768: the image tower alone is taken."""
        narrow = {name: np.ones([1] * array.ndim, np.float32) for name, array in text().items()}
        path = write(tmp_path / "clip.safetensors", vitamin() | narrow)
        params, found = start(path, abstract, fresh, model)
        check(params, expected, ("encoder.[spb]*", "fc_norm.*"))
        assert "model.embed_dim=1, model.text.width=1" in found.notes[0]
        why = found.unused["text.text_projection"]
        assert "(1, 1)" in why and "(64, 64)" in why

    def test_what_would_fit_is_told(self, tmp_path, abstract, model):
        """ViTamin-B's own text tower and joint space are narrower than UniTok-B's."""
        path = write(tmp_path / "clip.safetensors", vitamin_clip())
        text = dict(model["text"], width=128, layers=3)
        other = dict(model, size="base", quant_heads=24, embed_dim=512, text=text)
        with pytest.raises(ValueError, match="model.size=tiny, model.embed_dim=64, model.text.wi"):
            initialize.match(path, abstract_model(other)[1], model=other)

    @pytest.mark.parametrize(
        "state, words",
        [
            (timm_vit(), "a plain ViT"),
            ({"layer1.0.conv1.weight": np.ones((4, 4), np.float32)}, "a ResNet"),
            ({"text_model.embeddings.x": np.ones(3, np.float32)}, "layout of transformers"),
            ({"some.weight": np.ones(3, np.float32)}, "entries such as some.weight"),
            ({"logit_scale": np.float32(1)}, "nothing of it fits"),
            ({n: a[None] for n, a in vitamin().items()}, r"ViTamin(.|\n)*shape \(1, 128\)"),
        ],
    )
    def test_nothing_fits(self, tmp_path, abstract, model, state, words):
        path = write(tmp_path / "x.safetensors", state)
        with pytest.raises(ValueError, match=rf"x.safetensors seems to be (.|\n)*{words}"):
            initialize.match(path, abstract, model=model)

    def test_shardings_of_the_run(self, tmp_path, abstract, fresh, model, expected):
        target, split = sharding.place_shapes(abstract, sharding.make_mesh(2, 4))
        placed = jax.device_put(fresh, split)
        state = {name: a for name, a in vitamin_clip().items() if ".resblocks.1." not in name}
        params, found = start(write(tmp_path / "x.safetensors", state), target, placed, model)
        for name, leaf in trees.flatten(target).items():
            assert params[name].sharding == leaf.sharding, name
            if name not in found.fresh:
                np.testing.assert_array_equal(jax.device_get(params[name]), expected[name])


@pytest.fixture(scope="module", params=["tiny.safetensors", "tiny.pth", "folder"])
def saved(request, weights, tmp_path_factory):
    if request.param.endswith(".pth"):
        pytest.importorskip("torch")
    path = tmp_path_factory.mktemp("saved") / request.param
    config, params = load.read(weights)
    config.data.image_size = (64, 96)
    load.write(path, config, params)
    return path


class TestUnitok:
    def test_everything(self, saved, abstract, fresh, model, expected):
        free = dict(model, drop_path=0.3, remat="blocks", dtype="bfloat16", commitment_weight=1.0)
        params, found = start(saved, abstract, fresh, free)
        check(params, expected, ("*",))
        assert not found.fresh and not found.unused
        assert "trained at 64x96" in str(found) and "used:\n  *" in str(found)

    def test_another_model(self, saved, abstract, model):
        other = dict(model, num_codebooks=8, quant_heads=2)
        other["text"] = dict(model["text"], heads=8, context_length=77)
        with pytest.raises(ValueError) as error:
            initialize.match(saved, abstract, model=other)
        lines = str(error.value).splitlines()[1:-1]
        assert [line.strip() for line in lines] == [
            "model.num_codebooks: saved 4, now 8",
            "model.quant_heads: saved 4, now 2",
            "model.text.context_length: saved 16, now 77",
            "model.text.heads: saved 4, now 8",
        ]

    def test_parts_that_do_not_depend_on_the_difference(self, weights, fresh, model, expected):
        other = dict(model, num_codebooks=8)
        abstract = abstract_model(other)[1]
        fresh = jax.tree.map(lambda leaf: np.full(leaf.shape, -7, np.float32), abstract)
        params, found = start(weights, abstract, fresh, other, include=("encoder.*", "text_*"))
        for name in params:
            if name.startswith(("encoder.", "text_encoder.")):
                np.testing.assert_array_equal(params[name], expected[name])
        assert found.unused["decoder.norm.bias"] == "left out by init.include"
        assert "decoder.*: left out by init.include" in str(found)
        with pytest.raises(ValueError, match="num_codebooks: saved 4, now 8"):
            initialize.match(weights, abstract, model=other, include=("quantizer.*",))

    def test_without_a_configuration_the_heads_are_ours(self, tmp_path, abstract, model):
        path = write(tmp_path / "bare.safetensors", parity.state("tiny"))
        taken, found = initialize.match(path, abstract, model=model)
        assert len(taken) == len(jax.tree.leaves(abstract)) and "heads" in found.notes[0]
        larger = dict(model, size="base", quant_heads=12)
        with pytest.raises(ValueError, match="model.size: saved 'tiny', now 'base'"):
            initialize.match(path, abstract_model(larger)[1], model=larger)


class TestInclude:
    def test_only_what_is_asked_for(self, tmp_path, abstract, fresh, model, expected):
        path = write(tmp_path / "clip.safetensors", vitamin_clip())
        params, found = start(path, abstract, fresh, model, include=("text_encoder.blocks.*",))
        check(params, expected, ("text_encoder.blocks.*",))
        assert found.unused["logit_scale"] == "left out by init.include"

    def test_typing_error(self, weights, abstract, model):
        with pytest.raises(ValueError, match=r"init.include: 'encodr.\*' .* near: encoder\.\*"):
            initialize.match(weights, abstract, model=model, include=("encodr.*",))

    def test_nothing_is_left(self, tmp_path, abstract, model):
        path = write(tmp_path / "clip.safetensors", vitamin_clip())
        with pytest.raises(ValueError, match="init.include leaves out all that fits: encoder"):
            initialize.match(path, abstract, model=model, include=("decoder.*",))

    def test_no_file(self, tmp_path, abstract, model):
        with pytest.raises(FileNotFoundError, match="nothing.pt does not exist"):
            initialize.match(tmp_path / "nothing.pt", abstract, model=model)


class TestReport:
    def test_it_is_short_and_complete(self, tmp_path, abstract, model):
        _, found = initialize.match(
            write(tmp_path / "x.safetensors", vitamin_clip()), abstract, model=model
        )
        lines = str(found).splitlines()
        assert len(lines) < 100
        block = "blocks.{0..1}.attn.qkv.weight -> encoder.blocks.block.attn.qkv.kernel"
        assert f"  visual.trunk.{block}" in lines
        assert "  decoder.*" in lines and "  projection.bias" in lines
        total = sum(found.sizes.values())
        taken = sum(used.size for used in found.used.values())
        assert f"takes {taken / 1e6:.2f} M of {total / 1e6:.2f} M" in lines[1]


class TestCommand:
    def test_prints_the_report(self, tmp_path):
        """At the sizes of configs/tiny.py the text tower's tables differ."""
        path = write(tmp_path / "clip.safetensors", vitamin_clip())
        run = command(path, "--config=configs/tiny.py", "--include=encoder.*")
        assert run.returncode == 0, run.stderr
        assert "encoder.blocks.block.mlp.w0.kernel" in run.stdout
        assert "text.transformer.*: left out by --include" in run.stdout

    @pytest.mark.parametrize(
        "arguments, words",
        [
            (["--config=configs/tiny.py"], "model.text.context_length=77; set .*=16"),
            (["--config=configs/tiny.py", "--config.model.txt.width=3"], "txt"),
            (["--config=configs/nothing.py"], "nothing.py"),
        ],
    )
    def test_errors_are_one_line(self, tmp_path, arguments, words):
        path = write(tmp_path / "clip.safetensors", vitamin_clip())
        run = command(path, *arguments)
        assert run.returncode == 2 and run.stderr.startswith("error: ")
        assert "Traceback" not in run.stderr
        assert re.search(words, run.stderr), run.stderr


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "unitok_jax", "inspect", *map(str, arguments)],
        capture_output=True,
        text=True,
    )
