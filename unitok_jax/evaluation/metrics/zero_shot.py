"""Zero-shot classification: images and the names of classes in one space, after CLIP
(arXiv 2103.00020, section 3.1)."""

from collections.abc import Callable, Sequence

import numpy as np

TOP = (1, 5)


def class_features(
    encode: Callable[[list[str]], np.ndarray],
    class_names: Sequence[str],
    templates: Sequence[str],
) -> np.ndarray:
    """One unit vector per class: the mean over templates, normalised.

    Args:
      encode: n sentences -> (n, E) unit vectors; called once, with all of them.
      class_names: C different names.
      templates: sentences with one {} where the name goes.

    Returns:
      (C, E) float32.

    Raises:
      ValueError: no names, a name that comes twice, no templates, or one that is not as above.
    """
    if isinstance(class_names, str):
        raise ValueError(f"class names are one text, {class_names!r}: give a list of names")
    if not class_names or len(set(class_names)) != len(class_names):
        raise ValueError(f"class names must be different and at least one: {list(class_names)}")
    bad = [template for template in templates if template.count("{}") != 1]
    if bad or not templates:
        raise ValueError(f"templates need exactly one {{}} each: {bad or list(templates)}")
    sentences = [template.replace("{}", name) for name in class_names for template in templates]
    features = np.asarray(encode(sentences), np.float32)
    mean = features.reshape(len(class_names), len(templates), -1).mean(axis=1)
    return mean / np.maximum(np.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)


def probabilities(
    image_features: np.ndarray, class_features: np.ndarray, logit_scale: float
) -> np.ndarray:
    """The softmax of the cosines of images and classes, times the logit scale.

    Args:
      image_features: (N, E) unit vectors.
      class_features: (C, E) unit vectors.
      logit_scale: the factor itself, not its logarithm; CLIP's is at most 100.

    Returns:
      (N, C) float32; rows sum to 1.

    Raises:
      ValueError: fewer than two classes, among which every probability would be 1.
    """
    if len(class_features) < 2:
        raise ValueError("probabilities need at least two classes")
    logits = logit_scale * (image_features @ class_features.T).astype(np.float64)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


def zero_shot(
    image_features: np.ndarray, class_features: np.ndarray, labels: np.ndarray
) -> dict[str, float]:
    """Part of the images whose class is among the nearest ones, by cosine.

    Guessing is right in k / C of the cases. Of classes equally near the first counts as nearer, so
    that a model that tells nothing apart scores the same as guessing.

    Args:
      image_features: (N, E) unit vectors.
      class_features: (C, E) unit vectors.
      labels: (N,) integers, 0 to C - 1.

    Returns:
      `zero_shot_top1`, and `zero_shot_top5` where there are more than five classes; 0 to 1.

    Raises:
      ValueError: shapes that do not fit, labels without a class, features that are not finite.
    """
    images = np.asarray(image_features, np.float32)
    classes, labels = np.asarray(class_features, np.float32), np.asarray(labels)
    if (
        images.ndim != 2
        or classes.shape[1:] != images.shape[1:]
        or labels.shape != images.shape[:1]
    ):
        raise ValueError(
            f"image features {images.shape}, class features {classes.shape} and labels "
            f"{labels.shape} do not fit: they must be (N, E), (C, E) and (N,)"
        )
    if not len(images):
        raise ValueError("there are no images to classify")
    if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= len(classes):
        raise ValueError(
            f"labels {labels.dtype} {labels.min()} to {labels.max()} are not integers from 0 to "
            f"{len(classes) - 1}, the classes there are"
        )
    cosines = images @ classes.T
    if not np.isfinite(cosines).all():
        raise ValueError("image or class features are not finite")
    nearest = np.argsort(-cosines, axis=1, kind="stable") == labels[:, None]
    return {
        f"zero_shot_top{top}": float(nearest[:, :top].any(axis=1).mean())
        for top in TOP
        if top == 1 or top < len(classes)
    }
