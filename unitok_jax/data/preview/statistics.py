"""Statistics of a source, measured on some samples: sizes, formats, captions, bad samples."""

import io
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from unitok_jax.data.health import SampleError, Tally
from unitok_jax.data.images.metadata import without_metadata
from unitok_jax.data.images.transforms import FORMATS, decode_image
from unitok_jax.data.records import Source
from unitok_jax.data.text import TextTokenizer

QUANTILES = {"min": 0, "5%": 5, "25%": 25, "median": 50, "75%": 75, "95%": 95, "max": 100}


class Measured(NamedTuple):
    """One sample that training can use."""

    width: int  # pixels, upright
    height: int
    size: int  # bytes, encoded
    format: str
    tokens: tuple[int, ...]  # tokens per caption, start and end included, before truncation


class Unusable(NamedTuple):
    """One sample that training replaces."""

    reason: str  # one of health.REASONS
    name: str


def choose(length: int, count: int, seed: int) -> np.ndarray:
    """Draws `count` different positions of a source at random, or all; int64, ascending.

    Ascending order makes a source that is read in blocks read each block once.
    """
    if count >= length:
        return np.arange(length)
    rng = np.random.default_rng(seed)
    return np.sort(rng.choice(length, count, replace=False, shuffle=False))


def measure(
    source: Source, indices: Sequence[int], tokenizer: TextTokenizer, num_threads: int
) -> Iterator[Measured | Unusable]:
    """Reads and decodes samples in threads, as training does; yields in the order of `indices`."""

    def one(index: int) -> Measured | Unusable:
        return _measure(source, int(index), tokenizer)

    ahead = 16 * num_threads  # not all: a source may have a billion samples
    with ThreadPoolExecutor(num_threads) as pool:
        for start in range(0, len(indices), ahead):
            yield from pool.map(one, indices[start : start + ahead])


def _measure(source: Source, index: int, tokenizer: TextTokenizer) -> Measured | Unusable:
    name = None
    try:
        record = source[index]
        name, image, captions = record["name"], record["image"], record["captions"]
        height, width = decode_image(image, name).shape[:2]
    except SampleError as error:
        return Unusable(error.reason, name or str(error))
    except OSError as error:
        return Unusable("unreadable", name or str(error))
    if not captions:
        return Unusable("no_caption", name)
    with Image.open(io.BytesIO(without_metadata(image)), formats=FORMATS) as header:
        kind = header.format
    return Measured(width, height, len(image), kind, tuple(map(tokenizer.length, captions)))


def summarize(
    samples: Iterable[Measured | Unusable], image_size: tuple[int, int], context_length: int
) -> tuple[dict[str, Any], Tally]:
    """Computes statistics of samples, for JSON, and the tally of samples that training replaces.

    Args:
        samples: as `measure` yields them; at least one.
        image_size: (height, width) in training.
        context_length: tokens per caption in training.

    Returns:
        {'measured', 'usable': samples; 'unusable': as `Tally.to_json` returns it; 'image_size',
        'context_length'; 'formats': {name: share}, 'enlarged', 'truncated': shares of the images
        with fewer rows or columns than `image_size` and of the captions with too many tokens; and
        {'min', '5%', ...} for each of 'width', 'height', 'aspect_ratio' (width / height), 'bytes',
        'captions' and 'tokens'}; without usable samples only the keys before 'formats'. Shares
        are in [0, 1].
    """
    tally, good = Tally(), []
    for sample in samples:
        if isinstance(sample, Unusable):
            tally.add(sample.reason, sample.name)
        else:
            good.append(sample)
    found = {
        "measured": len(good) + tally.total,
        "usable": len(good),
        "unusable": tally.to_json(),
        "image_size": list(image_size),
        "context_length": context_length,
    }
    if not good:
        return found, tally
    width, height = np.array([(s.width, s.height) for s in good]).T
    tokens = np.concatenate([s.tokens for s in good])
    formats = Counter(s.format for s in good)
    found |= {
        "formats": {name: count / len(good) for name, count in formats.most_common()},
        "enlarged": np.mean((height < image_size[0]) | (width < image_size[1])).item(),
        "truncated": np.mean(tokens > context_length).item(),
        "width": _quantiles(width),
        "height": _quantiles(height),
        "aspect_ratio": _quantiles(width / height),
        "bytes": _quantiles([s.size for s in good]),
        "captions": _quantiles([len(s.tokens) for s in good]),
        "tokens": _quantiles(tokens),
    }
    return found, tally


def table(found: dict[str, Any], tally: Tally) -> str:
    """Formats the result of `summarize` as a text table."""
    lines = []
    if found["usable"]:
        height, width = found["image_size"]
        formats = ", ".join(f"{_share(part)} {name}" for name, part in found["formats"].items())
        lines += [
            _row("", QUANTILES),
            *(
                _row(name, [_number(value / unit) for value in found[key].values()])
                for key, (name, unit) in _ROWS.items()
            ),
            "",
            f"formats              {formats}",
            f"training enlarges    {_share(found['enlarged'])} of the pictures: narrower than "
            f"{width} or lower than {height}",
            f"training truncates   {_share(found['truncated'])} of the captions: longer than "
            f"{found['context_length']} tokens",
        ]
    lines.append(f"training replaces    {_share(tally.total / found['measured'])} of the samples")
    return "\n".join(lines) + (f"\n{tally}" if tally.total else "")


_ROWS = {  # key of a statistic -> its name in the table, and the divisor of its values
    "width": ("width, pixels", 1),
    "height": ("height, pixels", 1),
    "aspect_ratio": ("width / height", 1),
    "bytes": ("encoded, kB", 1000),
    "captions": ("captions per picture", 1),
    "tokens": ("tokens per caption", 1),
}


def _quantiles(values) -> dict[str, float]:
    found = np.percentile(values, list(QUANTILES.values())).tolist()
    return dict(zip(QUANTILES, found, strict=True))


def _row(name: str, values: Iterable[str]) -> str:
    return f"{name:<21}" + "".join(f"{value:>8}" for value in values)


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"


def _share(part: float) -> str:
    return f"{100 * part:.3g}%"
