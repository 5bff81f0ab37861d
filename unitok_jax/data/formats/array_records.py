"""ArrayRecord files: reading by position, and the shards written by `unitok data pack`."""

import functools
import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np

from unitok_jax.data.formats.cache import Cache
from unitok_jax.data.formats.recognise import other_format
from unitok_jax.data.formats.shard_names import check_file, is_hidden
from unitok_jax.data.health import SampleError
from unitok_jax.data.writing.folders import MANIFEST, SETTINGS
from unitok_jax.data.writing.manifests import Whole, read_manifest
from unitok_jax.system.passing import as_os_error
from unitok_jax.system.paths import expand

FORMAT = "unitok_jax.array_record"
VERSION = 1
COMMAND = "unitok data pack"
CLASS_KEYS = ("class_names", "class_templates")  # manifest keys for labelled sources
SUFFIX = ".array_record"
SHAPES = "shapes.int32"  # beside the manifest: (height, width) of every image, little-endian
NAME_ERRORS = "surrogateescape"  # file names need not be UTF-8
_TAIL = 65_536  # bytes at the end of a file, where its index is
OPEN_FILES = 256  # open at once per process; each costs a file descriptor and 8 bytes per record


class Slice(NamedTuple):
    """Records `first` to `first + count - 1` of the `total` of a folder."""

    folder: Path
    first: int
    count: int
    total: int


class Part(NamedTuple):
    """Records `skip` to `skip + take - 1` of a file of `total` records."""

    path: str
    total: int
    skip: int
    take: int


class RecordFiles:
    """Bytes of records by position, across ArrayRecord files opened on first use.

    Args:
        parts: the files and ranges, in the order of the records.
        remedy: advice in the error for a file that does not match its part.
    """

    def __init__(self, parts: Sequence[Part], remedy: str):
        self.parts = list(parts)
        self._ends = np.cumsum([part.take for part in self.parts], dtype=np.int64)
        self._remedy = remedy
        self._readers = Cache(OPEN_FILES)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> bytes:
        """Returns a record. Raises `SampleError` for a damaged record, `OSError` for a file that
        cannot be opened, `ValueError` for a file with a different number of records."""
        part, position = self._find(index)
        reader = self._readers.get(part.path, lambda: self._open(part))
        try:
            return reader.read([position])[0]
        except RuntimeError as error:
            damaged = SampleError(f"{self.name(index)}: {error}", "unreadable")
            raise as_os_error(error, part.path) or damaged from error

    def name(self, index: int) -> str:
        """Returns the name of record `index` in error messages."""
        part, position = self._find(index)
        return f"{part.path}, record {position}"

    def _find(self, index: int) -> tuple[Part, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"record {index}: there are 0 to {len(self) - 1}")
        number = int(np.searchsorted(self._ends, index, side="right"))
        part = self.parts[number]
        return part, part.skip + part.take - int(self._ends[number]) + index

    def _open(self, part: Part):
        from array_record.python.array_record_module import ArrayRecordReader

        check_file(part.path)
        read = functools.partial(
            *(ArrayRecordReader, part.path),
            options="readahead_buffer_size:0",
            file_reader_buffer_size=32_768,
        )
        with open(part.path, "rb") as file:  # an unreadable file raises OSError here, but not below
            reader = read()
            if not reader.ok():  # nor does a disk that was away, for a moment or still
                file.seek(-min(_TAIL, os.path.getsize(part.path)), os.SEEK_END)
                file.read()
                reader = read()
        if not reader.ok():
            raise SampleError(
                f"{part.path}: not an ArrayRecord file, or damaged at its end; {self._remedy}",
                "unreadable",
            )
        if reader.num_records() != part.total:
            raise ValueError(
                f"{part.path} holds {reader.num_records()} records, not {part.total}: "
                f"{self._remedy}"
            )
        return reader


class PackedSource:
    """Records of files written by `unitok data pack`.

    Args:
        files: msgpack maps {'name': str, 'image': bytes, 'captions': [str], 'label': int or none}.
        require_captions: whether a record without a caption is a `SampleError`.
        slices: where the records come from, in their order.
    """

    def __init__(self, files: RecordFiles, require_captions: bool, slices: Sequence[Slice] = ()):
        self._files = files
        self._require_captions = require_captions
        self._slices = list(slices)

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        packed = self._files[index]
        try:
            record = msgpack.unpackb(packed, unicode_errors=NAME_ERRORS)
            name, image, captions = record["name"], record["image"], tuple(record["captions"])
            texts = all(type(text) is str for text in (name, *captions))
            if not texts or type(image) is not bytes:
                raise TypeError("a value of another type")
        except (ValueError, TypeError, KeyError, msgpack.UnpackException) as error:
            raise ValueError(
                f"{self._files.name(index)} was not written by {COMMAND}; "
                "files that tensorflow-datasets wrote are read with data.source=tfds"
            ) from error
        if self._require_captions and not captions:
            raise SampleError(f"{name} ({self._files.name(index)}) has no caption", "no_caption")
        return {"name": name, "image": image, "captions": captions}

    def shapes(self) -> np.ndarray:
        """Reads the (height, width) of every image, upright, without reading one: int32 (n, 2).

        Zeros stand for an image whose header was damaged.

        Raises:
            ValueError: a folder was packed when shapes were not stored, or they are not its own.
        """
        found = []
        for folder, first, count, total in self._slices:
            file = folder / SHAPES
            if not file.exists():
                raise ValueError(
                    f"data.path: {folder} has no {SHAPES}, as it was packed by an earlier version: "
                    f"give its {COMMAND} command again, which keeps the records as they are"
                )
            if check_file(file, "data.path").st_size != 8 * total:
                raise ValueError(
                    f"data.path: {file} is not of the {total} records of {MANIFEST}; copy it "
                    f"again, or give the {COMMAND} command again"
                )
            found.append(np.fromfile(file, "<i4", 2 * count, offset=8 * first))
        return np.concatenate(found).reshape(-1, 2)


class LabelledPackedSource(PackedSource):
    """A `PackedSource` packed from a labelled source."""

    def __init__(
        self,
        files: RecordFiles,
        require_captions: bool,
        slices: Sequence[Slice],
        labels: np.ndarray,  # int32 (len(files),)
        class_names: Sequence[str],
        class_templates: Sequence[str],
    ):
        super().__init__(files, require_captions, slices)
        self._labels = labels
        self.class_names = tuple(class_names)
        self.class_templates = tuple(class_templates)

    def label(self, index: int) -> int:
        """Returns the position of record `index`'s class in `class_names`."""
        return int(self._labels[index])


def packed_source(path: str, *, require_captions: bool = True) -> PackedSource:
    """Opens the shards that `unitok data pack` wrote.

    Args:
        path: the folder of the shards, or a pattern (`*`, `?`, `[...]`, `**`) of such folders or of
            their .array_record files; matching .json files are ignored.
        require_captions: if True, a record without a caption is a `SampleError`.

    Returns:
        a `LabelledPackedSource` if all shards come from labelled sources of the same classes.

    Raises:
        ValueError: no path, no manifest, a file that is missing from its manifest or differs from
            its stated size, labelled and unlabelled files mixed.
        FileNotFoundError: no match, or a shard is missing.
    """
    if not path:
        raise ValueError(
            "data.path is empty: set --config.data.path to a folder that unitok data pack wrote"
        )
    shards, slices, classes = [], [], None
    for folder, wanted in _folders(path).items():
        manifest = _manifest(folder)
        here = [manifest.get(key) for key in CLASS_KEYS]
        if classes is not None and here != classes:
            raise ValueError(f"data.path={path}: the classes of {folder} are not those before it")
        classes = here
        shards += _shards(folder, manifest, wanted)
        slices += _slices(folder, manifest, wanted)
    parts = [
        Part(file, shard["count"], 0, shard["count"]) for file, shard in shards if shard["count"]
    ]
    if not parts:
        raise ValueError(f"data.path={path} holds no records")
    files = RecordFiles(parts, "it changed after it was packed; pack or copy it again")
    if classes[0] is None:
        return PackedSource(files, require_captions, slices)
    labels = np.concatenate([np.array(shard["labels"], np.int32) for _, shard in shards])
    return LabelledPackedSource(files, require_captions, slices, labels, *classes)


def _folders(path: str) -> dict[Path, set[str] | None]:
    """Finds the folders, each with the file names requested from it; None means all files."""
    expanded = expand(path)
    found = [expanded] if expanded.exists() else [Path(p) for p in _glob(str(expanded))]
    if not found:
        raise FileNotFoundError(f"data.path={path}: there is no such folder and no such file")
    folders: dict[Path, set[str] | None] = {}
    for entry in found:
        if entry.is_dir():
            folders[entry] = None
        elif folders.setdefault(entry.parent, set()) is not None:
            folders[entry.parent].add(entry.name)
    return folders


def _glob(pattern: str) -> list[str]:
    found = sorted(glob.glob(pattern, recursive=True))
    beside = (".json", SHAPES)  # what `COMMAND` writes beside its shards
    return [p for p in found if not (p.endswith(beside) or is_hidden(os.path.basename(p)))]


def _manifest(folder: Path) -> dict[str, Any]:
    file = folder / MANIFEST
    if not file.is_file():
        if (folder / SETTINGS).is_file():
            raise ValueError(
                f"data.path: the packing of {folder} has not ended; give the same command again"
            )
        other = other_format(folder, "array_record")
        raise ValueError(
            f"data.path: {folder} has no {MANIFEST}. data.source=array_record reads what "
            f"{COMMAND} wrote; what tensorflow-datasets wrote is read with data.source=tfds"
            + (f". {other}" if other else "")
        )
    manifest = read_manifest(file, FORMAT, VERSION, COMMAND)
    classes = [manifest.get(key) for key in CLASS_KEYS]
    if classes != [None, None]:
        whole = Whole(file, COMMAND)
        names, _ = (whole.texts(manifest, key) for key in CLASS_KEYS)
        for shard in manifest["shards"]:
            labels = whole.get(shard, "labels", list)
            fits = len(labels) == shard["count"] and all(type(label) is int for label in labels)
            fits = fits and all(0 <= label < len(names) for label in labels)
            whole.check(fits, f"the labels of {shard['file']!r} are not of its records")
    return manifest


def _shards(
    folder: Path, manifest: dict[str, Any], wanted: set[str] | None
) -> list[tuple[str, dict[str, Any]]]:
    """Returns path and manifest entry of every requested shard."""
    named = {shard["file"]: shard for shard in manifest["shards"]}
    strangers = sorted((wanted or set()) - set(named))
    if strangers:
        raise ValueError(f"data.path: {folder / MANIFEST} does not name {strangers[0]}")
    with os.scandir(folder) as entries:
        sizes = {
            e.name: check_file(e.path, "data.path").st_size for e in entries if e.name in named
        }
    shards = []
    for name, shard in named.items():
        if wanted is not None and name not in wanted:
            continue
        if name not in sizes:
            raise FileNotFoundError(f"data.path: {folder / name}, which {MANIFEST} names, is gone")
        if sizes[name] != shard["bytes"]:
            raise ValueError(
                f"data.path: {folder / name} has {sizes[name]} bytes, not the {shard['bytes']} "
                f"of {MANIFEST}; copy or pack it again"
            )
        shards.append((str(folder / name), shard))
    return shards


def _slices(folder: Path, manifest: dict[str, Any], wanted: set[str] | None) -> list[Slice]:
    """Returns the requested shards as slices of the folder's records, in the order of `_shards`."""
    counts = [shard["count"] for shard in manifest["shards"]]
    total = sum(counts)
    if wanted is None:
        return [Slice(folder, 0, total, total)]
    firsts = np.cumsum([0, *counts]).tolist()
    return [
        Slice(folder, first, shard["count"], total)
        for shard, first in zip(manifest["shards"], firsts, strict=False)
        if shard["file"] in wanted
    ]
