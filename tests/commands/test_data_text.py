"""The command that stores text features: from a CLIP, killed and continued, bad input."""

import re
import subprocess
import sys

import jax
import numpy as np
import pytest

from configs import generate, tiny
from helpers import in_process
from helpers.clip_files import vit_clip, write
from helpers.jobs import environment
from helpers.tokenized import ROOT, hashes, kill_when, make_images, shards
from unitok_jax import Tokenizer
from unitok_jax.commands import data_text
from unitok_jax.data.text_features import open_text_features
from unitok_jax.tokenizer.step import init_params
from unitok_jax.weights.text_tower import load_tower

pytestmark = pytest.mark.slow

# The text tower of the reference's tiny model, which `vit_clip` holds, with CLIP's vocabulary.
SIZES = {"width": 64, "heads": 4, "layers": 2, "vocab_size": 49_408, "context_length": 16}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Pictures of two captions each, and a CLIP."""
    place = tmp_path_factory.mktemp("text")
    make_images(place / "in", 11, (32, 32))
    words = np.random.default_rng(0).normal(0, 0.02, (SIZES["vocab_size"], SIZES["width"]))
    state = vit_clip() | {"token_embedding.weight": words.astype(np.float32)}
    write(place / "clip.safetensors", state)
    return place


def arguments(place, output, *more):
    model = [f"--config.model.text.{key}={value}" for key, value in SIZES.items()]
    return [
        *("--config=configs/tiny.py", "--config.data.source=folder", "--config.data.num_threads=1"),
        *(f"--config.data.path={place}/in", f"--config.init.path={place}/clip.safetensors"),
        *(f"--output={output}", "--shard_size=4", *model, *more),
    ]


def here(capsys, monkeypatch, place, output, *more):
    """Runs the command in this process, which has eight devices: (exit code, printed, error)."""
    return in_process.run(data_text, capsys, monkeypatch, *arguments(place, output, *more))


def test_features_are_those_of_encode_text(place, tmp_path, capsys, monkeypatch):
    """Of both captions of every picture; computed by eight devices here, and by a `Tokenizer`."""
    output = tmp_path / "out"
    code, printed, error = here(capsys, monkeypatch, place, output)
    assert (code, printed) == (0, f"text features of 11 samples in 3 files in {output}\n"), error
    config = tiny.get_config()
    config.model.text.update(SIZES)
    model = config.model.to_dict()
    tower = load_tower(str(place / "clip.safetensors"), model, ("*",))
    params = init_params(model, jax.random.key(0)) | {"text_encoder": tower}
    tokenizer = Tokenizer(config, params)
    stored = open_text_features(str(output))
    for index in range(11):
        captions = f"picture {index}", f"number {index}"
        found = stored.of(index, "x", captions)
        np.testing.assert_allclose(found, tokenizer.encode_text(captions), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    before = hashes(output)
    assert here(capsys, monkeypatch, place, output)[:2] == (0, printed)
    assert hashes(output) == before
    code, _, error = here(capsys, monkeypatch, place, output, "--dtype=bfloat16")
    assert code == 2 and "--dtype: 'float32' before, 'bfloat16' now" in error


@pytest.mark.long
def test_killed_and_continued(place, tmp_path):
    """Bit for bit the folder of a command that nobody killed."""
    output, whole = tmp_path / "out", tmp_path / "whole"
    command = [sys.executable, "-m", "unitok_jax", "data", "text"]
    options = dict(cwd=ROOT, env=environment(1), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    more = "--shard_size=1", "--batch_size=2"
    process = subprocess.Popen([*command, *arguments(place, output, *more)], **options)
    assert kill_when(process, lambda: len(shards(output)) > 1, timeout=400)
    assert 2 <= len(shards(output)) and not (output / "manifest.json").exists()
    for folder in (output, whole):
        done = subprocess.run([*command, *arguments(place, folder, *more)], **options)
        assert done.returncode == 0, done.stderr
    assert hashes(output) == hashes(whole)


@pytest.mark.parametrize(
    "more, told",
    [
        (["--config.init.path="], "init.path is empty; name the file with the text tower"),
        (["--config.init.path=/no/file"], "/no/file does not exist"),
        (["--config.init.include=('encoder.*',)"], "init.include leaves out all that fits"),
        (["--config.model.text.layers=3"], "no whole text tower: .* file have .*text.layers=2"),
        (
            ["--config.model.text.layers=1"],
            "no whole text tower: it is deeper: .* file have .*layers=2",
        ),
        (["--config.model.text.vocab_size=512"], "vocab_size=512 has no row for the token ids"),
        (["--config.data.path=/no/data"], "data.path=/no/data"),
        (["--shard_size=0"], "--shard_size=0 must be at least 1 sample"),
        (["--config.text=1"], "the config has no key 'text'"),
        (["--outputs=x"], "outputs"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(place, tmp_path, capsys, monkeypatch, more, told):
    code, printed, error = here(capsys, monkeypatch, place, tmp_path / "out", *more)
    assert (code, printed) == (2, "") and "Traceback" not in error
    assert error.startswith("error: ") and re.search(told, error)
    assert not (tmp_path / "out").exists()


def test_a_generators_configuration(tmp_path):
    with pytest.raises(ValueError, match="product=generator: text features are for training a to"):
        data_text.store(generate.get_config(), tmp_path / "out")
