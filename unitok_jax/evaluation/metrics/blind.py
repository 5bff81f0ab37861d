"""Answers without seeing: what the words of a question alone are worth."""

from collections import Counter, defaultdict
from collections.abc import Sequence


class Blind:
    """Commonest answer of training to the same words; to unknown words, the commonest of all.

    Args:
        questions, answers: n texts each, of training.

    Raises:
        ValueError: there are none, or not as many answers as questions.
    """

    def __init__(self, questions: Sequence[str], answers: Sequence[str]):
        if not len(questions) or len(questions) != len(answers):
            raise ValueError(
                f"{len(questions)} questions with {len(answers)} answers teach nothing"
            )
        counts = defaultdict(Counter)
        for question, answer in zip(questions, answers, strict=True):
            counts[question][answer] += 1
        self._answers = {question: _commonest(found) for question, found in counts.items()}
        self._other = _commonest(Counter(answers))

    def __call__(self, question: str) -> str:
        """Returns the answer to a question."""
        return self._answers.get(question, self._other)


def _commonest(counts: Counter) -> str:
    """Returns the commonest answer; of equally common ones, the first in the alphabet."""
    return min(counts, key=lambda answer: (-counts[answer], answer))
