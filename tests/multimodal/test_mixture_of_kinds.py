"""Parts of the data: what their samples say, and what is refused with its entry."""

import json

import numpy as np
import pytest

from configs import multimodal
from helpers import coded, sequences
from helpers.sequences import CODES, TOKENS, codes_of, data
from unitok_jax.data.formats.shape_questions import ask_several
from unitok_jax.data.formats.shapes import HELD_OUT, EditedShapes, TrainingShapes
from unitok_jax.data.health import SampleError
from unitok_jax.multimodal.config_checks import check
from unitok_jax.multimodal.data import rows_of
from unitok_jax.multimodal.rows import INSTRUCTION, NO_LABEL, UNCONDITIONAL
from unitok_jax.multimodal.sources import open_mixture
from unitok_jax.multimodal.words import shape_tokenizer

COUNT = 24
TOKENIZER = shape_tokenizer()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Codes of pictures of shapes; those of record i are all i."""
    return sequences.shapes(tmp_path_factory.mktemp("codes") / "shapes", COUNT, codes=codes_of)


def part(*entry, **keys):
    """The only part of a mixture."""
    section = data((1.0, *map(str, entry)), **keys)
    return open_mixture(section, rows_of(section, TOKENIZER, TOKENS), CODES)[0].parts[0]


def sample(opened, index=0, seed=0):
    return opened.sample(index, np.random.default_rng(seed))


def read(sample):
    """Text before an image, between images, ...; and the text that is learnt."""
    ids = np.where(sample.image_at >= 0, -1, sample.ids)
    parts, texts = np.split(ids, np.flatnonzero(np.diff(ids < 0)) + 1), []
    for each in parts:
        texts.append("[image]" if each[0] < 0 else TOKENIZER.decode(each))
    learnt = sample.labels[sample.labels != NO_LABEL]
    return texts, TOKENIZER.decode(learnt)


def words(text):
    """Text as the tokenizer gives it back."""
    return TOKENIZER.decode(TOKENIZER.encode(text))


class TestDrawAndCaption:
    def test_from_a_caption(self, folder):
        drawn = sample(part("draw", folder, unconditional=0.0), 5)
        (said, image, end), learnt = read(drawn)
        captions = TrainingShapes()[5]["captions"]
        assert said in [words(each + INSTRUCTION) for each in captions]
        assert image == "[image]" and end == learnt == ""
        special = TOKENIZER.special
        assert drawn.labels[drawn.labels >= 0].tolist() == [special.boi, special.eoi, special.eos]
        assert drawn.drawn.tolist() == [True]
        np.testing.assert_array_equal(drawn.codes, [codes_of(5)])

    def test_some_have_no_caption(self, folder):
        opened = part("draw", folder, unconditional=0.1)
        rng = np.random.default_rng(0)
        drawn = [read(opened.sample(n % COUNT, rng))[0][0] for n in range(2000)]
        share = np.mean([text == words(UNCONDITIONAL) for text in drawn])
        assert abs(share - 0.1) < 3 * (0.09 / 2000) ** 0.5

    def test_all_without_caption_are_unconditional(self, tmp_path):
        folder = coded.write(tmp_path / "codes", 4, captions=lambda i: ())
        assert read(sample(part("draw", folder)))[0][0] == words(UNCONDITIONAL)
        with pytest.raises(SampleError, match="the codes of 0000.png have no caption"):
            sample(part("caption", folder))

    def test_a_caption(self, folder):
        (before, image, said), learnt = read(sample(part("caption", folder), 7))
        assert (before, image) == ("", "[image]")
        assert said == learnt and said in [words(c) for c in TrainingShapes()[7]["captions"]]

    def test_the_view_of_the_centre_in_which_left_is_left(self, tmp_path):
        def codes(i):
            return np.broadcast_to(np.arange(10)[:, None, None], (10, coded.BOOKS, TOKENS))

        folder = coded.write(tmp_path / "codes", 4, codes=codes)
        assert (sample(part("caption", folder)).codes == 4).all()


class TestQuestions:
    def test_of_the_picture(self, folder):
        (before, image, said), learnt = read(sample(part("questions", folder), 3))
        assert before == "" and image == "[image]" and said.endswith(learnt)
        assert "?" in said and "?" not in learnt

    def test_each_reading_asks_anew(self, folder):
        opened = part("questions", folder)
        rng = np.random.default_rng(0)
        assert len({read(opened.sample(3, rng))[0][2] for _ in range(40)}) > 3

    def test_several_in_turn_about_one_picture(self, folder):
        """Each answer is learnt with its end, and no word of a question is."""
        opened, numbers = part("questions", folder, questions=4), set()
        for seed in range(30):
            made = sample(opened, 4, seed)
            scene = TrainingShapes().scene(4)
            turns = ask_several(scene, np.random.default_rng(seed), 4)
            (_, image, said), learnt = read(made)
            assert image == "[image]" and len(made.codes) == 1
            texts = [text for turn in turns for text in (turn.question, turn.answer)]
            assert said == words(" ".join(texts))
            assert learnt == words(" ".join(turn.answer for turn in turns))
            assert np.sum(made.labels == TOKENIZER.special.eos) == len(turns)
            numbers.add(len(turns))
        assert numbers == {2, 3, 4}

    def test_other_pictures_are_refused(self, tmp_path):
        folder = coded.write(tmp_path / "codes", 4)
        message = r"data.mixture\[0\].*: '0000.png' is no picture of shapes: tokenize"
        with pytest.raises(ValueError, match=message):
            part("questions", folder)

    def test_held_out_pictures_are_asked_of_their_own_pairs(self, tmp_path):
        folder = sequences.shapes(tmp_path / "codes", 16, split="held_out")
        opened = part("questions", folder)
        texts = [read(sample(opened, n % 16, n))[0][2] for n in range(200)]
        asked = {tuple(t.split()[3:5]) for t in texts if t.startswith("is there a")}
        assert len(asked) > 3 and asked <= set(HELD_OUT)


class TestEdits:
    def test_of_shapes(self, tmp_path):
        folder = sequences.shapes(tmp_path / "codes", 8, split="edits", codes=codes_of)
        opened = part("edit", folder)
        assert len(opened) == 4
        edit = sample(opened, 2)
        texts, learnt = read(edit)
        assert texts == ["", "[image]", words(EditedShapes().edit(2)[2]), "[image]", ""]
        assert learnt == "" and edit.drawn.tolist() == [False, True]
        np.testing.assert_array_equal(edit.codes, [codes_of(4), codes_of(5)])

    def test_other_codes_are_no_pairs(self, folder):
        with pytest.raises(ValueError, match="no pictures in pairs: tokenize --data=shapes:edits"):
            part("edit", folder)

    def test_of_a_file(self, folder, tmp_path):
        names = [f"shapes/train/{n:010d}.png" for n in (3, 9)]
        lines = [
            {"image": names[0], "instruction": "make the circle red", "edited": names[1]},
            {"image": names[0], "instruction": " ", "edited": names[1]},
            {"image": names[0], "instruction": "make", "edited": "other.png"},
            {"image": names[0], "instruction": 3, "edited": names[1]},
        ]
        file = tmp_path / "edits.jsonl"
        file.write_text("\n".join(map(json.dumps, lines)))
        opened = part("edit", file, folder)
        np.testing.assert_array_equal(sample(opened).codes, [codes_of(3), codes_of(9)])
        reasons = []
        for index in (1, 2, 3):
            with pytest.raises(SampleError, match=f"edits.jsonl, record {index + 1}") as caught:
                sample(opened, index)
            reasons.append(caught.value.reason)
        assert reasons == ["no_text", "no_codes", "bad_record"]


def chat(tmp_path, *records, folder=None):
    file = tmp_path / "chat.json"
    file.write_text(json.dumps(records))
    return part("chat", file, *([folder] if folder else []))


def said(*texts, **facts):
    turns = [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)]
    return {"conversations": turns} | facts


class TestChats:
    def test_several_images_and_turns(self, folder, tmp_path):
        names = [f"shapes/train/{n:010d}.png" for n in (3, 9)]
        record = said("is <image> a circle and <image>?", "yes", "what colour?", "red", image=names)
        found = sample(chat(tmp_path, record, folder=folder))
        (_, one, middle, other, end), learnt = read(found)
        assert (one, middle, other) == ("[image]", "a circle and", "[image]")
        assert end == "? yes what colour ? red" and learnt == "yes red"
        eos = TOKENIZER.special.eos
        assert (found.labels == eos).sum() == 2
        np.testing.assert_array_equal(found.codes, [codes_of(3), codes_of(9)])

    def test_bare_images(self, folder, tmp_path):
        name = f"shapes/train/{3:010d}.png"
        chat(tmp_path, said("<image>?", "yes", image=name))
        file = tmp_path / "chat.json"
        boi = TOKENIZER.special.boi
        for bare in (True, False):
            found = sample(part("chat", file, folder, bare_images=bare))
            assert (boi in found.ids) == (not bare)

    def test_text_alone_needs_no_codes(self, tmp_path):
        assert read(sample(chat(tmp_path, said("what colour?", "red"))))[1] == "red"

    def test_an_image_that_was_not_tokenized(self, folder, tmp_path):
        record = said("<image>?", "yes", image="a.png")
        with pytest.raises(SampleError, match="record 1: 'a.png' is not in the codes") as caught:
            sample(chat(tmp_path, record, folder=folder))
        assert caught.value.reason == "no_codes"
        with pytest.raises(SampleError, match="'a.png' needs codes, and none are given"):
            sample(chat(tmp_path, record))

    def test_a_question_of_ten_thousand_characters(self, tmp_path):
        opened = chat(tmp_path, said("colour " * 1500, "red"))
        with pytest.raises(SampleError, match="data.length=128") as caught:
            sample(opened)
        assert caught.value.reason == "too_long"


class TestEntries:
    @pytest.mark.parametrize(
        "mixture, message",
        [
            ((), "data.mixture is empty: list"),
            (((1.0, "draw"),), r"data.mixture\[0\]=.* is not \(weight, kind, path\)"),
            (((1.0, "draw", 3),), r"data.mixture\[0\]=.* is not \(weight, kind, path\)"),
            ((("1", "draw", "a"),), "the weight must be a positive number"),
            (((0.0, "draw", "a"),), "the weight must be a positive number"),
            (((True, "draw", "a"),), "the weight must be a positive number"),
            (((1.0, "paint", "a"),), "'paint' is not one of draw, caption"),
            (((1.0, "draw", ""),), "the path is empty"),
            (((1.0, "draw", "a", "b"),), "draw reads no further codes than its path"),
            (((1.0, "text", "a.jsonl"),), r"data.mixture\[0\]=.* does not exist"),
            (((1.0, "chat", "a.txt"),), r"data.mixture\[0\]=.*give a .jsonl file"),
            (((1.0, "draw", "none"),), r"data.mixture\[0\]=.*none is no folder; unitok tokenize"),
        ],
        ids=str,
    )
    def test_that_do_not_fit(self, mixture, message):
        section = data(*mixture)
        with pytest.raises((ValueError, OSError), match=message):
            open_mixture(section, rows_of(section, TOKENIZER, TOKENS), CODES)

    @pytest.mark.parametrize(
        "changes, message",
        [
            ({"num_codebooks": 4}, "codes of num_codebooks=2, and the model takes num_codebooks=4"),
            ({"codebook_size": 8}, "codes of codebook_size=16, and the model takes codebook_siz"),
            ({"grid": (3, 2)}, r"codes of grid=\(2, 3\), and the model takes grid=\(3, 2\)"),
            ({"tokenizer": "b" * 32}, "codes of tokenizer=aaaa.*, and the model takes tokenizer=b"),
        ],
        ids=str,
    )
    def test_codes_of_another_tokenizer(self, folder, changes, message):
        section = data((1.0, "draw", str(folder)))
        with pytest.raises(ValueError, match=message):
            open_mixture(section, rows_of(section, TOKENIZER, TOKENS), CODES._replace(**changes))

    def test_codes_of_two_tokenizers(self, folder, tmp_path):
        other = coded.write(tmp_path / "codes", 4, tokenizer="b" * 32)
        section = data((1.0, "draw", str(folder)), (1.0, "caption", str(other)))
        with pytest.raises(ValueError, match=r"data.mixture\[1\].*tokenizer=bbb"):
            open_mixture(section, rows_of(section, TOKENIZER, TOKENS), CODES)

    def test_codes_with_queries(self, tmp_path):
        other = coded.write(tmp_path / "codes", 4, tokens=8)
        with pytest.raises(ValueError, match="more tokens than its grid"):
            part("draw", other)


@pytest.mark.parametrize("section", ["data", "eval"])
@pytest.mark.parametrize("projection", ["causal", "full"])
def test_a_part_that_is_in_no_tuple_is_told_with_the_configuration(section, projection):
    """Its comma is easily forgotten; a plan opens no data."""
    config = multimodal.get_config()
    config.model.projection, config[section].mixture = projection, (1.0, "caption", "a")
    with pytest.raises(ValueError, match=rf"^{section}.mixture\[0\]=1.0 is not \(weight, kind"):
        check(config)
