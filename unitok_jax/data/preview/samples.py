"""Preview of a run's training data: a contact sheet of its first samples, and statistics.

The folder holds `sheet.png`, the captions of its images line by line in `sheet.txt`, and
`statistics.json`. It must be new, empty or of an earlier preview, whose files are replaced.
"""

import contextlib
import io
import json
import pathlib

import numpy as np
from ml_collections import ConfigDict

from unitok_jax.data.health import Tally
from unitok_jax.data.images.transforms import check_size
from unitok_jax.data.preview import statistics
from unitok_jax.data.records import Source
from unitok_jax.data.sources import open_source
from unitok_jax.data.text import END_OF_TEXT, TextTokenizer
from unitok_jax.data.writing.folders import claim, write_bytes
from unitok_jax.pictures import sheet
from unitok_jax.system.progress import Progress

FORMAT = "unitok_jax.preview"
COMMAND = "unitok data preview"


def preview(
    config: ConfigDict,
    output: pathlib.Path,
    *,
    images: int = 32,
    samples: int = 1000,
    start_step: int = 0,
    font: str = "",
) -> None:
    """Writes the files of a preview to a folder, and prints the statistics.

    Args:
        config: the config of a run; `data` and `seed` are read.
        output: the folder; files of an earlier preview are replaced.
        images: number of images on the sheet; 0 for no sheet.
        samples: number to measure, drawn with `config.seed`, or all of a smaller source; 0: none.
        start_step: the training step whose samples are first on the sheet.
        font: as for `sheet.load_font`.

    Raises:
        ValueError, OSError, ImportError: a config, a source, an output or a font that does not
            fit, or too many consecutive bad images.
    """
    data, seed = config.data, config.seed
    size = check_size(data.image_size)
    tokenizer = TextTokenizer(data.context_length)
    loaded = sheet.load_font(font)
    if data.num_threads < 1:
        raise ValueError(f"data.num_threads={data.num_threads} must be at least 1 thread")
    source = open_source(data)
    claim(output, {"format": FORMAT}, COMMAND)
    if samples:
        indices = statistics.choose(len(source), samples, seed)
        _statistics(data, source, indices, size, tokenizer, output / "statistics.json")
    if images:
        first = training_samples(data, seed, source, images, start_step)
        title = f"{images} samples from step {start_step} of seed {seed}"
        _sheet(first, title, tokenizer, loaded, output / "sheet.png")


def training_samples(
    data: ConfigDict, seed: int, source: Source, count: int, start_step: int = 0
) -> dict[str, np.ndarray]:
    """Reads the first training samples from a step on, with crops and captions.

    Reads no more of a batch than needed, and uses no worker processes: neither changes a
    sample.

    Args:
        data: the `data` config.
        seed: seed of the run.
        source: the result of `open_source(data)`.
        count: at least 1.
        start_step: the step of the first batch.

    Returns:
        {'image': uint8 (count, H, W, 3), 'text': int32 (count, L)}.

    Raises:
        ValueError, OSError: as for `train_batches` and its iterator.
    """
    from unitok_jax.data.pipeline import effective_batch_size, train_batches  # Grain imports JAX

    data = ConfigDict(data.to_dict())
    data.num_workers = 0
    data.num_threads = min(data.num_threads, count)  # each reads ahead
    rows = range(min(count, effective_batch_size(data, len(source))))
    batches = train_batches(data, seed, source=source, start_step=start_step, rows=rows)
    with contextlib.closing(batches):
        found = [next(batches) for _ in range(-(-count // len(rows)))]
    return {key: np.concatenate([batch[key] for batch in found])[:count] for key in found[0]}


def _sheet(samples, title, tokenizer, font, path) -> None:
    captions = tokenizer.decode(samples["text"])
    full = samples["text"][:, -1] == END_OF_TEXT
    picture = io.BytesIO()
    sheet.contact_sheet(samples["image"], captions, full, font).save(picture, "PNG")
    write_bytes(path, picture.getvalue())
    write_bytes(path.with_suffix(".txt"), ("\n".join(captions) + "\n").encode())
    print(f"{path}: {title}")
    if full.any():
        print(f"  {full.sum()} captions fill data.context_length and are red: ends may be cut off")
    missing = sheet.missing_glyphs("".join(captions), font)
    if missing:
        print(
            f"  {len(missing)} characters are boxes, for the font lacks them: read "
            f"{path.with_suffix('.txt')}, or give another --font"
        )


def _statistics(data, source, indices, size, tokenizer, path) -> None:
    measured = statistics.measure(source, indices, tokenizer, data.num_threads)
    with Progress(len(indices), "sample") as progress:

        def counted():
            for each in measured:
                yield each
                progress.update()

        found, bad = statistics.summarize(counted(), size, tokenizer.context_length)
    left_out = getattr(source, "tally", Tally())
    known = {"source": data.source, "path": data.path, "length": len(source)}
    known |= {"left_out": left_out.to_json()}
    print(f"{len(indices)} of the {len(source)} samples of data.source={data.source}\n")
    print(statistics.table(found, bad))
    if left_out.total:
        print(f"left out when the source was opened: {left_out.total}\n{left_out}")
    missing = left_out.total / (len(source) + left_out.total)
    for line in _too_bad(data.max_bad, missing, bad.total / found["measured"]):
        print(line)
    told = json.dumps(known | found, indent=2, ensure_ascii=False) + "\n"
    # A path need not be UTF-8; other bytes become escapes, which JSON allows.
    write_bytes(path, told.encode(errors="backslashreplace"))
    print(f"\n{path}")


def _too_bad(max_bad: float, left_out: float, unusable: float) -> list[str]:
    """Describes how a run would end, for each of two shares of samples that is above `max_bad`."""
    found = [
        ("end at its start", left_out, "were left out when the source was opened"),
        ("end before long", unusable, "of the measured samples are unusable"),
    ]
    return [
        f"a run would {end}: {100 * share:.3g}% {what}, more than data.max_bad={max_bad}"
        for end, share, what in found
        if share > max_bad
    ]
