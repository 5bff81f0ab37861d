"""Weights between files, and every way a file can be wrong."""

import json
import os
import pickle
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy

from helpers import parity
from unitok_jax.commands import convert
from unitok_jax.models.unitok import abstract_model
from unitok_jax.tokenizer.api import load
from unitok_jax.weights import load as loading
from unitok_jax.weights import torch_layout, torch_options

pytestmark = pytest.mark.slow


def read_state(path):
    with safetensors.safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()


def write_state(path, state, args=None):
    metadata = None if args is None else {"args": json.dumps(args)}
    safetensors.numpy.save_file({k: np.array(v) for k, v in state.items()}, path, metadata)
    return path


def assert_equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(ours), jax.device_get(theirs))


@pytest.mark.parametrize("name", ["tiny", "tiny_linear", "tiny_entropy", "base"])
class TestLayout:
    def test_names_and_shapes_are_the_manifests(self, name):
        manifest = parity.manifest(name)
        config = torch_options.to_config(manifest["config"])
        _, abstract = abstract_model(config.model.to_dict())
        shapes = {key: list(entry.shape) for key, entry in torch_layout.entries(abstract).items()}
        fixed = torch_layout.fixed_entries(abstract)
        assert shapes.keys() == set(manifest["parameters"]) - {"encoder.pos_embed"}
        shapes |= {key: list(value.shape) for key, value in fixed.items()}
        assert shapes == manifest["state"]

    def test_options_come_back(self, name):
        args = parity.manifest(name)["config"]
        assert torch_options.from_config(torch_options.to_config(args)) == args

    def test_a_causal_projection_has_no_place(self, name):
        """Unlike configurations of files that do not know the key, and those without the mask."""
        config = torch_options.to_config(parity.manifest(name)["config"])
        expected = torch_options.from_config(config)
        config.model.quant_causal = False
        assert torch_options.from_config(config) == expected
        config.model.quant_causal = True
        with pytest.raises(loading.ConversionError, match=r"model\.quant_causal=True: the public"):
            torch_options.from_config(config)


class TestRoundTrips:
    def test_from_torch_to_torch_is_exact(self, reference):
        state = parity.state("tiny")
        config, _ = reference("tiny")
        params = torch_layout.from_torch(state, abstract_model(config.model.to_dict())[1])
        back = torch_layout.to_torch(params)
        assert back.keys() == state.keys()
        for name, array in back.items():
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, state[name], err_msg=name)

    def test_through_every_kind_of_file(self, weights, tmp_path):
        pytest.importorskip("torch")
        config, params = loading.read(weights)
        path = weights
        for target in ("a.pth", "folder", "b.safetensors"):
            loading.write(tmp_path / target, *loading.read(path))
            path = tmp_path / target
        again, final = loading.read(path)
        assert again.to_dict() == config.to_dict()
        assert_equal(final, params)
        assert (tmp_path / "b.safetensors").read_bytes() == weights.read_bytes()

    def test_command(self, weights, tmp_path):
        target = tmp_path / "out.safetensors"
        run = command(weights, target)
        assert run.returncode == 0, run.stderr
        assert "tiny" in run.stdout and target.read_bytes() == weights.read_bytes()

    def test_safetensors_needs_no_torch(self, weights, tmp_path):
        code = (
            "import sys; sys.modules['torch'] = None\n"
            "from unitok_jax.weights import load\n"
            f"load.write({str(tmp_path / 'o.safetensors')!r}, *load.read({str(weights)!r}))\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True)
        assert (tmp_path / "o.safetensors").read_bytes() == weights.read_bytes()


class TestRelease:
    """The public .pth, strictly loaded, by a PyTorch model of the same layout."""

    @pytest.fixture
    def release(self, tmp_path):
        torch = pytest.importorskip("torch")
        state = {name: torch.tensor(array) for name, array in parity.state("tiny").items()}
        args = dict(parity.manifest("tiny")["config"], exp_name="unitok", bed="/somewhere", ep=1)
        path = tmp_path / "unitok_tokenizer.pth"
        torch.save({"args": args, "trainer": {"unitok": state, "disc": {}}}, path)
        return path

    def test_read(self, release, reference):
        config, params = loading.read(release)
        assert config.model.text.heads == 4 and tuple(config.data.image_size) == (64, 64)
        assert_equal(torch_layout.to_torch(params), parity.state("tiny"))

    def test_written_file_is_accepted_by_strict_loading(self, weights, tmp_path):
        torch = pytest.importorskip("torch")
        from benchmarks.torch_unitok import UniTok

        path = tmp_path / "ours.pth"
        loading.write(path, *loading.read(weights))
        content = torch.load(path, weights_only=True)
        model = UniTok(**content["args"])
        model.load_state_dict(content["trainer"]["unitok"], strict=True)
        images = parity.weights.reference_images(4, 64, parity.SEED)
        with torch.no_grad():
            codes = model.img_to_idx(torch.tensor(images.transpose(0, 3, 1, 2))).numpy()
        golden = parity.load("tiny")
        certain = golden["code_margin"] > 1e-4
        np.testing.assert_array_equal(codes[certain], golden["codes"][certain])

    def test_projections_with_other_heads_than_the_trunk(self, tiny, tmp_path, images):
        torch = pytest.importorskip("torch")
        from benchmarks.torch_unitok import UniTok
        from unitok_jax.tokenizer.step import init_params

        tiny.model.size, tiny.model.latent_width = "tiny", 64
        tiny.model.quant_heads = 2  # the trunk has 4
        loading.write(
            tmp_path / "ours.pth", tiny, init_params(tiny.model.to_dict(), jax.random.key(0))
        )
        content = torch.load(tmp_path / "ours.pth", weights_only=True)
        model = UniTok(**content["args"])
        model.load_state_dict(content["trainer"]["unitok"], strict=True)
        ours = load(tmp_path / "ours.pth")
        codes = ours.encode(images)
        with torch.no_grad():
            theirs = model.idx_to_img(torch.tensor(np.asarray(codes)).long())
            found = model.img_to_idx(
                torch.tensor((images.astype(np.float32) / 127.5 - 1).transpose(0, 3, 1, 2))
            )
        np.testing.assert_allclose(
            theirs.numpy().transpose(0, 2, 3, 1), ours.decode(codes), rtol=0, atol=1e-5
        )
        assert np.mean(found.numpy() == codes) > 0.98  # rows equally near may swap

    def test_bare_state_dict_needs_the_heads(self, tmp_path):
        torch = pytest.importorskip("torch")
        path = tmp_path / "bare.pth"
        torch.save({k: torch.tensor(v) for k, v in parity.state("tiny").items()}, path)
        with pytest.raises(loading.ConversionError, match="heads, quant_heads, text_heads"):
            loading.read(path)
        _, params = loading.read(path, heads=4, quant_heads=4, text_heads=4)
        assert_equal(torch_layout.to_torch(params), parity.state("tiny"))


class TestInference:
    """Files without a configuration."""

    @pytest.mark.parametrize("name", ["tiny", "tiny_linear"])
    def test_sizes_come_from_shapes(self, tmp_path, name):
        path = write_state(tmp_path / "bare.safetensors", parity.state(name))
        heads = {"heads": 4, "text_heads": 4} | ({"quant_heads": 4} if name == "tiny" else {})
        config, _ = loading.read(path, **heads)
        expected = torch_options.to_config(parity.manifest(name)["config"])
        for key in expected.model:
            if key not in ("quant_heads", "drop_path", "commitment_weight"):
                assert config.model[key] == expected.model[key], key

    def test_heads_are_checked_against_the_size(self, tmp_path):
        path = write_state(tmp_path / "bare.safetensors", parity.state("tiny"))
        with pytest.raises(loading.ConversionError, match="heads=8 .* heads=4"):
            loading.read(path, heads=8, quant_heads=4, text_heads=4)

    def test_heads_are_checked_against_the_file(self, weights):
        with pytest.raises(loading.ConversionError, match="text_heads=8 .*text_heads=4"):
            loading.read(weights, text_heads=8)

    def test_head_count_that_the_layout_cannot_carry(self, weights, tmp_path):
        config, params = loading.read(weights)
        config.model.quant_heads = 2
        with pytest.raises(loading.ConversionError, match="quant_heads=2"):
            loading.write(tmp_path / "x.safetensors", config, params)

    def test_another_network(self, tmp_path):
        path = write_state(tmp_path / "resnet.safetensors", {"conv1.weight": np.zeros((4, 3))})
        with pytest.raises(loading.ConversionError, match="not the state dict of a UniTok.*conv1"):
            loading.read(path)

    @pytest.mark.parametrize(
        "name",
        [
            "encoder.norm.weight",
            "projection.weight",
            "text_encoder.token_embedding.weight",
            "quantizer.codebooks.0.codebook.weight",
            "encoder.reg_token",
        ],
    )
    def test_arrays_without_axes(self, tmp_path, name):
        state = dict(parity.state("tiny")) | {name: np.zeros((), np.float32)}
        path = write_state(tmp_path / "x.safetensors", state)
        with pytest.raises(loading.ConversionError, match=f"{name} has the shape .* axes"):
            loading.read(path, heads=4, quant_heads=4, text_heads=4)

    def test_unknown_size(self, tmp_path):
        state = dict(parity.state("tiny"))
        state["encoder.norm.weight"] = np.zeros(96, np.float32)
        path = write_state(tmp_path / "x.safetensors", state)
        with pytest.raises(loading.ConversionError, match="trunk width 96"):
            loading.read(path, heads=4, quant_heads=4, text_heads=4)


class TestDifferences:
    def test_all_in_one_error(self, tmp_path):
        state = dict(parity.state("tiny"))
        del state["fc_norm.weight"], state["encoder.blocks.1.attn.proj.bias"]
        state["surplus.weight"] = np.zeros(3, np.float32)
        state["projection.bias"] = np.zeros(63, np.float32)
        state["encoder.pos_embed"] = np.ones((1, 1, 128), np.float32)
        path = write_state(tmp_path / "x.safetensors", state, parity.manifest("tiny")["config"])
        with pytest.raises(loading.ConversionError) as error:
            loading.read(path)
        for line in (
            "5 entries",
            "missing: fc_norm.weight (128,)",
            "missing: encoder.blocks.1.attn.proj.bias",
            "unknown: surplus.weight (3,)",
            "shape: projection.bias is (63,), the model has (64,)",
            "not zero: encoder.pos_embed",
        ):
            assert line in str(error.value)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_values_that_are_not_finite(self, tmp_path, value):
        """Of them every code would be 0, without an error."""
        state = dict(parity.state("tiny"))
        state["fc_norm.weight"] = np.array(state["fc_norm.weight"])
        state["fc_norm.weight"][7] = value
        path = write_state(tmp_path / "x.safetensors", state, parity.manifest("tiny")["config"])
        with pytest.raises(loading.ConversionError, match="x.safe.*fc_norm.weight holds.*finite"):
            loading.read(path)

    def test_wrong_size(self, weights, tmp_path):
        state, metadata = read_state(weights)
        args = dict(json.loads(metadata["args"]), model="vitamin_base")
        path = write_state(tmp_path / "x.safetensors", state, args)
        with pytest.raises(loading.ConversionError, match="shape: encoder.norm.weight is"):
            loading.read(path)

    @pytest.mark.parametrize(
        "change, words",
        [
            ({"model": "vitamin_huge"}, "vitamin_huge.*vitamin_tiny"),
            ({"quant_proj": "conv"}, "quant_proj='conv'"),
            ({"num_codebooks": 3}, "num_codebooks=3 does not divide"),
            ({"model": ["vitamin_tiny"]}, r"args\.model=\['vitamin_tiny'\] is not one of"),
            ({"quant_proj": [1]}, r"args\.quant_proj=\[1\] is not one of attn, linear"),
            ({"vocab_width": 0}, r"args\.vocab_width=0 must be an integer from 1"),
            ({"vocab_width": None}, r"args\.vocab_width=None must be an integer from 1"),
            ({"vocab_width": 4096}, r"128 / args\.vocab_width=0 must be an integer from 1"),
            (
                {"text_layers": 10**6},
                r"args\.text_layers=1000000 must be an integer from 1 to 1024",
            ),
            ({"vq_beta": float("nan")}, r"args\.vq_beta=nan must be at least 0"),
            ({"drop_path": "0.1"}, r"args\.drop_path='0.1' must be at least 0"),
            ({"img_size": None}, r"args\.img_size=\(None, None\) must be \[height, width\]"),
            ({"img_size": [64]}, r"args\.img_size=\(64,\) must be"),
            ({"img_size": 16 * 10**9}, r"args\.img_size=.*16000000000 is over 8192"),
        ],
    )
    def test_options_that_do_not_fit(self, tmp_path, change, words):
        args = dict(parity.manifest("tiny")["config"], **change)
        path = write_state(tmp_path / "x.safetensors", parity.state("tiny"), args)
        with pytest.raises(loading.ConversionError, match=words):
            loading.read(path)

    def test_options_that_are_missing(self, tmp_path):
        args = dict(parity.manifest("tiny")["config"])
        del args["vq_beta"], args["text_heads"]
        path = write_state(tmp_path / "x.safetensors", parity.state("tiny"), args)
        with pytest.raises(loading.ConversionError, match="lack vq_beta, text_heads"):
            loading.read(path)


class TestFiles:
    @pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
    def test_modes_follow_the_umask(self, weights, tmp_path, mask):
        before = os.umask(mask)
        try:
            convert.convert(str(weights), str(tmp_path / "a.safetensors"))
            convert.convert(str(weights), str(tmp_path / "hub"), format="hub")
        finally:
            os.umask(before)
        for path in (tmp_path / "a.safetensors", *(tmp_path / "hub").iterdir()):
            assert path.stat().st_mode & 0o777 == 0o666 & ~mask, path

    @pytest.mark.parametrize("name", ["x.safetensors", "x.pth", "folder", "dangling.safetensors"])
    def test_nothing_is_written_over(self, weights, tmp_path, name):
        (tmp_path / "x.safetensors").write_text("mine")
        (tmp_path / "x.pth").write_text("mine")
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "mine").touch()
        (tmp_path / "dangling.safetensors").symlink_to(tmp_path / "nothing")
        with pytest.raises(loading.ConversionError, match="not written over"):
            convert.convert(str(weights), str(tmp_path / name))
        assert (tmp_path / "x.safetensors").read_text() == "mine"
        assert not (tmp_path / "nothing").exists()

    def test_the_source_is_no_target(self, weights):
        before = weights.read_bytes()
        with pytest.raises(loading.ConversionError, match="is what is read"):
            convert.convert(str(weights), str(weights.parent / "." / weights.name))
        assert weights.read_bytes() == before

    def test_a_home_folder(self, weights, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        convert.convert(str(weights), "~/a/x.safetensors")
        assert (tmp_path / "a" / "x.safetensors").read_bytes() == weights.read_bytes()
        assert load("~/a/x.safetensors").hash == load(weights).hash

    def test_a_folder_that_is_something_else(self, tmp_path):
        (tmp_path / "cat.png").touch()
        with pytest.raises(loading.ConversionError, match="a folder of images.*no workdir"):
            loading.read(tmp_path)

    def test_a_write_that_fails_leaves_nothing(self, weights, tmp_path, monkeypatch):
        config, params = loading.read(weights)
        monkeypatch.setattr(loading.Checkpoints, "save", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            loading.write(tmp_path / "folder", config, params)
        assert not os.listdir(tmp_path)

    def test_nothing_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="nothing.pth"):
            loading.read(tmp_path / "nothing.pth")

    def test_folder_without_checkpoints(self, tmp_path):
        with pytest.raises(ValueError, match="no folder 'checkpoints'"):
            loading.read(tmp_path)

    def test_unknown_suffix(self, weights, tmp_path):
        (tmp_path / "x.npz").write_text("content")
        with pytest.raises(loading.ConversionError, match="safetensors"):
            loading.read(tmp_path / "x.npz")
        with pytest.raises(loading.ConversionError, match="safetensors"):
            loading.write(tmp_path / "y.npz", *loading.read(weights))

    def test_folder_that_is_not_empty(self, weights, tmp_path):
        (tmp_path / "mine").touch()
        with pytest.raises(loading.ConversionError, match="not empty"):
            loading.write(tmp_path, *loading.read(weights))

    def test_garbage_safetensors(self, tmp_path):
        (tmp_path / "x.safetensors").write_bytes(b"\x00" * 100)
        with pytest.raises(loading.ConversionError, match="not a safetensors file"):
            loading.read(tmp_path / "x.safetensors")

    @pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps({"weights": [1, 2]})])
    def test_no_torch_file(self, tmp_path, content):
        pytest.importorskip("torch")
        path = tmp_path / "x.pth"
        path.write_bytes(content)
        with pytest.raises(loading.ConversionError, match="x.pth"):
            loading.read(path)

    def test_pickle_with_code_is_not_run(self, tmp_path):
        torch = pytest.importorskip("torch")
        path, trace = tmp_path / "evil.pth", tmp_path / "trace"

        class Evil:
            def __reduce__(self):
                return open, (str(trace), "w")

        torch.save({"args": Evil(), "trainer": {"unitok": {}}}, path)
        with pytest.raises(loading.ConversionError, match="safely"):
            loading.read(path)
        assert not trace.exists()

    @pytest.mark.parametrize(
        "content, words",
        [
            ([1, 2], "a list"),
            ({}, "empty"),
            ({"epoch": 3}, "epoch"),
            ({"args": {}, "trainer": {}}, "trainer.unitok"),
            ({"trainer": {"unitok": {}}}, "'args'"),
        ],
    )
    def test_torch_file_of_something_else(self, tmp_path, content, words):
        torch = pytest.importorskip("torch")
        path = tmp_path / "x.pth"
        torch.save(content, path)
        with pytest.raises(loading.ConversionError, match=words):
            loading.read(path)

    def test_command_ends_in_one_line(self, tmp_path):
        run = command(tmp_path / "nothing.pth", tmp_path / "x")
        assert run.returncode == 2 and run.stderr.startswith("error: ")
        assert "Traceback" not in run.stderr


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "unitok_jax", "convert", *map(str, arguments)],
        capture_output=True,
        text=True,
    )


class TestClip:
    def test_becomes_safetensors_of_its_own_names(self, tmp_path):
        from helpers import clip_files

        state = clip_files.vitamin_clip()
        source = clip_files.write(tmp_path / "clip.safetensors", state)
        text = convert.convert(str(source), str(tmp_path / "out.safetensors"))
        assert "a CLIP with a ViTamin image tower" in text and "have a place in UniTok" in text
        again = safetensors.numpy.load_file(tmp_path / "out.safetensors")
        assert again.keys() == state.keys()
        assert all(np.array_equal(again[name], state[name]) for name in state)

    def test_what_is_not_used_is_told_in_few_lines(self, tmp_path):
        from helpers import clip_files

        source = clip_files.write(tmp_path / "vit.safetensors", clip_files.vit_clip())
        text = convert.convert(str(source), str(tmp_path / "out.safetensors"))
        assert "not used: visual.*: no counterpart" in text and len(text.splitlines()) < 8

    def test_is_no_checkpoint_of_a_tokenizer(self, tmp_path):
        from helpers import clip_files

        source = clip_files.write(tmp_path / "clip.safetensors", clip_files.vitamin_clip())
        with pytest.raises(loading.ConversionError, match="written as .safetensors only"):
            convert.convert(str(source), str(tmp_path / "folder"))


@pytest.mark.long
class TestWeightsOfARun:
    """A checkpoint as a run with, or without, an average saves it."""

    @pytest.fixture
    def saved(self, tiny, tmp_path):
        from unitok_jax.checkpoints.manager import Checkpoints
        from unitok_jax.tokenizer.step import TokenizerSteps

        def make(ema_decay):
            tiny.optim.ema_decay = ema_decay
            state = TokenizerSteps(tiny).init()
            if ema_decay:
                state = state.replace(ema=jax.tree.map(lambda x: x + 1, state.ema))
            with Checkpoints(tmp_path / "run", tiny.checkpoint, create=True) as checkpoints:
                checkpoints.save(3, state.items(), tiny, {})
            return tmp_path / "run", state

        return make

    def test_average_and_raw(self, saved, tmp_path):
        path, state = saved(0.9)
        for weights, params in (
            (None, state.ema),
            ("ema", state.ema),
            ("raw", state.generator.params),
        ):
            assert_equal(loading.read(path, weights)[1], params)
            assert_equal(loading.read(path / "checkpoints" / "3", weights)[1], params)
        run = command(path, tmp_path / "raw.safetensors", "--weights=raw")
        assert run.returncode == 0, run.stderr
        assert_equal(loading.read(tmp_path / "raw.safetensors")[1], state.generator.params)
        assert load(path, weights="raw").hash == load(tmp_path / "raw.safetensors").hash
        assert load(path, weights="raw").hash != load(path).hash

    def test_damage_of_the_raw_weights_is_seen(self, saved):
        path, _ = saved(0.9)
        meta = path / "checkpoints" / "3" / "meta" / "metadata"
        content = json.loads(meta.read_text())
        content["digests"]["training"]["params.fc_norm.scale"] ^= 1
        meta.write_text(json.dumps(content))
        loading.read(path)
        with pytest.raises(ValueError, match="params.fc_norm.scale"):
            loading.read(path, "raw")

    def test_run_without_an_average(self, saved):
        path, state = saved(0.0)
        assert_equal(loading.read(path, "raw")[1], state.params)
        with pytest.raises(loading.ConversionError, match="weights=ema.*no average"):
            loading.read(path, "ema")

    def test_what_holds_one_set(self, weights, tmp_path):
        loading.write(tmp_path / "folder", *loading.read(weights))
        for path in (weights, tmp_path / "folder"):
            for choice in ("ema", "raw"):
                with pytest.raises(loading.ConversionError, match="one set"):
                    loading.read(path, choice)

    def test_another_word(self, weights):
        with pytest.raises(ValueError, match="weights='mean' is not one of ema, raw"):
            loading.read(weights, "mean")
