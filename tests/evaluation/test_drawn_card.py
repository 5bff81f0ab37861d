"""`unitok evaluate --samples`: samples and a reference in, a card out. Inception is a stand-in."""

import dataclasses
import functools
import json
import pathlib
import re
import types

import numpy as np
import pytest
from PIL import Image

from helpers import in_process
from unitok_jax.commands import arguments, evaluate
from unitok_jax.evaluation import drawn, samples
from unitok_jax.evaluation.card import drawn as card
from unitok_jax.evaluation.card import statistics
from unitok_jax.evaluation.drawn import ImageFeatures, generation_figures
from unitok_jax.evaluation.metrics.frechet import FeatureMoments, Moments
from unitok_jax.evaluation.samples import Generation

run = functools.partial(in_process.run, evaluate)

COUNT = 12
RNG = np.random.default_rng(0)
TABLES = [RNG.normal(size=(3 * 8, width)) for width in (2048, 2023, 1008)]
GENERATION = Generation(
    *("11aa", "22bb", COUNT, "balanced", 1.5, "until token 9", 0.9, 0, 0.95, 7, "half_up")
)


class Pass:
    """Linear features of the means of 8 columns of pixels, instead of Inception's."""

    def __init__(self, params, mesh, batch_size):
        pass

    def __call__(self, batches, *, keep=None, logits=True):
        images = np.concatenate(list(batches))
        n, h, w, _ = images.shape
        means = images.reshape(n, h, 8, w // 8, 3).mean(axis=(1, 3)).reshape(n, -1) / 255
        pool3, spatial, scores = (np.float32(means @ table) for table in TABLES)
        moments = [FeatureMoments(), FeatureMoments()]
        for measure, rows in zip(moments, (pool3, spatial), strict=True):
            measure.update(rows)
        rows = pool3 if keep is None else pool3[list(keep)]
        return ImageFeatures(*(m.result() for m in moments), rows, scores if logits else None)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch):
    monkeypatch.setattr(card, "InceptionPass", Pass)
    monkeypatch.setattr(card.pretrained, "load", lambda *_, **__: (None, {"w": np.ones(3)}))


def pictures(seed, count=COUNT, size=32):
    rng = np.random.default_rng(seed)
    return (
        rng.integers(80 * seed, 256, (count, 4, 4, 3), np.uint8)
        .repeat(size // 4, 1)
        .repeat(size // 4, 2)
    )


def features(images, **options):
    return Pass(None, None, None)([images], **options)


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Samples, data, and statistics as ADM's file has them."""
    home = tmp_path_factory.mktemp("places")
    np.savez(home / "samples.npz", pictures(0), np.arange(COUNT) % 4)
    (home / "data").mkdir()
    for number, image in enumerate(pictures(1, 10)):
        Image.fromarray(image).save(home / "data" / f"{number}.png")
    adm(home / "adm.npz")
    return home


def adm(path, leave_out=(), **changes):
    found = features(pictures(1, 10))
    arrays = {
        "arr_0": pictures(1, 10),
        "mu": found.pool3.mean,
        "sigma": found.pool3.covariance,
        "mu_s": found.spatial.mean,
        "sigma_s": found.spatial.covariance,
    } | changes
    np.savez(path, **{key: value for key, value in arrays.items() if key not in leave_out})
    return path


@pytest.fixture
def measured(places, tmp_path, capsys, monkeypatch):
    """Runs the command with more arguments: (card, stderr)."""

    def measured(*more, of="samples.npz", name="card"):
        to = f"--output={tmp_path / name}"
        given = [f"--samples={places / of}", "--inception=file.pth", to, *more]
        code, _, error = run(capsys, monkeypatch, *given)
        assert code == 0, error
        return json.loads((tmp_path / name / "card.json").read_text()), error

    return measured


@pytest.fixture
def refused(places, tmp_path, capsys, monkeypatch):
    """Runs the command with more arguments: its error."""

    def refused(*more):
        to = f"--output={tmp_path / 'card'}"
        given = [f"--samples={places / 'samples.npz'}", "--inception=file.pth", to, *more]
        code, _, error = run(capsys, monkeypatch, *given)
        last = error.splitlines()[-1]
        assert code == 2 and last.startswith("error: "), error
        assert not (tmp_path / "card").exists()
        return last

    return refused


def test_against_data_and_then_its_statistics(places, measured, tmp_path):
    saved = tmp_path / "data.npz"
    data = f"--data=folder:{places / 'data'}"
    found, _ = measured(data, f"--save_reference={saved}")
    expected = generation_figures(features(pictures(0)), features(pictures(1, 10)))
    assert found["metrics"] == {k: pytest.approx(v, rel=1e-9) for k, v in expected.items()}
    told = found["provenance"]
    assert (told["reference"], told["reference_images"]) == (data.removeprefix("--data="), "10")
    assert "against 10 images" in told["precision_recall"] and "bicubic" in str(told)
    again, _ = measured(f"--reference={saved}", name="again")
    assert again["metrics"] == {k: pytest.approx(v, rel=1e-9) for k, v in expected.items()}
    for key in ("reference_statistics", "reference_images", "pixels"):
        assert again["provenance"][key] == told[key]
    assert again["provenance"]["reference"] == str(saved)


def test_against_adms_file(places, measured):
    found, error = measured(f"--reference={places / 'adm.npz'}")
    expected = generation_figures(features(pictures(0)), features(pictures(1, 10)))
    assert found["metrics"] == {k: pytest.approx(v, rel=1e-9) for k, v in expected.items()}
    assert found["provenance"]["reference_images"] == "not told"
    assert "does not say what it was made with" in error
    assert [m["what"] for m in found["not_measured"]] == ["CLIP score"]


def test_what_a_reference_lacks_is_not_measured(places, measured, tmp_path):
    path = adm(tmp_path / "x.npz", ["mu_s", "sigma_s", "arr_0"])
    found, _ = measured(f"--reference={path}")
    assert set(found["metrics"]) == {"gfid", "inception_score", "inception_score_std"}
    left_out = [m["what"] for m in found["not_measured"]]
    assert left_out == ["sFID", "precision, recall", "CLIP score"]
    found, _ = measured(name="alone")
    assert set(found["metrics"]) == {"inception_score", "inception_score_std"}
    assert "no reference was named" in str(found["not_measured"])


def test_references_that_do_not_fit(refused, tmp_path):
    path = tmp_path / "x.npz"
    for leave_out, changes, words in (
        (["sigma"], {}, "does not hold the array sigma"),
        (["sigma_s"], {}, "does not hold the array sigma_s"),
        ([], {"mu": np.zeros(2047)}, "mu is float64 (2047,)"),
        ([], {"mu_s": np.zeros(2048)}, "mu_s is float64 (2048,)"),
        ([], {"arr_0": pictures(1, 10, 64)}, "is of 64x64 images, and the samples have 32x32"),
        ([], {"arr_0": pictures(1, 10).astype(float)}, "arr_0 is float64"),
        ([], {"mu": np.array([None] * 2048)}, "mu is object"),
        ([], {"mu": features(pictures(1, 10)).pool3.mean + 5}, "with another Inception or resize"),
        (["arr_0"], {"pool3": np.zeros((2, 5), np.float32)}, "pool3 is float32 (2, 5)"),
    ):
        error = refused(f"--reference={adm(path, leave_out, **changes)}")
        assert words in error and "x.npz" in error
    assert "does not exist" in refused(f"--reference={tmp_path / 'none.npz'}")


@pytest.mark.parametrize(
    "key, value",
    [
        ("inception", "another"),
        ("preprocessing", {"size": [64, 64], "resize": statistics.RESIZE}),
        ("preprocessing", {"size": [32, 32], "resize": "area"}),
    ],
)
def test_statistics_that_were_made_otherwise(places, measured, refused, tmp_path, key, value):
    saved = tmp_path / "data.npz"
    measured(f"--data=folder:{places / 'data'}", f"--save_reference={saved}", name="first")
    moments, facts = statistics.read(saved)
    statistics.write(saved, moments, facts | {key: value})
    assert f"was made with {key}" in refused(f"--reference={saved}")


class TestSamples:
    def test_settings_of_unitok_generate(self, measured, places):
        folder = places / "drawn"
        folder.mkdir()
        GENERATION.write(folder)
        np.savez(folder / "samples.npz", pictures(0), np.arange(COUNT) % 4)
        found, _ = measured(of="drawn")
        told = found["provenance"]
        assert told["labels"] == "balanced; counted: 4 classes, 3 samples each"
        assert (told["generator_hash"], told["tokenizer_hash"]) == ("11aa", "22bb")
        assert told["scale"] == "1.5, until token 9" and told["temperature"] == "0.9"
        assert told["filters"] == "top-k off, top-p 0.95" and told["key"] == 7
        assert told["rounding"] == "floor(127.5 x + 128), as ADM"

    def test_nothing_tells_their_settings(self, measured):
        told = measured()[0]["provenance"]
        for key in ("labels", "drawn_with", "rounding"):
            assert told[key].startswith("not known: no generation.json"), key

    def test_the_first_are_measured(self, measured):
        found, error = measured("--max_images=11")
        assert found["images"] == 11 and "the first 11 of 12 samples" in error
        assert "counted: 4 classes, 2 to 3 samples each" in found["provenance"]["labels"]
        expected = generation_figures(features(pictures(0)[:11]), features(pictures(1)))
        assert found["metrics"]["inception_score"] == expected["inception_score"]

    def test_their_order_moves_the_inception_score(self, measured, places):
        np.savez(places / "turned.npz", pictures(0)[::-1])
        names = ("samples.npz", "turned.npz")
        scores = [measured(of=n, name=n)[0]["metrics"]["inception_score"] for n in names]
        assert scores[0] != scores[1]

    def test_fewer_than_splits(self, measured, places):
        found, _ = measured("--max_images=9")
        assert found["metrics"] == {}
        assert "inception score" in [m["what"] for m in found["not_measured"]]

    def test_one_sample(self, refused):
        assert "at least 2 images" in refused("--max_images=1")

    def test_pictures(self, measured, tmp_path):
        found, _ = measured()
        home = tmp_path / "card"
        with Image.open(home / "pictures" / "samples.png") as picture:
            assert picture.size == (3 * 32, 4 * 32)
        page, text = (home / "card.html").read_text(), (home / "card.md").read_text()
        value = f"{found['metrics']['inception_score']:.3f}"
        assert value in page and value in text and "Codebooks" not in page + text
        assert "pictures/samples.png" in text and 'src="data:image/png' in page


def test_warnings_of_few_samples(measured, monkeypatch):
    assert "singular covariance of 2048" in measured(name="singular")[1]
    monkeypatch.setattr(statistics, "WIDTH", 12)
    assert "gFID of 12 samples is too high by a bias" in measured(name="few")[1]
    monkeypatch.setattr(card, "PUBLISHED", 12)
    assert "gFID of" not in measured(name="enough")[1]


def test_rows_of_much_data_are_spread_evenly(places, measured, monkeypatch):
    """Data are often sorted by class: the first ones would be of few."""
    monkeypatch.setattr(statistics, "ROWS", 5)
    found, _ = measured(f"--data=folder:{places / 'data'}")
    assert "against 5 images" in found["provenance"]["precision_recall"]
    kept = features(pictures(1, 10), keep=[0, 2, 4, 6, 8])
    expected = generation_figures(features(pictures(0)), kept)
    for key in ("precision", "recall", "gfid"):
        assert found["metrics"][key] == pytest.approx(expected[key])


def test_sizes_that_are_no_multiples_of_a_token(places, measured, refused, tmp_path):
    """Inception takes all; the towers of a tokenizer do not."""
    np.savez(tmp_path / "odd.npz", pictures(0, size=24))
    samples = f"--samples={tmp_path / 'odd.npz'}"
    found, _ = measured(samples, f"--data=folder:{places / 'data'}")
    assert found["provenance"]["size"] == "24x24" and "gfid" in found["metrics"]


class TestClipScore:
    def test_sizes_that_the_towers_do_not_take(self, towers, refused, tmp_path):
        np.savez(tmp_path / "odd.npz", pictures(0, size=24))
        error = refused(f"--samples={tmp_path / 'odd.npz'}", "--checkpoint=x")
        assert f"--samples={tmp_path / 'odd.npz'} have 24x24 pixels" in error

    @pytest.fixture
    def towers(self, monkeypatch):
        """A tokenizer whose images and texts meet where brightness is the number in the text."""

        def unit(angles):
            return np.stack([np.cos(angles), np.sin(angles)], axis=1)

        tokenizer = types.SimpleNamespace(
            batch_size=5,
            hash="33cc",
            encode_image=lambda images: unit(images.mean(axis=(1, 2, 3)) / 40),
            encode_text=lambda texts: unit(np.array([float(text) for text in texts]) / 40),
        )
        monkeypatch.setattr(arguments, "load_tokenizer", lambda args: tokenizer)

    def test_each_sample_with_its_caption(self, towers, measured, tmp_path):
        numbers = np.random.default_rng(3).uniform(0, 255, COUNT)
        # (Python ends a line at U+2028 too, and strips it from a number.)
        (tmp_path / "captions.txt").write_text("".join(f"\u2028{number}\n" for number in numbers))
        found, _ = measured("--checkpoint=x", f"--captions={tmp_path / 'captions.txt'}")
        angles = pictures(0).mean(axis=(1, 2, 3)) / 40 - numbers / 40
        expected = 100 * np.maximum(np.cos(angles), 0).mean()
        assert found["metrics"]["clip_score"] == pytest.approx(expected, rel=1e-6)
        assert found["provenance"]["clip_towers"] == "x, tokenizer hash 33cc"
        with (tmp_path / "captions.txt").open("a") as file:
            file.write("\n\n")  # as `unitok generate --prompts` reads them
        captions = f"--captions={tmp_path / 'captions.txt'}"
        again, _ = measured("--checkpoint=x", captions, name="again")
        assert again["metrics"] == found["metrics"]

    def test_captions_of_the_codes(self, towers, measured, places, monkeypatch, refused):
        assert "has no captions: give --captions=FILE" in refused("--checkpoint=x")
        records = [{"label": None, "captions": (str(number),)} for number in range(COUNT)]
        monkeypatch.setattr(samples, "open_codes", lambda path: records)
        folder = places / "texts"
        (folder / "codes").mkdir(parents=True)
        dataclasses.replace(GENERATION, labels="captions").write(folder)
        np.savez(folder / "samples.npz", pictures(0))
        found, _ = measured("--checkpoint=x", of="texts")
        angles = pictures(0).mean(axis=(1, 2, 3)) / 40 - np.arange(COUNT) / 40
        expected = 100 * np.maximum(np.cos(angles), 0).mean()
        assert found["metrics"]["clip_score"] == pytest.approx(expected, rel=1e-6)
        assert found["provenance"]["captions"] == "of the codes"
        assert found["provenance"]["labels"] == "captions"

    @pytest.mark.parametrize(
        "content, words",
        [
            (b"1\n2\n", "has 2 lines, and there are 12 samples"),
            (b"1\n" * 5 + b" \n" + b"1\n" * 6, "line 6 is empty"),
            (b"\xff\n" * 12, "is no UTF-8 text"),
        ],
    )
    def test_captions_that_do_not_fit(self, towers, refused, tmp_path, content, words):
        path = tmp_path / "captions.txt"
        path.write_bytes(content)
        error = refused("--checkpoint=x", f"--captions={path}")
        assert words in error and str(path) in error

    def test_captions_of_records(self, towers, refused, tmp_path):
        path = tmp_path / "captions.jsonl"
        path.write_text('{"caption": "1"}\n' * 12)
        error = refused("--checkpoint=x", f"--captions={path}")
        assert f"--captions={path}: a .jsonl file is not read here; give a text a line" in error


@pytest.mark.parametrize(
    "more, words",
    [
        (["--reference=a.npz", "--data=photos"], "are two references: give one"),
        (["--inception=", "--reference=a.npz"], "gFID needs Inception"),
        (["--inception="], "nothing to measure"),
        (["--save_reference=a.npz"], "give --data"),
        (["--captions=a.txt"], "takes the towers of a --checkpoint: give one"),
        (["--max_images=-1"], "--max_images=-1 must be at least 0"),
        (["--batch_size=0"], "--batch_size=0"),
        (["--probe=photos"], "--probe means nothing with --samples"),
        (["--no_text"], "--no_text means nothing with --samples"),
        (["--size=64"], "--size means nothing with --samples"),
        (["--samples=/none"], "/none does not exist"),
        (["--samples="], "--checkpoint is missing"),
        (["--samples=", "--checkpoint=x"], "--data is missing"),
    ],
)
def test_bad_arguments(refused, more, words):
    assert words in refused(*more)


def test_moments_are_of_the_spatial_features_too(tmp_path):
    pool3, spatial = Moments(np.ones(2048), np.eye(2048), 9), Moments(np.ones(2023), None, 9)
    spatial = spatial._replace(covariance=np.diag(np.arange(2023.0)))
    rows = np.ones((3, 2048))
    statistics.write(tmp_path / "x.npz", pool3, {"a": 1}, spatial=spatial, rows=rows)
    found = statistics.read_all(tmp_path / "x.npz")
    np.testing.assert_array_equal(found.spatial.covariance, spatial.covariance)
    assert found.spatial.count == 9 and found.rows.dtype == np.float32 and found.images is None


def test_from_python_as_the_docs_say(places, tmp_path, monkeypatch):
    """The example of docs/guides/evaluate_drawn.md, with files that are there."""
    page = (pathlib.Path(__file__).parents[2] / "docs/guides/evaluate_drawn.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    adm(tmp_path / "train_256.npz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(drawn, "InceptionPass", Pass)
    monkeypatch.setattr(card.sharding, "make_mesh", lambda *sizes: None)
    monkeypatch.setattr(Pass, "__init__", lambda self, params, mesh, batch_size=64: None)
    made = {"batches": [pictures(0)]}
    exec(example, made)
    expected = generation_figures(features(pictures(0)), features(pictures(1, 10)))
    assert made["figures"]["gfid"] == pytest.approx(expected["gfid"], rel=1e-9)


def test_commands_of_the_docs(places, tmp_path, capsys, monkeypatch):
    """The commands of docs/guides/evaluate_drawn.md, with files that are there."""
    page = (pathlib.Path(__file__).parents[2] / "docs/guides/evaluate_drawn.md").read_text()
    commands = re.findall(r"```\nunitok evaluate (.*?)```", page, re.DOTALL)
    assert len(commands) == 2
    (tmp_path / "drawn").mkdir()
    GENERATION.write(tmp_path / "drawn")
    for name in ("samples.npz", "drawn/samples.npz"):
        np.savez(tmp_path / name, pictures(0))
    adm(tmp_path / "VIRTUAL_imagenet256_labeled.npz")
    monkeypatch.chdir(tmp_path)
    for number, command in enumerate(commands):
        command = command.replace("labelled:/data/imagenet/train", f"folder:{places / 'data'}")
        command = command.replace("card/", f"card{number}").replace("\\\n", "")
        code, printed, error = run(capsys, monkeypatch, *command.split())
        assert code == 0 and "gFID" in printed and "recall" in printed, error
