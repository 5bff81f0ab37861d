"""Decoding, cropping and scaling, on real encoded files."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from helpers.image_files import TURNED
from unitok_jax.data.images.transforms import (
    MAX_PIXELS,
    ImageError,
    check_size,
    decode_image,
    resize_center_crop,
    to_float,
    to_uint8,
    upright_shape,
)


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(height=24, width=36):
    """A smooth picture without symmetries, which JPEG keeps well."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([6 * x, 8 * y, 255 - 4 * x - 3 * y], axis=-1)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def noise(height, width):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def png_claiming(width, height):
    """A PNG of a few bytes whose header promises an enormous picture."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT")
    parts = [
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


class TestDecode:
    @pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
    def test_lossless_formats_return_the_pixels(self, kind):
        pixels = decode_image(encoded(picture(), kind), "a")
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels, picture())

    @pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
    def test_lossy_formats_come_close(self, kind):
        pixels = decode_image(encoded(picture(), kind, quality=95), "a")
        assert pixels.shape == (24, 36, 3)
        assert np.abs(pixels.astype(int) - np.asarray(picture())).mean() < 4

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation_gives_upright_pixels(self, orientation):
        upright = TURNED[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(picture(), "JPEG", exif=exif, quality=95)
        stored = decode_image(encoded(picture(), "JPEG", quality=95), "stored")
        np.testing.assert_array_equal(decode_image(data, "turned"), upright(stored))

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    def test_illegible_exif_leaves_the_pixels(self, kind):
        data = encoded(picture(), kind, exif=b"Exif\x00\x00neither II nor MM")
        np.testing.assert_array_equal(
            decode_image(data, "a"), decode_image(encoded(picture(), kind), "b")
        )

    def test_grey_is_repeated(self):
        grey = picture().convert("L")
        pixels = decode_image(encoded(grey), "a")
        np.testing.assert_array_equal(pixels, np.repeat(np.asarray(grey)[..., None], 3, -1))

    def test_black_and_white(self):
        pixels = decode_image(encoded(picture().convert("1")), "a")
        assert set(np.unique(pixels)) == {0, 255}

    def test_palette(self):
        palette = picture().quantize(16)
        np.testing.assert_array_equal(
            decode_image(encoded(palette), "a"), np.asarray(palette.convert("RGB"))
        )

    def test_transparent_palette_shows_white(self):
        palette = Image.new("P", (4, 4), 0)
        palette.putpalette([255, 0, 0, 0, 0, 255])
        palette.putpixel((0, 0), 1)
        pixels = decode_image(encoded(palette, transparency=0), "a")
        np.testing.assert_array_equal(pixels[0, 0], [0, 0, 255])
        assert (pixels[1:] == 255).all()

    @pytest.mark.parametrize(
        ("mode", "pixel", "expected"),
        [
            ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
            ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
            ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
            ("LA", (0, 51), (204, 204, 204)),
        ],
    )
    def test_alpha_is_laid_on_white(self, mode, pixel, expected):
        pixels = decode_image(encoded(Image.new(mode, (2, 2), pixel)), "a")
        np.testing.assert_array_equal(pixels[0, 0], expected)

    def test_transparent_colour_shows_white(self):
        image = Image.new("RGB", (2, 1), (1, 2, 3))
        image.putpixel((0, 0), (9, 9, 9))
        pixels = decode_image(encoded(image, transparency=(9, 9, 9)), "a")
        np.testing.assert_array_equal(pixels, [[(255, 255, 255), (1, 2, 3)]])

    def test_16_bits_are_scaled_not_clipped(self):
        grey = np.array([[0, 257, 1000, 32896, 65535]], np.uint16)
        pixels = decode_image(encoded(Image.fromarray(grey)), "a")
        np.testing.assert_array_equal(pixels[..., 0], [[0, 1, 4, 128, 255]])

    def test_32_bit_integers_holding_16_bits_are_scaled(self):
        grey = np.array([[0, 32896, 65535]], np.int32)
        pixels = decode_image(encoded(Image.fromarray(grey), "TIFF"), "a")
        np.testing.assert_array_equal(pixels[..., 2], [[0, 128, 255]])

    @pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
    def test_cmyk(self, kind):
        # Pillow writes a CMYK JPEG as Adobe does: inverted.
        pixels = decode_image(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), kind), "a")
        assert np.abs(pixels[0, 0].astype(int) - [255, 0, 0]).max() <= 3

    @pytest.mark.parametrize("kind", ["GIF", "WEBP"])
    def test_animation_gives_its_first_frame(self, kind):
        frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
        data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        pixels = decode_image(data, "a")
        assert pixels.shape == (8, 8, 3)
        assert np.abs(pixels[0, 0].astype(int) - [255, 0, 0]).max() <= 3


class TestBadImages:
    def test_empty(self):
        with pytest.raises(ImageError, match=r"x\.jpg: the file is empty \(0 bytes\)"):
            decode_image(b"", "x.jpg")

    def test_not_an_image(self):
        with pytest.raises(ImageError, match=r"x\.jpg: not an image; formats read: JPEG, PNG"):
            decode_image(b"<html>404</html>", "x.jpg")

    def test_formats_that_run_programs_are_not_read(self):
        with pytest.raises(ImageError, match=r"x\.png: not an image"):
            decode_image(encoded(picture(), "EPS"), "x.png")

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
    def test_truncated(self, kind):
        data = encoded(Image.fromarray(noise(64, 64)), kind)
        with pytest.raises(ImageError, match=r"x\.img: cannot be decoded"):
            decode_image(data[: len(data) // 2], "x.img")

    def test_damaged(self):
        data = bytearray(encoded(Image.fromarray(noise(64, 64))))
        data[200:240] = bytes(40)
        with pytest.raises(ImageError, match=r"x\.png: cannot be decoded"):
            decode_image(bytes(data), "x.png")

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_too_large(self):
        side = int(MAX_PIXELS**0.5) + 1
        with pytest.raises(ImageError, match=rf"bomb\.png: {side}x{side} is over {MAX_PIXELS} pix"):
            decode_image(png_claiming(side, side), "bomb.png")

    def test_too_large_for_pillow_too(self):
        with pytest.raises(ImageError, match=rf"bomb\.png: over {MAX_PIXELS} pixels") as error:
            decode_image(png_claiming(20000, 20000), "bomb.png")
        assert error.value.reason == "too_large"

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    def test_limit_does_not_move_with_that_of_pillow(self, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
        with pytest.raises(ImageError, match=rf"bomb\.png: 20000x20000 is over {MAX_PIXELS}"):
            decode_image(png_claiming(20000, 20000), "bomb.png")

    def test_floating_point_pixels(self):
        data = encoded(Image.new("F", (4, 4), 0.5), "TIFF")
        with pytest.raises(ImageError, match=r"x\.tif: floating-point pixels"):
            decode_image(data, "x.tif")

    def test_32_bit_pixels(self):
        data = encoded(Image.new("I", (4, 4), 70000), "TIFF")
        with pytest.raises(ImageError, match=r"x\.tif: 32-bit pixels outside 0\.\.65535"):
            decode_image(data, "x.tif")


class TestUprightShape:
    """From the header alone, as `decode_image` would give it."""

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
    def test_of_every_format(self, kind):
        assert upright_shape(encoded(picture(), kind)) == (24, 36)

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_of_turned_pixels(self, kind, orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        data = encoded(picture(), kind, exif=exif)
        assert upright_shape(data) == decode_image(data, "a").shape[:2]
        assert (upright_shape(data) == (36, 24)) == (orientation > 4)

    def test_what_follows_the_header_does_not_matter(self):
        data = encoded(Image.fromarray(noise(200, 300)), "JPEG")
        assert upright_shape(data[:1000]) == (200, 300)
        assert upright_shape(png_claiming(40_000, 50_000)) in ((50_000, 40_000), (0, 0))

    @pytest.mark.parametrize("data", [b"", b"no image", b"\xff\xd8\xff\xe0"])
    def test_there_is_none(self, data):
        assert upright_shape(data) == (0, 0)


class TestResizeCenterCrop:
    def test_image_of_the_right_size_is_unchanged(self):
        image = noise(32, 48)
        np.testing.assert_array_equal(resize_center_crop(image, (32, 48)), image)

    @pytest.mark.parametrize(
        ("shape", "size"),
        [((30, 90), 16), ((90, 30), 16), ((31, 47), 32), ((50, 50), (16, 48)), ((9, 9), (48, 16))],
    )
    def test_shape(self, shape, size):
        height, width = (size, size) if isinstance(size, int) else size
        assert resize_center_crop(noise(*shape), size).shape == (height, width, 3)

    def test_takes_the_centre_of_a_wide_image(self):
        image = noise(16, 48)
        np.testing.assert_array_equal(resize_center_crop(image, 16), image[:, 16:32])

    def test_takes_the_centre_of_a_tall_image_for_a_wide_target(self):
        image = noise(64, 32)
        np.testing.assert_array_equal(resize_center_crop(image, (16, 32)), image[24:40])

    def test_scales_bicubically(self):
        expected = Image.fromarray(noise(64, 96)).resize((48, 32), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(
            resize_center_crop(noise(64, 96), 32), np.asarray(expected)[:, 8:40]
        )


def test_float_and_back_is_the_identity():
    pixels = np.arange(256, dtype=np.uint8)
    floats = to_float(pixels)
    assert floats.dtype == np.float32
    assert floats[0] == -1
    assert floats[-1] == 1
    np.testing.assert_array_equal(to_uint8(floats), pixels)


def test_to_uint8_rounds_and_clips():
    assert to_uint8(np.array([-3.0, 0.001, 0.005, 3.0])).tolist() == [0, 128, 128, 255]


class TestCheckSize:
    @pytest.mark.parametrize(
        ("size", "expected"), [(256, (256, 256)), ((128,), (128, 128)), ((64, 96), (64, 96))]
    )
    def test_accepts(self, size, expected):
        assert check_size(size) == expected

    @pytest.mark.parametrize(
        ("size", "message"),
        [
            (250, "data.image_size=250: 250 is not a positive multiple of 16; nearest: 240 or 256"),
            ((256, 100), r"\(256, 100\): 100 is not .* nearest: 96 or 112"),
            (8, "data.image_size=8: 8 is not a positive multiple of 16; nearest: 16"),
            (0, "nearest: 16"),
            (-32, "nearest: 16"),
            ((16, 16, 16), "give one integer or"),
            ((16.0, 16.0), "give one integer or"),
        ],
    )
    def test_refuses(self, size, message):
        with pytest.raises(ValueError, match=message):
            check_size(size)

    def test_names_the_key_and_the_stride(self):
        with pytest.raises(ValueError, match="eval.image_size=40: 40 .* multiple of 14"):
            check_size(40, stride=14, key="eval.image_size")
