"""Packing of samples into rows: several behind one another, each a segment that sees itself alone.

T places of a row, M images that it can hold, K codes of each of the L tokens of an image.
"""

from collections.abc import Sequence

import numpy as np

from unitok_jax.multimodal.rows import NO_IMAGE, NO_LABEL, Sample


def pack(samples: Sequence[Sample], rows: int, length: int, images: int) -> list[list[int]]:
    """Packs the longest beginning of a sequence of samples that fits into some rows.

    What is left out is the end of the sequence, whatever its lengths: choosing samples that fill
    the last holes would train more on short ones. Within the beginning, the longest sample is
    placed first, where the least room remains.

    Args:
      samples: none longer than a row, or with more images.
      rows: number of rows.
      length: T.
      images: M.

    Returns:
      The numbers of the samples in each row, ascending.
    """
    sizes = np.array([len(sample.ids) for sample in samples])
    counts = [len(sample.codes) for sample in samples]
    most = int(np.searchsorted(np.cumsum(sizes), rows * length, side="right"))
    for count in range(most, 0, -1):
        placed = _best_fit(sizes[:count], counts, rows, length, images)
        if placed is not None:
            return placed
    return [[] for _ in range(rows)]


def _best_fit(sizes, counts, rows: int, length: int, images: int) -> list[list[int]] | None:
    """Places every sample; None if one finds no room."""
    room, places = np.full(rows, length), np.full(rows, images)
    placed = [[] for _ in range(rows)]
    for number in np.argsort(-sizes, kind="stable").tolist():
        fits = (room >= sizes[number]) & (places >= counts[number])
        if not fits.any():
            return None
        row = int(np.argmin(np.where(fits, room, length + 1)))
        room[row] -= sizes[number]
        places[row] -= counts[number]
        placed[row].append(number)
    return [sorted(each) for each in placed]


def fill(
    samples: Sequence[Sample], *, length: int, images: int, image_shape: tuple[int, int], pad: int
) -> dict[str, np.ndarray]:
    """Fills one row with samples, in their order.

    Args:
      samples: that fit into the row.
      length: T.
      images: M.
      image_shape: (K, L).
      pad: id of padding, and of the places of images.

    Returns:
      {'ids': int32 (T,) ids of text, `pad` elsewhere; 'image_at': int32 (T,) place among the M L
      visual tokens of the row, -1 for text; 'codes': int32 (M, K, L), zeros past the images;
      'labels': int32 (T,) the id at each place that is learnt, -100 elsewhere, so that position t
      predicts label t + 1; never at the first place of a segment; 'drawn': bool (M,) images that
      are learnt; 'segments': int32 (T,) 1, 2, ... for the samples, 0 for padding; 'positions':
      int32 (T,) from 0 in each segment; 'kinds': int32 (T,) the number of its sample's kind}.
    """
    row = {
        "ids": np.full(length, pad, np.int32),
        "image_at": np.full(length, NO_IMAGE, np.int32),
        "codes": np.zeros((images, *image_shape), np.int32),
        "labels": np.full(length, NO_LABEL, np.int32),
        "drawn": np.zeros(images, bool),
        "segments": np.zeros(length, np.int32),
        "positions": np.zeros(length, np.int32),
        "kinds": np.zeros(length, np.int32),
    }
    start = image = 0
    for number, sample in enumerate(samples, start=1):
        here = slice(start, start + len(sample.ids))
        row["ids"][here], row["labels"][here] = sample.ids, sample.labels
        row["labels"][start] = NO_LABEL  # what stands before is another sample's
        shift = np.where(sample.image_at == NO_IMAGE, 0, image * image_shape[1])
        row["image_at"][here] = sample.image_at + shift
        row["segments"][here], row["positions"][here] = number, np.arange(len(sample.ids))
        row["kinds"][here] = sample.kind
        if len(sample.codes):
            row["codes"][image : image + len(sample.codes)] = sample.codes
            row["drawn"][image : image + len(sample.codes)] = sample.drawn
        start, image = here.stop, image + len(sample.codes)
    return row
