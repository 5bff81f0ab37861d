"""Exported programs in a process that has neither this package nor flax."""

import functools
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from helpers import in_process
from helpers.mounts import remount, tmpfs
from unitok_jax.commands import export as export_command
from unitok_jax.data.images.transforms import to_uint8
from unitok_jax.tokenizer.api import load
from unitok_jax.tokenizer.export import programs
from unitok_jax.tokenizer.step import init_params
from unitok_jax.weights import load as loading

pytestmark = [pytest.mark.slow, pytest.mark.long]

pytest.importorskip("flatbuffers", reason="jax.export writes its files with it")

# A process that meets what a server has: importing more than it needs fails.
ALONE = """
import sys
for name in ("unitok_jax", "flax", "orbax", "optax", "ml_collections", "etils"):
    sys.modules[name] = None
"""
CALL = (
    ALONE
    + """
import jax, numpy as np
from safetensors.numpy import load_file
folder, images, out = sys.argv[1:]
images, weights = np.load(images), load_file(folder + "/weights.safetensors")
encode, decode = (
    jax.export.deserialize(bytearray(open(f"{folder}/{name}.jax", "rb").read()))
    for name in ("encode", "decode")
)
codes = [np.asarray(encode.call(weights, image[None])) for image in images]
rebuilt = [np.asarray(decode.call(weights, c)) for c in codes]
together = np.asarray(encode.call(weights, images)) if encode.in_avals[-1].shape[0] != 1 else 0
np.savez(out, codes=np.concatenate(codes), rebuilt=np.concatenate(rebuilt), together=together)
"""
)


run_export = functools.partial(in_process.run, export_command)


def call(folder, images, tmp_path):
    np.save(tmp_path / "images.npy", images)
    arguments = [folder, tmp_path / "images.npy", tmp_path / "out.npz"]
    subprocess.run([sys.executable, "-c", CALL, *map(str, arguments)], check=True)
    return np.load(tmp_path / "out.npz")


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory):
    """Of the tiny model, for 48x64 pixels and all platforms."""
    folder = tmp_path_factory.mktemp("export") / "tiny"
    programs.write(folder, load(weights), (48, 64), ("cpu", "cuda", "tpu"), None)
    return folder


def test_codes_and_images_are_the_tokenizers(exported, weights, tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (6, 48, 64, 3), np.uint8)
    tokenizer = load(weights, batch_size=1)
    found = call(exported, images, tmp_path)
    codes = tokenizer.encode(images)
    np.testing.assert_array_equal(found["codes"], codes)
    np.testing.assert_array_equal(found["rebuilt"], to_uint8(tokenizer.decode(codes)))
    together = load(weights, batch_size=6).encode(images)
    np.testing.assert_array_equal(found["together"], together)


def test_files(exported, weights):
    names = {path.name for path in exported.iterdir()}
    assert names == {
        *("encode.jax", "decode.jax", "weights.safetensors", "export.json", "example.py")
    }
    facts = json.loads((exported / "export.json").read_text())
    tokenizer = load(weights)
    codes = tokenizer.encode(np.zeros((1, 48, 64, 3), np.uint8))
    assert facts["codes"] == list(codes.shape[1:]) and facts["image_size"] == [48, 64]
    assert facts["hash"] == tokenizer.hash
    assert facts["platforms"] == ["cpu", "cuda", "tpu"]
    total = sum(leaf.size * 4 for leaf in jax.tree.leaves(tokenizer.params))
    text = sum(leaf.size * 4 for leaf in jax.tree.leaves(tokenizer.params["text_encoder"]))
    assert len({path.stat().st_mode for path in exported.iterdir()}) == 1
    # the weights are beside the programs, and without the text tower
    assert (exported / "weights.safetensors").stat().st_size < total - text + 20_000
    assert (exported / "encode.jax").stat().st_size < total / 4


def test_example_alone(exported, weights, tmp_path):
    # lies on its side, as the orientation says, and a part is seen through
    picture, exif = Image.new("RGBA", (64, 48), "orange"), Image.Exif()
    picture.paste("blue", (0, 0, 64, 24))
    picture.paste((0, 0, 0, 0), (0, 0, 32, 48))
    exif[0x0112] = 6
    picture.rotate(90, expand=True).save(tmp_path / "in.png", exif=exif)
    code = ALONE + (
        "import runpy\nsys.argv = sys.argv[1:]\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    )
    arguments = [str(exported / "example.py"), str(tmp_path / "in.png")]
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    codes = np.load(tmp_path / "codes.npy")
    assert codes.dtype == np.int32
    np.testing.assert_array_equal(codes, load(weights).encode(picture))
    with Image.open(tmp_path / "rebuilt.png") as image:
        assert image.size == (64, 48)
    run = subprocess.run([sys.executable, arguments[0]], capture_output=True, text=True)
    assert run.returncode == 1 and "python example.py IMAGE" in run.stderr
    assert "Traceback" not in run.stderr


def test_full_disk(weights, tmp_path, capsys, monkeypatch):
    """A disk too small for the weights; the same command works once there is room."""
    with tmpfs(tmp_path / "disk", "size=2m") as disk:
        output = disk / "out"
        given = [f"--checkpoint={weights}", f"--output={output}", "--platforms=cpu"]
        code, _, error = run_export(capsys, monkeypatch, *given)
        assert code == 2 and f"error: --output={output} cannot be written" in error
        assert "No space left" in error and not output.exists()
        remount(disk, "size=64m")
        assert run_export(capsys, monkeypatch, *given)[0] == 0


@pytest.mark.parametrize("change", [{"quantizer": "residual"}, {"num_query": 2}])
def test_other_models(tiny, tmp_path, change):
    tiny.model.update(change)
    loading.write(tmp_path / "model", tiny, init_params(tiny.model.to_dict(), jax.random.key(0)))
    tokenizer = load(tmp_path / "model", batch_size=1)
    programs.write(tmp_path / "out", tokenizer, (32, 32), ("cpu",), 1)
    images = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
    np.testing.assert_array_equal(
        call(tmp_path / "out", images, tmp_path)["codes"], tokenizer.encode(images)
    )


def test_command(weights, tmp_path, capsys, monkeypatch):
    given = [f"--checkpoint={weights}", f"--output={tmp_path / 'out'}", "--platforms=cpu"]
    options = ["--size=32x48", "--batch_size=2", "--precision=bfloat16"]
    code, printed, error = run_export(capsys, monkeypatch, *given, *options)
    assert code == 0, error
    facts = json.loads((tmp_path / "out" / "export.json").read_text())
    assert (facts["image_size"], facts["batch_size"]) == ([32, 48], 2)
    assert facts["precision"] == "bfloat16" and "example.py" in printed
    code, _, error = run_export(capsys, monkeypatch, *given)
    assert code == 2 and "not empty" in error


@pytest.mark.parametrize(
    "argument, words",
    [
        ("--platforms=gpu", "--platforms=gpu"),
        ("--platforms=cpu,cpu", "different"),
        ("--size=60", "--size"),
        ("--size=big", "--size=big"),
        ("--batch_size=0", "--batch_size=0"),
        ("--checkpoint=none", "none"),
    ],
)
def test_bad_arguments(weights, tmp_path, capsys, monkeypatch, argument, words):
    given = [f"--checkpoint={weights}", f"--output={tmp_path / 'out'}", argument]
    code, _, error = run_export(capsys, monkeypatch, *given)
    assert code == 2 and error.startswith("error: ") and words in error
