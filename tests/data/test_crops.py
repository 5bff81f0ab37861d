"""Training crops: their sampling, and how near decoder and filter are to Pillow's."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from unitok_jax.data.formats.photos import photo_folder
from unitok_jax.data.images import crops
from unitok_jax.data.images.crops import (
    decode_random_crop,
    random_box,
    random_resized_crop,
    reduction,
)
from unitok_jax.data.images.transforms import ImageError, decode_image

SCALE, RATIO = (0.3, 1.0), (3 / 4, 4 / 3)
# Textures, where filters differ most, and an ordinary photograph.
PHOTOS = ("grass.png", "gravel.png", "brick.png", "astronaut.png")


def photo(name, size=None):
    pytest.importorskip("skimage")
    picture = Image.open(photo_folder() / name).convert("RGB")
    return picture if size is None else picture.resize(size, Image.Resampling.LANCZOS)


def jpeg(picture, **options):
    out = io.BytesIO()
    picture.save(out, "JPEG", **{"quality": 90} | options)
    return out.getvalue()


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def psnr(one, other):
    return 10 * math.log10(255**2 / max(np.mean((np.asarray(one, float) - other) ** 2), 1e-9))


class TestResize:
    @pytest.mark.parametrize("name", PHOTOS)
    @pytest.mark.parametrize("size", [(480, 500), (400, 300), (256, 256), (190, 250), (97, 64)])
    def test_is_near_pillows_antialiased_bicubic(self, name, size):
        picture = photo(name)
        wanted = picture.resize(size[::-1], Image.Resampling.BICUBIC)
        resized = crops.resize(np.asarray(picture), size)
        assert resized.shape == (*size, 3)
        assert resized.dtype == np.uint8
        assert psnr(wanted, resized) > 43

    @pytest.mark.parametrize("name", PHOTOS)
    def test_enlarging_too(self, name):
        picture = photo(name, (200, 150))
        wanted = picture.resize((320, 280), Image.Resampling.BICUBIC)
        assert psnr(wanted, crops.resize(np.asarray(picture), (280, 320))) > 40

    def test_far_smaller(self):
        picture = photo("gravel.png", (1500, 1400))
        wanted = picture.resize((96, 80), Image.Resampling.BICUBIC)
        assert psnr(wanted, crops.resize(np.asarray(picture), (80, 96))) > 43

    @pytest.mark.parametrize("size", [(16, 16), (40, 31), (200, 100)])
    def test_keeps_flat_colours(self, size):
        flat = np.full((57, 83, 3), (3, 128, 250), np.uint8)
        assert (crops.resize(flat, size) == flat[0, 0]).all()

    def test_same_size_is_unchanged(self):
        np.testing.assert_array_equal(crops.resize(noise(20, 30), (20, 30)), noise(20, 30))

    def test_pixels_outside_a_part_play_no_part(self):
        image = noise(64, 64)
        part = image[10:50, 7:47]
        before = crops.resize(part, (16, 16))
        image[:10], image[50:], image[:, :7], image[:, 47:] = 0, 0, 0, 0
        np.testing.assert_array_equal(crops.resize(part, (16, 16)), before)


class TestDecodeRandomCrop:
    def decode(self, data, size=(96, 96), seed=0):
        return decode_random_crop(data, "x.jpg", size, np.random.default_rng(seed), SCALE, RATIO)

    def expected(self, data, size=(96, 96), seed=0):
        """The crop of the image that Pillow decodes."""
        rng = np.random.default_rng(seed)
        return random_resized_crop(decode_image(data, ""), size, rng, SCALE, RATIO)

    @pytest.mark.parametrize("options", [{}, {"subsampling": 0}, {"progressive": True}])
    @pytest.mark.parametrize("mode", ["RGB", "L"])
    def test_is_the_crop_of_the_decoded_image(self, mode, options):
        data = jpeg(photo("astronaut.png", (150, 130)).convert(mode), **options)
        for seed in range(5):
            np.testing.assert_array_equal(
                self.decode(data, seed=seed), self.expected(data, seed=seed)
            )

    @pytest.mark.parametrize("orientation", [1, 3, 6])
    def test_turns_as_the_camera_was_held(self, orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = jpeg(photo("astronaut.png", (150, 100)), exif=exif)
        np.testing.assert_array_equal(self.decode(data), self.expected(data))

    def test_turns_though_the_tag_comes_late(self):
        """A large colour profile may stand before the EXIF segment."""
        exif = Image.Exif()
        exif[0x0112] = 6
        data = jpeg(photo("astronaut.png", (150, 100)), exif=exif)
        filler = b"\xff\xe2" + (65000).to_bytes(2, "big") + bytes(64998)
        data = data[:2] + 2 * filler + data[2:]
        assert decode_image(data, "").shape == (150, 100, 3)
        np.testing.assert_array_equal(self.decode(data), self.expected(data))

    @pytest.mark.parametrize("kind", ["PNG", "WEBP"])
    def test_other_formats(self, kind):
        out = io.BytesIO()
        photo("astronaut.png", (150, 100)).save(out, kind)
        np.testing.assert_array_equal(self.decode(out.getvalue()), self.expected(out.getvalue()))

    def test_cmyk(self):
        data = jpeg(photo("astronaut.png", (150, 100)).convert("CMYK"))
        np.testing.assert_array_equal(self.decode(data), self.expected(data))

    @pytest.mark.parametrize("side", [128, 64, 32])
    @pytest.mark.parametrize("name", PHOTOS)
    def test_reduced_decoding_is_near_pillow(self, name, side):
        picture = photo(name, (1201, 1103))
        data, size = jpeg(picture), (side, side)
        decoded = Image.open(io.BytesIO(data))
        for seed in range(3):
            rng = np.random.default_rng(seed)
            top, left, height, width = random_box((1103, 1201), size, rng, SCALE, RATIO)
            factor = reduction((top, left, height, width), size)
            assert factor > 1
            edges = (left, top, left + width, top + height)
            part = decoded.crop([factor * round(edge / factor) for edge in edges])
            wanted = part.resize(size, Image.Resampling.BICUBIC)
            assert psnr(wanted, self.decode(data, size, seed)) > 41

    def test_reduced_decoding_leaves_two_pixels_for_one(self):
        for side in (200, 511, 512, 1000, 1024, 5000):
            factor = reduction((0, 0, side, 2 * side), (128, 128))
            assert factor == 1 or side / factor >= 256
            assert factor == 8 or side / (2 * factor) < 256

    def test_damaged_jpeg_that_pillow_reads(self):
        """Pillow shows what is there of a JPEG with a broken part; so do we."""
        data = bytearray(jpeg(photo("astronaut.png", (150, 130))))
        data[len(data) // 2 : len(data) // 2 + 50] = bytes(50)
        np.testing.assert_array_equal(self.decode(bytes(data)), self.expected(bytes(data)))

    def test_truncated_jpeg(self):
        data = jpeg(photo("astronaut.png", (150, 130)))
        with pytest.raises(ImageError, match=r"x\.jpg: cannot be decoded") as error:
            self.decode(data[: len(data) // 2])
        assert error.value.reason == "damaged"

    def test_header_alone(self):
        with pytest.raises(ImageError, match=r"x\.jpg"):
            self.decode(jpeg(photo("astronaut.png", (150, 130)))[:20])

    def test_bomb(self):
        """A JPEG that claims 60000 x 60000 pixels is refused before it is unpacked."""
        data = bytearray(jpeg(Image.new("RGB", (64, 64))))
        frame = data.index(b"\xff\xc0")
        data[frame + 5 : frame + 9] = (60000).to_bytes(2, "big") * 2
        with pytest.raises(ImageError, match="pixels") as error:
            self.decode(bytes(data))
        assert error.value.reason == "too_large"


class TestRandomResizedCrop:
    def test_equals_cutting_then_resizing_a_box(self):
        """The result is one of the image's integer boxes, resized with nothing from outside it."""
        image = noise(12, 12)
        result = random_resized_crop(image, (8, 8), np.random.default_rng(3), (0.4, 0.6), RATIO)
        boxes = [
            (left, top, right, bottom)
            for top in range(12)
            for left in range(12)
            for bottom in range(top + 1, 13)
            for right in range(left + 1, 13)
        ]
        matches = [
            (left, top, right, bottom)
            for left, top, right, bottom in boxes
            if np.array_equal(crops.resize(image[top:bottom, left:right], (8, 8)), result)
        ]
        assert len(matches) == 1
        left, top, right, bottom = matches[0]
        assert 0.3 < (right - left) * (bottom - top) / 144 < 0.7

    def test_repeats_with_the_generator(self):
        image = noise(40, 50)
        first, again, other = (
            random_resized_crop(image, (16, 16), np.random.default_rng(seed), SCALE, RATIO)
            for seed in (1, 1, 2)
        )
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)

    @pytest.mark.parametrize("size", [(32, 16), (16, 48)])
    def test_boxes_have_the_targets_aspect(self, size):
        """A ramp from 0 to 255 along each axis shows how much of each axis the crop kept."""
        y, x = np.mgrid[:200, :200] * 255 / 199
        image = np.stack([x, y, y], -1).astype(np.uint8)
        aspects = []
        for seed in range(40):
            rng = np.random.default_rng(seed)
            crop = random_resized_crop(image, size, rng, (0.2, 0.3), (0.8, 1.25)).astype(float)
            assert crop.shape == (*size, 3)
            # The outermost pixels are one output pixel closer together than the edges.
            width = np.ptp(crop[..., 0]) * size[1] / (size[1] - 1)
            height = np.ptp(crop[..., 1]) * size[0] / (size[0] - 1)
            aspects.append(width / height * size[0] / size[1])
        assert 0.7 < min(aspects) < 0.95
        assert 1.05 < max(aspects) < 1.4

    @pytest.mark.parametrize("shape", [(4, 400), (400, 4)])
    def test_falls_back_to_the_centre_of_a_strip(self, shape):
        image = np.zeros((*shape, 3), np.uint8)
        image[tuple(slice(197, 203) if side == 400 else slice(None) for side in shape)] = 255
        crop = random_resized_crop(image, (16, 16), np.random.default_rng(0), SCALE, RATIO)
        assert (crop == 255).all()

    def test_one_pixel(self):
        image = np.full((1, 1, 3), 7, np.uint8)
        crop = random_resized_crop(image, (16, 16), np.random.default_rng(0), SCALE, RATIO)
        np.testing.assert_array_equal(crop, np.full((16, 16, 3), 7))

    def test_places_are_uniform(self):
        y, x = np.mgrid[:64, :64]
        image = np.stack([x, y, y], -1).astype(np.uint8)
        centres = np.array(
            [
                random_resized_crop(image, (16, 16), np.random.default_rng(i), (0.25, 0.25), (1, 1))
                .astype(float)
                .mean((0, 1))
                for i in range(400)
            ]
        )
        # Left and top edges are uniform on 0..32, so centres on 15.5..47.5: mean 31.5, std 9.5.
        np.testing.assert_allclose(centres.mean(0), 31.5, atol=1.5)
        np.testing.assert_allclose(centres.std(0), 9.5, atol=0.8)
