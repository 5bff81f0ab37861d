"""What the samples of a source are, and their order: facts that do not depend on where they lie."""

import zlib
from typing import Any

import numpy as np

from unitok_jax.data.health import SampleError
from unitok_jax.data.mixture import Mixture
from unitok_jax.data.records import Source

PROBES = 16  # samples that are read


def identity(source: Source) -> dict[str, dict[str, Any]]:
    """Facts by which two sources can be told apart, JSON values in few characters.

    Two of one identity hold, as far as it looks, the same samples in the same order: a run may go
    on with either. Names count without the folder that they begin with. However large the source,
    `PROBES` samples are read.

    Returns:
        'order of the data': how its order is made, beside its number of samples; 'samples of the
        data': the names of some samples, with checksums of their images and captions; of a source
        that knows all names, 'names of the data'. What cannot be read now is left out.
    """
    count = len(source)
    places = sorted({number * count // PROBES for number in range(PROBES)})
    probes = {f"sample {place}": _probe(source, place) for place in places}
    facts = {
        "order of the data": _order(source),
        "samples of the data": {place: probe for place, probe in probes.items() if probe},
    }
    if isinstance(names := getattr(source, "names", None), list):
        digest = zlib.crc32("\0".join(names).encode(errors="surrogatepass"))
        facts["names of the data"] = {"digest": f"{digest:08x}"}
    return facts


def _order(source: Source) -> dict[str, Any]:
    """Always the same keys, so that another kind of order is a difference."""
    blocks, mixture = getattr(source, "blocks", None), None
    if isinstance(source, Mixture):
        parts = zip(source.parts, source.weights, strict=True)
        mixture = [[weight, len(part), _order(part)["blocks"]] for part, weight in parts]
    if blocks is not None:
        ends = np.ascontiguousarray(blocks, "<i8")
        blocks = f"{len(ends)}, digest {zlib.crc32(ends):08x}"
    return {"blocks": blocks, "mixture": mixture}


def _probe(source: Source, index: int) -> str:
    """A sample in few characters; '' if a disk does not give it now."""
    try:
        record = source[index]
    except SampleError as error:
        return error.reason
    except OSError:
        return ""
    name = record["name"]
    if name.startswith("/") or "://" in name:
        name = name.rpartition("/")[2]
    captions = "\0".join(record["captions"]).encode(errors="surrogatepass")
    return f"{name}, image {zlib.crc32(record['image']):08x}, captions {zlib.crc32(captions):08x}"
