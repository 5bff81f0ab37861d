"""Answers of a model to the questions of a benchmark: asked in windows, stored, scored.

A folder holds `answers.jsonl`, a line for each question in their order, from which asking continues
after a kill; at the end `figures.json` and, for VQAv2, `server.json`, which its server reads.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from unitok_jax.data.formats.question_files import Question
from unitok_jax.data.writing.folders import write_json
from unitok_jax.evaluation.metrics import vqa
from unitok_jax.system import locks
from unitok_jax.system.foreign_json import parse_object
from unitok_jax.system.passing import TryAgainError
from unitok_jax.system.paths import printable, read_regular
from unitok_jax.system.progress import Progress

FORMAT = "unitok_jax.answers"
ANSWERS, FIGURES, SERVER = "answers.jsonl", "figures.json", "server.json"
WINDOW = 16  # batches of questions at once: those of one length share batches
_ANSWERS_BYTES = 1 << 32


class Answering(Protocol):
    """Model that answers questions about images, greedily, and brings images to its size."""

    def answers(
        self,
        images: Sequence[Path],
        questions: Sequence[str],
        *,
        batch_size: int,
        on_batch: Callable[[int], None],
    ) -> Sequence[str]:
        """Answers n questions, each about the image of the same place.

        `on_batch` is called with the number of answers of each batch once it is computed.
        """


def settings_of(
    benchmark: str, questions: Sequence[Question], model: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the settings of a folder of answers, to `claim` it with.

    Args:
        benchmark: a key of `question_files.BENCHMARKS`.
        questions: to answer. What is known of their answers is left out: it may be given later.
        model: facts that its answers depend on beside the questions, as JSON values.
    """
    asked = [(each.id, each.image, each.text) for each in questions]
    digest = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    return {
        "format": FORMAT,
        "--vqa": benchmark,
        "questions": len(questions),
        "sha256 of the questions": digest,
        **model,
    }


def check_images(questions: Sequence[Question], images: Path) -> None:
    """Looks for the images of all questions.

    Raises:
        FileNotFoundError: some are missing; the message counts them and names the first.
    """
    names = dict.fromkeys(question.image for question in questions)
    missing = [name for name in names if not (images / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"--images={printable(images)}: {len(missing)} of {len(names)} images are missing, the "
            f"first is {printable(missing[0])}"
        )


def ask(
    model: Answering,
    questions: Sequence[Question],
    images: Path,
    folder: Path,
    batch_size: int,
) -> list[str]:
    """Answers the questions that have no answer in a folder yet, and stores the answers.

    Args:
        model: answers.
        questions: all, in their order.
        images: folder that the names of images are relative to.
        folder: of the answers.
        batch_size: questions that the model answers at a time. It is given `WINDOW` times as many,
            whose answers are then stored.

    Returns:
        the answers to all questions, with no white space around them.

    Raises:
        ValueError: the stored answers are damaged or of other questions, or an image is.
        OSError: a file cannot be read or written.
        TryAgainError: another process asks into the same folder.
    """
    path = folder / ANSWERS
    with open(path, "a", encoding="utf-8") as file:
        try:
            locks.lock(file)
        except BlockingIOError as error:
            raise TryAgainError(
                f"another process asks into --output={printable(folder)}; wait for it, end it, or "
                "use another folder"
            ) from error
        answers = _stored(path, questions)
        _ask(model, questions, images, answers, file, batch_size)
    return answers


def _ask(model, questions, images, answers: list[str], file, batch_size: int) -> None:
    """Adds the answers that are missing, and their lines to a file."""
    done = len(answers)
    with Progress(len(questions), "question", done, "answers") as progress:
        for start in range(done, len(questions), WINDOW * batch_size):
            window = questions[start : start + WINDOW * batch_size]
            paths = [images / question.image for question in window]
            texts = [question.text for question in window]
            try:
                given = model.answers(paths, texts, batch_size=batch_size, on_batch=progress.update)
            except ValueError as error:
                raise ValueError(
                    f"the questions from {window[0].id!r} to {window[-1].id!r}, counted from 0: "
                    f"{error}"
                ) from error
            for question, answer in zip(window, given, strict=True):
                answers.append(answer.strip())
                file.write(json.dumps(_line(question, answers[-1])) + "\n")
            file.flush()
            os.fsync(file.fileno())


def figures(
    benchmark: str, questions: Sequence[Question], answers: Sequence[str]
) -> dict[str, float]:
    """Returns the figures of a benchmark: name -> percent, or points of MME.

    They are those of `metrics.vqa`; there are none if the right answers are not known.
    """
    if benchmark not in _SCORES or not all(question.answers for question in questions):
        return {}
    return _SCORES[benchmark](questions, answers)


def write(
    folder: Path,
    settings: dict[str, Any],
    questions: Sequence[Question],
    answers: Sequence[str],
) -> dict[str, float]:
    """Writes the figures, and VQAv2's file for its server; returns the figures.

    Args:
        folder: with the answers.
        settings: of `settings_of`, which the file of figures repeats.
        questions, answers: n of both.
    """
    benchmark = settings["--vqa"]
    found = figures(benchmark, questions, answers)
    if benchmark == "vqav2":
        pairs = zip(questions, answers, strict=True)
        sent = [{"question_id": each.id, "answer": vqa.normalize(said)} for each, said in pairs]
        write_json(folder / SERVER, sent)
    write_json(folder / FIGURES, settings | {"figures": found})
    return found


def _right(questions: Sequence[Question]) -> list[str]:
    return [question.answers[0] for question in questions]


def _parts(questions: Sequence[Question]) -> list[str]:
    return [question.part for question in questions]


def _accuracy(questions, answers):
    people = [question.answers for question in questions]
    return {"accuracy": vqa.mean_vqa_accuracy(answers, people)}


_SCORES: dict[str, Callable[[Sequence[Question], Sequence[str]], dict[str, float]]] = {
    "vqav2": _accuracy,
    "textvqa": _accuracy,
    "gqa": lambda asked, said: {"accuracy": vqa.exact_match(said, _right(asked))},
    "pope": lambda asked, said: vqa.pope(said, _right(asked), _parts(asked)),
    "mme": lambda asked, said: vqa.mme(
        said, _right(asked), _parts(asked), [each.image for each in asked]
    ),
}


def _line(question: Question, answer: str) -> dict[str, Any]:
    asked = {"question_id": question.id, "image": question.image, "question": question.text}
    return asked | {"answer": answer}


def _stored(path: Path, questions: Sequence[Question]) -> list[str]:
    """Reads the stored answers, after cutting off a line that a kill left unfinished.

    Raises:
        ValueError: a line that is damaged, or the answer to another question.
    """
    content = read_regular(path, _ANSWERS_BYTES)
    end = content.rfind(b"\n") + 1
    if end < len(content):
        os.truncate(path, end)
    lines = content[:end].split(b"\n")[:-1]
    try:
        if len(lines) > len(questions):
            raise ValueError(f"{len(lines)} answers to {len(questions)} questions")
        return [
            _answer(line, question, f"line {number}")
            for number, (line, question) in enumerate(zip(lines, questions, strict=False), start=1)
        ]
    except ValueError as error:
        raise ValueError(
            f"{printable(path)}: {error}; the file is damaged: remove it, and all is asked anew"
        ) from error


def _answer(line: bytes, question: Question, name: str) -> str:
    record = parse_object(line, name)
    answer = record.get("answer")
    if not isinstance(answer, str) or record != _line(question, answer):
        raise ValueError(f"{name} is no answer to question {question.id!r:.40}")
    return answer
