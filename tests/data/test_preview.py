"""What a user is shown of the data: the contact sheet and the statistics."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import ml_collections
import numpy as np
import pytest
from PIL import Image

from unitok_jax.data.health import SampleError, Tally
from unitok_jax.data.pipeline import train_batches
from unitok_jax.data.preview import statistics
from unitok_jax.data.preview.samples import preview, training_samples
from unitok_jax.data.sources import SOURCES, open_source
from unitok_jax.data.text import TextTokenizer
from unitok_jax.pictures import sheet

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
SHORT, LONG = "a red cup", "one two three four five six seven eight nine ten eleven twelve"


def config(path="", **values):
    data = {
        "source": "folder",
        "path": str(path),
        "captions": "",
        "index": "",
        "mixture": (),
        "window": 16,
        "max_bad": 1.0,
        "image_size": (32, 48),
        "batch_size": 4,
        "decode_fraction": 1.0,
        "crop_scale": (0.5, 1.0),
        "crop_ratio": (3 / 4, 4 / 3),
        "context_length": 12,
        "num_threads": 2,
        "num_workers": 0,
    }
    return ml_collections.ConfigDict({"seed": 3, "data": data | values})


def save(path, width, height, caption=SHORT, **options):
    pixels = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)
    path.with_suffix(".txt").write_text(caption, encoding="utf-8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Seven good images, one of them turned by its EXIF tag, and one that is none."""
    root = tmp_path_factory.mktemp("folder")
    save(root / "a.png", 64, 64)
    save(root / "b.png", 128, 64, f"{SHORT}\n{LONG}\nthird")
    save(root / "c.jpg", 40, 100)
    turned = Image.Exif()
    turned[0x0112] = 6
    save(root / "d.jpg", 80, 50, exif=turned)
    save(root / "e.webp", 300, 200)
    save(root / "f.png", 48, 32)
    save(root / "g.png", 47, 32)
    (root / "h.png").write_bytes(b"no picture")
    (root / "h.txt").write_text(SHORT)
    return root


def places(picture, image):
    """Where a sheet shows an image: (top, left) of every exact, magnified copy."""
    scale = sheet.magnification(image.shape[1])
    image = image.repeat(scale, axis=0).repeat(scale, axis=1)
    height, width = image.shape[:2]
    pixels = np.asarray(picture)
    return [
        (top, left)
        for left in range(sheet.GAP, pixels.shape[1] - width, width + sheet.GAP)
        for top in range(pixels.shape[0] - height)
        if np.array_equal(pixels[top, left : left + width], image[0])
        and np.array_equal(pixels[top : top + height, left : left + width], image)
    ]


def batches(config, count, start_step=0):
    stream = train_batches(config.data, config.seed, start_step=start_step)
    with contextlib.closing(stream):
        found = [next(stream) for _ in range(count)]
    return {key: np.concatenate([batch[key] for batch in found]) for key in found[0]}


class Counted:
    """A source that remembers what was read of it."""

    def __init__(self, source):
        self.source, self.read = source, []

    def __len__(self):
        return len(self.source)

    def __getitem__(self, index):
        self.read.append(index)
        return self.source[index]


class TestSheet:
    def test_shows_the_batches_of_training_pixel_by_pixel(self, folder, tmp_path):
        settings = config(folder)
        preview(settings, tmp_path, images=10, samples=0, start_step=2)
        expected = batches(settings, 3, start_step=2)
        with Image.open(tmp_path / "sheet.png") as picture:
            found = [places(picture, image) for image in expected["image"][:10]]
            assert places(picture, expected["image"][10]) == []
        assert all(len(each) == 1 for each in found)
        assert len(set(sum(found, []))) == 10
        assert found == sorted(found)  # in reading order
        texts = (tmp_path / "sheet.txt").read_text(encoding="utf-8").splitlines()
        assert texts == TextTokenizer().decode(expected["text"][:10])
        assert not (tmp_path / "statistics.json").exists()

    @pytest.mark.parametrize("size", [(16, 16), (64, 32), (256, 256), (32, 2048)])
    def test_any_size_of_image_is_shown_exactly(self, size):
        images = np.random.default_rng(0).integers(0, 256, (3, *size, 3), np.uint8)
        captions = [SHORT, "", LONG * 5]
        picture = sheet.contact_sheet(images, captions, [False] * 3, sheet.load_font())
        assert [len(places(picture, image)) for image in images] == [1, 1, 1]

    def test_captions_are_drawn_below_their_own_picture(self):
        images = np.zeros((2, 256, 256, 3), np.uint8)
        font = sheet.load_font()
        pixels = np.asarray(sheet.contact_sheet(images, ["", "caption"], [False, True], font))
        below = pixels[sheet.GAP + 256 :]
        assert (below[:, : sheet.GAP + 256] == 255).all()
        red = below[:, 2 * sheet.GAP + 256 :].astype(int)
        assert (red[..., 0] - red[..., 1]).max() > 100

    def test_long_captions_keep_their_room(self):
        """What is below the first row does not touch it."""
        images = np.zeros((7, 256, 256, 3), np.uint8)  # six fill a row
        captions = ["", LONG * 9, *[""] * 5]
        one, two = (
            np.asarray(
                sheet.contact_sheet(images[:n], captions[:n], [False] * n, sheet.load_font())
            )
            for n in (6, 7)
        )
        assert two.shape[1] == one.shape[1] and two.shape[0] > one.shape[0] + 256
        np.testing.assert_array_equal(two[: len(one)], one)
        assert (one[-sheet.GAP :] == 255).all()  # the last line is whole

    def test_a_full_context_is_told(self, folder, tmp_path, capsys):
        preview(config(folder, context_length=3), tmp_path, images=8, samples=0)
        assert "8 captions fill data.context_length" in capsys.readouterr().out
        preview(config(folder, context_length=77), tmp_path, images=8, samples=0)
        assert "fill" not in capsys.readouterr().out

    def test_wrapped_lines_fit_and_lose_nothing(self):
        font = sheet.load_font()
        text = f"{LONG} {'x' * 100} {LONG}"
        lines = sheet.wrap(text, 100, font)
        assert "".join(lines).replace(" ", "") == text.replace(" ", "")
        assert max(font.getlength(line) for line in lines) <= 100
        assert sheet.wrap("", 100, font) == []
        assert sheet.wrap("one two", 1000, font) == ["one two"]

    @pytest.mark.parametrize(
        "caption",
        [
            "\U0001f600 \U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea",
            "שלום עולם مرحبا",
            "größe 中文 日本語",
            "e\u0301\u0302\u0303 \u200b\ufeff\x00\x07",
            "\ufffd \U000e0041 \ue000",
        ],
        ids=ascii,
    )
    def test_any_text_can_be_drawn(self, folder, tmp_path, caption):
        for path in folder.glob("[ab].*"):
            (tmp_path / path.name).write_bytes(path.read_bytes())
        (tmp_path / "captions.jsonl").write_text(
            "\n".join(json.dumps({"image": name, "text": caption}) for name in ("a.png", "b.png"))
        )
        for path in tmp_path.glob("*.txt"):
            path.unlink()
        preview(config(tmp_path, batch_size=2, context_length=77), tmp_path / "out", images=2)
        text = (tmp_path / "out/sheet.txt").read_text(encoding="utf-8").splitlines()[0]
        assert text == TextTokenizer().decode(TextTokenizer()(caption))[0]
        assert Image.open(tmp_path / "out/sheet.png").size[0] > 192

    def test_missing_characters_are_told(self):
        assert sheet.missing_glyphs("a b, \u4e2d\u4e2d!", sheet.load_font()) == {"\u4e2d"}


class TestTrainingSamples:
    def test_are_those_of_training_however_many(self, folder):
        settings = config(folder)
        expected = batches(settings, 6)
        for count in (1, 3, 4, 5, 24):
            found = training_samples(settings.data, 3, open_source(settings.data), count)
            np.testing.assert_array_equal(found["image"], expected["image"][:count])
            np.testing.assert_array_equal(found["text"], expected["text"][:count])

    def test_do_not_depend_on_the_batch_size(self, folder):
        """A property of the stream: the n-th sample is the same in batches of any size."""
        source = open_source(config(folder).data)
        small, large = (
            training_samples(config(folder, batch_size=b).data, 3, source, 16) for b in (2, 8)
        )
        np.testing.assert_array_equal(small["image"], large["image"])
        np.testing.assert_array_equal(small["text"], large["text"])

    def test_of_a_large_batch_little_is_read(self, tmp_path):
        source = Counted(open_source(config(source="shapes").data))
        settings = config(source="shapes", batch_size=16_384, num_threads=16, num_workers=4)
        assert training_samples(settings.data, 3, source, 4)["image"].shape == (4, 32, 48, 3)
        assert len(source.read) <= 16

    def test_a_batch_above_the_source_is_lowered(self, folder):
        source = open_source(config(folder).data)
        found = training_samples(config(folder, batch_size=1024).data, 3, source, 9)
        np.testing.assert_array_equal(
            found["image"], training_samples(config(folder).data, 3, source, 9)["image"]
        )


class TestStatistics:
    def test_equal_those_by_hand(self, folder, tmp_path, capsys):
        preview(config(folder, context_length=12), tmp_path, images=0, samples=100)
        assert not (tmp_path / "sheet.png").exists()
        found = json.loads((tmp_path / "statistics.json").read_text(encoding="utf-8"))
        sizes = sorted(path.stat().st_size for path in folder.glob("[a-g].[!t]*"))
        assert found["source"] == "folder" and found["length"] == 8 and found["measured"] == 8
        assert found["usable"] == 7
        assert found["unusable"] == {"not_an_image": {"count": 1, "first": ["h.png"]}}
        assert found["left_out"] == {}
        assert found["formats"] == pytest.approx({"PNG": 4 / 7, "JPEG": 2 / 7, "WEBP": 1 / 7})
        # widths 40 47 48 50 64 128 300, heights 32 32 64 64 80 100 200: d.jpg is upright 50 x 80
        assert _three(found["width"]) == (40, 50, 300)
        assert _three(found["height"]) == (32, 64, 200)
        assert _three(found["aspect_ratio"]) == pytest.approx((0.4, 47 / 32, 2))
        assert _three(found["bytes"]) == (sizes[0], sizes[3], sizes[-1])
        assert _three(found["captions"]) == (1, 1, 3)
        # nine captions: seven of 5 tokens with start and end, one of 14, one of 3
        assert _three(found["tokens"]) == (3, 5, 14)
        assert found["tokens"]["95%"] == pytest.approx(5 + 0.6 * 9)
        assert found["truncated"] == pytest.approx(1 / 9)
        assert found["enlarged"] == pytest.approx(2 / 7)  # c.jpg and g.png; f.png fits exactly
        printed = capsys.readouterr().out
        for line in (
            "8 of the 8 samples of data.source=folder",
            "width, pixels              40   42.10   47.50      50      96     248     300",
            "training enlarges    28.6% of the pictures: narrower than 48 or lower than 32",
            "training truncates   11.1% of the captions: longer than 12 tokens",
            "training replaces    12.5% of the samples",
            "  1 not_an_image: h.png",
        ):
            assert line in printed.splitlines(), printed

    def test_of_nothing_usable(self, tmp_path, capsys):
        for name in "ab":
            (tmp_path / f"{name}.png").write_bytes(b"")
            (tmp_path / f"{name}.txt").write_text(SHORT)
        preview(config(tmp_path), tmp_path / "out", images=0)
        assert "training replaces    100% of the samples\n  2 empty: a.png, b.png" in (
            capsys.readouterr().out
        )
        with pytest.raises(ValueError, match="2 samples in a row"):
            preview(config(tmp_path, batch_size=2), tmp_path / "out", images=1)

    def test_what_cannot_be_read_is_counted(self, folder):
        class Broken(Counted):
            def __getitem__(self, index):
                if index == 1:
                    raise SampleError("shard-3.tar, key 7: no caption", "no_caption")
                if index == 2:
                    raise OSError("shard-3.tar: the disk is gone")
                return self.source[index] | {"captions": () if index == 3 else (SHORT,)}

        source = Broken(open_source(config(folder).data))
        measured = statistics.measure(source, range(8), TextTokenizer(), 3)
        found, tally = statistics.summarize(measured, (32, 32), 77)
        assert found["usable"] == 4 and tally.total == 4
        assert tally.names == {
            "no_caption": ["shard-3.tar, key 7: no caption", "d.jpg"],
            "unreadable": ["shard-3.tar: the disk is gone"],
            "not_an_image": ["h.png"],
        }

    def test_what_opening_left_out_is_told(self, folder, tmp_path, capsys, monkeypatch):
        source = Counted(open_source(config(folder).data))
        source.tally = Tally()
        source.tally.add("two_images", "shard-1.tar, key 5", 3)
        monkeypatch.setitem(SOURCES, "mine", lambda data, require_captions: source)
        preview(config(source="mine"), tmp_path, images=0)
        assert (
            "left out when the source was opened: 3\n  3 two_images: shard-1.tar, key 5"
            in capsys.readouterr().out
        )
        found = json.loads((tmp_path / "statistics.json").read_text(encoding="utf-8"))
        assert found["left_out"] == {"two_images": {"count": 3, "first": ["shard-1.tar, key 5"]}}

    def test_what_would_end_a_run_is_told(self, folder, tmp_path, capsys, monkeypatch):
        source = Counted(open_source(config(folder).data))
        source.tally = Tally()
        source.tally.add("two_images", "shard-1.tar, key 5", 2)
        monkeypatch.setitem(SOURCES, "mine", lambda data, require_captions: source)
        preview(config(source="mine", max_bad=0.1), tmp_path, images=0)
        assert (
            "a run would end at its start: 20% were left out when the source was opened, more than "
            "data.max_bad=0.1\na run would end before long: 12.5% of the measured samples are "
            "unusable, more than data.max_bad=0.1\n"
        ) in capsys.readouterr().out
        preview(config(source="mine", max_bad=0.2), tmp_path, images=0)
        assert "a run would" not in capsys.readouterr().out

    def test_samples_are_chosen_by_the_seed(self):
        chosen = statistics.choose(2**31 - 1, 1000, 0)
        assert len(set(chosen)) == 1000 and (np.diff(chosen) > 0).all()
        assert 2**30 * 0.8 < np.median(chosen) < 2**30 * 1.2
        np.testing.assert_array_equal(chosen, statistics.choose(2**31 - 1, 1000, 0))
        assert set(chosen) != set(statistics.choose(2**31 - 1, 1000, 1))
        np.testing.assert_array_equal(statistics.choose(5, 5, 0), range(5))
        np.testing.assert_array_equal(statistics.choose(5, 9, 0), range(5))

    def test_the_seed_of_the_run_chooses(self, tmp_path):
        found = []
        for seed in (3, 3, 4):
            settings = config(source="shapes")
            settings.seed = seed
            preview(settings, tmp_path, images=0, samples=9)
            found.append((tmp_path / "statistics.json").read_text(encoding="utf-8"))
        assert found[0] == found[1] != found[2]

    def test_every_chosen_sample_is_read_once(self, folder):
        source = Counted(open_source(config(folder).data))
        many = [i % 8 for i in range(70)]  # more than are read ahead
        measured = list(statistics.measure(source, many, TextTokenizer(), 2))
        assert sorted(source.read) == sorted(many)
        assert [each.width for each in measured[:3]] == [64, 128, 40]


def _three(quantiles):
    return quantiles["min"], quantiles["median"], quantiles["max"]


def run(*arguments):
    command = [sys.executable, "-m", "unitok_jax", "data", "preview", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


class TestCommand:
    def test_names_that_are_not_utf8(self, tmp_path):
        root = tmp_path / os.fsdecode(b"caf\xe9")
        root.mkdir()
        save(root / "a.png", 64, 64)
        bad = root / os.fsdecode(b"\xe9t\xe9.png")
        bad.write_bytes(b"no picture")
        bad.with_suffix(".txt").write_text(SHORT)
        output = tmp_path / "out"
        done = run(
            *("--config=configs/photos.py", "--config.data.source=folder", "--images=0"),
            *(f"--config.data.path={root}", f"--output={output}"),
        )
        assert done.returncode == 0, done.stderr
        assert "1 not_an_image: \\udce9t\\udce9.png" in done.stdout
        found = json.loads((output / "statistics.json").read_text(encoding="utf-8"))
        assert found["path"] == str(root)

    def test_writes_everything(self, tmp_path):
        output = tmp_path / "deep" / "preview"
        done = run("--config=configs/photos.py", f"--output={output}", "--images=2", "--samples=3")
        assert done.returncode == 0, done.stderr
        assert {path.name for path in output.iterdir()} == {
            "settings.json",
            "sheet.png",
            "sheet.txt",
            "statistics.json",
        }
        assert "3 of the 18 samples of data.source=photos" in done.stdout

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ((), "--config is missing; for example --config=configs/photos.py"),
            (("--config=configs/photos.py", "--config.data.sorce=x"), "near: data.source"),
            (("--config=configs/photos.py", "--config.dta.path=x"), "near: data.path"),
            (("--config=configs/ablations.py:zz",), "no variant 'zz'"),
            (("--config=configs/photos.py", "--images=-1"), "--images=-1: -1 is not a non-nega"),
            (("--config=configs/photos.py", "photos"), "unexpected arguments: photos"),
        ],
    )
    def test_wrong_arguments_are_one_line(self, arguments, message):
        done = run(*arguments)
        assert done.returncode == 2
        assert done.stderr.startswith("error: ") and message in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr

    @pytest.mark.parametrize(
        ("values", "options", "message"),
        [
            ({"source": "shapes", "num_threads": 0}, {}, "data.num_threads=0 must be at least 1"),
            ({"source": "foto"}, {}, "data.source='foto' is not one of"),
            ({}, {}, "data.path is empty"),
            ({"path": "/none"}, {}, "data.path=/none: there is no such folder"),
            ({"source": "photos", "image_size": 60}, {}, "data.image_size=60"),
            ({"source": "photos", "context_length": 1}, {}, "data.context_length=1"),
            ({"source": "photos"}, {"font": "none.ttf"}, "--font=none.ttf: .*give a .ttf"),
            ({"source": "photos"}, {"output": "file"}, "--output=.*file is not a folder"),
            ({"source": "photos"}, {"output": "file/a"}, "--output=.*file/a cannot be made: Not"),
        ],
    )
    def test_what_does_not_fit_is_named(self, tmp_path, values, options, message):
        (tmp_path / "file").write_text("")
        output = tmp_path / options.pop("output", "out")
        with pytest.raises((ValueError, OSError), match=message):
            preview(config(**values), output, **options)
        assert not (tmp_path / "out").exists()

    def test_it_replaces_its_own_files_and_no_others(self, tmp_path, capsys):
        (tmp_path / "in").mkdir()
        save(tmp_path / "in" / "a.png", 32, 32)
        source, output = config(tmp_path / "in"), tmp_path / "out"
        preview(source, output, images=1, samples=1)
        before = {path.name: path.read_bytes() for path in output.iterdir()}
        (output / "sheet.png").write_bytes(b"old")
        source.seed = 4
        preview(source, output, images=1, samples=1)
        assert {path.name for path in output.iterdir()} == set(before)
        assert (output / "sheet.png").read_bytes() != b"old"
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "sheet.png").write_bytes(b"mine")
        with pytest.raises(ValueError, match="is not empty .sheet.png"):
            preview(source, tmp_path / "mine", images=1, samples=1)
        assert (tmp_path / "mine" / "sheet.png").read_bytes() == b"mine"

    def test_images_without_captions_are_named(self, tmp_path):
        save(tmp_path / "a.png", 32, 32)
        (tmp_path / "a.txt").unlink()
        with pytest.raises(ValueError, match="1 of 1 images .* have no caption: a.png"):
            preview(config(tmp_path), tmp_path / "out")

    def test_statistics_alone_load_no_jax(self, tmp_path):
        code = (
            "import pathlib, sys; from configs import photos\n"
            "from unitok_jax.data.preview import samples\n"
            f"samples.preview(photos.get_config(), pathlib.Path({str(tmp_path)!r}), images=0)\n"
            "sys.exit('jax' in sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
