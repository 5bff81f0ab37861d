"""The generate command with a multimodal model: its folder, continuing, bad input."""

import argparse
import json

import jax
import numpy as np
import pytest
from PIL import Image

import unitok_jax
from helpers import in_process, multimodals
from unitok_jax.commands import arguments, generate
from unitok_jax.data.images.transforms import to_uint8
from unitok_jax.multimodal.api import MultimodalModel
from unitok_jax.tokenizer import api
from unitok_jax.weights import load
from unitok_jax.weights.torch_options import HEADS

pytestmark = pytest.mark.slow

TEXTS = ("a red circle", "two blue stars")


@pytest.fixture(scope="module")
def tokenizer(weights):
    return unitok_jax.load(weights)


@pytest.fixture(scope="module")
def folder(tokenizer, weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("mm") / "run"
    multimodals.saved(path, tokenizer, named=weights)
    return path


@pytest.fixture
def here(folder, weights, capsys, monkeypatch, tmp_path):
    """Runs the command in this process: (exit code, printed, error)."""
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(TEXTS))

    def call(output, *more, prompts=texts):
        given = [f"--checkpoint={folder}", f"--tokenizer={weights}", f"--output={output}"]
        given += [f"--prompts={prompts}"] if prompts else []
        return in_process.run(generate, capsys, monkeypatch, *given, *more)

    return call


def test_drawings_of_texts(here, folder, tokenizer, tmp_path):
    flags = ("--count=5", "--scale=2", "--key=3", "--shard_size=2")
    output = tmp_path / "out"
    code, printed, error = here(output, *flags)
    assert code == 0, error
    assert printed == f"pictures of 32 x 48 px of 5 samples in {output}\n"
    codes = unitok_jax.open_codes(output / "codes")
    mm = unitok_jax.load_multimodal(folder)
    expected = mm.draw([TEXTS[n % 2] for n in range(5)], scale=2, key=3)
    np.testing.assert_array_equal([record["codes"][0] for record in codes], expected)
    assert [list(record["captions"]) for record in codes] == [[TEXTS[n % 2]] for n in range(5)]
    assert codes.manifest["settings"]["generator"] == mm.hash
    with Image.open(output / "images" / "000004.png") as picture:
        pixels = np.asarray(picture)
    np.testing.assert_array_equal(pixels, to_uint8(tokenizer.decode(expected))[4])
    assert here(output, *flags)[1] == f"{output} is finished: nothing to do\n"
    code, _, error = here(output, *flags[:-1], "--shard_size=3")
    assert code == 2 and "--shard_size" in error


def test_several_batches_at_once(here, folder, tmp_path, monkeypatch):
    """Texts of one length can share batches only if the model is given them together."""
    at_once, draw = [], MultimodalModel.draw

    def counting(self, texts, **settings):
        at_once.append(len(texts))
        return draw(self, texts, **settings)

    monkeypatch.setattr(MultimodalModel, "draw", counting)
    code, _, error = here(tmp_path / "out", "--count=20", "--batch_size=8", "--write=codes")
    assert code == 0, error
    assert at_once == [20]


def test_the_tokenizer_of_the_run(here, weights, tmp_path, monkeypatch):
    def stop(args, found):
        raise ValueError(f"drawn with {found.path}")

    monkeypatch.setattr(generate, "load_tokenizer", stop)
    code, _, error = here(tmp_path / "out", "--tokenizer=")
    told = f"--tokenizer={weights}, as the run names it\nerror: drawn with {weights}\n"
    assert (code, error) == (2, told)


def test_the_tokenizer_of_the_run_is_read_and_hashed_once(folder, tokenizer, monkeypatch):
    calls = []

    def count(module, name):
        function = getattr(module, name)

        def counted(*args, **named):
            calls.append(name)
            return function(*args, **named)

        monkeypatch.setattr(module, name, counted)

    count(load, "read")
    count(load, "weights_hash")
    count(api, "weights_hash")
    given = dict(checkpoint=str(folder), precision="float32", tokenizer=None)
    args = argparse.Namespace(**given, **dict.fromkeys(HEADS))
    found = arguments.find_tokenizer(args)
    opened = generate.load_tokenizer(args, found)
    assert opened.hash == tokenizer.hash and opened.batch_size == jax.local_device_count()
    assert calls == ["read", "weights_hash"]


def test_the_released_way(here, folder, tmp_path):
    """It draws other codes, and another folder: one that is begun goes on as it was begun."""
    output = tmp_path / "out"
    code, _, error = here(output, "--count=6", "--write=codes", "--released")
    assert code == 0, error
    texts = [TEXTS[n % 2] for n in range(6)]
    mm = unitok_jax.load_multimodal(folder)
    expected, exact = (mm.draw(texts, released=each) for each in (True, False))
    records = unitok_jax.open_codes(output / "codes")
    np.testing.assert_array_equal([record["codes"][0] for record in records], expected)
    assert (expected != exact).any() and records.manifest["settings"]["--released"] is True
    code, _, error = here(output, "--count=6", "--write=codes")
    assert code == 2 and "--released" in error


def test_pictures_by_the_names_of_a_scorer(here, tmp_path):
    """The picture of each prompt once, under its id; the same command again makes what is gone."""
    file, output = tmp_path / "prompts.json", tmp_path / "out"
    entries = {"00000": {"id": "0", "prompt": TEXTS[0]}, "00007": {"prompt": TEXTS[1]}}
    file.write_text(json.dumps(entries))
    code, _, error = here(output, "--count=3", prompts=file)
    assert code == 0, error
    for number, name in enumerate(("00000.jpeg", "00007.jpeg")):
        named = output / "named" / name
        assert named.read_bytes() == (output / "images" / f"00000{number}.png").read_bytes()
        with Image.open(named) as picture:
            assert picture.size == (48, 32)
    assert len(list((output / "named").iterdir())) == 2
    records = unitok_jax.open_codes(output / "codes")
    assert [r["captions"][0] for r in records] == [TEXTS[0], TEXTS[1], TEXTS[0]]
    named.unlink()
    assert "finished" not in here(output, "--count=3", prompts=file)[1] and named.is_file()
    assert "is finished" in here(output, "--count=3", prompts=file)[1]
    file.write_text(json.dumps({"00001": entries["00000"], "00007": entries["00007"]}))
    code, _, error = here(output, "--count=3", prompts=file)
    assert code == 2 and "digest of the prompts" in error


def test_codes_alone_need_no_tokenizer(folder, tokenizer, tmp_path, capsys, monkeypatch):
    """Nor does the run have to name one: here, one that has moved."""
    moved = tmp_path / "moved"
    multimodals.saved(moved, tokenizer, named=tmp_path / "gone.safetensors")
    (tmp_path / "texts.txt").write_text("a red circle")
    given = [f"--checkpoint={moved}", f"--prompts={tmp_path / 'texts.txt'}", "--key=2"]
    given.append(f"--output={tmp_path / 'out'}")
    code, _, error = in_process.run(generate, capsys, monkeypatch, *given, "--write=codes")
    assert code == 0, error
    (record,) = unitok_jax.open_codes(tmp_path / "out" / "codes")
    expected = unitok_jax.load_multimodal(folder).draw(["a red circle"], key=2)
    np.testing.assert_array_equal(record["codes"], expected)
    code, _, error = in_process.run(generate, capsys, monkeypatch, *given[:-1], "--output=o")
    assert code == 2 and "needs --tokenizer" in error


def test_bad_input(here, tmp_path):
    code, _, error = here(tmp_path / "out", "--text_heads=3")
    assert code == 2 and "text_heads=3" in error
    code, _, error = here(tmp_path / "out", "--labels=1", prompts=None)
    assert code == 2 and "this generator's prompts are texts" in error
    long = tmp_path / "long.txt"
    long.write_text("a star\n" + "star " * 2100)
    code, _, error = here(tmp_path / "out", prompts=long)
    assert code == 2 and f"--prompts={long}, counted from 0: text 1 has 21" in error
    assert not (tmp_path / "out").exists()
