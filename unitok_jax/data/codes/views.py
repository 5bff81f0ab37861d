"""Views: the crops of an image whose codes a generator trains on."""

from collections.abc import Sequence

import numpy as np

from unitok_jax.data.images.padding import GREY, MEAN, pad_and_resize
from unitok_jax.data.images.transforms import resize_center_crop

PADDED = {"padded": MEAN, "padded_grey": GREY}
VIEWS = {"center": 1, "center+flip": 2, "ten": 10, "padded": 1, "padded_grey": 1}
CENTRE = {1: 0, 2: 0, 10: 4}  # number of views -> position of the centre, not mirrored


def views(image: np.ndarray, size: Sequence[int], kind: str, crop_scale: float) -> np.ndarray:
    """Returns the views of an image.

    'center' is the scaled centre crop; 'center+flip' adds its mirror image; 'ten' scales the image
    until it just covers `size` times `crop_scale`, takes that centre crop, and from it crops the
    corners (top left, top right, bottom left, bottom right), the centre, and the mirror images of
    these five in the same order. 'padded' and 'padded_grey' are the whole image, as multimodal
    models take what they are asked about.

    Args:
        image: uint8 (H, W, 3).
        size: (height, width) of each view.
        kind: one of `VIEWS`.
        crop_scale: at least 1; used by 'ten' only.

    Returns:
        uint8 (VIEWS[kind], height, width, 3).
    """
    height, width = size
    if kind in PADDED:
        return pad_and_resize(image, size, PADDED[kind])[None]
    if kind == "ten":
        outer = int(height * crop_scale), int(width * crop_scale)
        image = resize_center_crop(image, outer)
        down, right = outer[0] - height, outer[1] - width
        corners = (0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2)
        crops = [image[top : top + height, left : left + width] for top, left in corners]
    else:
        crops = [resize_center_crop(image, size)]
    if kind != "center":
        crops += [crop[:, ::-1] for crop in crops]
    return np.stack(crops)
