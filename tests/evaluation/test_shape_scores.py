"""Examinations on drawn shapes: what is asked, how it is scored, and the files. Models are fake."""

import functools
import json
import re
import types

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from helpers import in_process
from unitok_jax.commands import evaluate
from unitok_jax.data.formats.drawing import COLOURS, SHAPES, TEXTURES, Scene, Shape
from unitok_jax.data.formats.shapes import (
    HELD_OUT,
    LENGTH,
    NUMBERS,
    TRAINING,
    EditedShapes,
    HeldOutShapes,
    describe,
    place_words,
)
from unitok_jax.data.text import END_OF_TEXT
from unitok_jax.evaluation.metrics.shape_recogniser import recognise
from unitok_jax.evaluation.shapes import edits, exam, measure, report, scores

run = functools.partial(in_process.run, evaluate)
COUNT, SIZE = 64, (64, 64)
CELLS = [(row, column) for row in range(3) for column in range(3)]
PLACES = {place_words(cell): cell for cell in CELLS}


def scene(colour, form, cells):
    """A scene of equal shapes in some thirds."""
    return several([(colour, form, cell) for cell in cells])


def several(looks):
    """A scene of shapes of some (colour, form, third)."""
    shapes = [
        Shape(colour, form, "plain", "large", (r, c), 12 + 24 * c, 12 + 24 * r, 9.5, 0, 0)
        for colour, form, (r, c) in looks
    ]
    return Scene(tuple(shapes), ((90.0,) * 3, (110.0,) * 3), 0.0)


class Codec:
    """Codes of a picture are its number among all that were seen."""

    hash, image_size = "22bb", SIZE
    config = ConfigDict({"model": {"text": {"vocab_size": END_OF_TEXT + 1}}})

    def __init__(self):
        self.pictures = []

    def encode(self, images):
        self.pictures += list(images)
        last = len(self.pictures)
        return np.arange(last - len(images), last, dtype=np.int32)[:, None, None]

    def decode(self, codes):
        return np.stack([self.pictures[n] for n in codes[:, 0, 0]]) / 127.5 - 1

    def encode_image(self, images):
        """Features that tell the colour of the only shape, and nothing else."""
        found = [recognise(image)[0].colour for image in images]
        return np.eye(8)[[list(COLOURS).index(colour) for colour in found]]

    def class_features(self, labels, templates):
        """Tells colours alone too: of a colour's names the first is the nearest."""
        assert len(labels) == 64 and "there is a {}" in templates
        return np.eye(8)[[list(COLOURS).index(label.split()[0]) for label in labels]]


class Model:
    """Sees what the recogniser sees; draws and edits as asked, but circles instead of stars, and
    the released way nothing but circles."""

    hash = "11aa"

    def __init__(self):
        self.tokenizer, self.temperatures = Codec(), []

    def answers(self, images, questions, *, limit):
        assert limit >= 6 and all(codes.shape == (1, 1) for codes in images)
        return [
            self._answer(self.tokenizer.pictures[codes[0, 0]], text)
            for codes, text in zip(images, questions, strict=True)
        ]

    def _answer(self, picture, text):
        seen = recognise(picture)
        if text.startswith("how many"):
            return NUMBERS[len(seen)].upper() + "."
        for each in seen:
            if text == f"what colour is the {each.shape}?":
                return f" the {each.colour}"
            if text == f"what shape is {each.colour}?":
                return each.shape
            if text == f"where is the {each.shape}?":
                return place_words(each.cell)
        return ""

    def draw(self, texts, *, key, scale, temperature, released):
        self.temperatures.append(temperature)
        pictures = exam.render([self._drawn(text, released) for text in texts], SIZE)
        return self.tokenizer.encode(pictures)

    @staticmethod
    def _drawn(text, released):
        colour = next(word for word in text.split() if word in COLOURS)
        form = next(form for form in SHAPES if form in text).replace("star", "circle")
        form = "circle" if released else form
        place = next((PLACES[words] for words in PLACES if text.endswith(words)), None)
        count = next((n for n, word in enumerate(NUMBERS) if n and text.startswith(word)), 1)
        return scene(colour, form, [place] if place else CELLS[::2][:count])

    def edits(self, images, instructions, *, key, scale, temperature):
        self.temperatures.append(temperature)
        pairs = zip(images, instructions, strict=True)
        scenes = [self._edited(self.tokenizer.pictures[codes[0, 0]], text) for codes, text in pairs]
        return self.tokenizer.encode(exam.render(scenes, SIZE))

    @staticmethod
    def _edited(picture, text):
        _, _, colour, form, *_, new = text.split()
        look = (new, form) if new in COLOURS else (colour, new.replace("star", "circle"))
        seen = [(each.colour, each.shape, each.cell) for each in recognise(picture)]
        return several([(*(look if s[:2] == (colour, form) else s[:2]), s[2]) for s in seen])


@pytest.fixture(scope="module")
def blind():
    return exam.blind_answers()


@pytest.fixture(scope="module")
def exams():
    return {pairs: exam.Exam(pairs, COUNT, SIZE) for pairs in exam.PAIRS}


@pytest.fixture(scope="module")
def results():
    model = Model()
    return measure.measure(model, model.tokenizer, COUNT, (1.0, 2.0))


@pytest.fixture(scope="module")
def edited():
    model = Model()
    return edits.measure_edits(model, model.tokenizer, COUNT // 2, SIZE, (1.0, 2.0))


class TestExams:
    def test_pictures_are_the_last_of_their_split(self, exams):
        assert exams["held_out"].scenes[-1] == HeldOutShapes().scene(LENGTH - 1)
        for each in exams.values():
            assert each.pictures.shape == (COUNT, *SIZE, 3) and each.pictures.dtype == np.uint8
            assert {asked.picture for asked in each.asked} == set(range(COUNT))

    def test_texts_are_captions_of_training_about_the_pairs_of_the_examination(self, exams):
        for each, pairs in ((exams["seen"], TRAINING), (exams["held_out"], HELD_OUT)):
            assert len(each.texts) == COUNT
            for number, (text, wanted) in enumerate(zip(each.texts, each.wanted, strict=True)):
                assert (wanted.colour, wanted.form) in pairs
                assert (wanted.cell is None) == (number % 2 == 1) == (wanted.number is not None)
                cells = CELLS[: wanted.number] if wanted.cell is None else [wanted.cell]
                assert text in describe(scene(wanted.colour, wanted.form, cells))
            assert {wanted.number for wanted in each.wanted} == {None, 1, 2, 3, 4}
            assert len({wanted.cell for wanted in each.wanted}) > 5
            assert len({wanted.colour for wanted in each.wanted[: 2 * 8]}) > 4
        assert len({(w.colour, w.form) for w in exams["held_out"].wanted}) == 16

    def test_blind_is_worth_nothing_on_held_out_colours_and_forms(self, exams, blind):
        held_out, seen = (
            scores.by_kind(exams[pairs], [""] * len(exams[pairs].asked), blind)
            for pairs in ("held_out", "seen")
        )
        assert held_out["colour"].blind == held_out["form"].blind == 0
        assert held_out["colour"].asked == held_out["form"].asked == COUNT
        assert "relation" in seen and "relation" not in held_out
        assert 0.05 < seen["colour"].blind < 0.35 and 0.3 < held_out["pair"].blind < 0.7
        assert all(score.right == 0 for score in (held_out | seen).values())

    def test_right_answers_are_right(self, exams, blind):
        each = exams["seen"]
        given = [f"The {asked.question.answer.upper()}." for asked in each.asked]
        assert {score.right for score in scores.by_kind(each, given, blind).values()} == {1.0}


class TestReading:
    def test_of_originals(self, exams):
        for each in exams.values():
            found = scores.read(each.pictures, [exam.shown(s) for s in each.scenes])
            assert list(found) == list(scores.READ) and min(found.values()) >= 0.99

    @pytest.mark.parametrize(
        "wanted, expected",
        [
            (exam.Wanted("red", "ring", (0, 2)), {"colour", "form", "both", "place"}),
            (exam.Wanted("blue", "ring", (0, 2)), {"form", "place"}),
            (exam.Wanted("red", "star", (0, 1)), {"colour"}),
            (exam.Wanted("red", "ring", number=1), {"count"}),
            (exam.Wanted("red", "ring", number=2), set()),
        ],
    )
    def test_of_a_picture(self, wanted, expected):
        (picture,) = exam.render([scene("red", "ring", [(0, 2)])], SIZE)
        found = scores.is_drawn(picture, wanted)
        assert {name for name, right in found.items() if right} == expected
        kinds = {"count"} if wanted.cell is None else {"colour", "form", "both", "place"}
        assert set(found) == kinds

    def test_of_an_empty_picture(self):
        grey = np.full((64, 64, 3), 90, np.uint8)
        wanted = [exam.Wanted("red", "ring", (1, 1)), exam.Wanted("red", "ring", number=1)]
        assert set(scores.read([grey, grey], wanted).values()) == {0.0}
        assert set(scores.read([grey], wanted[1:])) == {"count"}


class TestEdits:
    def test_are_the_last_that_change_a_colour_or_a_form(self):
        """Of training's pairs, but no picture that training sees."""
        last = [EditedShapes().edit(LENGTH // 2 - n) for n in range(1, 2 * COUNT)]
        others = [each for each in last if each[2].split()[-1] not in TEXTURES]
        found = edits.examined(COUNT)
        assert [(edit.before, edit.after, edit.words) for edit in found] == others[:COUNT]
        for edit in found:
            old, new = edit.pairs
            assert f"the {' '.join(old)} " in edit.words and edit.words.split()[-1] in new
            assert new in TRAINING and (old[0] == new[0]) != (old[1] == new[1])

    def test_right_answers_are_read_and_unedited_pictures_are_not(self, edited):
        assert edited.figures["unedited"] == dict.fromkeys(edits.READ, 0.0)
        assert set(edited.figures["rebuilt"]) == set(edits.READ)
        assert min(edited.figures["rebuilt"].values()) >= 0.99

    def test_of_a_model(self, edited):
        assert list(edited.figures["edited"]) == ["1", "2"]
        found = edited.figures["edited"]["2"]
        into = [edit.words.split()[-1] for edit in edited.edits if edit.words.startswith("turn")]
        stars = into.count("star") / len(into)
        assert stars > 0 and found["form"] == pytest.approx(1 - stars, abs=0.05)
        assert found["colour"] >= 0.95 > found["all"] > found["form"]

    @pytest.mark.parametrize(
        "looks, expected",
        [
            ([("blue", "ring"), ("red", "star")], {"colour", "all"}),
            ([("red", "ring"), ("red", "star")], set()),  # as it was
            ([("red", "ring"), ("blue", "ring"), ("red", "star")], set()),  # one more
            ([("blue", "ring")], {"colour"}),  # the other is gone
            ([("blue", "star"), ("red", "star")], set()),
            ([], set()),
        ],
    )
    def test_of_a_picture(self, looks, expected):
        def pictured(looks):
            return several([(*look, cell) for look, cell in zip(looks, CELLS[::4], strict=False)])

        before, after = (pictured([(c, "ring"), ("red", "star")]) for c in ("red", "blue"))
        edit = edits.Edit("make the red ring blue", before, after)
        (picture,) = exam.render([pictured(looks)], SIZE)
        found = edits.is_edited(picture, edit)
        assert set(found) == {"colour", "all"}
        assert {name for name, right in found.items() if right} == expected


@pytest.mark.long
class TestMeasured:
    def test_a_model_that_sees(self, results):
        for each in results:
            answers = each.figures["answers"]
            for kind in ("colour", "form", "place", "count"):
                assert answers[kind]["right"] >= 0.97
            assert answers["texture"]["right"] == 0
            assert answers["colour"]["shuffled"] < 0.3

    def test_a_shuffled_picture_is_never_its_own_and_seldom_alike(self, exams):
        """A model that names the first shape, whatever is asked, is right by chance alone."""
        shown = types.SimpleNamespace(answers=lambda images, questions, limit: list(images))
        for each in exams.values():
            numbers = scores.answers(shown, each, np.arange(COUNT), shuffled=True)
            own = [asked.picture for asked in each.asked]
            assert set(numbers) == set(own) and not np.equal(numbers, own).any()
            scenes = np.array([(s.shapes[0].colour, s.shapes[0].shape) for s in each.scenes])
            assert (scenes[numbers] == scenes[own]).mean(axis=0).max() < 0.25

    def test_drawings_of_every_scale_are_read(self, results):
        for each in results:
            assert list(each.figures["drawn"]) == ["1", "2"]
            found = each.figures["drawn"]["2"]
            assert found["colour"] >= 0.95 and found["place"] >= 0.95 and found["count"] >= 0.95
            stars = np.mean([w.form == "star" for w in each.exam.wanted if w.cell])
            assert stars > 0 and found["form"] == pytest.approx(1 - stars, abs=0.05)

    def test_the_released_way_is_read_at_the_last_scale(self, results):
        for each in results:
            (found,), drawn = each.figures["released"].values(), each.figures["drawn"]["2"]
            assert list(each.figures["released"]) == ["2"]
            circles = np.mean([w.form == "circle" for w in each.exam.wanted if w.cell])
            assert found["form"] == pytest.approx(circles, abs=0.05) and circles < 0.5
            assert found["colour"] == drawn["colour"] and found["count"] == drawn["count"]

    def test_the_tokenizer_s_own_zero_shot(self, results):
        """Of pictures with one shape: right, here, if the form is the first of a colour's names."""
        first = next(iter(SHAPES))
        for each in results:
            single = [s.shapes[0].shape for s in each.exam.scenes if len(s.shapes) == 1]
            expected = np.mean([form == first for form in single])
            for name in ("originals", "rebuilt"):
                assert each.figures[name][scores.ZERO_SHOT] == pytest.approx(expected)
            asked = [w.form == first for w in each.exam.wanted if w.cell]
            for drawn in (*each.figures["drawn"].values(), *each.figures["released"].values()):
                assert drawn[scores.ZERO_SHOT] == pytest.approx(np.mean(asked))

    def test_a_tokenizer_without_texts_reads_none(self):
        codec = Codec()
        codec.config = ConfigDict({"model": {"text": {"vocab_size": END_OF_TEXT}}})
        assert measure._reader(codec) is scores.read

    def test_what_bounds_it(self, results):
        for each in results:
            assert each.figures["rebuilt"] == each.figures["originals"]
            assert each.figures["probe"]["colour"] >= 0.95 > 0.5 > each.figures["probe"]["form"]

    def test_files(self, results, edited, tmp_path):
        text = report.write(tmp_path, results, edited, {"model": "11aa"})
        found = json.loads((tmp_path / report.FIGURES).read_text())
        assert found["model"] == "11aa" and found["seen"] == results[0].figures
        assert found["edits"] == edited.figures and "| edited, scale 2 |" in text
        lines = (tmp_path / report.ANSWERS).read_text().splitlines()
        assert len(lines) == sum(len(each.given) for each in results)
        assert json.loads(lines[0]).keys() >= {"pairs", "question", "answer", "given", "is_right"}
        assert (tmp_path / report.TABLES).read_text() == text
        assert re.search(r"\| colour \| \d+ \| 1.00 \| 0.\d\d \| 0.\d\d \| 1.00 \|", text)
        assert {line.count("|") for line in text.split("\n\n")[0].splitlines()} == {12}
        assert "| relation |" in text and "| drawn, scale 2 |" in text
        assert text.count("| drawn, released way, scale 2 |") == 2
        assert text.count("| count | zero-shot |") == 2
        sheet = Image.open(tmp_path / report.SHEET)
        assert sheet.width > 1500 and sheet.height > 5 * 192
        assert (np.asarray(sheet) == (0xB0, 0, 0x20)).all(axis=2).any()  # something is wrong

    def test_what_is_wrong_is_marked(self, results):
        marked = {text: wrong for _, text, wrong in report._drawn(results[0])}
        assert len(marked) == report.SHOWN
        assert {text for text, wrong in marked.items() if wrong} == {
            t for t in marked if "star" in t
        }
        assert any(text.endswith("stars") for text in marked)  # whose number is right
        for _, caption, wrong in report._answered(results[1]):
            assert wrong == caption.endswith("(nothing)")

    def test_edits_are_shown_before_and_after(self, edited):
        cells = [*report._edited(edited)]
        assert len(cells) == report.SHOWN
        for number, (before, after) in enumerate(zip(cells[::2], cells[1::2], strict=True)):
            words = edited.edits[number].words
            assert before[1:] == (words, False) and after[1:] == ("edited", words.endswith("star"))
            np.testing.assert_array_equal(before[0], edited.before[number])
            np.testing.assert_array_equal(after[0], edited.drawn[number])


class TestCommand:
    FLAGS = {"checkpoint": "mm", "tokenizer": "t", "shapes": 4, "scales": "2"}

    @pytest.fixture
    def flags(self, tmp_path, monkeypatch):
        self.model = Model()
        monkeypatch.setattr(evaluate, "_load_multimodal", lambda *args: self.model)
        monkeypatch.setattr(exam, "LEARNT", 200)
        return self.FLAGS | {"output": tmp_path / "out"}

    def given(self, flags, **changed):
        known = (flags | changed).items()
        return [f"--{name}={value}" for name, value in known if value is not None]

    def test_writes_and_prints(self, flags, capsys, monkeypatch, tmp_path):
        code, printed, error = run(capsys, monkeypatch, *self.given(flags))
        assert (code, error) == (0, "") and "| drawn, scale 2 |" in printed
        assert "| edited, scale 2 |" in printed
        assert printed.splitlines()[-1] == str(tmp_path / "out" / report.SHEET)
        found = json.loads((tmp_path / "out" / report.FIGURES).read_text())
        assert (found["model"], found["tokenizer"]) == ("11aa", "22bb")
        # Texts and edits with the one scale, and texts the released way, of both examinations.
        assert self.model.temperatures == [1.0] * 5 and found["temperature"] == 1.0

    def test_a_temperature(self, flags, capsys, monkeypatch, tmp_path):
        code, _, _ = run(capsys, monkeypatch, *self.given(flags, temperature=0))
        assert code == 0 and self.model.temperatures == [0.0] * 5
        found = json.loads((tmp_path / "out" / report.FIGURES).read_text())
        assert found["temperature"] == 0 and "--temperature=0" in found["command"]

    @pytest.mark.parametrize(
        "changed, message",
        [
            ({"tokenizer": None}, "--tokenizer is missing: --shapes needs it"),
            ({"scales": "1,x"}, "--scales=1,x must be numbers"),
            ({"scales": "-1"}, "--scales=-1 must be numbers"),
            ({"scales": ""}, "--scales= must be numbers"),
            ({"temperature": -0.5}, "--temperature=-0.5 must be at least 0; 0 takes"),
            ({"temperature": "nan"}, "--temperature=nan must be at least 0; 0 takes"),
            ({"shapes": -1}, "--shapes=-1 must be at least 1 picture"),
            ({"vqa": "gqa"}, "--vqa means nothing with --shapes"),
            ({"data": "photos"}, "--data means nothing with --shapes"),
            ({"shapes": None}, "--scales means nothing without --shapes"),
            (
                {"shapes": None, "scales": None, "temperature": 0},
                "--temperature means nothing without --shapes",
            ),
            ({"shapes": None, "scales": None}, "--tokenizer means nothing without --vqa or"),
        ],
    )
    def test_flags_that_do_not_fit(self, flags, capsys, monkeypatch, tmp_path, changed, message):
        code, _, error = run(capsys, monkeypatch, *self.given(flags, **changed))
        assert code == 2 and message in error and error.count("\n") == 1
        assert not (tmp_path / "out").exists()

    def test_a_folder_that_is_not_empty(self, flags, capsys, monkeypatch, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "mine").touch()
        code, _, error = run(capsys, monkeypatch, *self.given(flags))
        assert code == 2 and "is not empty" in error


def test_metrics_of_training_are_named_by_pairs(results):
    from unitok_jax.multimodal.quality import _named

    each = results[1]
    one = types.SimpleNamespace(
        exam=each.exam, figures=each.figures | {"drawn": {"2": {"both": 0.5}}}
    )
    found = _named(one)
    assert found["held_out/blind_colour"] == 0 and found["held_out/drawn_both"] == 0.5
    assert found["held_out/colour"] == each.figures["answers"]["colour"]["right"]
