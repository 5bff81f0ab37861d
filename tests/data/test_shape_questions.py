"""Questions about drawn shapes: one right answer each, and nothing that the words alone tell."""

import collections

import numpy as np
import pytest

from unitok_jax.data.formats.drawing import COLOURS, SHAPES, Scene, Shape
from unitok_jax.data.formats.shape_questions import (
    KINDS,
    WEIGHTS,
    ask,
    ask_several,
    examine,
    questions,
)
from unitok_jax.data.formats.shapes import HELD_OUT, TRAINING, HeldOutShapes, TrainingShapes
from unitok_jax.evaluation.metrics.blind import Blind


def shape(colour, form, cell, texture="plain", size="small"):
    return Shape(colour, form, texture, size, cell, 0.0, 0.0, 1.0, 0.0, 0.0)


def scene(*shapes):
    return Scene(shapes, ((0.0,) * 3, (0.0,) * 3), 0.0)


def asked(*shapes):
    return {each.question: each.answer for each in questions(scene(*shapes))}


class TestAnswers:
    def test_of_one_shape(self):
        assert asked(shape("red", "star", (0, 2), "striped", "large")) == {
            "what colour is the star?": "red",
            "what texture has the star?": "striped",
            "is the star small or large?": "large",
            "where is the star?": "in the top right corner",
            "what shape is red?": "star",
            "how many shapes are there?": "one",
        }

    def test_only_what_is_unique_is_asked_for(self):
        found = asked(shape("red", "star", (0, 0)), shape("red", "heart", (1, 1)))
        assert "what shape is red?" not in found and found["what colour is the star?"] == "red"
        found = asked(shape("red", "star", (0, 0)), shape("blue", "star", (1, 1)))
        assert "where is the star?" not in found and found["what shape is blue?"] == "star"
        found = asked(*[shape("red", "star", (0, n)) for n in range(3)])
        assert found == {"how many shapes are there?": "three"}

    def test_relations_where_one_lies_there_and_straight(self):
        star, heart = shape("red", "star", (1, 0)), shape("blue", "heart", (1, 2))
        found = asked(star, heart)
        assert found["what is to the right of the red star?"] == "a blue heart"
        assert found["what is to the left of the blue heart?"] == "a red star"
        assert not any("above" in question or "below" in question for question in found)
        two = asked(star, heart, shape("green", "ring", (1, 1)))
        assert "what is to the right of the red star?" not in two  # two lie there
        slanted = asked(star, shape("blue", "heart", (0, 2)))
        assert not any("of the red star" in question for question in slanted)

    @pytest.mark.parametrize("split", [TrainingShapes, HeldOutShapes])
    def test_each_is_asked_once_and_right(self, split):
        for index in range(200):
            found = questions(split().scene(index))
            assert len({each.question for each in found}) == len(found)


class TestAsking:
    def test_kinds_by_their_weights(self):
        rng = np.random.default_rng(0)
        picture = scene(shape("red", "star", (1, 0)), shape("blue", "heart", (1, 2)))
        counts = collections.Counter(ask(picture, rng).kind for _ in range(4000))
        for kind, weight in WEIGHTS.items():
            assert abs(counts[kind] / 4000 - weight / sum(WEIGHTS.values())) < 0.03, kind

    def test_yes_and_no_are_as_likely_for_every_pair(self):
        rng = np.random.default_rng(0)
        counts = collections.defaultdict(collections.Counter)
        for index in range(8000):
            found = ask(TrainingShapes().scene(index), rng)
            if found.kind == "pair":
                counts[found.question][found.answer] += 1
        assert len(counts) == len(TRAINING)  # none that is held out
        shares = np.array([c["yes"] / c.total() for c in counts.values()])
        spread = np.sqrt(np.mean([0.25 / c.total() for c in counts.values()]))
        assert abs(shares.mean() - 0.5) < 0.04
        assert shares.std() < 1.5 * spread  # no pair has an answer of its own

    def test_no_shares_a_word_with_what_is_there(self):
        rng = np.random.default_rng(0)
        picture = scene(shape("red", "star", (1, 0)))
        for _ in range(300):
            found = ask(picture, rng)
            if found.kind == "pair" and found.answer == "no":
                assert ("red" in found.question) != ("star" in found.question)


class TestAskingSeveral:
    def test_one_is_the_one_that_is_asked_alone(self):
        for index in range(50):
            picture = TrainingShapes().scene(index)
            rngs = [np.random.default_rng(index) for _ in range(2)]
            assert ask_several(picture, rngs[0], 1) == [ask(picture, rngs[1])]

    def test_none_tells_the_answer_of_a_later_one(self):
        rng, counts = np.random.default_rng(0), collections.Counter()
        names = {*COLOURS, *SHAPES}
        for index in range(2000):
            found = ask_several(TrainingShapes().scene(index), rng, 4)
            counts[len(found)] += 1
            said = set()
            for number, each in enumerate(found):
                answer = set(each.answer.split()) & names
                assert not answer & said and each not in found[:number]
                assert number == 0 or each.kind != "pair"
                said |= answer | (set(each.question[:-1].split()) & names)
        assert set(counts) == {1, 2, 3, 4}
        mean = sum(number * count for number, count in counts.items()) / 2000
        assert mean > 2

    def test_yes_is_as_likely_as_no(self):
        """What was said names those that are there: a later pair would rather be absent."""
        rng, counts = np.random.default_rng(0), collections.Counter()
        for index in range(6000):
            for each in ask_several(TrainingShapes().scene(index), rng, 4):
                counts[each.answer] += each.kind == "pair"
        total = counts["yes"] + counts["no"]
        assert total > 250 and abs(counts["yes"] / total - 0.5) < 0.1

    def test_every_kind_is_asked(self):
        rng, counts = np.random.default_rng(0), collections.Counter()
        for index in range(500):
            found = ask_several(TrainingShapes().scene(index), rng, 4)
            counts.update(each.kind for each in found)
        assert set(counts) == set(KINDS) and counts["form"] > counts["count"] / 2


def test_the_words_alone_are_worth_nothing_on_held_out_pairs():
    """Blind answers as the specification measured them, within three standard errors."""
    learnt = [each for n in range(6000) for each in questions(TrainingShapes().scene(n))]
    blind = Blind([each.question for each in learnt], [each.answer for each in learnt])

    def accuracy(split, first, kind):
        found = [q for n in range(first, first + 1000) for q in questions(split.scene(n))]
        right = [blind(each.question) == each.answer for each in found if each.kind == kind]
        return np.mean(right)

    seen = {"colour": 0.16, "form": 0.16, "texture": 0.26, "size": 0.51, "place": 0.13}
    for kind, share in (seen | {"count": 0.33}).items():
        assert abs(accuracy(TrainingShapes(), 10**6, kind) - share) < 0.05, kind
    for kind in ("colour", "form"):
        assert accuracy(HeldOutShapes(), 0, kind) == 0


def test_an_examination_is_the_same_every_time():
    asked, pairs = collections.Counter(), collections.Counter()
    for number in range(600):
        scene = HeldOutShapes().scene(number)
        found = examine(scene, number, HELD_OUT)
        assert found == examine(scene, number, HELD_OUT) and found[:-1] == questions(scene)
        asked.update(each.kind for each in found)
        pairs[found[-1].answer] += 1
        assert tuple(found[-1].question[:-1].split()[3:]) in HELD_OUT
    assert set(asked) == set(KINDS) - {"relation"}
    assert abs(pairs["yes"] / 600 - 0.5) < 0.07
