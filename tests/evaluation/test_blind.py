"""Answers without seeing."""

import pytest

from unitok_jax.evaluation.metrics.blind import Blind


def test_the_commonest_answer_to_the_same_words():
    blind = Blind(["a?", "a?", "a?", "b?", "b?"], ["x", "y", "y", "z", "w"])
    assert blind("a?") == "y"
    assert blind("b?") == "w"  # equally common: the first in the alphabet
    assert blind("c?") == "y"  # unknown words: the commonest of all


@pytest.mark.parametrize("questions, answers", [([], []), (["a?"], [])])
def test_nothing_to_learn_from(questions, answers):
    with pytest.raises(ValueError, match=f"{len(questions)} questions"):
        Blind(questions, answers)
