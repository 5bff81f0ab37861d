"""Preview of a run's packed rows: their text with the places of images and what is learnt.

The folder holds `rows.txt` and, with a tokenizer of the codes, `sheet.png` with the rows' images.
It must be new, empty or of an earlier preview, whose files are replaced.
"""

import contextlib
import io
import pathlib
from collections.abc import Callable, Mapping

import numpy as np

from unitok_jax.data.language_tokenizer import LanguageTokenizer
from unitok_jax.data.preview.samples import COMMAND, FORMAT
from unitok_jax.data.writing.folders import claim, write_bytes
from unitok_jax.multimodal.data import Packed
from unitok_jax.multimodal.rows import NO_IMAGE, NO_LABEL
from unitok_jax.pictures import sheet
from unitok_jax.system.paths import printable

LEARNT = "«", "»"  # around what has labels
MOST_IMAGES = 64  # on the sheet


def preview(
    packed: Packed,
    tokenizer: LanguageTokenizer,
    data,
    seed: int,
    output: pathlib.Path,
    *,
    rows: int = 32,
    start_step: int = 0,
    decode: Callable[[np.ndarray], np.ndarray] | None = None,
    font: str = "",
) -> None:
    """Writes the files of a preview to a folder, and prints how full the rows are.

    Args:
        packed: the data of the run.
        tokenizer: of its text.
        data: the `data` config.
        seed: of the run.
        output: the folder; files of an earlier preview are replaced.
        rows: number of rows, at least 1.
        start_step: the training step whose rows come first.
        decode: codes (B, K, L) to uint8 images (B, H, W, 3); None: no sheet.
        font: as for `sheet.load_font`.

    Raises:
        ValueError, OSError: an output or a font that does not fit, or too many samples that cannot
            be used.
    """
    loaded = sheet.load_font(font)
    claim(output, {"format": FORMAT}, COMMAND)
    found, counts = _read(packed, data, seed, rows, start_step)
    texts = [
        f"row {number}: {_filled(row)}\n" + "\n".join(segments(row, tokenizer))
        for number, row in enumerate(found)
    ]
    title = f"{rows} rows from step {start_step} of seed {seed}; {LEARNT[0]}learnt{LEARNT[1]}"
    write_bytes(output / "rows.txt", "\n\n".join([title, *texts, ""]).encode())
    print(f"{output / 'rows.txt'}: {title}")
    for line in told(counts, packed, data):
        print(line)
    if decode is not None:
        _sheet(found, decode, loaded, output / "sheet.png")


def segments(row: Mapping[str, np.ndarray], tokenizer: LanguageTokenizer) -> list[str]:
    """Writes each sample of a row as a line: text, `<name>` of special ids, and [image N].

    Args:
        row: arrays of `packing.fill`.
        tokenizer: of the text.

    Returns:
        A line for every sample, with `LEARNT` around what is learnt.
    """
    tokens = row["codes"].shape[-1]
    return [
        f"  {number}. {_written(row, np.flatnonzero(row['segments'] == number), tokens, tokenizer)}"
        for number in range(1, int(row["segments"].max(initial=0)) + 1)
    ]


def _written(row, places, tokens: int, tokenizer) -> str:
    """Writes the sample at some places of a row."""
    special = tokenizer.special._asdict()
    del special["pad"]  # none stands in a sample, and its id may be the end's, as of Llama 3
    names = {number: f"<{name}>" for name, number in special.items()}
    pieces: list[tuple[bool, str]] = []  # learnt, text
    run: list[int] = []

    def flush():
        if run:
            pieces.append((learnt, printable(tokenizer.decode(run))))
            run.clear()

    learnt = False
    for place in places:
        image = int(row["image_at"][place])
        here = bool(row["drawn"][image // tokens]) if image != NO_IMAGE else None
        here = bool(row["labels"][place] != NO_LABEL) if here is None else here
        if here != learnt:
            flush()
            learnt = here
        number = int(row["ids"][place])
        if image != NO_IMAGE:
            if image % tokens == 0:
                flush()
                pieces.append((learnt, f"[image {image // tokens}]"))
        elif number in names:
            flush()
            pieces.append((learnt, names[number]))
        else:
            run.append(number)
    flush()
    text, before = "", False
    for is_learnt, piece in [*pieces, (False, "")]:
        if is_learnt != before:
            text += LEARNT[before]
            before = is_learnt
        text += piece
    return text


def told(counts: Mapping[str, int], packed: Packed, data) -> list[str]:
    """Describes how full rows are, what was left out, and which number of samples would fill them.

    Args:
        counts: of some rows, as `Health.new_counts` gives them.
        packed: the data.
        data: the `data` config.
    """
    if "places" not in counts:  # a group is counted with its first row, and none is here
        return []
    samples = max(counts["samples"], 1)
    mean = counts["filled"] / samples
    full = round(data.group_rows * data.length / max(mean, 1))
    left_out = counts.get("left_out/no_room", 0)
    lines = [
        f"  {100 * counts['filled'] / counts['places']:.1f}% of the places are filled, by samples "
        f"of {mean:.0f} on average; {left_out} of {samples + left_out} samples found no room",
        f"  data.group_samples={data.group_samples} for data.group_rows={data.group_rows}; as many "
        f"as fit are about {full}",
    ]
    for number, entry in enumerate(data.mixture):
        share = counts.get(f"part/{number}", 0) / samples
        lines.append(f"  {100 * share:.1f}% {', '.join(map(printable, entry[1:]))}")
    names = ("left_out/too_long", *(key for key in counts if key.startswith("skipped/")))
    lines += [f"  {counts[key]} {key.partition('/')[2]}" for key in names if key in counts]
    return lines


def _read(packed: Packed, data, seed: int, rows: int, start_step: int):
    """Reads rows from a step on, and the counts of their batches."""
    data = data.copy_and_resolve_references()
    data.num_workers, data.num_threads = 0, min(data.num_threads, rows)
    each = min(rows, data.batch_size)
    opened = packed.batches(data, seed, start_step=start_step, rows=range(each))
    with contextlib.closing(opened):
        batches = [next(opened) for _ in range(-(-rows // each))]
        counts = opened.health.new_counts()
    whole = {key: np.concatenate([batch[key] for batch in batches])[:rows] for key in batches[0]}
    return [{key: array[n] for key, array in whole.items()} for n in range(rows)], counts


def _filled(row) -> str:
    places = int((row["segments"] > 0).sum())
    return f"{places} of {len(row['segments'])} places, {row['segments'].max(initial=0)} samples"


def _sheet(found, decode, font, path: pathlib.Path) -> None:
    codes, captions, learnt = [], [], []
    for number, row in enumerate(found):
        tokens = row["codes"].shape[-1]
        for image in range(int(row["image_at"].max(initial=NO_IMAGE)) // tokens + 1):
            drawn = bool(row["drawn"][image])
            codes.append(row["codes"][image])
            captions.append(f"row {number}, image {image}: {'drawn' if drawn else 'seen'}")
            learnt.append(drawn)
    codes, captions, learnt = (each[:MOST_IMAGES] for each in (codes, captions, learnt))
    if not codes:
        return
    picture = io.BytesIO()
    images = np.asarray(decode(np.stack(codes)))
    sheet.contact_sheet(images, captions, learnt, font).save(picture, "PNG")
    write_bytes(path, picture.getvalue())
    print(f"{path}: {len(codes)} images of these rows, those to draw in red")
