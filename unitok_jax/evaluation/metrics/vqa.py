"""Scores of answers to questions about images, by the rules of each benchmark.

Figures are percent, but for MME's, which are points. Rules are those of the scripts that published
figures come from, quirks included: another reading of the same answers is another figure.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

ANSWERS = 10
"""Answers that people gave to a question of VQAv2 and TextVQA."""

PERCEPTION = (
    *("existence", "count", "position", "color", "posters"),
    *("celebrity", "scene", "landmark", "artwork", "OCR"),
)
"""Tasks of MME whose points are summed as perception."""

COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
"""Tasks of MME whose points are summed as cognition."""

PERIODS = 32
"""Periods that the normaliser takes out at most: the value of a flag, `re.UNICODE`, which stands
where the published script meant none to be counted."""

_MARKS = ';/[]"{}()=+\\_-><@`!'
_ARTICLES = ("a", "an", "the")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS)} | {"none": "0"}
# Words with their apostrophes; a text has one apostrophe of a word fewer.
_CONTRACTED = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't
    haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't
    mightn't've must've mustn't needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've
    shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've someone'll
    someone's something'd something'd've something'll that's there'd there'd've there're there's
    they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll
    you're you've
"""


def _restored() -> dict[str, str]:
    """Returns word with one apostrophe left out -> word, and the one pair that is reversed."""
    words = {"somebody'd": "somebodyd"}
    for word in _CONTRACTED.split():
        for mark in re.finditer("'", word):
            words[word[: mark.start()] + word[mark.end() :]] = word
    return words


_RESTORED = _restored()


def normalize(answer: str) -> str:
    """Normalises an answer as the evaluation of TextVQA does, and as VQAv2's answers are sent in.

    Lower case; "," and "?" go; "'s" becomes " 's"; other marks go if one of their kind stands
    beside a space, else become a space; of the periods that no digit follows the first `PERIODS`
    (32) go and later ones stay; numbers to ten and "none" become digits, articles go, and
    contractions get their apostrophe. A comma between digits would take marks out as a space does,
    but no comma is left by then.
    """
    text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    before = text
    for mark in _MARKS:
        beside = f"{mark} " in before or f" {mark}" in before
        text = text.replace(mark, "" if beside else " ")
    text = re.sub(r"\.(?!\d)", "", text, count=PERIODS)
    words = (_DIGITS.get(word, word) for word in text.split())
    return " ".join(_RESTORED.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(answer: str, people: Sequence[str]) -> float:
    """Returns the VQA accuracy (arXiv 1505.00468) of an answer, in [0, 1].

    The mean, over the ways to leave out one of the people, of min(others that agree / 3, 1), after
    `normalize`.

    Args:
        answer: as given.
        people: what `ANSWERS` people said.

    Raises:
        ValueError: another number of people.
    """
    if len(people) != ANSWERS:
        raise ValueError(f"{len(people)} answers of people; VQA accuracy is of {ANSWERS}")
    given = normalize(answer)
    agree = [normalize(each) == given for each in people]
    return sum(min((sum(agree) - own) / 3, 1) for own in agree) / len(agree)


def mean_vqa_accuracy(answers: Sequence[str], people: Sequence[Sequence[str]]) -> float:
    """Returns the mean VQA accuracy in percent: VQAv2, TextVQA.

    Args:
        answers: n texts.
        people: n times what ten people said.

    Raises:
        ValueError: as `vqa_accuracy`, or other numbers of both.
    """
    pairs = list(zip(answers, people, strict=True))
    return 100 * sum(vqa_accuracy(*pair) for pair in pairs) / len(pairs)


def exact_match(answers: Sequence[str], right: Sequence[str]) -> float:
    """Returns the percentage of answers that are right after lower case, without a period: GQA.

    Args:
        answers, right: n texts each.
    """
    pairs = list(zip(answers, right, strict=True))
    return 100 * sum(answer.rstrip(".").lower() == each for answer, each in pairs) / len(pairs)


class YesNo(NamedTuple):
    """Figures of one part of POPE in percent; yes is positive, and 0 / 0 is 0."""

    f1: float
    accuracy: float
    precision: float
    recall: float
    yes: float  # share of answers that are yes


def says_no(answer: str) -> bool:
    """Reads an answer as POPE's script does: yes, unless a word of the first sentence is no.

    The first sentence ends at a period; commas go; words are between spaces, and 'No', 'no' or
    'not' is no.
    """
    words = answer.partition(".")[0].replace(",", "").split(" ")
    return any(word in ("No", "no", "not") for word in words)


def yes_no(answers: Sequence[str], labels: Sequence[str]) -> YesNo:
    """Returns the figures of a part of POPE (arXiv 2305.10355).

    Args:
        answers: n texts.
        labels: n of 'yes' and 'no'.
    """
    said = (not says_no(answer) for answer in answers)
    pairs = list(zip(said, (label != "no" for label in labels), strict=True))
    right = sum(said and true for said, true in pairs)
    said, true = (sum(column) for column in zip(*pairs, strict=True))
    precision, recall = _ratio(right, said), _ratio(right, true)
    figures = (
        _ratio(2 * precision * recall, precision + recall),
        _ratio(sum(said == true for said, true in pairs), len(pairs)),
        *(precision, recall, _ratio(said, len(pairs))),
    )
    return YesNo(*(100 * figure for figure in figures))


def pope(answers: Sequence[str], labels: Sequence[str], parts: Sequence[str]) -> dict[str, float]:
    """Returns POPE's figures in percent: 'f1', the mean of its parts, and 'FIGURE/PART'.

    Args:
        answers: n texts.
        labels: n of 'yes' and 'no'.
        parts: n names, such as 'random', 'popular' and 'adversarial'.
    """
    grouped = _by(parts, zip(answers, labels, strict=True))
    found = {part: yes_no(*zip(*rows, strict=True)) for part, rows in grouped.items()}
    figures = {"f1": sum(each.f1 for each in found.values()) / len(found)}
    for part, each in found.items():
        figures |= {f"{name}/{part}": value for name, value in each._asdict().items()}
    return figures


def read_yes_no(answer: str) -> str:
    """Reads an answer as MME's script does: 'yes' or 'no' in its first four letters, or 'other'."""
    start = answer.lower()[:4]
    return next((word for word in ("yes", "no") if word in start), "other")


def mme(
    answers: Sequence[str], labels: Sequence[str], tasks: Sequence[str], images: Sequence[str]
) -> dict[str, float]:
    """Returns MME's points (arXiv 2306.13394): 'perception', 'cognition', and those of each task.

    The points of a task are 100 (share of right answers + share of images with all answers right),
    at most 200. A sum is there if one of its tasks is.

    Args:
        answers: n texts.
        labels: n of 'yes' and 'no', of any case.
        tasks: n names; other names than those of `PERCEPTION` and `COGNITION` are in no sum.
        images: n names; the questions about one image of a task belong together.
    """
    points = {}
    right = [
        read_yes_no(answer) == label.lower() for answer, label in zip(answers, labels, strict=True)
    ]
    for task, rows in _by(tasks, zip(images, right, strict=True)).items():
        both = [all(each) for each in _by(*zip(*rows, strict=True)).values()]
        points[task] = 100 * (sum(each for _, each in rows) / len(rows) + sum(both) / len(both))
    sums = {}
    for name, summed in (("perception", PERCEPTION), ("cognition", COGNITION)):
        if there := [points[task] for task in summed if task in points]:
            sums[name] = sum(there)
    return sums | {f"points/{task}": value for task, value in points.items()}


def _by(names: Sequence[str], rows) -> dict[str, list]:
    """Groups rows by their names, in the order in which names come."""
    found = defaultdict(list)
    for name, row in zip(names, rows, strict=True):
        found[name].append(row)
    return dict(found)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
