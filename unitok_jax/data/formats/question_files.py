"""Questions about images in the files of benchmarks: VQAv2, GQA, TextVQA, POPE, MME, and LLaVA's.

LLaVA's question files (an object a line: question_id, image, text) are asked word for word; answers
are then looked up in the benchmark's own files. A bad file is an error that names file and record.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from unitok_jax.data.formats.folders import IMAGE_SUFFIXES
from unitok_jax.data.formats.json_records import LIST_BYTES
from unitok_jax.system.foreign_files import check_file
from unitok_jax.system.foreign_json import parse_object
from unitok_jax.system.passing import with_text
from unitok_jax.system.paths import printable, read_regular

INSTRUCTION = "Answer the question using a single word or phrase."
"""Line below questions, as LLaVA's files have it."""

_TOKENS = "Reference OCR token:"  # begins a line of LLaVA's TextVQA questions
_YES_OR_NO = "Please answer yes or no."  # ends MME's questions; LLaVA's leave it out


class Question(NamedTuple):
    """Question about an image, and what is known of its answer."""

    id: int | str  # of the file; two questions of MME about an image share one in LLaVA's
    image: str  # path below the folder of images
    text: str
    answers: tuple[str, ...] = ()  # ten of VQAv2 and TextVQA, one of others; (): not known
    part: str = ""  # part of POPE, task of MME


def read_questions(
    benchmark: str, questions: str | Path, annotations: str | Path = "", instruction: str = ""
) -> list[Question]:
    """Reads the questions of a benchmark.

    Args:
        benchmark: a key of `BENCHMARKS`.
        questions: the benchmark's own file or folder, or LLaVA's question file (.jsonl).
        annotations: VQAv2's annotations; beside LLaVA's questions, the benchmark's own file or
            folder with the answers. '': answers are not known, where `questions` has none.
        instruction: line that follows each question of the benchmark's own files; '': none.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a file of another layout, or questions and annotations that do not fit.
        OSError: it cannot be read.
    """
    layout = BENCHMARKS[benchmark]
    path = Path(questions)
    is_llava = path.suffix.lower() == ".jsonl" and not (benchmark == "pope" and _is_pope(path))
    if layout is None and not is_llava:
        raise ValueError(f"--questions={printable(path)}: give a .jsonl file of LLaVA's layout")
    asked = _named("questions", _llava if is_llava else layout.questions, path)
    if not is_llava:
        below = f"\n{instruction}" if instruction else ""
        asked = [each._replace(text=each.text + below) for each in asked]
    if not annotations:
        return asked
    if layout is None or (not is_llava and layout.answers is layout.questions):
        raise ValueError(
            f"--annotations={printable(annotations)} means nothing with --vqa={benchmark} and "
            f"--questions={printable(path)}; leave it out"
        )
    known = {layout.key(each): each for each in _named("annotations", layout.answers, annotations)}
    return [_annotated(each, known, layout.key, path, annotations) for each in asked]


def _annotated(question, known: Mapping, key: Callable, path, annotations) -> Question:
    try:
        found = known[key(question)]
    except KeyError as error:
        raise ValueError(
            f"--annotations={printable(annotations)} has no answer to question {question.id!r} of "
            f"{printable(path)}: {question.text!r:.100}"
        ) from error
    return question._replace(answers=found.answers, part=found.part)


def _named(flag: str, read: Callable, path: str | Path) -> list[Question]:
    """Reads a file; errors name its flag."""
    try:
        found = list(read(Path(path)))
    except (ValueError, OSError) as error:
        raise with_text(error, f"--{flag}={printable(path)}: {error}") from error
    if not found:
        raise ValueError(f"--{flag}={printable(path)} holds no questions")
    return found


def _llava(path: Path) -> Iterable[Question]:
    """Reads lines {'question_id', 'image', 'text'}, perhaps with 'category'."""
    for name, record in _lines(path):
        part = _text(record, "category", name) if "category" in record else ""
        image, text = (_text(record, key, name) for key in ("image", "text"))
        yield Question(_id(record, "question_id", name), image, text, part=part)


def _vqav2_questions(path: Path) -> Iterable[Question]:
    """Reads {'data_subtype', 'questions': [{'question_id', 'image_id', 'question'}]}."""
    content = _document(path)
    images = _text(content, "data_subtype", path.name).replace("-dev", "")
    for name, record in _items(content, "questions", path):
        image = f"COCO_{images}_{_number(record, 'image_id', name):012d}.jpg"
        yield Question(_id(record, "question_id", name), image, _text(record, "question", name))


def _vqav2_answers(path: Path) -> Iterable[Question]:
    """Reads {'annotations': [{'question_id', 'answers': [{'answer'}, ...]}]}."""
    known = set()
    for name, record in _items(_document(path), "annotations", path):
        id = _id(record, "question_id", name)
        if str(id) in known:
            raise ValueError(f"{name}: question_id {id!r:.40} comes twice; keep one")
        known.add(str(id))
        people = [
            each.get("answer") if isinstance(each, dict) else None
            for each in _list(record, "answers", name)
        ]
        yield Question(id, "", "", _ten(people, name))


def _gqa(path: Path) -> Iterable[Question]:
    """Reads {id: {'imageId', 'question', 'answer'}}."""
    for id, record in _document(path).items():
        name = f"{path.name}, question {id!r:.40}"
        if not isinstance(record, dict):
            raise ValueError(f"{name}: expected a JSON object, found {type(record).__name__}")
        answer = (_text(record, "answer", name),) if "answer" in record else ()
        image = f"{_text(record, 'imageId', name)}.jpg"
        yield Question(id, image, _text(record, "question", name), answer)


def _textvqa(path: Path) -> Iterable[Question]:
    """Reads {'data': [{'image_id', 'question', 'answers': [TEXT, ...]}]}."""
    for name, record in _items(_document(path), "data", path):
        id = _text(record, "image_id", name)
        people = _ten(_list(record, "answers", name), name) if "answers" in record else ()
        yield Question(id, f"{id}.jpg", _text(record, "question", name), people)


def _pope(path: Path) -> Iterable[Question]:
    """Reads the files *_PART.json of a folder, or one: a line {'question_id', 'image', 'text',
    'label'} each.
    """
    if not path.exists():
        raise FileNotFoundError("does not exist")
    files = sorted(each for each in path.iterdir() if _is_pope(each)) if path.is_dir() else [path]
    if not files:
        raise ValueError(f"no file is called *_{', *_'.join(POPE)} with .json or .jsonl")
    for file in files:
        if not _is_pope(file):
            raise ValueError(f"name it *_PART.json, with a part of {', '.join(POPE)}")
        for name, record in _lines(file):
            image, text, label = (_text(record, key, name) for key in ("image", "text", "label"))
            part = file.stem.rpartition("_")[2]
            yield Question(
                _id(record, "question_id", name), image, text, (_yes_no(label, name),), part
            )


POPE = ("random", "popular", "adversarial")
"""Parts of POPE, by which its files end."""


def _is_pope(path: Path) -> bool:
    return path.stem.rpartition("_")[2] in POPE and path.suffix.lower() in (".json", ".jsonl")


def _mme(path: Path) -> Iterable[Question]:
    """Reads TASK/NAME.txt or TASK/questions_answers_YN/NAME.txt, a question, a tab and Yes or No on
    each line; images are TASK/NAME or TASK/images/NAME.
    """
    if not path.is_dir():
        raise ValueError("is no folder of MME, with a folder for each task")
    for task in sorted(each for each in path.iterdir() if each.is_dir()):
        texts, images = task / "questions_answers_YN", task / "images"
        texts, images = (each if each.is_dir() else task for each in (texts, images))
        names = {each.stem: each for each in sorted(images.iterdir()) if _is_image(each)}
        for file in sorted(texts.glob("[!.]*.txt")):  # macOS leaves ._NAME.txt
            if file.stem not in names:
                raise ValueError(f"{printable(file)}: no image of this name is in {images}")
            image = str(names[file.stem].relative_to(path))
            for number, line in enumerate(_lines_of(file), start=1):
                name = f"{printable(file)}, line {number}"
                text, _, label = line.rpartition("\t")
                if not text.strip():
                    raise ValueError(f"{name}: expected a question, a tab, and Yes or No")
                answer = (_yes_no(label.strip(), name),)
                yield Question(f"{task.name}/{file.stem}", image, text.strip(), answer, task.name)


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def bare(text: str) -> str:
    """Returns the words of a question without instruction and OCR tokens, in lower case."""
    lines = (line for line in text.split("\n") if not line.startswith(_TOKENS))
    text = " ".join(lines).replace(INSTRUCTION, "").replace(_YES_OR_NO, "")
    return " ".join(text.lower().split())


class _Layout(NamedTuple):
    """Files of a benchmark, and how LLaVA's questions find their answers there."""

    questions: Callable[[Path], Iterable[Question]]
    answers: Callable[[Path], Iterable[Question]]
    key: Callable[[Question], Any]


BENCHMARKS = {
    "vqav2": _Layout(_vqav2_questions, _vqav2_answers, lambda each: str(each.id)),
    "gqa": _Layout(_gqa, _gqa, lambda each: str(each.id)),
    "textvqa": _Layout(_textvqa, _textvqa, lambda each: (str(each.id), bare(each.text))),
    "pope": _Layout(_pope, _pope, lambda each: (each.part, each.image, bare(each.text))),
    "mme": _Layout(
        *(_mme, _mme),
        lambda each: (each.part or _task(each), Path(each.image).stem, bare(each.text)),
    ),
    "llava": None,
}
"""Benchmark -> its files; 'llava' is any file of LLaVA's layout, without answers."""


def _task(question: Question) -> str:
    return str(question.id).partition("/")[0]


def _document(path: Path) -> dict[str, Any]:
    check_file(path)
    return parse_object(read_regular(path, LIST_BYTES), printable(path))


def _lines_of(path: Path) -> Iterable[str]:
    check_file(path)
    try:
        text = read_regular(path, LIST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{printable(path)}: not UTF-8: {error}") from error
    return (line for line in text.split("\n") if line.strip())


def _lines(path: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yields the objects of a file of JSON lines, each with its name for messages."""
    for number, line in enumerate(_lines_of(path), start=1):
        name = f"{printable(path.name)}, line {number}"
        yield name, parse_object(line, name)


def _items(content: dict, key: str, path: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yields the objects of a list in a document, each with its name for messages."""
    for number, record in enumerate(_list(content, key, path.name), start=1):
        name = f"{printable(path.name)}, {key} {number}"
        if not isinstance(record, dict):
            raise ValueError(f"{name}: expected a JSON object, found {type(record).__name__}")
        yield name, record


def _list(record: dict, key: str, name: str) -> list:
    if not isinstance(record.get(key), list):
        raise ValueError(f"{name} has no list {key!r}")
    return record[key]


def _text(record: dict, key: str, name: str) -> str:
    if not isinstance(record.get(key), str) or not record[key].strip():
        raise ValueError(f"{name} has no text {key!r}")
    return record[key]


def _number(record: dict, key: str, name: str) -> int:
    if type(record.get(key)) is not int or record[key] < 0:
        raise ValueError(f"{name} has no number {key!r}")
    return record[key]


def _id(record: dict, key: str, name: str) -> int | str:
    if type(record.get(key)) not in (int, str):
        raise ValueError(f"{name} has no number or text {key!r}")
    return record[key]


def _ten(people: list, name: str) -> tuple[str, ...]:
    if len(people) != 10 or not all(isinstance(each, str) for each in people):
        raise ValueError(f"{name}: 'answers' are not those of ten people")
    return tuple(people)


def _yes_no(label: str, name: str) -> str:
    if label.lower() not in ("yes", "no"):
        raise ValueError(f"{name}: the answer is {label!r:.40}, not yes or no")
    return label.lower()
