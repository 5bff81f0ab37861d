"""Reference statistics of FID: files of Inception's moments, and a cache of them.

A file is an .npz with `mu` and `sigma`, as ADM's guided-diffusion and the original FID code store
them; ours also hold `count` and `facts`, where they come from. For drawn images there may be more:
`mu_s` and `sigma_s` of the spatial features, and for precision and recall ADM's `arr_0`, images, or
our `pool3`, features.
"""

import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unitok_jax.data.health import SampleError
from unitok_jax.data.records import Source
from unitok_jax.evaluation import npz
from unitok_jax.evaluation.metrics.frechet import Moments
from unitok_jax.evaluation.samples import image_shape
from unitok_jax.models.pretrained.inception import SPATIAL
from unitok_jax.system import foreign_json
from unitok_jax.system.foreign_files import check_file
from unitok_jax.system.outputs import replacing
from unitok_jax.system.paths import expand, is_remote, printable

WIDTH = 2048  # of Inception's pool3
ROWS = 10_000  # images at most whose features are kept, as many as ADM's reference has
_SHAPES = {"mu": (WIDTH,), "sigma": (WIDTH, WIDTH)}
_SPATIAL_SHAPES = {"mu_s": (SPATIAL,), "sigma_s": (SPATIAL, SPATIAL)}
_MOST_BYTES = 16 * WIDTH**2  # of a member: sigma in float64 takes half of it
PROBES = 16
COMPARED = ("inception", "preprocessing")  # facts that two sides of a distance must have alike
RESIZE = "bicubic with antialiasing (Pillow), aspect kept, then centre crop"


class Reference(NamedTuple):
    """Statistics that drawn images are compared with."""

    pool3: Moments
    facts: dict[str, Any]  # where they come from; of another project: empty
    spatial: Moments | None = None
    rows: np.ndarray | None = None  # (M, 2048) float32, pool3 of M of the images
    images: tuple[int, int, int] | None = None  # number, height and width of the images `arr_0`


def compared(size: Sequence[int], inception: str) -> dict[str, Any]:
    """Returns the facts `COMPARED` of images of a (height, width) and of Inception's digest."""
    return {"preprocessing": {"size": list(size), "resize": RESIZE}, "inception": inception}


def write(
    path: str | os.PathLike,
    moments: Moments,
    facts: dict[str, Any],
    *,
    spatial: Moments | None = None,
    rows: np.ndarray | None = None,
) -> None:
    """Writes a reference, whole or not at all.

    Args:
      path: of the .npz.
      moments: of pool3.
      facts: JSON values; `COMPARED` among them.
      spatial: moments of the spatial features; None: not kept.
      rows: (M, 2048) pool3 of at most `ROWS` of the images; None: not kept.
    """
    more = {} if spatial is None else {"mu_s": spatial.mean, "sigma_s": spatial.covariance}
    if rows is not None:
        more["pool3"] = np.asarray(rows, np.float32)
    with replacing(expand(path)) as partial, partial.open("xb") as file:
        np.savez(
            file,
            mu=moments.mean,
            sigma=moments.covariance,
            count=moments.count,
            facts=json.dumps(facts),
            **more,
        )


def read(path: str | os.PathLike) -> tuple[Moments, dict[str, Any]]:
    """A reference's moments of pool3, and its facts; errors as of `read_all`."""
    found = _read(path, every=False)
    return found.pool3, found.facts


def read_all(path: str | os.PathLike) -> Reference:
    """A reference; a file of another project has no facts, and a count of 0.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not an .npz with the moments of Inception's pool3, or holds others of
        another shape.
    """
    return _read(path, every=True)


def _read(path, every):
    path = expand(path)
    check_file(path)
    spatial = rows = images = None
    try:
        with zipfile.ZipFile(path) as archive:
            mean, covariance = (_moment(archive, *each) for each in _SHAPES.items())
            count = int(_member(archive, "count", (), "iu")) if npz.holds(archive, "count") else 0
            has_facts = npz.holds(archive, "facts")
            text = str(_member(archive, "facts", (), "U")) if has_facts else "{}"
            if every and any(npz.holds(archive, key) for key in _SPATIAL_SHAPES):
                moments = (_moment(archive, *each) for each in _SPATIAL_SHAPES.items())
                spatial = Moments(*moments, count)
            if every and npz.holds(archive, "pool3"):
                rows = _rows(archive)
            elif every and npz.holds(archive, "arr_0"):
                images = image_shape(archive)[:3]
        if count < 0:
            raise ValueError(f"count={count} must not be negative")
        facts = foreign_json.parse_object(text, "the entry facts")
    except npz.DAMAGE as error:
        raise ValueError(
            f"{printable(path)} is not a file of reference statistics: {error}"
        ) from error
    return Reference(Moments(mean, covariance, count), facts, spatial, rows, images)


def _moment(archive, key, shape):
    return np.asarray(_finite(key, _member(archive, key, shape, "f")), np.float64)


def _rows(archive):
    shape, _, dtype = npz.header(archive, "pool3")
    if len(shape) != 2 or shape[1] != WIDTH or not 1 <= shape[0] <= ROWS or dtype != np.float32:
        raise ValueError(f"pool3 is {dtype} {shape}, not float32 of 1 to {ROWS} x {WIDTH}")
    return _finite("pool3", npz.read(archive, "pool3"))


def _finite(key, array):
    if not np.isfinite(array).all():
        raise ValueError(f"{key} holds values that are not finite")
    return array


def _member(archive, key, shape, kinds):
    """An array whose header is looked at before memory is taken or more is unpacked."""
    found_shape, _, dtype = npz.header(archive, key)
    if (size := npz.stored(archive, key)) > _MOST_BYTES:
        raise ValueError(f"{key} takes {size:,} bytes, over {_MOST_BYTES:,}")
    if found_shape != shape or dtype.kind not in kinds or dtype.itemsize > _MOST_BYTES:
        raise ValueError(
            f"{key} is {dtype} {found_shape}, not of this Inception's features, whose is {shape}"
        )
    return npz.read(archive, key)


def check(told: str, saved: dict[str, Any], facts: dict[str, Any]) -> None:
    """Refuses a reference that was made in another way; a file without facts is not refused.

    Args:
      told: the flag or key that names it, with its value, for messages.
      saved: facts of the reference.
      facts: facts that it must have.

    Raises:
      ValueError: the message names what differs.
    """
    for key in COMPARED:
        if saved and saved.get(key) != facts[key]:
            raise ValueError(
                f"{told} was made with {key} {saved.get(key)!r}, here it is "
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
        try:
            record = source[index]
            probe = f"{record['name']}\0{zlib.crc32(record['image'])}\0"
        except SampleError as error:
            probe = f"{error.reason}\0"
        probes.update(probe.encode(errors="surrogatepass"))
    return {
        "source": data.source,
        "path": data.path and (data.path if is_remote(data.path) else os.path.abspath(data.path)),
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
