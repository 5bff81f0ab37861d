"""The reconstruct command, on real files."""

import functools
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import in_process
from unitok_jax import reconstruct

run = functools.partial(in_process.run, reconstruct)


@pytest.fixture
def folder(tmp_path):
    """A JPEG, a PNG of the same name, and one below, of odd sizes."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "in"
    (folder / "below").mkdir(parents=True)
    for name, size in (("a.jpg", (70, 90)), ("a.png", (64, 64)), ("below/b.webp", (50, 33))):
        pixels = rng.integers(0, 256, (5, 5, 3), np.uint8)
        Image.fromarray(pixels).resize(size).save(folder / name)
    return folder


def test_folder(weights, folder, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    code, printed, _ = run(
        capsys, monkeypatch, f"--checkpoint={weights}", f"--input={folder}", f"--output={out}"
    )
    assert code == 0
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines] == ["a.jpg", "a.png", "below/b", "mean"]
    for name in ("a.jpg.png", "a.png.png", "below/b.png"):
        with Image.open(out / name) as image:
            assert image.size == (64, 64)
    with Image.open(out / "comparison.png") as image:
        assert image.size == (3 * 68, 3 * 68)
    # the PSNR that is printed is that of the files that were written
    with Image.open(folder / "a.png") as image:
        original = np.asarray(image, np.float64)
    with Image.open(out / "a.png.png") as image:
        rebuilt = np.asarray(image, np.float64)
    psnr = 10 * np.log10(255**2 / np.mean((original - rebuilt) ** 2))
    assert f"{psnr:.2f} dB" in lines[1]


@pytest.mark.parametrize("size, expected", [("native", (80, 64)), ("32x48", (48, 32))])
def test_sizes(weights, folder, tmp_path, capsys, monkeypatch, size, expected):
    out = tmp_path / "out"
    arguments = [f"--checkpoint={weights}", f"--output={out}", f"--size={size}"]
    with Image.open(folder / "a.jpg") as image:
        image.resize((90, 70)).save(folder / "c.png")
    code, printed, _ = run(capsys, monkeypatch, *arguments, f"--input={folder / 'c.png'}")
    assert code == 0
    with Image.open(out / "c.png") as image:
        assert image.size == expected


def test_bad_images_are_named(weights, folder, tmp_path, capsys, monkeypatch):
    arguments = [f"--checkpoint={weights}", f"--output={tmp_path / 'out'}"]
    for name, content in (("zero.png", b""), ("cut.jpg", (folder / "a.jpg").read_bytes()[:300])):
        (tmp_path / name).write_bytes(content)
        code, _, error = run(capsys, monkeypatch, *arguments, f"--input={tmp_path / name}")
        assert code == 2 and error.startswith("error: ") and name.split(".")[0] in error


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--input=nothing"], "--input=nothing"),
        (["--size=60x64"], "--size"),
        (["--size=big"], "--size=big"),
        (["--size=8"], "8"),
        (["--checkpoint=nothing"], "nothing"),
        (["--text_heads=3"], "text_heads=3"),
    ],
)
def test_bad_arguments(weights, folder, tmp_path, capsys, monkeypatch, arguments, words):
    given = [f"--checkpoint={weights}", f"--input={folder}", f"--output={tmp_path / 'o'}"]
    code, _, error = run(capsys, monkeypatch, *given, *arguments)
    assert code == 2 and error.startswith("error: ") and words in error


def test_originals_are_not_overwritten(weights, folder, capsys, monkeypatch):
    before = (folder / "a.png").read_bytes()
    for given in (folder, folder / "a.png"):
        arguments = [f"--checkpoint={weights}", f"--input={given}", f"--output={folder}"]
        code, _, error = run(capsys, monkeypatch, *arguments)
        assert code == 2 and "overwritten" in error
    assert (folder / "a.png").read_bytes() == before


def test_image_smaller_than_a_token(weights, tmp_path, capsys, monkeypatch):
    Image.new("RGB", (10, 40)).save(tmp_path / "small.png")
    given = [f"--checkpoint={weights}", f"--input={tmp_path}/small.png", f"--output={tmp_path}/o"]
    code, _, error = run(capsys, monkeypatch, *given, "--size=native")
    assert code == 2 and "40x10" in error and "--size" in error


def test_help_is_a_process():
    result = subprocess.run(
        [sys.executable, "-m", "unitok_jax.reconstruct", "--help"], capture_output=True, text=True
    )
    assert result.returncode == 0 and "--checkpoint" in result.stdout
