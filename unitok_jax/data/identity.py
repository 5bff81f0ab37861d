"""Identity of a source: facts about its samples and their order, independent of location."""

import re
import zlib
from typing import Any

import numpy as np

from unitok_jax.data.health import SampleError
from unitok_jax.data.mixture import Mixture
from unitok_jax.data.patience import read_patiently
from unitok_jax.data.records import Source

PROBES = 16  # samples read

# Rows of files are named by the path of the file, as it was given.
_ROW = re.compile(r", (group|record) \d")


def identity(source: Source) -> dict[str, dict[str, Any]]:
    """Returns facts that distinguish two sources, as short JSON values.

    Two sources with equal facts hold, within the probes, the same samples in the same order: a run
    may continue with either. Names are compared without their leading folder. For a source of any
    size, `PROBES` samples are read.

    Returns:
        'order of the data': the kind of order and the number of samples; 'samples of the
        data': the names of some samples, with checksums of their images and captions; for a source
        that knows all names, 'names of the data'. Unreadable entries are omitted.
    """
    probes = {f"sample {place}": _probe(source, place) for place in probed(len(source))}
    facts = {
        "order of the data": order_facts(source),
        "samples of the data": {place: probe for place, probe in probes.items() if probe},
    }
    if isinstance(names := getattr(source, "names", None), list):
        digest = zlib.crc32("\0".join(names).encode(errors="surrogatepass"))
        facts["names of the data"] = {"digest": f"{digest:08x}"}
    return facts


def probed(count: int) -> list[int]:
    """Returns the places of the samples that are read, of so many."""
    return sorted({number * count // PROBES for number in range(PROBES)})


def order_facts(source) -> dict[str, Any]:
    """Returns the facts of a source's order as short JSON values.

    The keys are constant, so that any change is a difference.
    """
    blocks, mixture = getattr(source, "blocks", None), None
    if isinstance(source, Mixture):
        parts = zip(source.parts, source.weights, strict=True)
        mixture = [[weight, len(part), order_facts(part)["blocks"]] for part, weight in parts]
    if blocks is not None:
        ends = np.ascontiguousarray(blocks, "<i8")
        blocks = f"{len(ends)}, digest {zlib.crc32(ends):08x}"
    return {"blocks": blocks, "mixture": mixture}


def _probe(source: Source, index: int) -> str:
    """Returns a short text that identifies a sample; '' if a disk error hides it now."""
    try:
        record = read_patiently(source.__getitem__, index)
    except SampleError as error:
        return error.reason
    except OSError:
        return ""
    name = record["name"]
    if name.startswith("/") or "://" in name or _ROW.search(name):
        name = name.rpartition("/")[2]
    captions = "\0".join(record["captions"]).encode(errors="surrogatepass")
    return f"{name}, image {zlib.crc32(record['image']):08x}, captions {zlib.crc32(captions):08x}"
