"""Whether images and captions find each other."""

import numpy as np


def caption_retrieval(
    image_features: np.ndarray, text_features: np.ndarray, owner: np.ndarray
) -> dict[str, float]:
    """Top-1 retrieval among all images and all captions, by cosine.

    Args:
      image_features: (I, E) unit vectors.
      text_features: (T, E) unit vectors.
      owner: (T,) the image that each caption belongs to.

    Returns:
      `image_to_text`: part of the images whose nearest caption is one of theirs;
      `text_to_image`: part of the captions whose nearest image is theirs.
    """
    cosines = np.asarray(image_features, np.float32) @ np.asarray(text_features, np.float32).T
    owner = np.asarray(owner)
    return {
        "image_to_text": float(np.mean(owner[cosines.argmax(1)] == np.arange(len(cosines)))),
        "text_to_image": float(np.mean(cosines.argmax(0) == owner)),
    }
