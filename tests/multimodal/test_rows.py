"""Samples against the reference's batch, and what is cut, left out or refused."""

import dataclasses

import numpy as np
import pytest

from helpers import parity, sequences
from helpers.sequences import SPECIAL, made
from unitok_jax.data.health import SampleError, TooLong
from unitok_jax.multimodal import rows as rows_module
from unitok_jax.multimodal.packing import fill
from unitok_jax.multimodal.prompt import IMAGE, Encoded
from unitok_jax.multimodal.rows import INSTRUCTION, expand


def numbers(text):
    """Text of numbers to ids."""
    return [int(word) for word in text.split()]


def codes(number, books=2, tokens=3):
    return np.full((books, tokens), number)


@pytest.fixture(scope="module")
def golden():
    return parity.load("multimodal")


@pytest.fixture(scope="module")
def samples():
    return sequences.reference_samples()


class TestTheReferencesBatch:
    def test_labels_and_lengths(self, golden, samples):
        for number, sample in enumerate(samples):
            length = int(golden["step.mask"][number].sum())
            assert len(sample.ids) == length
            labels = golden["step.full_labels"][number][:length]
            # The reference labels the first id of a text, which nothing predicts.
            np.testing.assert_array_equal(sample.labels[1:], labels[1:])

    def test_ids_around_the_images(self, golden, samples):
        for number, sample in enumerate(samples):
            row = golden["step.ids"][number]
            text = row[(row != 0) & (row != IMAGE)]
            np.testing.assert_array_equal(sample.ids[sample.image_at == -1], text)
            images = int((row == IMAGE).sum())
            tokens = golden["step.codes"].shape[2]
            np.testing.assert_array_equal(
                sample.image_at[sample.image_at >= 0], np.arange(images * tokens)
            )
            if images:
                place = int(np.flatnonzero(row == IMAGE)[0])
                assert (sample.image_at[place : place + tokens] >= 0).all()

    def test_images_that_are_learnt(self, golden, samples):
        drawn = [bool(sample.drawn.any()) for sample in samples]
        assert drawn == [kind == 1 for kind in golden["step.kinds"]]
        np.testing.assert_array_equal(samples[0].codes[0], golden["step.codes"][0])

    def test_a_row_of_each(self, golden, samples):
        shape, length = golden["step.codes"].shape[1:], golden["step.mask"].shape[1]
        for number, sample in enumerate(samples):
            row = fill([sample], length=length, images=2, image_shape=shape, pad=0)
            np.testing.assert_array_equal(row["segments"], golden["step.mask"][number])
            np.testing.assert_array_equal(row["positions"], golden["step.positions"][number])
            np.testing.assert_array_equal(row["labels"][1:], golden["step.full_labels"][number][1:])


class TestLayouts:
    def test_an_edit(self):
        sample = made(numbers).edit(codes(5), "20 21", codes(6))
        assert sample.ids.tolist() == [1, 3, 0, 0, 0, 4, 20, 21, 3, 0, 0, 0, 4, 2]
        assert sample.labels.tolist() == [-100] * 8 + [3] + [-100] * 3 + [4, 2]
        assert sample.image_at.tolist() == [-1, -1, 0, 1, 2, *[-1] * 4, 3, 4, 5, -1, -1]
        assert sample.drawn.tolist() == [False, True]
        np.testing.assert_array_equal(sample.codes, [codes(5), codes(6)])

    def test_a_conversation_of_several_images_with_an_image_in_an_answer(self):
        ids = np.array([20, IMAGE, IMAGE, 21, 30, IMAGE, 2], np.int32)
        said = Encoded(ids, np.array([False] * 4 + [True] * 3))
        sample = made(numbers).conversation(said, [codes(5), codes(6), codes(7)])
        image = [3, 0, 0, 0, 4]
        assert sample.ids.tolist() == [1, 20, *image, *image, 21, 30, *image, 2]
        assert sample.labels.tolist() == [*[-100] * 13, 30, 3, -100, -100, -100, 4, 2]
        assert sample.drawn.tolist() == [False, False, True]
        assert sample.image_at.max() == 8

    def test_a_model_without_an_id_that_begins_a_row(self):
        make = made(numbers, special=SPECIAL._replace(bos=None))
        assert make.text("20 21").ids.tolist() == [20, 21]
        assert make.caption(codes(5), "20").ids.tolist() == [3, 0, 0, 0, 4, 20, 2]


class TestLengths:
    def test_a_text_is_cut_and_does_not_end(self):
        sample = made(numbers, length=4).text("20 21 22 23 24")
        assert sample.ids.tolist() == [1, 20, 21, 22]
        assert sample.labels.tolist() == [-100, 20, 21, 22]

    def test_of_a_long_text_only_the_beginning_is_read(self):
        seen = []
        make = made(lambda text: seen.append(len(text)) or [9], length=4)
        make.text("a" * 10**7)
        assert seen == [4 * rows_module._LONGEST_TOKEN]

    def test_a_caption_is_cut_and_the_instruction_is_not(self):
        def encode(text):
            return [77] if text == INSTRUCTION else numbers(text.replace(INSTRUCTION, " 77"))

        make = made(encode, caption_ids=2)
        assert make.draw(codes(5), "20 21 22").ids[:5].tolist() == [1, 20, 21, 77, 3]
        assert make.draw(codes(5), "20 21").ids[:5].tolist() == [1, 20, 21, 77, 3]
        assert make.caption(codes(5), "20 21 22").ids[-3:].tolist() == [20, 21, 2]

    @pytest.mark.parametrize(
        "kind, arguments",
        [
            ("draw", (codes(5), "20 21")),
            ("caption", (codes(5), "20 21 22")),
            ("edit", (codes(5), "20", codes(6))),
        ],
    )
    def test_what_is_too_long_is_left_out_as_a_whole(self, kind, arguments):
        def encode(text):
            return numbers(text.replace(INSTRUCTION, " 77"))

        whole = getattr(made(encode), kind)(*arguments)
        length = len(whole.ids)
        fits = getattr(made(encode, length), kind)(*arguments)
        np.testing.assert_array_equal(fits.ids, whole.ids)
        message = f"of {length} ids and visual tokens .* data.length={length - 1}"
        with pytest.raises(TooLong, match=message):
            getattr(made(encode, length - 1), kind)(*arguments)

    def test_more_images_than_a_row_holds(self):
        with pytest.raises(TooLong, match="with 2 images: data.length=64 and 1 images are what"):
            made(numbers, images=1).edit(codes(5), "20", codes(6))


def test_an_image_in_an_answer_to_a_model_that_draws_none():
    ids = np.array([20, IMAGE, 21, IMAGE, 2])
    asked, answered = (np.array(marks, bool) for marks in ([0, 0, 0, 0, 1], [0, 0, 1, 1, 1]))
    images, probe = [codes(5), codes(6)], dataclasses.replace(made(numbers), draws=False)
    assert made(numbers).conversation(Encoded(ids, answered), images).drawn.tolist() == [0, 1]
    assert not probe.conversation(Encoded(ids, asked), images).drawn.any()
    with pytest.raises(SampleError, match="in an answer, and model.projection=full") as caught:
        probe.conversation(Encoded(ids, answered), images)
    assert caught.value.reason == "drawn_image"


@pytest.mark.parametrize(
    "ids, answers, images, reason",
    [
        ([20, IMAGE, 21], [0, 0, 1], 0, "image_places"),
        ([20, 21], [0, 1], 1, "image_places"),
        ([20, 21], [0, 0], 0, "no_answer"),
    ],
)
def test_conversations_that_teach_nothing(ids, answers, images, reason):
    said = Encoded(np.array(ids, np.int32), np.array(answers, bool))
    with pytest.raises(SampleError) as caught:
        made(numbers).conversation(said, [codes(5)] * images)
    assert caught.value.reason == reason


def test_the_longer_of_two_captions_is_taken_in_four_of_five_cases():
    rng = np.random.default_rng(0)
    taken = [rows_module.pick_caption(("a long one", "short"), rng) for _ in range(2000)]
    assert abs(taken.count("a long one") / 2000 - 0.8) < 0.03
    taken = [rows_module.pick_caption(("a", "bb", "ccc"), rng) for _ in range(2000)]
    assert all(abs(taken.count(each) / 2000 - 1 / 3) < 0.04 for each in ("a", "bb", "ccc"))


def test_no_images_at_all():
    sample = expand([1, 20], [False, True], [], 0)
    assert sample.codes.shape[0] == 0 and sample.drawn.shape == (0,)
