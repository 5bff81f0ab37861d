"""Folders for the Hugging Face hub, and the hub's cache, on real files without a network."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import httpx
import huggingface_hub
import jax
import numpy as np
import pytest
from huggingface_hub import constants, errors
from ml_collections import ConfigDict

import unitok_jax
from unitok_jax.checkpoints import differences
from unitok_jax.commands import convert
from unitok_jax.tokenizer.step import init_params
from unitok_jax.weights import hub, load

pytestmark = pytest.mark.slow

ANSWER = httpx.Response(502, request=httpx.Request("GET", "http://hub"))
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def folder(weights, tmp_path_factory):
    """The tiny model as a folder for the hub."""
    path = tmp_path_factory.mktemp("hub") / "tiny"
    convert.convert(str(weights), str(path), format="hub")
    return path


@pytest.fixture
def cache(folder, tmp_path, monkeypatch):
    """A cache that huggingface_hub could have made, without a network."""
    root = tmp_path / "cache"
    home = root / "models--someone--tiny"
    snapshot = home / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (home / "blobs").mkdir()
    (home / "refs").mkdir()
    for name in ("main", "v1"):
        (home / "refs" / name).write_text(COMMIT)
    for number, path in enumerate(sorted(folder.iterdir())):
        blob = home / "blobs" / f"{number:040x}"
        blob.write_bytes(path.read_bytes())
        (snapshot / path.name).symlink_to(pathlib.Path("../../blobs") / blob.name)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return root


def copy(folder, tmp_path, without=()):
    target = tmp_path / "copy"
    target.mkdir()
    for path in folder.iterdir():
        if path.name not in without:
            (target / path.name).write_bytes(path.read_bytes())
    return target


def edit(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))


def assert_equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(ours), jax.device_get(theirs))


class TestFolder:
    def test_is_the_model(self, weights, folder, images):
        ours, theirs = unitok_jax.load(folder), unitok_jax.load(weights)
        assert ours.hash == theirs.hash
        assert ours.config.to_dict() == json.loads(theirs.config.to_json())
        np.testing.assert_array_equal(ours.encode(images), theirs.encode(images))

    def test_may_lack_a_key_that_came_later(self, weights, folder, tmp_path, images):
        old = pathlib.Path(shutil.copytree(folder, tmp_path / "old"))
        model = json.loads((old / "config.json").read_text())["model"]
        assert model.pop("residual_dtype") == "float32"
        assert model.pop("contrastive_kind") == "softmax"
        edit(old, model=model)
        ours, theirs = unitok_jax.load(old), unitok_jax.load(weights)
        assert ours.hash == theirs.hash
        np.testing.assert_array_equal(ours.encode(images), theirs.encode(images))

    def test_has_the_public_names(self, weights, folder):
        """Whoever reads the public layout reads the file without config.json too."""
        config, params = load.read(folder / "model.safetensors")
        assert_equal(params, load.read(weights)[1])
        assert tuple(config.data.image_size) == (64, 64)

    def test_card(self, weights, folder):
        card = huggingface_hub.ModelCard.load(folder / "README.md")
        assert card.data.library_name == "unitok_jax" and card.data.license is None
        assert "image-tokenizer" in card.data.tags and card.data.pipeline_tag
        tokenizer = unitok_jax.load(weights)
        books, rows = tokenizer.codebook_shape
        codes = tokenizer.encode(np.zeros((1, 64, 64, 3), np.uint8)).shape
        for fact in (tokenizer.hash, f"{books} x {codes[2]}", f"| {rows:,} |", "64 x 64"):
            assert fact in card.text

    def test_command_and_back(self, weights, tmp_path):
        target, back = tmp_path / "folder", tmp_path / "back.safetensors"
        run = command(weights, target, "--format=hub")
        assert run.returncode == 0, run.stderr
        names = sorted(path.name for path in target.iterdir())
        assert names == ["README.md", "config.json", "model.safetensors"]
        assert command(target, back).returncode == 0
        assert back.read_bytes() == weights.read_bytes()

    @pytest.mark.parametrize("change", [{"quantizer": "residual"}, {"quant_heads": 4}])
    def test_what_the_public_layout_cannot_hold(self, tiny, tmp_path, change):
        tiny.model.update(change)
        params = init_params(tiny.model.to_dict(), jax.random.key(0))
        config = ConfigDict({"model": tiny.model, "data": {"image_size": (64, 64)}})
        hub.write(tmp_path / "folder", config, params)
        assert '"layout": "unitok_jax"' in (tmp_path / "folder" / "config.json").read_text()
        again, read = load.read(tmp_path / "folder")
        assert differences.stated(again.model.to_dict()) == differences.stated(tiny.model.to_dict())
        assert_equal(read, params)

    def test_is_never_written_over(self, weights, folder):
        before = (folder / "README.md").read_bytes()
        with pytest.raises(load.ConversionError, match="not written over"):
            convert.convert(str(weights), str(folder), format="hub")
        with pytest.raises(ValueError, match="not empty"):
            hub.write(folder, *load.read(weights))
        assert (folder / "README.md").read_bytes() == before


class TestWrongFolders:
    def test_values_that_are_not_finite_under_names_of_ours(self, tiny, tmp_path):
        """Those of the public layout: `test_convert`."""
        tiny.model.quantizer = "residual"
        params = init_params(tiny.model.to_dict(), jax.random.key(0))
        params["encoder"]["norm"]["scale"] *= np.nan
        config = ConfigDict({"model": tiny.model, "data": {"image_size": (64, 64)}})
        hub.write(tmp_path / "folder", config, params)
        with pytest.raises(load.ConversionError, match="encoder.norm.scale holds.*not finite"):
            load.read(tmp_path / "folder")

    def test_a_language_models_pickles(self, folder, tmp_path):
        """They cannot be converted alone."""
        path = copy(folder, tmp_path, without=["model.safetensors"])
        (path / "pytorch_model-00001-of-00002.bin").write_bytes(b"never opened")
        (path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
        with pytest.raises(load.ConversionError, match="save_pretrained") as error:
            unitok_jax.load(path)
        assert "unitok convert" not in str(error.value)

    @pytest.mark.parametrize("name", ["pytorch_model.bin", "unitok.pth", "last.ckpt"])
    def test_pickle_only(self, folder, tmp_path, name):
        path = copy(folder, tmp_path, without=["model.safetensors"])
        (path / name).write_bytes(b"never opened")
        with pytest.raises(load.ConversionError, match="can run code") as error:
            unitok_jax.load(path)
        assert f"unitok convert {path / name} " in str(error.value)

    def test_files_that_are_missing(self, folder, tmp_path):
        path = copy(folder, tmp_path, without=["config.json"])
        with pytest.raises(load.ConversionError, match="no config.json"):
            unitok_jax.load(path)
        (path / "model.safetensors").rename(path / "config.json")
        with pytest.raises(load.ConversionError, match="no model.safetensors"):
            unitok_jax.load(path)
        (path / "config.json").write_bytes((folder / "config.json").read_bytes())
        (path / "model.safetensors.index.json").write_text("{}")
        with pytest.raises(load.ConversionError, match="several files"):
            unitok_jax.load(path)

    @pytest.mark.parametrize(
        "changes, words",
        [
            ({"library_name": "diffusers"}, "library_name='diffusers'"),
            ({"library_name": None}, "another library"),
            ({"format_version": 2}, "format_version=2.*newer"),
            ({"layout": "new"}, "layout='new'"),
            ({"model": None}, "lacks model"),
            ({"model": 3}, "'model' must be an object"),
            ({"model": {"text": {}}}, "config.json: .*missing"),
            ({"image_size": 64}, "image_size=64"),
            ({"image_size": [64, 64.0]}, r"image_size=\[64, 64.0\] must be"),
            ({"image_size": [64, True]}, r"image_size=\[64, True\] must be"),
            ({"image_size": [64] * 10**5}, r"image_size=\[64, 64, .*\.\.\.\] must be"),
            ({"image_size": [16 * 10**9, 64]}, "16000000000 is over 8192"),
            ({"image_size": [64, 60]}, "60 is not a positive multiple of 16"),
            ({"format_version": True}, "format_version=True"),
            ({"format_version": 1.0}, "format_version=1.0"),
            ({"layout": ["public"]}, r"layout=\['public'\]"),
            ({"model": {"text": 3}}, "'model' must be an object that holds"),
        ],
    )
    def test_config(self, folder, tmp_path, changes, words):
        path = copy(folder, tmp_path)
        edit(path, **changes)
        with pytest.raises(load.ConversionError, match=words):
            unitok_jax.load(path)

    @pytest.mark.parametrize(
        "key, value, words",
        [
            ("embed_dim", "64", "model.embed_dim='64' must be an integer from 1 to 65536"),
            ("num_codebooks", None, "model.num_codebooks=None must be an integer"),
            ("latent_width", 32.0, "model.latent_width=32.0 must be an integer"),
            ("vocab_size", 8 * 10**15, "model.vocab_size=8000000000000000 must be an integer"),
            ("drop_path", float("nan"), "model.drop_path=nan must be at least 0 and below 1"),
            ("commitment_weight", float("inf"), "model.commitment_weight=inf must be at least 0"),
            ("size", {}, "model.size={} is not one of nano"),
            ("heads", 3, "unknown ['heads']"),
            ("text.layers", -1, "model.text.layers=-1 must be an integer from 1 to 1024"),
            ("text.layers", 10**7, "model.text.layers=10000000 must be an integer"),
            ("text.depth", 1, "unknown ['depth']"),
            ("quant_heads", 3, "model.quant_heads=3 does not divide 128"),
        ],
    )
    def test_a_model_that_no_config_has(self, folder, tmp_path, key, value, words):
        path = copy(folder, tmp_path)
        model = json.loads((path / "config.json").read_text())["model"]
        (model["text"] if "." in key else model)[key.split(".")[-1]] = value
        edit(path, model=model)
        with pytest.raises(load.ConversionError) as error:
            load.read(path)
        assert f"{path / 'config.json'}: " in str(error.value) and words in str(error.value)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        "content, words",
        [
            (b"[" * 10**5, "nested too deeply"),
            (b'{"model": ' + b"9" * 5000 + b"}", "no JSON that can be read"),
            (b"\xff\xfe{}", "no JSON that can be read"),
            (b"[1]", "expected a JSON object"),
            (b" " * (2 << 20), "over 1048576 bytes"),
            (b"", "is empty"),
            (b"version https://git-lfs.github.com/spec/v1\noid", "pointer of Git LFS"),
        ],
    )
    def test_config_that_is_none(self, folder, tmp_path, content, words):
        path = copy(folder, tmp_path)
        (path / "config.json").write_bytes(content)
        with pytest.raises(load.ConversionError, match=words):
            load.read(path)

    def test_config_that_does_not_fit_the_weights(self, folder, tmp_path):
        path = copy(folder, tmp_path)
        model = json.loads((path / "config.json").read_text())["model"]
        edit(path, model=model | {"embed_dim": 32})
        with pytest.raises(load.ConversionError, match="shape: projection.weight"):
            unitok_jax.load(path)
        edit(path, layout="unitok_jax")
        with pytest.raises(load.ConversionError, match="do not fit the model"):
            unitok_jax.load(path)

    def test_garbage(self, folder, tmp_path):
        path = copy(folder, tmp_path)
        (path / "config.json").write_text("{")
        with pytest.raises(load.ConversionError, match="no JSON"):
            unitok_jax.load(path)

    def test_heads_are_compared(self, folder):
        with pytest.raises(load.ConversionError, match="text_heads=3"):
            unitok_jax.load(folder, text_heads=3)

    def test_one_set_of_weights(self, folder):
        with pytest.raises(load.ConversionError, match="weights=raw.*one set"):
            unitok_jax.load(folder, weights="raw")


class TestNames:
    @pytest.mark.parametrize("name", ["", "@main", "@v1", f"@{COMMIT}"])
    def test_from_the_cache(self, cache, weights, name):
        assert unitok_jax.load(f"hf://someone/tiny{name}").hash == unitok_jax.load(weights).hash

    def test_convert_reads_them(self, cache, weights, tmp_path):
        convert.convert("hf://someone/tiny@v1", str(tmp_path / "out.safetensors"))
        assert (tmp_path / "out.safetensors").read_bytes() == weights.read_bytes()

    @pytest.mark.parametrize("name", ["someone/other", "someone/tiny@v2"])
    def test_not_in_the_cache(self, cache, name):
        with pytest.raises(load.ConversionError, match="not in the cache") as error:
            unitok_jax.load(f"hf://{name}")
        assert str(cache) in str(error.value) and "HF_HUB_OFFLINE" in str(error.value)

    @pytest.mark.parametrize("name", ["tiny", "a/b/c", "someone/tiny@", "/tiny", "a--b/c..d"])
    def test_no_name(self, cache, name):
        with pytest.raises(load.ConversionError, match="owner/name|no name of the hub"):
            unitok_jax.load(f"hf://{name}")

    def test_a_pickle_in_the_cache_is_refused(self, cache):
        snapshot = cache / "models--someone--tiny" / "snapshots" / COMMIT
        (snapshot / "model.safetensors").rename(snapshot / "pytorch_model.bin")
        with pytest.raises(load.ConversionError, match="can run code"):
            unitok_jax.load("hf://someone/tiny")

    @pytest.mark.parametrize(
        "error, kind",
        [
            (errors.HfHubHTTPError("502 Bad Gateway\nmore", response=ANSWER), ValueError),
            (errors.RevisionResolutionError("no such commit"), ValueError),
            (errors.CorruptedCacheException("refs/main"), ValueError),
            (httpx.ReadTimeout(""), ValueError),
            (OSError(28, "No space left on device"), OSError),
        ],
    )
    def test_what_the_hub_answers(self, monkeypatch, error, kind):
        def fail(*_, **__):
            raise error

        monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
        with pytest.raises(kind) as raised:
            unitok_jax.load("hf://someone/tiny")
        assert len(str(raised.value).splitlines()) == 1
        assert (kind is OSError) == ("hf://someone/tiny cannot be" not in str(raised.value))

    def test_a_process_with_the_variables(self, cache, weights, tmp_path):
        target = tmp_path / "out.safetensors"
        offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
        run = command("hf://someone/tiny", target, env=offline)
        assert run.returncode == 0, run.stderr
        assert target.read_bytes() == weights.read_bytes()
        run = command("hf://someone/other", target, env=offline)
        assert run.returncode == 2 and run.stderr.startswith("error: ")
        assert len(run.stderr.splitlines()) == 1


def command(*arguments, env=None):
    return subprocess.run(
        [sys.executable, "-m", "unitok_jax", "convert", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | (env or {}),
    )
