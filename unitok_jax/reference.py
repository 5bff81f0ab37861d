"""Reference statistics of FID: files of Inception's moments, and a cache of them.

A file is an .npz with `mu` and `sigma`, as ADM's guided-diffusion and the original FID code store
them; ours also hold `count` and `facts`, where they come from.
"""

import hashlib
import json
import os
import secrets
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from unitok_jax.data.records import Source
from unitok_jax.evaluate.frechet import Moments

WIDTH = 2048  # of Inception's pool3
PROBES = 16
COMPARED = ("inception", "preprocessing")  # facts that two sides of a distance must have alike


def write(path: str | os.PathLike, moments: Moments, facts: dict[str, Any]) -> None:
    """Writes a reference, whole or not at all.

    Args:
      path: of the .npz.
      moments: of pool3.
      facts: JSON values; `COMPARED` among them.
    """
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            np.savez(
                file,
                mu=moments.mean,
                sigma=moments.covariance,
                count=moments.count,
                facts=json.dumps(facts),
            )
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def read(path: str | os.PathLike) -> tuple[Moments, dict[str, Any]]:
    """A reference, and its facts; a file of another project has none, and a count of 0.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not an .npz with the moments of Inception's pool3.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{path}: there is no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            if not isinstance(file, np.lib.npyio.NpzFile) or not {"mu", "sigma"} <= set(file.files):
                raise ValueError("it does not hold the arrays mu and sigma")
            mean, covariance = (np.asarray(file[key], np.float64) for key in ("mu", "sigma"))
            count = int(file["count"]) if "count" in file.files else 0
            facts = json.loads(str(file["facts"])) if "facts" in file.files else {}
    except (ValueError, EOFError, OSError, zlib.error, KeyError) as error:
        raise ValueError(f"{path} is not a file of reference statistics: {error}") from error
    if mean.shape != (WIDTH,) or covariance.shape != (WIDTH, WIDTH):
        raise ValueError(
            f"{path}: mu {mean.shape} and sigma {covariance.shape} are not those of Inception's "
            f"pool3, ({WIDTH},) and ({WIDTH}, {WIDTH})"
        )
    return Moments(mean, covariance, count), facts


def check(path: str, found: dict[str, Any], facts: dict[str, Any]) -> None:
    """Refuses a reference that was made in another way; a file without facts is not refused.

    Raises:
      ValueError: the message names what differs.
    """
    for key in COMPARED:
        if found and found.get(key) != facts[key]:
            raise ValueError(
                f"--reference={path} was made with {key} {found.get(key)!r}, here it is "
                f"{facts[key]!r}: their distance means nothing; make it anew with --save_reference"
            )


def source_facts(data, source: Source) -> dict[str, Any]:
    """What tells one data set from another without reading all of it.

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
        return Path(given).expanduser()
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "unitok_jax"


def cache_path(folder: Path, facts: dict[str, Any]) -> Path:
    """Where the reference of these facts is."""
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    return folder / f"reference_{name}.npz"
