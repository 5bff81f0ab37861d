"""A folder per class, as in ImageNet: images with labels, and captions made of class names."""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from unitok_jax.data.formats.folders import (
    IMAGE_SUFFIXES,
    hint,
    image_names,
    lines,
    open_root,
    open_table,
    read_image,
)
from unitok_jax.data.formats.labels import CLASS_TEMPLATES
from unitok_jax.data.records import first_names
from unitok_jax.system.paths import printable

_log = logging.getLogger(__name__)


class LabelledFolders:
    """Image files below one folder per class, in the order of their names.

    Args:
        root: the folder of the class folders.
        names: paths relative to `root` ("/" as separator).
        labels: int32 (len(names),), positions in `class_names`.
        class_names: the names of the classes.
    """

    class_templates = CLASS_TEMPLATES

    def __init__(self, root: str, names: list[str], labels: np.ndarray, class_names: Sequence[str]):
        self.root = root
        self.class_names = tuple(class_names)
        self._names = names
        self._labels = labels

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns a sample; the captions are the templates filled with the class name."""
        name = self._names[index]
        return {
            "name": name,
            "image": read_image(self.root, name),
            "captions": sentences(self.class_names[self.label(index)]),
        }

    def label(self, index: int) -> int:
        """Returns the position of image `index`'s class in `class_names`."""
        return int(self._labels[index])


def labelled_source(path: str, captions: str = "") -> LabelledFolders:
    """Opens images in one folder per class; class i is the i-th folder in the order of the names.

    Args:
        path: the folder of the class folders; searched as `folder_source` does.
        captions: a file of `folder<TAB or space>name` lines that name the classes;
            '' uses the folder names.

    Raises:
        ValueError: no path, no class folders, images beside them, class names that are missing
            or shared by two classes.
        FileNotFoundError, NotADirectoryError: `path` or `captions` does not exist.
    """
    if not path:
        raise ValueError("data.path is empty: set --config.data.path to a folder of class folders")
    root = open_root(path, "labelled")
    names = sorted(image_names(root))
    stray = [name for name in names if "/" not in name]
    if stray:
        raise ValueError(
            f"data.path={path} holds {len(stray)} images outside of class folders: "
            f"{first_names(stray)}. Move them, or read it with data.source=folder"
        )
    if not names:
        raise ValueError(
            f"data.path={path} holds no folders with images ({', '.join(IMAGE_SUFFIXES)}): "
            f"data.source=labelled reads CLASS/IMAGE{hint(path, 'labelled')}"
        )
    folders = sorted(
        entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] != "."
    )
    position = {folder: label for label, folder in enumerate(folders)}
    labels = np.array([position[name.split("/", 1)[0]] for name in names], np.int32)
    counts = np.bincount(labels, minlength=len(folders))
    empty = [folder for folder, count in zip(folders, counts, strict=True) if not count]
    if empty:
        _log.warning(
            "data.path=%s: %d of %d class folders hold no images: %s",
            path,
            len(empty),
            len(folders),
            first_names(empty),
        )
    return LabelledFolders(str(root), names, labels, class_names(folders, captions))


def sentences(name: str) -> tuple[str, ...]:
    """Fills the templates with a class name."""
    return tuple(template.replace("{}", name) for template in CLASS_TEMPLATES)


def class_names(keys: Sequence[str], path: str) -> tuple[str, ...]:
    """Returns the class names that a file gives.

    Args:
        keys: folder names or other short names of the classes.
        path: a UTF-8 file of `key<TAB or space>name` lines; unknown keys are ignored. '': the
            keys are the names.

    Raises:
        ValueError: a malformed line, a key repeated or without a name, a name of two classes.
        FileNotFoundError: the file is missing.
    """
    if not path:
        return tuple(keys)
    file = open_table(path)
    names: dict[str, str] = {}
    for number, line in enumerate(lines(file), start=1):
        line, where = line.strip(), f"{printable(file)}, line {number}"
        if not line:
            continue
        key, *rest = line.split("\t" if "\t" in line else None, 1)
        key, name = key.strip(), "".join(rest).strip()
        if not name:
            raise ValueError(f"{where}: expected FOLDER NAME, got {line!r:.80}")
        if key in names:
            raise ValueError(f"{where}: {key} has a name already: {names[key]}")
        names[key] = name
    missing = [key for key in keys if key not in names]
    if missing:
        raise ValueError(
            f"data.captions={path} names no {first_names(missing)} "
            f"({len(missing)} of {len(keys)} classes)"
        )
    clashes = _clashes((key, names[key]) for key in keys)
    if clashes:
        raise ValueError(
            f"data.captions={path} gives two classes one name: {'; '.join(clashes[:5])}. "
            "Say more in the file, as 'crane (bird)' and 'crane (machine)'"
        )
    return tuple(names[key] for key in keys)


def _clashes(named: Iterable[tuple[str, str]]) -> list[str]:
    owners: dict[str, list[str]] = {}
    for key, name in named:
        owners.setdefault(name, []).append(key)
    return [f"{' and '.join(keys)}: {name}" for name, keys in owners.items() if len(keys) > 1]
