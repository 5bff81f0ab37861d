"""Sets of class names and sentence templates for zero-shot classification."""

import importlib.util
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from unitok_jax.data.formats.folders import lines
from unitok_jax.system.foreign_files import check_lines

IMAGENET = "imagenet"
CLASS_TEMPLATES = (
    "a photo of a {}",
    "a close photo of a {}",
    "a blurry photo of a {}",
    "a picture with a {} in it",
    "a small {} seen from afar",
    "a drawing of a {}",
)
# Names for the two "missile" and the two "sunglasses" classes of the package's list.
_WORDNET = {744: "projectile", 836: "sunglass"}


class LabelSet(NamedTuple):
    """Class names, and sentence templates with one {} for the name."""

    names: tuple[str, ...]
    templates: tuple[str, ...]


def label_set(labels: str, templates: str = "") -> LabelSet:
    """Builds the label set that a command's arguments name.

    Args:
        labels: comma-separated names; the path of a text file with one name per line; or
            `imagenet`, the 1000 names that the package open_clip_torch carries, in the order of
            the WordNet ids; of two classes with the same name, one has its WordNet name.
        templates: the path of a text file with one template per line, one template such as
            'a photo of a {}', or `imagenet`, the 80 of CLIP; empty: the label set's own, CLIP's
            for `imagenet` and six short ones otherwise.

    Raises:
        ValueError: fewer than two names, an empty name, a repeated name; a template without
            exactly one {}; a file of records, such as .json.
        ImportError: `imagenet` without the package.
        FileNotFoundError: the text file is missing.
    """
    if labels == IMAGENET:
        names, default = _imagenet()
    else:
        names, default = _listed(labels, "--labels", ","), CLASS_TEMPLATES
    wrong = _wrong(names)
    if wrong:
        raise ValueError(
            f"--labels={labels!r}: {wrong}; give different names as --labels='cat,dog', a text "
            f"file with one name a line, or {IMAGENET}"
        )
    if templates:
        default = _imagenet()[1] if templates == IMAGENET else _listed(templates, "--templates")
    bad = [template for template in default if template.count("{}") != 1]
    if bad or not default:
        raise ValueError(
            f"--templates={templates!r}: {bad[0] if bad else 'nothing'!r} must hold one {{}}, "
            "where the name of the class goes"
        )
    return LabelSet(tuple(names), tuple(default))


def _wrong(names: Sequence[str]) -> str:
    if not all(names):
        return "a name is empty"
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        return f"{twice[0]!r} comes twice"
    return "" if len(names) > 1 else "one name only" if names else "no names"


def _listed(text: str, flag: str, separator: str | None = None) -> Sequence[str]:
    path = Path(os.path.expanduser(text))  # keeps `~user` of an unknown user
    if text and os.path.exists(path) and not path.is_dir():
        check_lines(path, f"{flag}={text}", "one a line, as .txt")
        return [line.strip() for line in lines(path) if line.strip()]
    if path.suffix == ".txt":
        raise FileNotFoundError(f"{flag}={text}: there is no such file")
    parts = text.split(separator) if separator else [text]
    return [part.strip() for part in parts] if text.strip() else []


def _imagenet() -> LabelSet:
    package = importlib.util.find_spec("open_clip")
    if package is None:
        raise ImportError(
            f"--labels={IMAGENET}: the names and templates come with the package open_clip_torch: "
            "pip install --no-deps open_clip_torch (PyTorch is not needed for them)"
        )
    # Loads this file only: importing the package would import PyTorch.
    path = Path(package.submodule_search_locations[0]) / "zero_shot_metadata.py"
    spec = importlib.util.spec_from_file_location("open_clip_zero_shot_metadata", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    templates = [template("{}") for template in module.OPENAI_IMAGENET_TEMPLATES]
    names = list(module.IMAGENET_CLASSNAMES)
    for index, name in _WORDNET.items():
        if names.count(names[index]) > 1:
            names[index] = name
    return LabelSet(tuple(names), tuple(templates))
