"""The generate command: what it writes, kills, several processes and devices, bad input."""

import argparse
import json
import os
import random
import shutil
import signal
import sys
import time

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import unitok_jax
from configs import tiny
from helpers import generators, in_process, parity
from helpers.tokenized import kill_when, other_weights, run, shards, start
from unitok_jax.commands import generate
from unitok_jax.data.images.transforms import to_uint8
from unitok_jax.evaluation.samples import ROUNDINGS, Generation, open_samples
from unitok_jax.generate import folder as drawn
from unitok_jax.tokenizer.step import init_params
from unitok_jax.weights import load

pytestmark = pytest.mark.slow

COUNT, SIZE = 41, 4


@pytest.fixture(scope="module")
def tokenizer(weights):
    return unitok_jax.load(weights)


@pytest.fixture(scope="module")
def generator(tokenizer, tmp_path_factory):
    """Workdir of a generator on that tokenizer's codes, of images of 32 x 48 pixels."""
    books, entries = tokenizer.codebook_shape
    found = generators.weights(
        tokenizer_hash=tokenizer.hash, num_codebooks=books, vocab_size=books * entries, classes=5
    )
    return generators.save(tmp_path_factory.mktemp("generator") / "run", found)


@pytest.fixture(scope="module", autouse=True)
def loaded_once():
    """Commands of this process share what they load, so that each program compiles once."""
    loaded = {}

    def sharing(name):
        load = getattr(generate, name)

        def shared(args, *found):
            place = found[0].path if found else args.checkpoint
            key = name, str(place), args.batch_size, args.precision
            if key not in loaded:
                loaded[key] = load(args, *found)
            return loaded[key]

        return shared

    with pytest.MonkeyPatch.context() as patch:
        for name in ("load_generator", "load_tokenizer"):
            patch.setattr(generate, name, sharing(name))
        yield


@pytest.fixture
def here(generator, weights, capsys, monkeypatch):
    """Runs the command in this process, which has eight devices: (exit code, printed, error)."""

    def call(output, *more):
        return in_process.run(
            generate, capsys, monkeypatch, *flags(generator, weights, output, more)
        )

    return call


def flags(generator, weights, output, more=()):
    given = [f"--checkpoint={generator}", f"--tokenizer={weights}", f"--output={output}"]
    if not any(flag.startswith("--labels") for flag in more):
        given += ["--labels=balanced", f"--count={COUNT}", f"--shard_size={SIZE}", "--scale=1.5"]
    return [*given, *more]


def hashes(output):
    """name -> bytes of all files in a folder and in those within."""
    files = [path for path in output.rglob("*") if path.is_file()]
    return {str(path.relative_to(output)): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def whole(generator, weights, tmp_path_factory):
    """Folder that an undisturbed process with one device wrote."""
    output = tmp_path_factory.mktemp("whole") / "out"
    more = ["--write=png,npz"]
    command = [sys.executable, "-m", "unitok_jax", "generate"]
    code, printed, error = run([*command, *flags(generator, weights, output, more)])
    assert code == 0, error
    assert printed == f"pictures of 32 x 48 px of {COUNT} samples in {output}\n"
    return output


class TestWhatIsWritten:
    def test_codes_are_those_of_the_api(self, generator, whole):
        codes = unitok_jax.open_codes(whole / "codes")
        gen = unitok_jax.load_generator(generator)
        labels = np.arange(COUNT) % 5
        expected = gen.sample(labels, scale=1.5)
        np.testing.assert_array_equal([record["codes"][0] for record in codes], expected)
        assert [record["label"] for record in codes] == labels.tolist()
        assert [record["key"] for record in codes] == [f"{i:06}" for i in range(COUNT)]
        assert codes.grid == (2, 3) and codes.manifest["settings"]["generator"] == gen.hash

    def test_pictures_are_the_codes_decoded(self, tokenizer, whole):
        codes = unitok_jax.open_codes(whole / "codes")
        for number in (0, 7, COUNT - 1):
            with Image.open(whole / "images" / f"{number:06}.png") as picture:
                pixels = np.asarray(picture)
            expected = to_uint8(tokenizer.decode(codes[number]["codes"], codes.grid))[0]
            np.testing.assert_array_equal(pixels, expected)
        with Image.open(whole / "sheet.png") as sheet:
            assert sheet.width > 192 * 7

    def test_the_archive_is_that_of_an_evaluator(self, whole):
        with np.load(whole / "samples.npz") as archive:
            assert archive.files == ["arr_0", "arr_1"]
            images, labels = archive["arr_0"], archive["arr_1"]
        assert images.dtype == np.uint8 and images.shape == (COUNT, 32, 48, 3)
        assert labels.dtype == np.int64 and labels.tolist() == [i % 5 for i in range(COUNT)]
        for number, image in enumerate(images):
            with Image.open(whole / "images" / f"{number:06}.png") as picture:
                np.testing.assert_array_equal(np.asarray(picture), image)
        assert not (whole / "parts").exists()

    def test_its_settings_are_told(self, generator, tokenizer, whole):
        opened = open_samples(whole)
        assert (opened.count, opened.size) == (COUNT, (32, 48))
        assert opened.generation == Generation(
            checkpoint_hash=unitok_jax.load_generator(generator).hash,
            tokenizer_hash=tokenizer.hash,
            count=COUNT,
            labels="balanced",
            scale=1.5,
            guidance="constant",
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            key=0,
            rounding="half_even",
        )

    def test_eight_devices_write_the_bytes_of_one(self, here, whole, tmp_path):
        code, _, error = here(tmp_path / "out", "--write=png,npz")
        assert code == 0, error
        assert hashes(tmp_path / "out") == hashes(whole)

    def test_a_part_of_it_first(self, here, whole, tmp_path):
        """Codes alone, then pictures of them, then the archive: nothing is drawn again."""
        output = tmp_path / "out"
        assert here(output, "--write=codes")[0] == 0
        assert sorted(os.listdir(output)) == ["codes", "generation.json", "settings.json"]
        names = shards(output / "codes")
        before = [(output / "codes" / name).stat().st_mtime_ns for name in names]
        assert here(output)[0] == 0 and not (output / "samples.npz").exists()
        assert here(output, "--write=npz")[0] == 0
        assert hashes(output) == hashes(whole)
        assert before == [(output / "codes" / name).stat().st_mtime_ns for name in names]

    def test_two_processes_share_the_work(self, generator, weights, whole, here, tmp_path):
        """Process 1 of 2 draws its shards, and process 0 the others and what follows from all."""
        output = tmp_path / "out"
        assert here(output, "--write=codes")[0] == 0
        settings = json.loads((output / "settings.json").read_text())
        shutil.rmtree(output / "codes")
        (output / "generation.json").unlink()
        (output / "codes").mkdir()
        (output / "codes" / "settings.json").write_text(json.dumps(drawn.codes_settings(settings)))
        sampler = unitok_jax.load_generator(generator)
        tokenizer = unitok_jax.load(weights)
        labels = drawn.Classes(np.arange(COUNT, dtype=np.int32) % 5)
        for process in (1, 0):
            folder = drawn.Folder(output, settings, ["codes", "png", "npz"], process, 2)
            drawn.draw_own(sampler, tokenizer, folder, labels, {"scale": 1.5})
            own = [f"{shard:06}.json" for shard in range(11)][process::2]
            assert set(own) <= set(shards(output / "codes"))
            assert process == 0 or len(shards(output / "codes")) == len(own)
        drawn.draw(sampler, tokenizer, folder, labels, {"scale": 1.5})
        assert hashes(output) == hashes(whole)


class TestContinuing:
    @pytest.mark.long
    def test_killed_four_times(self, generator, weights, whole, tmp_path):
        """Random moments: of the start, of drawing, of the pictures, of the archive."""
        rng, output, killed = random.Random(0), tmp_path / "out", 0
        more = ["--write=png,npz"]
        command = [sys.executable, "-m", "unitok_jax", "generate"]
        command += flags(generator, weights, output, more)
        some_shards, some_pictures = rng.randrange(1, 4), rng.randrange(16, 32)
        moments = [
            lambda: output.exists(),
            lambda: len(shards(output / "codes")) >= some_shards,
            lambda: pictures(output) >= some_pictures,
            lambda: any(output.glob("samples.npz*")),
        ]
        for happens in moments:
            killed += kill_when(start(command), happens)
            assert not (output / "generation.json").exists()
        assert killed == 4
        code, _, error = run(command)
        assert code == 0, error
        assert hashes(output) == hashes(whole)

    def test_interrupted_and_continued(self, here, generator, weights, whole, tmp_path):
        output = tmp_path / "out"
        command = [sys.executable, "-m", "unitok_jax", "generate"]
        process = start([*command, *flags(generator, weights, output, ["--write=png,npz"])])
        deadline = time.monotonic() + 120
        while pictures(output) < 5 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        process.send_signal(signal.SIGINT)
        printed, error = process.communicate(timeout=120)
        assert (printed, error) == ("", "interrupted; the same command continues\n")
        assert process.returncode == 130
        assert here(output, "--write=png,npz")[0] == 0
        assert hashes(output) == hashes(whole)

    def test_the_same_command_twice_at_once(self, generator, weights, whole, tmp_path):
        command = [sys.executable, "-m", "unitok_jax", "generate"]
        command += flags(generator, weights, tmp_path / "out", ["--write=png,npz"])
        processes = [start(command) for _ in range(2)]
        ended = [process.communicate(timeout=300) for process in processes]
        assert [process.returncode for process in processes] == [0, 0], ended
        assert hashes(tmp_path / "out") == hashes(whole)

    def test_two_of_other_pictures_at_once(self, generator, weights, here, whole, tmp_path):
        """One ends while the other is about to write: neither loses anything of its own."""
        output, name = tmp_path / "out", "0123456789ab.partial"
        assert here(output, "--write=codes")[0] == 0
        settings = json.loads((output / "settings.json").read_text())
        sampler, tokenizer = unitok_jax.load_generator(generator), unitok_jax.load(weights)
        labels = drawn.Classes(np.arange(COUNT, dtype=np.int32) % 5)
        archive = drawn.Folder(output, settings, ["codes", "npz"])
        drawn.draw_own(sampler, tokenizer, archive, labels, {"scale": 1.5})
        theirs = [output / f"samples.npz.{name}", output / "parts" / f"000003.pixels.{name}"]
        sheet, ours = output / f"sheet.png.{name}", output / "images" / f"000000.png.{name}"
        ours.parent.mkdir()
        for path in (*theirs, sheet, ours):
            path.write_bytes(b"begun")
        drawn.finish(tokenizer, drawn.Folder(output, settings, ["codes"]))
        assert all(path.exists() for path in (*theirs, sheet, ours))
        assert here(output, "--write=png")[0] == 0
        assert all(path.exists() for path in theirs) and not (sheet.exists() or ours.exists())
        assert not archive.missing(archive.shards)
        drawn.finish(tokenizer, archive)
        assert hashes(output) == hashes(whole)

    def test_what_is_missing_or_damaged_is_written_again(self, here, whole, tmp_path):
        output = tmp_path / "out"
        shutil.copytree(whole, output)
        line = (0, f"{output} is finished: nothing to do\n", "")
        assert here(output, "--write=png,npz") == line == here(output)
        (output / "images" / "000009.png").unlink()
        os.truncate(output / "codes" / "000002.array_record", 100)
        (output / "samples.npz").unlink()
        os.truncate(output / "generation.json", 30)
        assert here(output, "--write=png,npz")[0] == 0
        assert hashes(output) == hashes(whole)
        (output / "sheet.png").unlink()
        assert here(output, "--write=png,npz")[0] == 0
        assert hashes(output) == hashes(whole)

    def test_killed_at_the_very_end(self, here, whole, tmp_path, monkeypatch):
        """Once `generation.json` is there, nothing is left to be cleared away."""
        output, write = tmp_path / "out", Generation.write
        shutil.copytree(whole, output)
        for name in ("samples.npz", "generation.json"):
            (output / name).unlink()

        def killed(*call, **named):
            write(*call, **named)
            raise KeyboardInterrupt

        monkeypatch.setattr(Generation, "write", killed)
        assert here(output, "--write=png,npz")[0] == 130
        monkeypatch.undo()
        assert hashes(output) == hashes(whole)

    def test_pictures_are_listed_and_not_looked_at_one_by_one(self, whole, monkeypatch):
        settings = json.loads((whole / "settings.json").read_text())
        folder, looked, stat = drawn.Folder(whole, settings, ["codes", "png", "npz"]), [], os.stat

        def counted(path, *more, **named):
            looked.append(str(path))
            return stat(path, *more, **named)

        monkeypatch.setattr(os, "stat", counted)
        assert folder.is_finished()
        assert looked and not [path for path in looked if path.endswith("0.png")]

    def test_rounding(self, here, tmp_path, monkeypatch):
        """The two differ at ties alone, which few pictures have."""
        assert set(generate.ROUNDINGS) == set(ROUNDINGS)
        monkeypatch.setitem(ROUNDINGS, "half_up", lambda images: np.full(images.shape, 7, np.uint8))
        assert here(tmp_path / "out", "--rounding=half_up", "--labels=0-4")[0] == 0
        opened = open_samples(tmp_path / "out")
        assert (next(opened.read(5)) == 7).all() and opened.generation.rounding == "half_up"

    def test_more_samples_begin_with_the_same(self, here, whole, tmp_path):
        assert here(tmp_path / "out", "--labels=0-4", "--count=12", "--scale=1.5")[0] == 0
        for number in range(12):
            name = f"images/{number:06}.png"
            assert (tmp_path / "out" / name).read_bytes() == (whole / name).read_bytes()


def pictures(output):
    folder = output / "images"
    return len(list(folder.glob("*.png"))) if folder.is_dir() else 0


class TestLabels:
    def test_given(self, tmp_path):
        def labels(*call):
            return generate.labels_of(*call, 10, 0).tolist()

        assert labels("7", None) == [7] and labels("7", 3) == [7, 7, 7]
        assert labels("3-5,9", None) == [3, 4, 5, 9] and labels("3-5,9", 6) == [3, 4, 5, 9, 3, 4]
        (tmp_path / "labels.txt").write_text("4\n4\n0\n")
        assert labels(str(tmp_path / "labels.txt"), None) == [4, 4, 0]
        assert labels("balanced", 12) == [*range(10), 0, 1]

    def test_random(self):
        drawn = generate.labels_of("random", 10_000, 10, 3)
        counts = np.bincount(drawn, minlength=10)
        assert len(counts) == 10 and (np.abs(counts - 1000) < 5 * 30).all()
        np.testing.assert_array_equal(generate.labels_of("random", 100, 10, 3), drawn[:100])
        assert (generate.labels_of("random", 10_000, 10, 4) != drawn).any()


class TestBadInput:
    @pytest.mark.parametrize(
        "more, words",
        [
            (["--labels=5"], "--labels=5: label 5 is none of this generator's: they are 0 to 4"),
            (["--labels=0-999999999"], "label 999999999 is none"),
            (["--labels=4-2"], "--labels=4-2: expected labels"),
            (["--labels=cat"], "--labels=cat: expected labels and ranges"),
            (["--labels="], "--labels=: expected labels"),
            (["--labels=balanced"], "--labels=balanced needs --count"),
            (["--labels=1", "--prompts=FILE"], "one of --labels and --prompts"),
            (["--labels=1", "--count=0"], "--count=0 must be at least 1"),
            (["--labels=1", "--count=-3"], "--count=-3"),
            (["--shard_size=0"], "--shard_size=0"),
            (["--temperature=-1"], "temperature=-1.0 must be at least 0"),
            (["--top_k=0"], "top_k=0 must be in 1..64"),
            (["--top_k=65"], "top_k=65"),
            (["--top_p=0"], "top_p=0.0"),
            (["--top_p=1.5"], "top_p=1.5"),
            (["--scale=big"], "--scale=big: expected numbers"),
            (["--scale=1,2,3"], "scale of shape (3,)"),
            (["--scale=/none.npy"], "/none.npy"),
            (["--guided_tokens=9"], "guided_tokens=9 must be in 0..6"),
            (["--key=-1"], "key=-1"),
            (["--released"], "--released means nothing of a generator"),
            (["--write=jpg"], "--write=jpg: 'jpg' is none of codes, png, npz"),
            (["--batch_size=3"], "batch_size=3"),
            (["--checkpoint=/none"], "/none does not exist"),
            (["--tokenizer=/none"], "/none does not exist"),
            (["--tokenizer="], "--write=png needs --tokenizer"),
        ],
    )
    def test_arguments(self, here, tmp_path, more, words):
        code, _, error = here(tmp_path / "out", *more)
        assert code == 2 and error.startswith("error: ") and words in error
        assert error.count("\n") == 1 and not (tmp_path / "out").exists()

    def test_weights_of_the_other_kind(self, here, generator, weights, tmp_path):
        code, _, error = here(tmp_path / "out", f"--checkpoint={weights}")
        assert code == 2 and "tokenizer" in error and "generator" in error
        code, _, error = here(tmp_path / "out", f"--tokenizer={generator}")
        assert code == 2 and "tokenizer" in error and "generator" in error

    def test_another_tokenizer(self, here, tokenizer, tmp_path):
        other = other_weights(tokenizer, tmp_path)
        code, _, error = here(tmp_path / "out", f"--tokenizer={other}")
        assert code == 2 and f"hash {tokenizer.hash}, and this one" in error
        assert not (tmp_path / "out").exists()

    def test_no_tokenizer(self, generator, capsys, monkeypatch, tmp_path):
        arguments = [f"--checkpoint={generator}", "--labels=1", f"--output={tmp_path}/out"]
        code, _, error = in_process.run(generate, capsys, monkeypatch, *arguments)
        assert code == 2 and "--write=png needs --tokenizer" in error
        more = (*arguments, "--write=codes", "--count=3")
        code, printed, _ = in_process.run(generate, capsys, monkeypatch, *more)
        assert (code, printed) == (0, f"codes of 3 samples in {tmp_path}/out\n")

    def test_a_grid_that_is_assumed(self, capsys, tmp_path):
        """Of a file of the release, which does not tell it."""
        state = dict(parity.state("generator"))
        state["cls_embedding.embedding_table.weight"] = np.ones((1001, 64), np.float32)
        safetensors.numpy.save_file(state, tmp_path / "x.safetensors")
        args = argparse.Namespace(
            checkpoint=str(tmp_path / "x.safetensors"),
            batch_size=None,
            precision="float32",
            weights=None,
        )
        assert generate.load_generator(args).grid == (16, 16)
        told = "x.safetensors: no array tells the grid of tokens: (16, 16) is assumed; unitok"
        assert capsys.readouterr().err.count(told) == 1

    def test_codes_of_an_unknown_tokenizer(self, capsys, monkeypatch, tmp_path):
        """They could neither be decoded nor continued with pictures."""
        generators.save(tmp_path / "gen", generators.weights(tokenizer_hash=None))
        arguments = [f"--checkpoint={tmp_path}/gen", "--labels=1", f"--output={tmp_path}/out"]
        arguments += ["--write=codes"]
        code, _, error = in_process.run(generate, capsys, monkeypatch, *arguments)
        assert code == 2 and "give --tokenizer, or bind it with unitok convert" in error
        assert not (tmp_path / "out").exists()

    def test_other_settings(self, here, whole, tmp_path):
        output = tmp_path / "out"
        shutil.copytree(whole, output)
        before = hashes(output)
        code, _, error = here(output, "--scale=2", "--key=3", "--count=40")
        assert code == 2 and "--scale: 1.5 before, 2.0 now" in error and "another folder" in error
        assert "--key: 0 before, 3 now" in error and "samples: 41 before, 40 now" in error
        assert hashes(output) == before

    def test_strangers_folder(self, here, tmp_path):
        (tmp_path / "thesis.tex").write_text("x")
        code, _, error = here(tmp_path)
        assert code == 2 and "is not empty (thesis.tex)" in error
        code, _, error = here(tmp_path / "thesis.tex")
        assert code == 2 and "thesis.tex is not a folder" in error and error.count("\n") == 1
        assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.fixture(scope="module")
def of_texts(tmp_path_factory):
    """(generator of texts, tokenizer whose tower has CLIP's tokens)."""
    config = tiny.get_config()
    config.model.update(size="nano", num_codebooks=2, vocab_size=32)
    config.model.text.update(width=16, heads=2, layers=1, vocab_size=49_408)
    folder = tmp_path_factory.mktemp("texts")
    load.write(folder / "tok", config, init_params(config.model.to_dict(), jax.random.key(0)))
    found = generators.weights(
        tokenizer_hash=unitok_jax.load(folder / "tok").hash,
        vocab_size=32,
        prompt="text",
        text_tokens=config.model.text.context_length,
        text_features=16,
    )
    return generators.save(folder / "gen", found), folder / "tok"


class TestPrompts:
    @pytest.fixture
    def here(self, of_texts, capsys, monkeypatch, tmp_path):
        def call(content, *more):
            (tmp_path / "prompts.txt").write_bytes(content)
            generator, tokenizer = of_texts
            given = [f"--checkpoint={generator}", f"--tokenizer={tokenizer}"]
            given += [f"--prompts={tmp_path}/prompts.txt", f"--output={tmp_path}/out"]
            return in_process.run(generate, capsys, monkeypatch, *given, *more)

        return call

    def test_each_line_in_turn(self, here, of_texts, tmp_path):
        generator, tokenizer = of_texts
        long = "a very " * 60 + "long road"
        content = f"a red heart\n{long}\n caf\u00e9 \n\n".encode()
        code, printed, error = here(content, "--count=5", "--scale=2")
        assert (code, printed) == (0, f"pictures of 32 x 48 px of 5 samples in {tmp_path}/out\n")
        assert "1 of 3 texts of --prompts=" in error and "last words: line 2\n" in error
        texts = ["a red heart", long, "caf\u00e9", "a red heart", long]
        codes = unitok_jax.open_codes(tmp_path / "out" / "codes")
        assert [(r["label"], r["captions"]) for r in codes] == [(None, (t,)) for t in texts]
        gen, tok = unitok_jax.load_generator(generator), unitok_jax.load(tokenizer)
        prompts = gen.text_prompts(tok, texts)
        assert prompts["valid"].sum(axis=1).tolist() == [5, 77, 3, 5, 77]
        assert not prompts["features"][~prompts["valid"]].any()
        expected = gen.sample(**prompts, scale=2.0)
        np.testing.assert_array_equal([record["codes"][0] for record in codes], expected)
        with pytest.raises(ValueError, match="text 1, '&nbsp;', has no word"):
            gen.text_prompts(tok, ["red", "&nbsp;"])
        again = gen.text_prompts(tok, texts[3])
        np.testing.assert_array_equal(again["features"], prompts["features"][:1])
        assert Generation.read(tmp_path / "out").labels == "captions"

    @pytest.mark.parametrize(
        "content, words",
        [
            (b"", "is empty; it must hold a text a line"),
            (b"\n \n", "is empty; it must hold a text a line"),
            (b"a cat\n\na dog", "line 2 is empty; a prompt needs a word"),
            (b"a cat\n&nbsp;", "line 2, '&nbsp;', has no word"),
            (b"caf\xe9", "is no text in UTF-8"),
        ],
    )
    def test_empty(self, here, tmp_path, content, words):
        code, _, error = here(content)
        assert code == 2 and f"--prompts={tmp_path}/prompts.txt" in error and words in error
        assert error.count("\n") == 1 and not (tmp_path / "out").exists()

    def test_of_the_other_kind(self, here, of_texts, generator, weights, capsys, monkeypatch):
        code, _, error = here(b"a cat", f"--checkpoint={generator}", f"--tokenizer={weights}")
        assert code == 2 and "this generator's prompts are classes" in error
        given = [f"--checkpoint={of_texts[0]}", "--labels=1", "--write=codes", "--output=/none/x"]
        code, _, error = in_process.run(generate, capsys, monkeypatch, *given)
        assert code == 2 and "--labels=1: this generator's prompts are texts" in error

    def test_from_python(self, of_texts, tokenizer):
        gen, tok = unitok_jax.load_generator(of_texts[0]), unitok_jax.load(of_texts[1])
        for texts, words in (("  ", "text 0 is empty"), ([], "at least one"), ([3], "no str")):
            with pytest.raises((ValueError, TypeError), match=words):
                gen.text_prompts(tok, texts)
        with pytest.raises(ValueError, match="hash"):
            gen.text_prompts(tokenizer, "a cat")


def test_a_schedule_in_a_file(here, generator, tmp_path):
    scale = np.ones((6, 4), np.float32)
    scale[:2] = 3
    np.save(tmp_path / "scale.npy", scale)
    more = ("--labels=0-4", f"--scale={tmp_path}/scale.npy", "--write=codes")
    assert here(tmp_path / "out", *more)[0] == 0
    codes = unitok_jax.open_codes(tmp_path / "out" / "codes")
    expected = unitok_jax.load_generator(generator).sample(np.arange(5), scale=scale)
    np.testing.assert_array_equal([record["codes"][0] for record in codes], expected)
    told = Generation.read(tmp_path / "out")
    assert (told.scale, told.guidance, told.labels) == (3.0, "a schedule of shape (6, 4)", "given")


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04" + bytes(50), None])
def test_files_that_are_no_schedule(content, tmp_path):
    """None: an archive of arrays under the name of an array."""
    if content is None:
        np.savez(tmp_path / "archive.npz", np.ones(2))
        content = (tmp_path / "archive.npz").read_bytes()
    (tmp_path / "scale.npy").write_bytes(content)
    with pytest.raises(ValueError, match="--scale=.*scale.npy is not an array of NumPy"):
        generate._scale(f"{tmp_path}/scale.npy")


def test_prompts_of_a_benchmark_are_counted_not_their_lines(tmp_path, capsys):
    file, texts = tmp_path / "x.json", ["a cat", "&nbsp;", "a very " * 60]
    with pytest.raises(ValueError, match=r"x.json: prompt 2, '&nbsp;', has no word"):
        generate._lengths(file, texts)
    generate._tell_cuts(file, generate._lengths(file, texts[::2]), 77)
    assert "1 of 2 texts" in (told := capsys.readouterr().err) and told.endswith(": prompt 2\n")


@pytest.mark.parametrize("suffix", [".json", ".JSON", ".Json"])
def test_prompts_by_id_whatever_the_case_of_the_suffix(tmp_path, suffix):
    file = tmp_path / f"x{suffix}"
    file.write_text('{"7": {"prompt": "a cat"}}\n')
    assert generate.read_prompts(file) == (["a cat"], ["7.jpeg"])
    with pytest.raises(ValueError, match="prompt 1, '&nbsp;', has no word"):
        generate._lengths(file, ["&nbsp;"])


@pytest.mark.parametrize("suffix", [".jsonl", ".JSONL", ".ndjson", ".csv", ".tsv", ".parquet"])
def test_prompts_of_other_records_are_not_drawn_as_text(tmp_path, suffix):
    file = tmp_path / f"x{suffix}"
    file.write_text('{"prompt": "a cat"}\n')
    with pytest.raises(ValueError) as caught:
        generate.read_prompts(file)
    read = "give a text a line, as .txt, or a .json by id"
    assert str(caught.value) == f"--prompts={file}: a {suffix} file is not read here; {read}"


def test_prompts_are_read_before_anything_is_loaded(capsys, monkeypatch, tmp_path):
    (tmp_path / "x.csv").write_text("a cat\n")
    given = ["--checkpoint=/none", f"--prompts={tmp_path}/x.csv", f"--output={tmp_path}/out"]
    code, _, error = in_process.run(generate, capsys, monkeypatch, *given)
    assert code == 2 and error.startswith(f"error: --prompts={tmp_path}/x.csv: a .csv file")


@pytest.mark.parametrize("name", ["x", "x.txt", "x.prompts", "x.json.txt"])
def test_prompts_of_any_other_name_are_lines(tmp_path, name):
    (tmp_path / name).write_text("a cat\n")
    assert generate.read_prompts(tmp_path / name) == (["a cat"], [])


def test_files_of_other_bytes(tmp_path):
    (tmp_path / "labels").write_bytes(b"1 \x80")
    with pytest.raises(ValueError, match="--labels=.*labels: the file must hold a label a line"):
        generate.labels_of(f"{tmp_path}/labels", None, 5, 0)
    (tmp_path / "labels").write_bytes(b"\xef\xbb\xbf4\r\n0\r\n")  # as Windows saves text
    assert generate.labels_of(f"{tmp_path}/labels", None, 5, 0).tolist() == [4, 0]
    (tmp_path / "prompts").write_bytes(b"\xef\xbb\xbfa cat\r\na dog")
    assert generate.read_texts(tmp_path / "prompts") == ["a cat", "a dog"]
    (tmp_path / "prompts").write_text("a\u2028cat\na\x85\x0bdog\x0c\n")
    assert generate.read_texts(tmp_path / "prompts") == ["a\u2028cat", "a\x85\x0bdog"]
