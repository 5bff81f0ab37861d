"""Retrieval of captions by images and of images by captions."""

import numpy as np

TOP = (1, 5, 10)

_BLOCK = 1 << 24  # cosines held at a time


def caption_retrieval(
    image_features: np.ndarray, text_features: np.ndarray, owner: np.ndarray, tokens: np.ndarray
) -> dict[str, float]:
    """Retrieval among all images and all captions, by cosine: recall at 1, 5 and 10.

    An image may have any number of captions, and several images may have a caption in common, word
    for word; it is then a caption of each. A query succeeds at k if fewer than k others are nearer
    than the nearest of its own. Of candidates equally near the first counts as nearer, so that a
    model that tells nothing apart scores the same as guessing; a cosine that is no number counts as
    nearer than any. An image without a caption finds none.

    Args:
      image_features: (I, E) unit vectors.
      text_features: (T, E) unit vectors.
      owner: (T,) the image that each caption comes with.
      tokens: (T, L) token ids of the captions: equal rows are one caption.

    Returns:
      `image_to_text`: part of the images whose nearest caption is one of theirs;
      `text_to_image`: part of the captions whose nearest image is one of theirs;
      both with `_r5` and `_r10`, one of theirs being among the nearest 5 and 10, where there are
      more candidates than that.

    Raises:
      ValueError: there is no image or no caption.
    """
    if not len(image_features) or not len(text_features):
        raise ValueError(
            f"retrieval needs images and captions: there are {len(image_features)} and "
            f"{len(text_features)}"
        )
    images = np.asarray(image_features, np.float32)
    texts = np.asarray(text_features, np.float32)
    caption = np.unique(tokens, axis=0, return_inverse=True)[1].reshape(-1)
    pairs = np.unique(np.stack([np.asarray(owner), caption], axis=1), axis=0)
    count = caption.max() + 1
    captions_of = _groups(pairs[:, 0], pairs[:, 1], len(images))
    images_of = _groups(pairs[:, 1], pairs[:, 0], count)
    # Candidates by caption: a mark on a caption marks all its copies.
    image_ranks = _ranks(images, texts, captions_of, np.arange(len(images)), caption, count)
    text_ranks = _ranks(texts, images, images_of, caption, np.arange(len(images)), len(images))
    recalls = {}
    for name, ranks, candidates in (
        ("image_to_text", image_ranks, len(texts)),
        ("text_to_image", text_ranks, len(images)),
    ):
        for top in TOP:
            if top == 1 or top < candidates:
                key = name if top == 1 else f"{name}_r{top}"
                recalls[key] = float((ranks < top).mean())
    return recalls


def _groups(keys, values, count):
    """The values of each key from 0 to count - 1; keys are sorted here."""
    order = np.argsort(keys, kind="stable")
    return np.split(values[order], np.searchsorted(keys[order], np.arange(1, count)))


def _ranks(queries, candidates, labels_of, group, label, labels):
    """Counts the candidates that are nearer to each query than the nearest of its own.

    Query i's own candidates are those whose `label`, 0 to labels - 1, is in `labels_of[group[i]]`.
    A block of queries meets all candidates at once: some 200 MB, however many queries there are.
    """
    ranks = np.empty(len(queries), np.int64)
    rows = max(_BLOCK // len(candidates), 1)
    for start in range(0, len(queries), rows):
        cosines = queries[start : start + rows] @ candidates.T
        marks = np.zeros((len(cosines), labels), bool)
        for row, key in enumerate(group[start : start + rows]):
            marks[row, labels_of[key]] = True
        own = np.where(marks[:, label], cosines, -np.inf)
        first = own.argmax(axis=1)[:, None]
        best = np.take_along_axis(own, first, axis=1)
        before = np.arange(len(candidates)) < first
        ranks[start : start + rows] = np.where(before, ~(cosines < best), ~(cosines <= best)).sum(1)
    return ranks
