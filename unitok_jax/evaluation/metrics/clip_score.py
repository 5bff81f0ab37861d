"""Agreement of images and their captions in a joint space: CLIP score (arXiv 2104.08718)."""

import numpy as np


def clip_score(image_features: np.ndarray, text_features: np.ndarray) -> float:
    """Computes the mean of 100 max(cosine, 0) over images and their captions.

    Args:
      image_features: (N, E) unit vectors.
      text_features: (N, E) unit vectors, each of the caption of an image.

    Returns:
      0 to 100.

    Raises:
      ValueError: the shapes differ, there are no images, or a feature is not finite.
    """
    images, texts = (np.asarray(x, np.float64) for x in (image_features, text_features))
    if images.ndim != 2 or images.shape != texts.shape or not len(images):
        raise ValueError(
            f"image features {images.shape} and text features {texts.shape} must be (N, E) twice"
        )
    cosines = (images * texts).sum(axis=1)
    if not np.isfinite(cosines).all():
        raise ValueError("image or text features are not finite")
    return float(100 * np.maximum(cosines, 0).mean())
