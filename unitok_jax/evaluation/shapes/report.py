"""Files of an examination: figures as JSON and as tables, all answers, and a sheet to look at."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unitok_jax.data.formats.shape_questions import KINDS
from unitok_jax.evaluation.metrics.shape_recogniser import recognise
from unitok_jax.evaluation.shapes import edits, scores
from unitok_jax.evaluation.shapes.edits import Edited
from unitok_jax.evaluation.shapes.measure import Examined
from unitok_jax.pictures.sheet import contact_sheet, load_font
from unitok_jax.system.markdown import table

FIGURES, TABLES, ANSWERS, SHEET = "figures.json", "figures.md", "answers.jsonl", "sheet.png"
SHOWN = 8  # questions, and drawings, of each examination on the sheet: a row

_TITLES = {"seen": "seen pairs", "held_out": "held-out pairs"}
_COLUMNS = ("right", "blind", "shuffled")


def sheet(results: Sequence[Examined], edited: Edited | None = None) -> Image.Image:
    """Draws a sheet: questions with answers, texts with drawings, and pictures before and after an
    edit; what is wrong is red."""
    cells = [cell for result in results for cell in _answered(result)]
    cells += [cell for result in results for cell in _drawn(result)]
    cells += _edited(edited) if edited else []
    pictures, captions, marked = zip(*cells, strict=True)
    return contact_sheet(np.stack(pictures), captions, marked, load_font())


def _answered(result: Examined) -> Iterator[tuple[np.ndarray, str, bool]]:
    """Yields the first pictures, each with another of its questions and the answer."""
    of_picture = [[] for _ in result.exam.scenes]
    for (picture, question), answer in zip(result.exam.asked, result.given, strict=True):
        of_picture[picture].append((question, answer))
    for number, pairs in enumerate(of_picture[:SHOWN]):
        question, answer = pairs[number % len(pairs)]
        caption = f"{question.question} {answer or '(nothing)'}"
        yield result.exam.pictures[number], caption, not scores.is_right(answer, question)


def _drawn(result: Examined) -> Iterator[tuple[np.ndarray, str, bool]]:
    """Yields the first drawings; of several shapes the largest is looked at, as for a place."""
    for number, picture in enumerate(result.drawn[:SHOWN]):
        wanted = result.exam.wanted[number]
        looks = [(each.colour, each.shape) for each in recognise(picture)[:1]]
        right = looks == [wanted[:2]] and all(scores.is_drawn(picture, wanted).values())
        yield picture, result.exam.texts[number], not right


def _edited(result: Edited) -> Iterator[tuple[np.ndarray, str, bool]]:
    """Yields the first pictures, each with its instruction and followed by what was made of it."""
    for number, edit in enumerate(result.edits[: SHOWN // 2]):
        yield result.before[number], edit.words, False
        picture = result.drawn[number]
        yield picture, "edited", not all(edits.is_edited(picture, edit).values())


def tables(
    figures: Mapping[str, Mapping[str, Any]], edited: Mapping[str, Any] | None = None
) -> str:
    """Formats figures as Markdown: answers by kind, and what is read from pictures.

    Args:
      figures: by the pairs of an examination, as of `measure`.
      edited: as of `measure_edits`.
    """
    head, rows = ["kind"], []
    for pairs in figures:
        head += [f"{_TITLES[pairs]}: asked", *_COLUMNS, "probe"]
    for kind in KINDS:
        cells = [_answer_cells(each, kind) for each in figures.values()]
        if any(cell != _NONE for row in cells for cell in row):
            rows.append([kind, *(cell for row in cells for cell in row)])
    texts = [table(head, rows)]
    for pairs, each in figures.items():
        read = {name: each[name] for name in ("originals", "rebuilt") if name in each}
        for key, name in (("drawn", "drawn"), ("released", "drawn, released way")):
            found = each.get(key, {})
            read |= {f"{name}, scale {scale}": shares for scale, shares in found.items()}
        names = (*scores.READ, scores.ZERO_SHOT)
        texts.append(_read_table(f"pictures, {_TITLES[pairs]}", names, read))
    if edited:
        read = {name: edited[name] for name in ("unedited", "rebuilt")}
        read |= {f"edited, scale {scale}": shares for scale, shares in edited["edited"].items()}
        texts.append(_read_table("edits", edits.READ, read))
    return "\n\n".join(texts) + "\n"


def _read_table(title: str, names: Sequence[str], read: Mapping[str, Mapping[str, float]]) -> str:
    rows = [[row, *(_share(shares.get(name)) for name in names)] for row, shares in read.items()]
    return table([title, *(name.replace("_", "-") for name in names)], rows)


_NONE = "–"


def _answer_cells(figures, kind) -> list[str]:
    found = figures["answers"].get(kind, {})
    probe = figures.get("probe", {}).get(kind)
    asked = str(found["asked"]) if found else _NONE
    return [asked, *(_share(found.get(name)) for name in _COLUMNS), _share(probe)]


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{value:.2f}"


def write(
    folder: Path, results: Sequence[Examined], edited: Edited, facts: Mapping[str, Any]
) -> str:
    """Writes the files of an examination, and returns its tables.

    Args:
      folder: is there, and empty.
      results: of `measure`.
      edited: of `measure_edits`.
      facts: that the figures depend on, such as hashes; JSON values.
    """
    figures = {result.exam.pairs: result.figures for result in results}
    content = dict(facts) | figures | {"edits": edited.figures}
    (folder / FIGURES).write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    text = tables(figures, edited.figures)
    (folder / TABLES).write_text(text)
    with open(folder / ANSWERS, "w", encoding="utf-8") as file:
        for result in results:
            for (picture, question), answer in zip(result.exam.asked, result.given, strict=True):
                line = {"pairs": result.exam.pairs, "picture": picture, **question._asdict()}
                line |= {"given": answer, "is_right": scores.is_right(answer, question)}
                file.write(json.dumps(line) + "\n")
    sheet(results, edited).save(folder / SHEET)
    return text
