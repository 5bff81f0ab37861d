"""The evaluate command: real files in, a card out, the same for any devices and processes."""

import functools
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from configs import tiny as tiny_config
from helpers import in_process, one_device
from helpers.jobs import environment, free_port
from unitok_jax import load
from unitok_jax.commands import evaluate
from unitok_jax.data.images.transforms import decode_image, resize_center_crop, to_uint8
from unitok_jax.evaluation import evaluator
from unitok_jax.evaluation.card import statistics, write
from unitok_jax.evaluation.metrics.frechet import Moments
from unitok_jax.system import progress
from unitok_jax.tokenizer.run import Run
from unitok_jax.tokenizer.step import init_params
from unitok_jax.training.loop import train
from unitok_jax.weights import load as loading

pytestmark = [pytest.mark.slow, pytest.mark.long]

COUNT = 20


run = functools.partial(in_process.run, evaluate)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A fresh model of CLIP's vocabulary at 64 px."""
    config = tiny_config.get_config()
    path = tmp_path_factory.mktemp("clip") / "tiny.safetensors"
    loading.write(path, config, init_params(config.model.to_dict(), jax.random.key(0)))
    return path


def picture(rng, size):
    return Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize(size)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images of mixed sizes in three class folders."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for number in range(COUNT):
        place = folder / ("cat", "dog", "owl")[number % 3]
        place.mkdir(exist_ok=True)
        picture(rng, (60 + 3 * number, 90 - 2 * number)).save(place / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def whole(checkpoint, folder, tmp_path_factory):
    """The card of everything, by one process with one device; its arguments and its folder."""
    home = tmp_path_factory.mktemp("whole")
    arguments = [f"--checkpoint={checkpoint}", f"--data=labelled:{folder}", "--inception=seeded"]
    arguments += ["--lpips=seeded", f"--probe=labelled:{folder}", "--batch_size=8"]
    arguments += ["--probe_method=ridge"]
    command = [*arguments, f"--cache={home / 'cache'}", f"--output={home / 'card'}"]
    (result,) = processes([[*command, f"--save_reference={home / 'mine.npz'}"]], 1)
    assert result.returncode == 0, result.output
    return home, arguments, result.output


def processes(commands, devices):
    """Runs a command of each process of a job to its end."""
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "unitok_jax", "evaluate", *command],
            env=environment(devices),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in commands
    ]
    try:
        for process in started:
            process.output = process.communicate(timeout=300)[0]
    finally:
        for process in started:
            process.kill()
    return started


def read(folder):
    return json.loads((folder / "card.json").read_text())


def used(books, book):
    return round(books["usage"][book] * books["rows"])


def assert_same_figures(one, other):
    assert one["metrics"].keys() == other["metrics"].keys()
    for key in one["metrics"]:
        # Images per device change the last digit of a value, and so, of 300 000 values between two
        # 8-bit levels, how a few are rounded: a step that rFID, and an SSIM near zero, show.
        np.testing.assert_allclose(
            one["metrics"][key],
            other["metrics"][key],
            rtol=1e-4 if key == "rfid" else 1e-5,
            atol=1e-6,
            err_msg=key,
        )
    for key in one["codebooks"]:
        np.testing.assert_allclose(one["codebooks"][key], other["codebooks"][key], rtol=1e-5)


class TestCard:
    def test_figures(self, whole, checkpoint, folder):
        found = read(whole[0] / "card")
        names = ("rfid", "inception_score", "psnr", "ssim", "ssim_uniform", "lpips")
        names += ("zero_shot_top1", "probe_top1", "bits_per_token", "codes_changed")
        assert set(names) <= found["metrics"].keys()
        tokenizer = load(checkpoint)
        errors = []
        for path in sorted(folder.glob("*/*.png")):
            image = resize_center_crop(decode_image(path.read_bytes(), path.name), (64, 64))
            rebuilt = to_uint8(tokenizer.reconstruct(image[None]))[0]
            errors.append(np.mean((image.astype(float) - rebuilt) ** 2))
        expected = np.mean(10 * np.log10(255**2 / np.array(errors)))
        np.testing.assert_allclose(found["metrics"]["psnr"], expected, rtol=1e-5)
        assert found["images"] == COUNT and found["provenance"]["tokenizer_hash"] == tokenizer.hash

    def test_a_figure_that_is_not_a_number_is_named(self):
        with pytest.raises(ValueError, match="ssim is not a number.*are its weights whole"):
            write._number("ssim", np.float32(np.nan))

    def test_what_is_missing_is_told(self, whole):
        found = read(whole[0] / "card")
        assert [m["what"] for m in found["not_measured"]] == ["image-text retrieval"]
        assert any(f"FID of {COUNT} images" in warning for warning in found["warnings"])
        assert any("random weights" in warning for warning in found["warnings"])
        assert f"warning: FID of {COUNT} images" in whole[2]

    def test_how_many_rows_the_tokens_can_use(self, whole):
        found, home = read(whole[0] / "card"), whole[0] / "card"
        books, tokens = found["codebooks"], COUNT * 16
        assert (books["tokens"], books["rows"]) == (tokens, books["dead"][0] + used(books, 0))
        assert books["usable"] == min(tokens, books["rows"])
        for book, share in enumerate(books["usage_of_usable"]):
            assert share == used(books, book) / books["usable"]
        told = f"{tokens} tokens were measured"
        assert sum(told in warning for warning in found["warnings"]) == 1
        told += f"; they can use at most {books['usable']} of the {books['rows']} rows"
        for name in ("card.html", "card.md"):
            assert told in (home / name).read_text(encoding="utf-8")

    def test_weights_alone_do_not_tell_of_their_training(self, whole):
        found = read(whole[0] / "card")
        assert found["provenance"]["training_images"].startswith("not known")
        assert not any("trained on" in warning for warning in found["warnings"])

    def test_pages_hold_the_figures_and_their_pictures(self, whole):
        home, found = whole[0] / "card", read(whole[0] / "card")
        page, text = (home / "card.html").read_text(), (home / "card.md").read_text()
        value = f"{found['metrics']['psnr']:.2f} dB"
        assert value in page and value in text
        assert 'src="data:image/png' in page and 'src="http' not in page
        for shown in found["pictures"]:
            with Image.open(home / shown["file"]) as image:
                assert image.size[0] == 3 * image.size[1]
            assert shown["name"] in page and shown["file"] in text
        levels = [shown["psnr"] for shown in found["pictures"]]
        assert [shown["kind"] for shown in found["pictures"]][::3] == ["best", "median", "worst"]
        assert min(levels[:3]) > max(levels[3:6]) and min(levels[3:6]) > max(levels[6:])

    @pytest.mark.thorough
    def test_eight_devices(self, whole, tmp_path, capsys, monkeypatch):
        home, arguments, _ = whole
        assert jax.device_count() == 8
        given = [*arguments, f"--cache={tmp_path}", f"--output={tmp_path / 'card'}"]
        code, _, error = run(capsys, monkeypatch, *given)
        assert code == 0, error
        assert_same_figures(read(home / "card"), read(tmp_path / "card"))

    def test_two_processes(self, whole, tmp_path):
        home, arguments, _ = whole
        to = [f"--coordinator=127.0.0.1:{free_port()}", "--processes=2"]
        given = [*arguments, *to, f"--cache={tmp_path}", f"--output={tmp_path / 'card'}"]
        results = processes([[*given, f"--process={number}"] for number in range(2)], 1)
        assert [r.returncode for r in results] == [0, 0], [r.output for r in results]
        assert_same_figures(read(home / "card"), read(tmp_path / "card"))


@pytest.fixture(scope="module")
def place(folder, checkpoint, tmp_path_factory):
    """Data of its own, and the arguments to measure it with."""
    home = tmp_path_factory.mktemp("reference")
    shutil.copytree(folder, home / "data")
    arguments = [f"--checkpoint={checkpoint}", f"--data=labelled:{home / 'data'}", "--no_text"]
    return home, [*arguments, "--inception=seeded", "--batch_size=8"]


@pytest.mark.thorough
def test_training_measures_what_the_card_does(tiny, tmp_path, capsys, monkeypatch):
    tiny.steps = tiny.eval.every = tiny.checkpoint.every = 2
    tiny.optim.ema_decay = 0.9
    tiny.frozen.inception = "seeded"
    evaluated = train(one_device.of(Run), tiny, tmp_path / "run")
    code, _, error = run(
        *(capsys, monkeypatch, f"--checkpoint={tmp_path / 'run'}", "--data=photos"),
        *(f"--max_images={tiny.eval.max_images}", "--batch_size=8", "--inception=seeded"),
        *("--no_text", f"--cache={tmp_path / 'cache'}", f"--output={tmp_path / 'card'}"),
    )
    assert code == 0, error
    found = read(tmp_path / "card")
    assert found["provenance"]["training_images"] == "yes: it was trained on photos"
    told = "the model was trained on these images: figures of others may be worse"
    assert told in found["warnings"] and f"warning: {told}" in error
    for name in ("card.html", "card.md"):
        assert told in (tmp_path / "card" / name).read_text(encoding="utf-8")
    assert np.isfinite(evaluated["eval/rfid"]) and evaluated["eval/rfid"] > 0
    for key in ("rfid", "psnr"):
        np.testing.assert_allclose(
            evaluated[f"eval/{key}"], found["metrics"][key], rtol=1e-4, err_msg=key
        )
    moments, _ = statistics.read(next((tmp_path / "cache").iterdir()))
    hashed = evaluator.digest([moments.mean, moments.covariance])
    told = found["provenance"]["originals_statistics"]
    assert (
        told == f"of this pass, sha256 {hashed}"
        and told in (tmp_path / "card" / "card.md").read_text()
    )


class TestReference:
    def test_a_stale_cache_is_replaced(self, place, capsys, monkeypatch):
        home, arguments = place
        arguments = [*arguments, f"--cache={home / 'cache'}"]
        code, _, error = run(capsys, monkeypatch, *arguments, f"--output={home / 'first'}")
        assert code == 0 and "cached" not in error, error
        (path,) = (home / "cache").iterdir()
        before = path.read_bytes()
        probed = {round(i * (COUNT - 1) / 15) for i in range(16)}
        index = min(set(range(COUNT)) - probed)
        changed = sorted((home / "data").glob("*/*.png"))[index]
        picture(np.random.default_rng(9), (64, 64)).save(changed)
        code, _, error = run(capsys, monkeypatch, *arguments, f"--output={home / 'stale'}")
        assert code == 0 and "made anew" in error, error
        after = path.read_bytes()
        assert after != before
        code, _, error = run(
            capsys, monkeypatch, *arguments, f"--output={home / 'hit'}", f"--reference={path}"
        )
        assert code == 0 and "made anew" not in error, error
        assert path.read_bytes() == after
        first, stale, hit = (read(home / name) for name in ("first", "stale", "hit"))
        assert hit["metrics"].pop("fid_reference") == hit["metrics"]["rfid"]
        assert_same_figures(stale, hit)
        moments, _ = statistics.read(path)
        hashed = evaluator.digest([moments.mean, moments.covariance])
        told = [card["provenance"]["originals_statistics"] for card in (stale, hit)]
        assert told == [f"of this pass, sha256 {hashed}", f"cached, sha256 {hashed}"]
        assert hashed in (home / "hit" / "card.md").read_text()
        assert first["provenance"]["originals_statistics"] != told[0]
        assert hit["provenance"]["reference_statistics"] == f"{path}, sha256 {hashed}"
        assert abs(first["metrics"]["rfid"] / stale["metrics"]["rfid"] - 1) > 1e-4

    def test_a_reference_of_others_and_wrong_ones(
        self, whole, place, tmp_path, capsys, monkeypatch
    ):
        home, arguments = place
        given = [*arguments, f"--cache={tmp_path}", f"--output={tmp_path / 'card'}"]
        moments, facts = statistics.read(whole[0] / "mine.npz")
        assert moments.count == COUNT
        for key, value in (("inception", "another"), ("preprocessing", {"size": [32, 32]})):
            statistics.write(tmp_path / "wrong.npz", moments, facts | {key: value})
            code, _, error = run(
                capsys, monkeypatch, *given, f"--reference={tmp_path / 'wrong.npz'}"
            )
            assert code == 2 and f"was made with {key}" in error and "--reference=" in error
        np.savez(tmp_path / "short.npz", mu=np.zeros(3), sigma=np.eye(3))
        np.savez(tmp_path / "other.npz", arr_0=np.zeros(3))
        (tmp_path / "text.npz").write_text("no")
        for name in ("short", "other", "text", "none"):
            code, _, error = run(capsys, monkeypatch, *given, f"--reference={tmp_path / name}.npz")
            assert code == 2 and f"{name}.npz" in error and "Traceback" not in error

    def test_moments_survive_their_file(self, whole):
        moments, facts = statistics.read(whole[0] / "mine.npz")
        cached = statistics.read(next((whole[0] / "cache").iterdir()))
        np.testing.assert_array_equal(moments.mean, cached[0].mean)
        np.testing.assert_array_equal(moments.covariance, cached[0].covariance)
        assert facts["digest"] == cached[1]["digest"]

    def test_files_follow_the_umask(self, tmp_path):
        moments, facts = Moments(np.zeros(2048), np.eye(2048), 2), {"digest": ""}
        before = os.umask(0o027)
        try:
            statistics.write(tmp_path / "made.npz", moments, facts)
        finally:
            os.umask(before)
        assert (tmp_path / "made.npz").stat().st_mode & 0o777 == 0o640
        assert [path.name for path in tmp_path.iterdir()] == ["made.npz"]


@pytest.fixture
def fast(checkpoint, folder, tmp_path):
    """Arguments of a card of four images without Inception."""
    return [
        f"--checkpoint={checkpoint}",
        f"--data=labelled:{folder}",
        f"--output={tmp_path / 'card'}",
        f"--cache={tmp_path / 'cache'}",
        "--max_images=4",
        "--batch_size=8",
    ]


def test_from_python_as_the_docs_say(checkpoint, folder, tmp_path, monkeypatch):
    """The example of docs/guides/evaluate.md, with files that are there: no command takes part."""
    page = (pathlib.Path(__file__).parents[2] / "docs" / "guides" / "evaluate.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    for old, new in (
        ("runs/b16", str(checkpoint)),
        ("labelled:/data/val", f"labelled:{folder}"),
        ("max_images=5000", "max_images=4, batch_size=8, text=False"),
        ('inception="inception.safetensors"', 'inception=""'),
    ):
        assert old in example
        example = example.replace(old, new)
    monkeypatch.chdir(tmp_path)
    made = {}
    exec(example, made)
    found = read(tmp_path / "card")
    assert found == made["content"]
    assert found["metrics"]["psnr"] == made["card"].metrics["psnr"]
    assert found["images"] == 4 and found["provenance"]["checkpoint"] == str(checkpoint)
    assert "command" not in found["provenance"]
    assert (tmp_path / "card" / "card.html").is_file()
    with pytest.raises(FileExistsError):
        made["write"]("card", made["card"])


class TestLimits:
    @pytest.mark.parametrize("flag", ["data", "probe"])
    def test_a_card_among_the_images(self, fast, folder, capsys, monkeypatch, flag):
        inside = f"--output={folder / 'cat' / 'card'}"
        given = [*fast, inside, "--data=photos", f"--{flag}=labelled:{folder}"]
        code, _, error = run(capsys, monkeypatch, *given)
        assert code == 2 and f"--output={folder / 'cat' / 'card'} is in --{flag}={folder}" in error
        assert not (folder / "cat" / "card").exists()

    def test_one_image_has_no_fid(self, fast, tmp_path, capsys, monkeypatch):
        given = [*fast, "--max_images=1", "--inception=seeded", "--no_text"]
        code, _, error = run(capsys, monkeypatch, *given)
        assert code == 0, error
        found = read(tmp_path / "card")
        assert "rfid" not in found["metrics"] and found["images"] == 1
        (fid,) = [m for m in found["not_measured"] if m["what"].startswith("FID")]
        assert "at least 2 images" in fid["reason"]

    def test_a_line_a_minute(self, fast, capsys, monkeypatch):
        """Of the pass and of the comparison of dtypes, which measures image by image."""
        monkeypatch.setattr(progress, "EVERY", 0.0)
        code, _, error = run(capsys, monkeypatch, *fast, "--no_text")
        assert code == 0
        lines = [line.split(",")[0] for line in error.splitlines() if " left" in line]
        assert "measuring: 4 of 4 images" in lines and "codes by dtype: 4 of 4 images" in lines

    def test_names_that_are_not_utf8(self, fast, folder, tmp_path, capsys, monkeypatch):
        data = tmp_path / os.fsdecode(b"d\xe9ta")
        (data / "cat").mkdir(parents=True)
        for number, path in enumerate(sorted((folder / "cat").iterdir())[:3]):
            shutil.copy(path, data / "cat" / os.fsdecode(b"caf\xe9%d.png" % number))
        given = [*fast, f"--data=folder:{data}", "--no_text"]
        code, _, error = run(capsys, monkeypatch, *given)
        assert code == 0, error
        found = json.loads((tmp_path / "card" / "card.json").read_bytes().decode())
        assert {shown["name"] for shown in found["pictures"]} == {
            rf"cat/caf\xe9{number}.png" for number in range(3)
        }
        assert found["data"] == rf"folder:{tmp_path}/d\xe9ta"
        assert r"caf\xe91.png" in (tmp_path / "card" / "card.html").read_text(encoding="utf-8")

    def test_no_text(self, fast, weights, tmp_path, capsys, monkeypatch):
        """By choice, and where the text tower has another vocabulary."""
        for number, more in enumerate((["--no_text"], [f"--checkpoint={weights}"])):
            output = tmp_path / f"card{number}"
            code, _, error = run(capsys, monkeypatch, *fast, *more, f"--output={output}")
            assert code == 0, error
            (text,) = [m for m in read(output)["not_measured"] if "zero-shot" in m["what"]]
            assert ("--no_text", "vocabulary")[number] in text["reason"]

    def test_captions_are_retrieved(self, fast, tmp_path, capsys, monkeypatch):
        code, _, error = run(capsys, monkeypatch, *fast, "--data=photos", "--max_images=12")
        assert code == 0, error
        found = read(tmp_path / "card")
        assert {"image_to_text", "text_to_image_r5"} <= found["metrics"].keys()
        assert "zero-shot classification" in [m["what"] for m in found["not_measured"]]

    def test_bad_images(self, fast, folder, tmp_path, capsys, monkeypatch):
        data = tmp_path / "data"
        shutil.copytree(folder, data)
        (data / "cat" / "00.png").write_bytes(b"no image")
        given = [*fast, f"--data=labelled:{data}", "--no_text"]
        code, _, error = run(capsys, monkeypatch, *given)
        assert code == 2 and "cat/00.png" in error and "--max_bad" in error
        assert not (tmp_path / "card").exists()
        code, _, error = run(capsys, monkeypatch, *given, "--max_bad=0.5")
        assert code == 0, error
        found = read(tmp_path / "card")
        assert found["images"] == 3 and found["left_out"]["not_an_image"]["count"] == 1
        assert "cat/00.png" not in [shown["name"] for shown in found["pictures"]]

    def test_a_bad_image_of_the_probe(self, fast, folder, tmp_path, capsys, monkeypatch):
        train = tmp_path / "train"
        shutil.copytree(folder, train)
        (train / "cat" / "00.png").write_bytes(b"no image")
        given = [*fast, f"--probe=labelled:{train}", "--probe_method=ridge", "--no_text"]
        code, _, error = run(capsys, monkeypatch, *given)
        assert code == 2 and "images of --probe=" in error and "cat/00.png" in error
        code, _, error = run(capsys, monkeypatch, *given, "--max_bad=0.1")
        assert code == 0 and "1 images of --probe were left out" in error, error
        assert "probe_top1" in read(tmp_path / "card")["metrics"]

    def test_a_bad_image_of_one_process_ends_the_job(self, fast, folder, tmp_path):
        data = tmp_path / "data"
        shutil.copytree(folder, data)
        (data / "cat" / "09.png").write_bytes(b"no image")  # the fourth, a row of process 1
        to = [f"--coordinator=127.0.0.1:{free_port()}", "--processes=2", "--batch_size=4"]
        given = [*fast, f"--data=labelled:{data}", "--max_images=8", "--no_text", *to]
        each = [[*given, f"--process={number}"] for number in range(2)]
        for process in processes(each, 1):
            assert process.returncode == 2, process.output
            assert "cat/09.png" in process.output and "--max_bad=0.0 allows" in process.output


LAST = ["--inception=seeded", "--checkpoint=nothing"]  # whatever is refused comes before it


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--labels="], "--labels=''"),
        (["--labels=a,b"], "--labels=a,b has 2 names"),
        (["--templates=nothing"], "--templates='nothing'"),
        (["--probe_method=ridge"], "--probe_method means nothing without --probe"),
        (["--data=photos", "--probe=photos"], "--probe needs labelled images"),
        (["--data=photos", "--labels=a,b"], "--labels needs labelled images"),
        (["--probe=photos"], "--probe=photos has no labels"),
        (["--probe=shapes:held_out"], "16 classes"),
        (["--reference=a.npz"], "--reference needs Inception"),
        (["--save_reference=a.npz"], "--save_reference needs Inception"),
        (["--inception=nothing.pth"], "--inception='nothing.pth'"),
        (["--size=60"], "--size"),
        (["--size=big"], "--size=big"),
        (["--max_images=-1"], "--max_images=-1 must be at least 0"),
        (["--batch_size=0"], "--batch_size=0"),
        (["--max_bad=2"], "--max_bad=2.0"),
        (["--output=/proc/nothing/card"], "--output=/proc/nothing/card cannot be written"),
        ([*LAST, "--save_reference=/proc/no/a.npz"], "--save_reference=/proc/no/a.npz cannot be"),
        ([*LAST, f"--save_reference={__file__}"], f"--save_reference={__file__} is there"),
        ([*LAST, "--save_reference=/proc"], "--save_reference=/proc cannot be written"),
        ([*LAST, "--cache=/proc/no"], "--cache=/proc/no/reference.npz cannot be written"),
    ],
)
def test_bad_arguments(fast, tmp_path, capsys, monkeypatch, arguments, words):
    code, _, error = run(capsys, monkeypatch, *fast, *arguments)
    assert code == 2 and words in error.splitlines()[-1], error
    assert error.splitlines()[-1].startswith("error: ")
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == []


def test_an_output_that_exists_is_refused_before_any_work(fast, tmp_path, capsys, monkeypatch):
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "mine.txt").write_text("mine")
    code, _, error = run(capsys, monkeypatch, *fast, "--checkpoint=nothing")
    assert code == 2 and "is not empty" in error
    assert [path.name for path in (tmp_path / "card").iterdir()] == ["mine.txt"]


def test_help_is_a_process():
    command = [sys.executable, "-m", "unitok_jax", "evaluate", "--help"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and "--checkpoint" in result.stdout
