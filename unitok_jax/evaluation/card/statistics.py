"""Reference statistics of FID: files of Inception's moments, and a cache of them.

A file is an .npz with `mu` and `sigma`, as ADM's guided-diffusion and the original FID code store
them; ours also hold `count` and `facts`, where they come from.
"""

import hashlib
import json
import lzma
import os
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from unitok_jax.data.records import Source
from unitok_jax.evaluation.metrics.frechet import Moments
from unitok_jax.system import foreign_json
from unitok_jax.system.foreign_files import check_file
from unitok_jax.system.outputs import replacing
from unitok_jax.system.paths import expand, printable

WIDTH = 2048  # of Inception's pool3
_SHAPES = {"mu": (WIDTH,), "sigma": (WIDTH, WIDTH)}
_MOST_BYTES = 16 * WIDTH**2  # of a member: sigma in float64 takes half of it
# What NumPy, zipfile and zlib raise of damaged members.
_DAMAGE = (
    *(ValueError, TypeError, KeyError, EOFError, OSError, RuntimeError, OverflowError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, SyntaxError, struct.error),
)
PROBES = 16
COMPARED = ("inception", "preprocessing")  # facts that two sides of a distance must have alike


def write(path: str | os.PathLike, moments: Moments, facts: dict[str, Any]) -> None:
    """Writes a reference, whole or not at all.

    Args:
      path: of the .npz.
      moments: of pool3.
      facts: JSON values; `COMPARED` among them.
    """
    with replacing(expand(path)) as partial, partial.open("xb") as file:
        np.savez(
            file,
            mu=moments.mean,
            sigma=moments.covariance,
            count=moments.count,
            facts=json.dumps(facts),
        )


def read(path: str | os.PathLike) -> tuple[Moments, dict[str, Any]]:
    """A reference, and its facts; a file of another project has none, and a count of 0.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not an .npz with the moments of Inception's pool3.
    """
    path = expand(path)
    name = printable(path)
    check_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            mean, covariance = (_moment(archive, *each) for each in _SHAPES.items())
            count = int(_member(archive, "count", (), "iu")) if _has(archive, "count") else 0
            text = str(_member(archive, "facts", (), "U")) if _has(archive, "facts") else "{}"
        if count < 0:
            raise ValueError(f"count={count} must not be negative")
        facts = foreign_json.parse_object(text, "the entry facts")
    except _DAMAGE as error:
        raise ValueError(f"{name} is not a file of reference statistics: {error}") from error
    return Moments(mean, covariance, count), facts


def _has(archive, key):
    return f"{key}.npy" in archive.namelist()


def _moment(archive, key, shape):
    if not _has(archive, key):
        raise ValueError(f"it does not hold the array {key}")
    array = _member(archive, key, shape, "f")
    if not np.isfinite(array).all():
        raise ValueError(f"{key} holds values that are not finite")
    return np.asarray(array, np.float64)


def _member(archive, key, shape, kinds):
    """An array whose header is looked at before memory is taken or more is unpacked."""
    member, formats = archive.getinfo(f"{key}.npy"), np.lib.format
    if member.file_size > _MOST_BYTES:
        raise ValueError(f"{key} takes {member.file_size:,} bytes, over {_MOST_BYTES:,}")
    with archive.open(member) as file:
        first = formats.read_magic(file) == (1, 0)
        read = formats.read_array_header_1_0 if first else formats.read_array_header_2_0
        found_shape, _, dtype = read(file)
    if found_shape != shape or dtype.kind not in kinds or dtype.itemsize > _MOST_BYTES:
        raise ValueError(
            f"{key} is {dtype} {found_shape}, not of Inception's pool3, whose is {shape}"
        )
    with archive.open(member) as file:
        return formats.read_array(file, allow_pickle=False)


def check(path: str, saved: dict[str, Any], facts: dict[str, Any]) -> None:
    """Refuses a reference that was made in another way; a file without facts is not refused.

    Raises:
      ValueError: the message names what differs.
    """
    for key in COMPARED:
        if saved and saved.get(key) != facts[key]:
            raise ValueError(
                f"--reference={path} was made with {key} {saved.get(key)!r}, here it is "
                f"{facts[key]!r}: their distance means nothing; make it anew with --save_reference"
            )


def source_facts(data, source: Source) -> dict[str, Any]:
    """Facts that tell one data set from another without reading all of it.

    Args:
      data: the `data` config; `source`, `path` and `captions` are read.
      source: what it opens.
    """
    count, probes = len(source), hashlib.sha256()
    for index in sorted({round(i * (count - 1) / (PROBES - 1)) for i in range(PROBES)}):
        record = source[index]
        probes.update(f"{record['name']}\0{zlib.crc32(record['image'])}\0".encode())
    return {
        "source": data.source,
        "path": os.path.abspath(data.path) if data.path else "",
        "captions": data.captions,
        "samples": count,
        "probes": probes.hexdigest()[:32],
    }


def cache_folder(given: str) -> Path:
    """`--cache`, or where caches of this user lie."""
    if given:
        return expand(given)
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "unitok_jax"


def cache_path(folder: Path, facts: dict[str, Any]) -> Path:
    """The path of the reference of these facts."""
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    return folder / f"reference_{name}.npz"
