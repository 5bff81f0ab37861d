"""The detokenize command, on codes that tokenize wrote."""

import json
import os
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import unitok_jax
from helpers import in_process
from helpers.tokenized import command, kill_when, loaded_once, make_images, run
from helpers.tokenized import start as start_process
from unitok_jax.commands import detokenize, tokenize
from unitok_jax.data.images.transforms import to_uint8
from unitok_jax.data.writing.folders import PARTIAL, sweep
from unitok_jax.weights import load


@pytest.fixture(scope="module", autouse=True)
def tokenizers():
    with loaded_once():
        yield


@pytest.fixture(scope="module")
def made(weights, tmp_path_factory):
    """Codes of six pictures, two views each, on a grid of 2 x 3."""
    folder = tmp_path_factory.mktemp("made")
    make_images(folder / "in", 4)
    make_images(folder / "in/below", 2, start=4)
    arguments = command(weights, folder / "in", folder / "codes", "--views=center+flip")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [*arguments[3:], "--size=32x48"])
        tokenize.main()
    return folder / "codes"


def run_here(capsys, monkeypatch, weights, codes, output, *more):
    given = [f"--checkpoint={weights}", f"--codes={codes}", f"--output={output}"]
    return in_process.run(detokenize, capsys, monkeypatch, *given, *more)


def pictures(output):
    return sorted(str(path.relative_to(output)) for path in output.rglob("*.png"))


def test_pictures_are_those_of_decode(weights, made, tmp_path, capsys, monkeypatch):
    tokenizer, codes = unitok_jax.load(weights), unitok_jax.open_codes(made)
    for view in (0, 1):
        output = tmp_path / str(view)
        code, printed, _ = run_here(capsys, monkeypatch, weights, made, output, f"--view={view}")
        assert code == 0 and f"6 pictures of 32 x 48 px written to {output}, 0 were" in printed
        assert pictures(output) == [
            *(f"000{i}.png" for i in range(4)), "below/0004.png", "below/0005.png"
        ]  # fmt: skip
        for record in codes:
            expected = to_uint8(tokenizer.decode(record["codes"][view : view + 1], codes.grid))[0]
            with Image.open(output / record["key"]) as image:
                np.testing.assert_array_equal(np.asarray(image), expected)


def test_some(weights, made, tmp_path, capsys, monkeypatch):
    call = (capsys, monkeypatch, weights, made)
    assert run_here(*call, tmp_path / "a", "--limit=2")[0] == 0
    assert pictures(tmp_path / "a") == ["0000.png", "0001.png"]
    assert run_here(*call, tmp_path / "b", "--keys=below/0005.png,0002.png")[0] == 0
    assert pictures(tmp_path / "b") == ["0002.png", "below/0005.png"]


def test_the_same_command_continues(weights, made, tmp_path, capsys, monkeypatch):
    call, output = (capsys, monkeypatch, weights, made), tmp_path / "out"
    assert run_here(*call, output)[0] == 0
    before = {name: (output / name).read_bytes() for name in pictures(output)}
    (output / "0001.png").unlink()
    (output / "0000.png").write_bytes(b"mine")  # what is there stays
    code, printed, _ = run_here(*call, output)
    assert code == 0 and "1 pictures of" in printed and "5 were there" in printed
    assert (output / "0000.png").read_bytes() == b"mine"
    assert (output / "0001.png").read_bytes() == before["0001.png"]


def test_only_what_was_left_half_written_is_removed(tmp_path):
    """A key may make a folder that is called as a file that is being written, or a user has one."""
    left = tmp_path / "below" / f"0000.png.0123456789ab{PARTIAL}"
    others = tmp_path / f"a{PARTIAL}" / "0000.png", tmp_path / f"film{PARTIAL}"
    for path in (left, *others):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")
    (tmp_path / f"b.0123456789ab{PARTIAL}").mkdir()
    sweep(tmp_path)
    assert not left.exists() and all(path.is_file() for path in others)


@pytest.mark.long
def test_killed_and_continued(weights, made, tmp_path):
    output = tmp_path / "out"
    arguments = [
        *command("", "", "")[:3], "detokenize", f"--checkpoint={weights}",
        f"--codes={made}", f"--output={output}",
    ]  # fmt: skip
    process = start_process(arguments)
    assert kill_when(process, lambda: output.exists() and pictures(output))
    there = {name: (output / name).stat().st_mtime_ns for name in pictures(output)}
    code, _, error = run(arguments)
    assert code == 0, error
    assert all((output / name).stat().st_mtime_ns == time for name, time in there.items())
    other = tmp_path / "other"
    assert run([*arguments[:-1], f"--output={other}"])[0] == 0
    assert contents(output) == contents(other)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class TestBadInput:
    def test_other_settings_and_strangers(self, weights, made, tmp_path, capsys, monkeypatch):
        call, output = (capsys, monkeypatch, weights, made), tmp_path / "out"
        assert run_here(*call, output, "--limit=1")[0] == 0
        code, _, error = run_here(*call, output, "--limit=1", "--view=1")
        assert code == 2 and "--view: 0 before, 1 now" in error
        code, _, error = run_here(*call, made)  # the folder of the codes
        assert code == 2 and "settings.json was not written by" in error
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine/0000.png").write_bytes(b"mine")
        code, _, error = run_here(*call, tmp_path / "mine")
        assert code == 2 and "is not empty (0000.png)" in error

    def test_another_tokenizer(self, weights, made, tmp_path, capsys, monkeypatch):
        tokenizer = unitok_jax.load(weights)
        params = jax.tree.map(np.array, tokenizer.params)
        jax.tree.leaves(params)[0].flat[0] += 1
        other = tmp_path / "other.safetensors"
        load.write(other, tokenizer.config, params)
        code, _, error = run_here(capsys, monkeypatch, other, made, tmp_path / "out")
        assert code == 2 and tokenizer.hash in error and unitok_jax.load(other).hash in error
        assert not (tmp_path / "out").exists()

    def test_codes_of_another_grid(self, weights, made, tmp_path, capsys, monkeypatch):
        codes = tmp_path / "codes"
        shutil.copytree(made, codes)
        manifest = json.loads((codes / "manifest.json").read_text())
        manifest["settings"]["grid"] = [4, 4]
        (codes / "manifest.json").write_text(json.dumps(manifest))
        code, _, error = run_here(capsys, monkeypatch, weights, codes, tmp_path / "out")
        assert code == 2 and "6 codes" in error and "grid (4, 4)" in error and "16" in error

    @pytest.mark.parametrize(
        "more, words",
        [
            (["--view=2"], "--view=2: the records have views 0 to 1"),
            (["--view=-1"], "--view=-1"),
            (["--limit=0"], "--limit=0"),
            (["--keys=0000.png,none"], "no record has the key 'none'"),
            (["--codes=/none"], "/none"),
            (["--checkpoint=/none"], "/none"),
            (["--output=/proc/pictures"], "/proc/pictures"),
        ],
    )
    def test_arguments(self, weights, made, tmp_path, capsys, monkeypatch, more, words):
        code, _, error = run_here(capsys, monkeypatch, weights, made, tmp_path / "out", *more)
        assert code == 2 and "error: " in error and words in error
        assert not (tmp_path / "out").exists()

    def test_unfinished_codes(self, weights, made, tmp_path, capsys, monkeypatch):
        shutil.copytree(made, tmp_path / "codes")
        os.unlink(tmp_path / "codes/manifest.json")
        code, _, error = run_here(
            capsys, monkeypatch, weights, tmp_path / "codes", tmp_path / "out"
        )
        assert code == 2 and "is not finished" in error


class TestNames:
    def test_are_the_keys(self):
        keys = ["a.jpg", "b/c.PNG", "/data/x.parquet, group 0, row 3", "d"]
        assert detokenize.file_names(keys) == [
            "a.jpg.png", "b/c.PNG", "data/x.parquet, group 0, row 3.png", "d.png"
        ]  # fmt: skip

    @pytest.mark.parametrize("key", ["../a", "a/../../b", "..", "/", "", "a\0b", "x\\..\\y"])
    def test_stay_below_the_output(self, key):
        with pytest.raises(ValueError, match="names no file below --output"):
            detokenize.file_names([key])

    @pytest.mark.parametrize(
        "first, second", [("a", "a.png"), ("/a", "a"), ("a//b", "a/b"), ("a.png", "a.png/b")]
    )
    def test_do_not_collide(self, first, second):
        with pytest.raises(ValueError) as error:
            detokenize.file_names([first, second])
        assert repr(first) in str(error.value) and repr(second) in str(error.value)


def test_help_is_a_process():
    code, printed, _ = run([*command("", "", "")[:3], "detokenize", "--help"])
    assert code == 0 and "--view" in printed
