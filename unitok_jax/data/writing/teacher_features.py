"""Records of a teacher's features: what is read of a sample, and what its record holds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from unitok_jax.data.images.transforms import decode_image, resize_center_crop
from unitok_jax.data.teacher_features import DTYPES, KIND, image_digest
from unitok_jax.data.text import TextTokenizer
from unitok_jax.data.text_features import digests
from unitok_jax.data.writing.features import Work, of_different

AT_ONCE = 64  # images that are decoded before they are computed


def work(
    see: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    read_text: Callable[[np.ndarray], np.ndarray] | None,
    size: tuple[int, int],
    context_length: int,
) -> Work:
    """Returns how records of a teacher's features are made.

    Args:
        see: computes arrays of `teacher_features.DTYPES`, (n, ...) each, of uint8 images
            (n, H, W, 3).
        read_text: computes the array 'text' (n, E) of token ids (n, L) int32; None: it is not kept.
        size: (H, W) of the images, whose scaled centres the teacher sees.
        context_length: L.
    """
    tokenizer = TextTokenizer(context_length)

    def read(record: dict[str, Any]) -> tuple:
        image = resize_center_crop(decode_image(record["image"], record["name"]), size)
        captions = record["captions"]
        tokens = None if read_text is None else tokenizer(captions)
        return image_digest(record["image"]), digests(captions), image, tokens

    def records(samples: Sequence[tuple]) -> Iterator[dict]:
        arrays = dict(see(np.stack([image for _, _, image, _ in samples])))
        if read_text is not None:
            arrays["text"] = of_different(read_text, [tokens for *_, tokens in samples])
        for number, (digest, captions, *_) in enumerate(samples):
            of_sample = {name: _packed(name, found[number]) for name, found in arrays.items()}
            yield {"image_digest": digest, "captions": captions.tobytes(), **of_sample}

    return Work(KIND, read, records, AT_ONCE)


def _packed(name: str, array: np.ndarray) -> bytes:
    with np.errstate(over="ignore"):
        stored = np.asarray(array, DTYPES[name])
    if not np.isfinite(stored).all():
        raise ValueError(
            f"the teacher's features {name!r} are not finite as {stored.dtype}: are its weights "
            "whole?"
        )
    return stored.tobytes()
