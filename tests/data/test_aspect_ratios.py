"""Few sizes for images of all aspect ratios."""

import numpy as np
import pytest

from unitok_jax.data.images.aspect_ratios import aspect_sizes, nearest_size
from unitok_jax.data.images.transforms import resize_center_crop


@pytest.mark.parametrize(
    "size, step, ratio", [(256, 32, 2.0), (256, 16, 3.0), (512, 64, 4.0), ((192, 320), 32, 2.0)]
)
def test_sizes(size, step, ratio):
    area = np.prod(np.broadcast_to(size, 2))
    sizes = aspect_sizes(size, step, ratio)
    assert len(sizes) == len(set(sizes)) and set(sizes) == {(w, h) for h, w in sizes}
    assert [h / w for h, w in sizes] == sorted((h / w for h, w in sizes), reverse=True)
    for height, width in sizes:
        assert height % step == width % step == 0
        assert max(height, width) <= ratio * min(height, width)
        assert area * 0.8 < height * width <= area


def test_sizes_of_256():
    assert aspect_sizes(256) == [(320, 192), (288, 224), (256, 256), (224, 288), (192, 320)]


def test_the_nearest_in_aspect_ratio():
    sizes = aspect_sizes(256)
    for shape, expected in [
        ((100, 100), (256, 256)),
        ((375, 500, 3), (224, 288)),
        ((500, 375), (288, 224)),
        ((90, 4000), (192, 320)),
        ((1, 1.08), (256, 256)),
    ]:
        assert nearest_size(shape, sizes) == expected
    image = np.zeros((300, 420, 3), np.uint8)
    assert resize_center_crop(image, nearest_size(image.shape, sizes)).shape == (224, 288, 3)


@pytest.mark.parametrize(
    "arguments, words",
    [
        ((250,), "size=250"),
        ((256, 24), "step=24"),
        ((256, 32, 0.5), "ratio=0.5"),
        ((64, 96), "step=96 fit size=64"),
    ],
)
def test_bad_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        aspect_sizes(*arguments)
