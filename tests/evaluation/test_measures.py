"""SSIM and PSNR against scikit-image's, on photographs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from unitok_jax.data.formats.folders import photo_source
from unitok_jax.data.images.transforms import decode_image, resize_center_crop, to_float
from unitok_jax.evaluation.metrics.reconstruction import psnr
from unitok_jax.evaluation.metrics.ssim import ssim
from unitok_jax.models.images import squared_error

pytestmark = pytest.mark.usefixtures("strict_shapes")

OPTIONS = {
    "gaussian": {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False},
    "uniform": {},
}


@pytest.fixture(scope="module")
def photographs():
    source = photo_source()
    indices = range(0, len(source), 3)
    return [decode_image(source[i]["image"], source[i]["name"]) for i in indices]


def noise(image):
    return image + np.random.default_rng(0).normal(0, 12, image.shape)


def flat(image):
    return np.full_like(image, 250)


def brighter(image):
    return image * 0.5 + 127.0


def coarse(image):
    return image // 32 * 32


def inverted(image):
    return 255 - image


DISTORTIONS = (noise, flat, brighter, coarse, inverted)


def distorted(image, how):
    return np.clip(np.round(how(image)), 0, 255).astype(np.uint8)


def theirs(x, y, window):
    return structural_similarity(x, y, data_range=255, channel_axis=-1, **OPTIONS[window])


@pytest.mark.parametrize("window", OPTIONS)
class TestSsim:
    @pytest.mark.parametrize("how", DISTORTIONS)
    @pytest.mark.parametrize("size", [(64, 64), (96, 41), (11, 30)])
    def test_equals_scikit_image(self, photographs, window, how, size):
        x = np.stack([resize_center_crop(photo, size) for photo in photographs])
        y = np.stack([distorted(photo, how) for photo in x])
        ours = jax.jit(ssim, static_argnums=2)(x, y, window)
        assert ours.dtype == jnp.float32 and ours.shape == (len(x),)
        wanted = [theirs(a, b, window) for a, b in zip(x, y, strict=True)]
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-5)

    def test_floats_and_bytes_are_alike(self, photographs, window):
        x = np.stack([resize_center_crop(photo, (32, 32)) for photo in photographs])
        y = np.stack([distorted(photo, noise) for photo in x])
        ours = ssim(x.astype(np.float32), y.astype(np.float32), window)
        np.testing.assert_array_equal(ours, ssim(jnp.asarray(x), jnp.asarray(y), window))

    @pytest.mark.parametrize("value", [0, 128, 255])
    def test_bright_and_dark_fields(self, window, value):
        """The hardest for float32: faint noise on a large value."""
        rng = np.random.default_rng(0)
        x, y = (
            np.clip(value + rng.integers(-1, 2, (1, 64, 64, 3)), 0, 255).astype(np.uint8)
            for _ in range(2)
        )
        np.testing.assert_allclose(ssim(x, y, window), theirs(x[0], y[0], window), atol=1e-6)

    def test_equal_images(self, images, window):
        np.testing.assert_allclose(ssim(images, images, window), 1, rtol=1e-6)

    def test_images_that_do_not_fit(self, images, window):
        side = {"gaussian": 11, "uniform": 7}[window]
        assert ssim(images[:, :side, :side], images[:, :side, :side], window).shape == (2,)
        small = images[:, : side - 1]
        with pytest.raises(ValueError, match=f"{side - 1}x64 pixels are smaller .*{side}x{side}"):
            ssim(small, small, window)
        with pytest.raises(ValueError, match="not two arrays"):
            ssim(images, images[:1], window)


def test_unknown_window(images):
    with pytest.raises(ValueError, match="window='box'"):
        ssim(images, images, "box")


@pytest.mark.parametrize("how", DISTORTIONS)
def test_psnr_equals_scikit_image(photographs, how):
    x = np.stack([resize_center_crop(photo, (48, 80)) for photo in photographs])
    y = np.stack([distorted(photo, how) for photo in x])
    ours = psnr(squared_error(to_float(jnp.asarray(y)), to_float(jnp.asarray(x))))
    wanted = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(ours, wanted, rtol=1e-5)
