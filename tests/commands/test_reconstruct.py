"""The reconstruct command, on real files."""

import functools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from helpers import in_process
from unitok_jax.commands import reconstruct
from unitok_jax.data.inputs import Inputs

pytestmark = pytest.mark.slow

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
        capsys, monkeypatch, f"--checkpoint={weights}", f"--data={folder}", f"--output={out}"
    )
    assert code == 0
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines] == ["a.jpg", "a.png", "below/b", "mean"]
    for name in ("a.jpg.png", "a.png.png", "below/b.png"):
        with Image.open(out / name) as image:
            assert image.size == (64, 64)
    assert lines[1].endswith("(2 of 3)") and lines[3].endswith(str(out / "comparison.png"))
    with Image.open(out / "comparison.png") as image:
        assert image.size[0] == 2 * 16 + 3 * 192 + 2 * 6 and image.size[1] > 3 * 192
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
    code, printed, _ = run(capsys, monkeypatch, *arguments, f"--data={folder / 'c.png'}")
    assert code == 0
    with Image.open(out / "c.png") as image:
        assert image.size == expected


def test_bad_images_are_named(weights, folder, tmp_path, capsys, monkeypatch):
    for name, content in (("zero.png", b""), ("cut.jpg", (folder / "a.jpg").read_bytes()[:300])):
        (tmp_path / name).write_bytes(content)
        arguments = [f"--checkpoint={weights}", f"--output={tmp_path / 'out' / name}"]
        code, _, error = run(capsys, monkeypatch, *arguments, f"--data={tmp_path / name}")
        assert code == 2 and error.startswith("error: ") and name.split(".")[0] in error


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--data=nothing"], "--data=nothing"),
        (["--data=tar:0.tar"], "an image, a folder, folder:PATH, labelled:PATH or photos"),
        (["--input=a.png"], "--input is now --data"),
        (["--size=60x64"], "--size"),
        (["--size=big"], "--size=big"),
        (["--size=8"], "8"),
        (["--checkpoint=nothing"], "nothing"),
        (["--text_heads=3"], "text_heads=3"),
    ],
)
def test_bad_arguments(weights, folder, tmp_path, capsys, monkeypatch, arguments, words):
    given = [f"--checkpoint={weights}", f"--data={folder}", f"--output={tmp_path / 'o'}"]
    code, _, error = run(capsys, monkeypatch, *given, *arguments)
    assert code == 2 and error.startswith("error: ") and words in error


class Grey:
    """A tokenizer whose reconstructions are grey, and know no weights."""

    def reconstruct(self, images):
        return np.zeros(images.shape, np.float32)


def rebuild(folder, output, **options):
    return reconstruct.reconstruct(Grey(), Inputs(folder), output, (32, 32), **options)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class TestNothingIsOverwritten:
    def test_of_the_input_or_of_another_folder(self, folder, tmp_path):
        (tmp_path / "others").mkdir()
        (tmp_path / "others" / "a.png").write_bytes(b"mine")
        for output in (folder, tmp_path / "others"):
            before = contents(output)
            with pytest.raises(ValueError, match="is not empty"):
                rebuild(folder, output)
            assert contents(output) == before

    def test_the_same_again_replaces_its_own(self, folder, tmp_path, capsys):
        ratios, sheet = rebuild(folder, tmp_path / "out")
        before = contents(tmp_path / "out")
        (tmp_path / "out" / "a.jpg.png").write_bytes(b"half")
        assert rebuild(folder, tmp_path / "out") == (ratios, sheet)
        assert contents(tmp_path / "out") == before
        assert set(before) == {
            *("a.jpg.png", "a.png.png", "below/b.png", "comparison.png", "settings.json")
        }

    def test_other_inputs_or_weights_get_another_folder(self, folder, tmp_path):
        rebuild(folder, tmp_path / "out", facts={"--data": "one"})
        before = contents(tmp_path / "out")
        with pytest.raises(ValueError, match="--data: 'one' before, 'two' now"):
            rebuild(folder, tmp_path / "out", facts={"--data": "two"})
        assert contents(tmp_path / "out") == before

    def test_the_command_names_its_images_by_where_they_are(
        self, weights, folder, tmp_path, capsys, monkeypatch
    ):
        monkeypatch.chdir(tmp_path)
        given = [f"--checkpoint={weights}", f"--output={tmp_path / 'out'}"]
        for data in ("in", f"folder:{folder}"):
            code, _, error = run(capsys, monkeypatch, *given, f"--data={data}")
            assert code == 0, error
        settings = tmp_path / "out" / "settings.json"
        assert json.loads(settings.read_text())["--data"] == str(folder)
        code, _, error = run(capsys, monkeypatch, *given, "--data=in", "--precision=bfloat16")
        assert code == 2 and "precision: 'float32' before, 'bfloat16' now" in error
        for data in ("in", f"labelled:{folder}"):  # its own pictures would be rebuilt the next time
            inside = f"--output={folder / 'below' / 'out'}"
            code, _, error = run(capsys, monkeypatch, *given, f"--data={data}", inside)
            assert code == 2 and f"is in --data={data.split(':')[-1]}, where the files" in error
            assert not (folder / "below" / "out").exists()

    def test_an_older_folder_is_refused(self, folder, tmp_path):
        (tmp_path / "out").mkdir()
        old = {"format": "unitok_jax.reconstructed", "--size": [32, 32], "--input": "one"}
        (tmp_path / "out" / "settings.json").write_text(json.dumps(old))
        with pytest.raises(ValueError, match="not written by this version of unitok rec.*[^\n]$"):
            rebuild(folder, tmp_path / "out", facts={"--data": "one"})

    def test_a_picture_called_comparison(self, tmp_path):
        for name in ("Comparison.jpg", "comparison_2.webp"):
            (tmp_path / "in").mkdir(exist_ok=True)
            Image.new("RGB", (32, 32)).save(tmp_path / "in" / name)
        ratios, sheet = rebuild(tmp_path / "in", tmp_path / "out")
        assert sheet == tmp_path / "out" / "comparison_3.png"
        assert list(ratios) == ["Comparison", "comparison_2"]
        for name in ratios:
            with Image.open(tmp_path / "out" / f"{name}.png") as image:
                assert image.size == (32, 32)

    @pytest.mark.parametrize("name", ["a.png", "settings.json"])
    def test_a_folder_called_as_a_file(self, tmp_path, name):
        (tmp_path / "in" / name).mkdir(parents=True)
        for file in ("a.jpg", f"{name}/b.jpg"):
            Image.new("RGB", (32, 32)).save(tmp_path / "in" / file)
        with pytest.raises(ValueError, match=f"{name} would be .* rename that folder"):
            rebuild(tmp_path / "in", tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_bad_picture_leaves_the_folder_to_the_next_try(self, folder, tmp_path):
        (folder / "b.png").write_bytes(b"no picture")
        with pytest.raises(ValueError, match="b"):
            rebuild(folder, tmp_path / "out")
        (folder / "b.png").unlink()
        assert len(rebuild(folder, tmp_path / "out")[0]) == 3


class TestNames:
    def test_of_files_that_differ_by_their_suffix(self, tmp_path):
        for name in ("a.jpg", "a.jpg.png", "B.png", "b.webp", "c.png"):
            (tmp_path / name).write_bytes(b"")
        assert Inputs(tmp_path).names == ["B.png", "a", "a.jpg.png", "b.webp", "c"]

    def test_need_no_captions(self, tmp_path):
        """Tables that would be captions of a run are not read."""
        for name in ("a.png", "captions.csv", "metadata.jsonl"):
            (tmp_path / name).write_bytes(b"")
        assert Inputs(tmp_path).names == ["a"]
        with pytest.raises(ValueError, match="--data=.*none holds no images .*.webp"):
            (tmp_path / "none").mkdir()
            Inputs(tmp_path / "none")

    @pytest.mark.parametrize("form", ["{}", "folder:{}", "labelled:{}"])
    def test_of_every_form(self, tmp_path, form):
        for name in ("n1/a.png", "n2/a.png", "n2/0.tar"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"")
        inputs = Inputs(form.format(tmp_path))
        assert inputs.names == ["n1/a", "n2/a"] and inputs.place == str(tmp_path)
        assert Inputs(form.format(tmp_path / "n2" / "a.png")).names == ["a"]
        assert Inputs(form.format(tmp_path / "n2")).names == ["a"]  # whatever lies beside images

    def test_of_the_photographs(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / "a.png").write_bytes(b"")
        built_in = Inputs("photos")
        assert len(built_in) > 10 and built_in.place == "photos"
        assert Inputs("folder:photos").names == Inputs("./photos").names == ["a"]

    @pytest.mark.parametrize("data", ["shapes", "tar:a.tar", "photos:a", "folder:", "parquet:a"])
    def test_of_no_image_files(self, data):
        with pytest.raises(ValueError, match=f"--data={data}: this command reads image files"):
            Inputs(data)

    def test_of_two_folders(self, tmp_path):
        for folder in ("one", "two"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / "a.png").write_bytes(b"")
        assert Inputs(tmp_path).names == ["one/a", "two/a"]

    def test_that_are_not_utf8(self, tmp_path, capsys):
        (tmp_path / "in").mkdir()
        name = os.fsdecode(b"caf\xe9")
        Image.new("RGB", (32, 32)).save(tmp_path / "in" / f"{name}.jpg", "JPEG")
        rebuild(tmp_path / "in", tmp_path / "out")
        assert (tmp_path / "out" / f"{name}.png").is_file()
        assert capsys.readouterr().out.startswith(r"caf\xe9  ")


def test_image_smaller_than_a_token(weights, tmp_path, capsys, monkeypatch):
    Image.new("RGB", (10, 40)).save(tmp_path / "small.png")
    given = [f"--checkpoint={weights}", f"--data={tmp_path}/small.png", f"--output={tmp_path}/o"]
    code, _, error = run(capsys, monkeypatch, *given, "--size=native")
    assert code == 2 and "40x10" in error and "--size" in error


def test_help_is_a_process():
    result = subprocess.run(
        [sys.executable, "-m", "unitok_jax", "reconstruct", "--help"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0 and "--checkpoint" in result.stdout
