"""Whether images and captions find each other."""

import numpy as np


def caption_retrieval(
    image_features: np.ndarray, text_features: np.ndarray, owner: np.ndarray, tokens: np.ndarray
) -> dict[str, float]:
    """Top-1 retrieval among all images and all captions, by cosine.

    Several images may have a caption in common, word for word; it is then a caption of each.

    Args:
      image_features: (I, E) unit vectors.
      text_features: (T, E) unit vectors.
      owner: (T,) the image that each caption comes with.
      tokens: (T, L) token ids of the captions: equal rows are one caption.

    Returns:
      `image_to_text`: part of the images whose nearest caption is one of theirs;
      `text_to_image`: part of the captions whose nearest image is one of theirs.
    """
    cosines = np.asarray(image_features, np.float32) @ np.asarray(text_features, np.float32).T
    caption = np.unique(tokens, axis=0, return_inverse=True)[1].reshape(-1)
    pairs = set(zip(np.asarray(owner).tolist(), caption.tolist(), strict=True))
    nearest_caption, nearest_image = caption[cosines.argmax(1)], cosines.argmax(0)
    return {
        "image_to_text": float(np.mean([p in pairs for p in enumerate(nearest_caption.tolist())])),
        "text_to_image": float(
            np.mean(
                [p in pairs for p in zip(nearest_image.tolist(), caption.tolist(), strict=True)]
            )
        ),
    }
