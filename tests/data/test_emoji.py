"""Emoji: fonts of one colour a picture, written here, and the system's where there is one."""

import concurrent.futures
import importlib
import importlib.util
import io
import os
import pickle
import random
import re

import ml_collections
import numpy as np
import pytest
from PIL import Image, features

from unitok_jax.data import pipeline
from unitok_jax.data.formats import emoji, emoji_font
from unitok_jax.data.formats.emoji import Place, emoji_source, place
from unitok_jax.data.formats.emoji_font import ColourFont, find_font
from unitok_jax.data.health import SampleError
from unitok_jax.data.images.transforms import decode_image
from unitok_jax.data.records import LabelledSource
from unitok_jax.data.sources import open_source
from unitok_jax.data.specs import data_config

TONES = "🏻🏼🏽🏾🏿"
ROCKET = "\u200d🚀"
SCOTLAND = "🏴\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"
COLOURS = {
    "😀": (250, 200, 0),
    "🐄": (90, 60, 30),
    "🐮": (120, 90, 60),  # cow face: held out
    "👩": (200, 0, 0),
    "🚀": (0, 200, 0),
    "🏴": (0, 0, 0),
    "🇩": (1, 1, 1),
    "🇪": (2, 2, 2),
    "🇩🇪": (255, 204, 0),
    "❤️": (255, 0, 0),
    f"👩{ROCKET}": (0, 0, 200),
    **{f"👩{tone}{ROCKET}": (10 * k, 0, 100) for k, tone in enumerate(TONES)},
    **{tone: (0, 10 * k, 0) for k, tone in enumerate(TONES)},
}
# Pictures of missing characters and of unknown flags, as Noto has of these.
UNKNOWN = {".notdef": (9, 9, 9), "🇽": (8, 8, 8), "🇽🇽": (7, 7, 7), "🇨🇶": (7, 7, 7)}
# What the font must not be said to have: joined by parts, hidden parts, nothing at all.
ABSENT = ("👩🏽", "👩\u200d🔬", "🇪🇩", "🇨🇶", SCOTLAND, "🐷", "🥇")
# In `COLOURS`, and fully qualified emoji: no skin tone or letter alone.
PRESENT = [text for text in COLOURS if text not in {*TONES, "🇩", "🇪"}]


@pytest.fixture(scope="module")
def fonts():
    """The module that writes fonts."""
    pytest.importorskip("fontTools", reason="fonttools, which writes the fonts, is not installed")
    if not features.check("raqm"):
        pytest.skip("Pillow has no Raqm here: the library FriBiDi is missing")
    return importlib.import_module("helpers.emoji_fonts")


@pytest.fixture(scope="module")
def names():
    """The package that names emoji."""
    return pytest.importorskip("emoji", reason="the package emoji is not installed")


@pytest.fixture(scope="module")
def font(fonts, names, tmp_path_factory):
    return str(fonts.write_sbix(tmp_path_factory.mktemp("fonts") / "squares.ttf", COLOURS))


@pytest.fixture(scope="module")
def noto(names):
    """The font of this system."""
    try:
        return ColourFont(find_font())
    except (FileNotFoundError, ImportError) as error:
        pytest.skip(str(error))


def pixels(record):
    return decode_image(record["image"], "")


def by_name(source):
    return {source[i]["captions"][0]: source[i] for i in range(len(source))}


class TestFont:
    @pytest.mark.parametrize("write", ["write_sbix", "write_cbdt"])
    @pytest.mark.parametrize("missing", [{}, UNKNOWN], ids=["nothing", "pictures"])
    def test_what_it_has_and_draws(self, fonts, tmp_path, write, missing):
        """A font draws what it misses as nothing, as its parts, or as pictures that say so."""
        path = getattr(fonts, write)(tmp_path / "a.ttf", COLOURS | missing)
        drawn = ColourFont(path)
        assert drawn.having([*PRESENT, *ABSENT]) == PRESENT
        for text in PRESENT:
            picture = drawn.draw(text, (255, 255, 255))
            assert picture.dtype == np.uint8 and picture.shape == (fonts.SIDE, fonts.SIDE, 3)
            assert (picture == COLOURS[text]).all(), text

    def test_transparency_is_laid_on_the_background_once(self, fonts, tmp_path):
        drawn = ColourFont(fonts.write_sbix(tmp_path / "a.ttf", {"😀": (255, 0, 0, 128)}))
        picture = drawn.draw("😀", (0, 0, 255)).astype(int)
        assert np.abs(picture - (128, 0, 127)).max() <= 1

    @pytest.mark.parametrize("size", [(24, 12), (24, 48)])
    def test_an_oblong_picture_stands_in_the_middle_of_a_square(self, fonts, tmp_path, size):
        path = fonts.write_sbix(tmp_path / "a.ttf", {"😀": (255, 0, 0)}, size=size)
        picture = ColourFont(path).draw("😀", (255, 255, 255))
        red = (picture == (255, 0, 0)).all(-1)
        side = max(size)
        assert picture.shape == (side, side, 3)
        for axis, length in enumerate(size):
            margin = (side - length) // 2
            filled = np.flatnonzero(red.any(axis))
            assert filled.tolist() == list(range(margin, side - margin))

    def test_the_largest_strike_is_drawn(self, fonts, tmp_path):
        from fontTools.ttLib import TTFont

        path = fonts.write_sbix(tmp_path / "a.ttf", {"😀": (255, 0, 0)})
        other = fonts.write_sbix(tmp_path / "b.ttf", {"😀": (0, 0, 255)}, ppem=40, size=(40, 40))
        both, larger = TTFont(path), TTFont(other)
        both["sbix"].strikes |= larger["sbix"].strikes
        both.save(path)
        picture = ColourFont(path).draw("😀", (255, 255, 255))
        assert picture.shape == (40, 40, 3) and (picture == (0, 0, 255)).all()

    def test_the_first_of_a_collection(self, fonts, tmp_path):
        from fontTools.ttLib import TTCollection, TTFont

        collection = TTCollection()
        for number in range(2):
            path = fonts.write_sbix(tmp_path / f"{number}.ttf", {"😀": (number, 50, 0)})
            collection.fonts.append(TTFont(path))
        collection.save(tmp_path / "a.ttc")
        assert ColourFont(tmp_path / "a.ttc").draw("😀", (0, 0, 0))[0, 0].tolist() == [0, 50, 0]

    def test_copies_and_threads_draw_the_same(self, font):
        drawn = ColourFont(font)
        copy = pickle.loads(pickle.dumps(drawn))
        texts = PRESENT * 20
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda text: drawn.draw(text, (255, 255, 255)), texts))
        for text, picture in zip(texts, found, strict=True):
            assert (picture == copy.draw(text, (255, 255, 255))).all()


class TestForeignFiles:
    """Whatever a file holds, the error is one line that names it."""

    def refused(self, path, sequences=("😀",)):
        with pytest.raises((ValueError, OSError)) as caught:
            found = ColourFont(path).having(sequences)
            assert not found, "a font without emoji"
        assert "\n" not in str(caught.value) and str(path) in str(caught.value)
        return str(caught.value)

    @pytest.mark.parametrize(
        "content", [b"", b"no font at all, but a text of some length", b"ttcf" + 99 * b"\xff"]
    )
    def test_no_font(self, fonts, tmp_path, content):
        (tmp_path / "a.ttf").write_bytes(content)
        assert "this is no font, or a damaged one" in self.refused(tmp_path / "a.ttf")

    def test_a_font_without_colour(self, fonts, tmp_path):
        fonts.without_pictures({"😀": None}).save(tmp_path / "a.ttf")
        message = self.refused(tmp_path / "a.ttf")
        assert "no colour bitmaps: install Noto's (Debian, Ubuntu: apt install fonts-" in message

    @pytest.mark.parametrize("write", ["write_sbix", "write_cbdt"])
    def test_a_file_cut_off(self, fonts, tmp_path, write):
        path = getattr(fonts, write)(tmp_path / "a.ttf", {"😀": (1, 2, 3)})
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * 2 // 3])
        assert "damaged" in self.refused(path)

    def test_no_file(self, fonts, tmp_path):
        assert "no such font file, and no such split" in self.refused(tmp_path / "a.ttf")

    def test_a_folder_and_a_pipe(self, fonts, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        assert "a pipe, not a file" in self.refused(tmp_path / "pipe")
        self.refused(tmp_path)

    def test_a_small_file_with_a_huge_picture(self, fonts, tmp_path):
        path = fonts.write_sbix(tmp_path / "a.ttf", {"😀": (1, 2, 3)}, size=(20_000, 1))
        assert "a picture of 20000 x 1 pixels; 1024 are the limit" in self.refused(path)

    def test_a_strike_beyond_sense(self, fonts, tmp_path):
        path = fonts.write_sbix(tmp_path / "a.ttf", {"😀": (1, 2, 3)}, ppem=30_000)
        assert "pictures of 30000 pixels per em; 1 to 1024 are drawn" in self.refused(path)

    def test_a_width_beyond_sense(self, fonts, tmp_path):
        from fontTools.ttLib import TTFont

        path = fonts.write_sbix(tmp_path / "a.ttf", {"😀": (1, 2, 3)})
        wide = TTFont(path)
        wide["hmtx"].metrics = dict.fromkeys(wide["hmtx"].metrics, (60_000, 0))
        wide.save(path)
        assert ColourFont(path).having(["😀"]) == []

    @pytest.mark.parametrize("write", ["write_sbix", "write_cbdt"])
    def test_any_bytes_may_be_wrong(self, fonts, tmp_path, write):
        path = getattr(fonts, write)(tmp_path / "a.ttf", COLOURS)
        whole, rng, refused = path.read_bytes(), random.Random(0), 0
        for _ in range(150):
            content = bytearray(whole)
            for _ in range(4):
                content[rng.randrange(len(content))] = rng.randrange(256)
            path.write_bytes(content)
            try:
                drawn = ColourFont(path)
                for text in drawn.having([*PRESENT, *ABSENT]):
                    drawn.draw(text, (255, 255, 255))
            except (ValueError, OSError) as error:
                refused += 1
                assert "\n" not in str(error)
        assert 30 < refused < 150


class TestFindingOne:
    def test_none_says_how_to_install_one(self, names, fonts, tmp_path, monkeypatch):
        monkeypatch.setattr(emoji_font, "FOLDERS", (str(tmp_path),))
        with pytest.raises(FileNotFoundError, match="apt install fonts-noto-color.*data.path"):
            emoji_source()

    def test_anywhere_below_the_folders(self, font, tmp_path, monkeypatch):
        (tmp_path / "truetype/noto").mkdir(parents=True)
        (tmp_path / "truetype/noto/NotoColorEmoji.ttf").symlink_to(font)
        monkeypatch.setattr(emoji_font, "FOLDERS", ("/nowhere", str(tmp_path)))
        assert len(emoji_source("all")) == len(PRESENT)

    def test_no_names(self, monkeypatch):
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "emoji" else find(name)
        )
        with pytest.raises(ImportError, match=r"package emoji, .* pip install -e '\.\[emoji\]'"):
            emoji_source()

    def test_no_raqm(self, font, monkeypatch):
        monkeypatch.setattr(features, "check", lambda name: name != "raqm")
        with pytest.raises(ImportError, match="Pillow with Raqm.*apt install libfribidi0"):
            emoji_source(font)


class TestPlace:
    @pytest.mark.parametrize(
        "path, expected",
        [
            ("", Place("", "train", None)),
            ("train", Place("", "train", None)),
            ("held_out", Place("", "held_out", None)),
            ("@all", Place("", "all", None)),
            ("/a/b.ttf", Place("/a/b.ttf", "train", None)),
            ("/a/b.ttf@held_out", Place("/a/b.ttf", "held_out", None)),
            ("/me@home/b.ttf@all@background=7", Place("/me@home/b.ttf", "all", 7)),
            ("background=0@held_out", Place("", "held_out", 0)),
            ("test", Place("test", "train", None)),
        ],
    )
    def test_parts(self, path, expected):
        assert place(path) == expected

    @pytest.mark.parametrize(
        "path", ["train@all", "a.ttf@background=1@background=2", "background=9223372036854775808"]
    )
    def test_contradictions(self, path):
        with pytest.raises(ValueError, match=r"data.path=.* is not \[FONT\]\[@SPLIT\]"):
            place(path)


class TestSource:
    def test_pictures_and_captions(self, font):
        records = by_name(emoji_source(f"{font}@all"))
        captions = {name: record["captions"][1:] for name, record in records.items()}
        assert len(records) == len(PRESENT)
        assert captions["flag: Germany"] == ("flag for Germany",)
        assert captions["red heart"] == ("heart",)
        assert captions["woman astronaut: medium skin tone"] == ()
        for name, text in {"flag: Germany": "🇩🇪", "red heart": "❤️", "grinning face": "😀"}.items():
            assert (pixels(records[name]) == COLOURS[text]).all()
        for tone, word in zip(TONES, ("light", "medium-light", "medium"), strict=False):
            record = records[f"woman astronaut: {word} skin tone"]
            assert (pixels(record) == COLOURS[f"👩{tone}{ROCKET}"]).all()
            assert record["name"] == f"emoji/1f469-{ord(tone):x}-200d-1f680.png"

    def test_each_is_a_class(self, font):
        source = emoji_source(f"{font}@all")
        assert isinstance(source, LabelledSource)
        assert len(set(source.class_names)) == len(source) == len(set(source.names))
        for index in range(len(source)):
            name = source.class_names[source.label(index)]
            (sentence,) = (template.replace("{}", name) for template in source.class_templates)
            assert sentence == source[index]["captions"][0]

    def test_splits_are_parts_of_the_whole(self, font):
        everything, train, held_out = (
            emoji_source(f"{font}@{split}").class_names for split in ("all", "train", "held_out")
        )
        assert sorted(train + held_out) == sorted(everything) and not set(train) & set(held_out)
        assert sum(name.startswith("woman astronaut:") for name in held_out) == 1
        assert {"woman astronaut", "cow"} < set(train) and "cow face" in held_out
        assert emoji_source(font).class_names == train

    def test_languages(self, font):
        both = by_name(emoji_source(f"{font}@all", "de,en"))
        assert both["rotes herz"]["captions"] == ("rotes herz", "red heart", "heart")
        german = emoji_source(f"{font}@held_out", "de").names
        assert german == emoji_source(f"{font}@held_out").names  # held out by English names

    @pytest.mark.parametrize("captions", ["mine.csv", "en,xx", ","])
    def test_unknown_languages(self, font, captions):
        with pytest.raises(ValueError, match=rf"data.captions={captions}.*as en or en,de.* is not"):
            emoji_source(font, captions)

    def test_backgrounds(self, fonts, names, tmp_path):
        clear = {text: (*colour, 0) for text, colour in COLOURS.items()}
        path = fonts.write_sbix(tmp_path / "a.ttf", clear)

        def colours(place):
            found = by_name(emoji_source(f"{path}@{place}"))
            return {name: pixels(record)[3, 3].tolist() for name, record in found.items()}

        white, first, again, other = map(
            colours, ("all", "all@background=7", "background=7", "all@background=8")
        )
        assert {tuple(colour) for colour in white.values()} == {(255, 255, 255)}
        assert len({tuple(colour) for colour in first.values()}) == len(PRESENT)
        assert again == {name: first[name] for name in again} and len(again) > 5
        assert all(first[name] != other[name] for name in first)
        assert min(min(colour) for colour in (first | other).values()) >= 96

    def test_an_image_is_kept_after_it_was_drawn(self, font):
        source = emoji_source(font)
        assert source[3]["image"] is source[3]["image"]
        assert pickle.loads(pickle.dumps(source))[3] == source[3]

    def test_a_picture_that_cannot_be_read(self):
        class Broken:
            path = "a.ttf"

            def draw(self, *_):
                raise OSError("broken glyph")

        source = emoji.EmojiSource(Broken(), ["😀"], [("grinning face",)])
        with pytest.raises(SampleError, match="emoji/1f600.png of a.ttf: broken glyph") as caught:
            source[0]
        assert caught.value.reason == "damaged"

    def test_nothing_of_a_split(self, fonts, names, tmp_path):
        path = fonts.write_sbix(tmp_path / "a.ttf", {"😀": (1, 2, 3)})
        with pytest.raises(ValueError, match="a.ttf: the font has no emoji of split held_out"):
            emoji_source(f"{path}@held_out")

    def test_a_font_that_changed_is_looked_at_again(self, fonts, names, tmp_path):
        path = fonts.write_sbix(tmp_path / "a.ttf", {"😀": (1, 2, 3)})
        assert len(emoji_source(str(path))) == 1
        fonts.write_sbix(path, {"😀": (1, 2, 3), "🚀": (1, 2, 3)})
        os.utime(path, ns=(1, 1))
        assert len(emoji_source(str(path))) == 2

    def test_commands_and_batches(self, font):
        data = data_config(f"emoji:{font}@all", image_size=(16, 16), context_length=24)
        source = open_source(data)
        batches = pipeline.eval_batches(source, data, 8)
        batch = next(batches)
        batches.close()
        shown = np.stack([pixels(source[i])[8, 8] for i in batch["index"]]).astype(int)
        assert np.abs(batch["image"][:, 8, 8] - shown).max() <= 1
        config = ml_collections.ConfigDict({"source": "emoji", "path": font, "captions": ""})
        assert len(open_source(config)) < len(source)


@pytest.fixture(scope="module")
def split(names):
    """All emoji of the package: the held-out ones, and the others."""
    whole = names.STATUS["fully_qualified"]
    every = [key for key, entry in names.EMOJI_DATA.items() if entry["status"] == whole]
    held_out = {key for key in every if emoji.is_held_out(key)}
    return held_out, set(every) - held_out


class TestHeldOut:
    """The rule, on all names of the package."""

    def test_listed_names_exist(self, split):
        assert set(emoji.HELD_OUT) <= {emoji.english(text) for text in split[0]}

    def test_one_skin_tone_of_five(self, split):
        """The same one for woman, man and person, and about as often each."""
        held_out, train = split
        tones, seen = {}, dict.fromkeys(TONES, 0)
        for text in held_out:
            if "skin tone" in (name := emoji.english(text)):
                thing, _, qualities = name.partition(": ")
                tone, *hair = qualities.split(", ")
                role = re.sub("^(woman|man|person) ", "", thing), *hair
                tones.setdefault(role, set()).add(tone)
                seen[next(c for c in text if c in TONES)] += 1
        assert len(tones) > 150 and {len(found) for found in tones.values()} == {1}
        assert min(seen.values()) > 40
        trained = {emoji.english(text) for text in train}
        for role, (tone,) in tones.items():
            if role == ("firefighter",):
                for gender in ("woman ", "man ", ""):
                    for other in ("light", "medium-light", "medium", "medium-dark", "dark"):
                        name = f"{gender}firefighter: {other} skin tone"
                        assert (name in trained) == (f"{other} skin tone" != tone)

    def test_every_word_is_trained(self, split):
        held_out, train = ({w for t in part for w in words(t)} for part in split)
        assert held_out <= train

    def test_it_stays(self, names):
        """Changes when other pictures are held out: then results are of another set."""
        roles = [("👩", "🚒"), ("👨", "🚀"), ("🧑", "🌾"), ("👩", "🔬"), ("👨", "🎤")]
        found = [
            [k for k, tone in enumerate(TONES) if emoji.is_held_out(f"{who}{tone}\u200d{what}")]
            for who, what in roles
        ]
        assert found == [[1], [2], [4], [0], [0]]


def words(text):
    return re.findall(r"[^\W_]+", emoji.english(text).casefold())


class TestSystemFont:
    """Noto's or Apple's, where one is installed."""

    def test_thousands_of_pictures(self, noto):
        everything, train, held_out = map(emoji_source, ("all", "train", "held_out"))
        assert len(everything) == len(train) + len(held_out) > 3000 and len(held_out) > 200
        heart = pixels(train[train.class_names.index("red heart")])
        assert heart.shape[0] == heart.shape[1] > 100
        centre = heart[tuple(side // 2 for side in heart.shape[:2])]
        assert centre[0] > 180 and centre[1:].max() < 100 and heart[0, 0].tolist() == [255] * 3

    def test_parts_are_joined(self, noto):
        texts = ("👩", "👩\u200d🚒", "👩🏽\u200d🚒")
        pictures = [noto.draw(text, (255, 255, 255)) for text in texts]
        assert len({picture.tobytes() for picture in pictures}) == 3
        assert len({picture.shape for picture in pictures}) == 1
        assert noto.having(["😀", "🇩🇪", "🇪🇩", "👩\u200d👩\u200d🚀"]) == ["😀", "🇩🇪"]

    def test_an_image_is_a_png(self, noto):
        with Image.open(io.BytesIO(emoji_source()[0]["image"])) as image:
            assert image.format == "PNG" and image.mode == "RGB"
