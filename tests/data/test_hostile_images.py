"""Image files that were damaged on purpose: a picture or a `SampleError`, in bounded memory."""

import struct
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from helpers.image_files import encoded, png, xmp
from unitok_jax.data.health import REASONS, SampleError
from unitok_jax.data.images.crops import decode_random_crop
from unitok_jax.data.images.transforms import (
    MAX_PIXELS,
    MAX_SIDE,
    ImageError,
    check_pixels,
    decode_image,
    decoding,
    resize_center_crop,
)

BLOCKS = np.random.default_rng(1).integers(0, 255, (6, 7, 3), np.uint8)
SMALL = Image.fromarray(BLOCKS.repeat(5, 0).repeat(5, 1))
GREY16 = Image.fromarray(np.asarray(SMALL.convert("L")).astype(np.uint16) * 257)
MORE = {"save_all": True, "append_images": [SMALL.rotate(90)]}
TURNED = Image.Exif()
TURNED[0x0112] = 6
FILES = {
    "JPEG": encoded(SMALL, "JPEG", exif=TURNED, comment=b"hello", xmp=xmp(6)),
    "progressive": encoded(SMALL, "JPEG", progressive=True, subsampling=0),
    "upright": encoded(SMALL, "JPEG"),
    "grey": encoded(SMALL.convert("L"), "JPEG"),
    "CMYK": encoded(SMALL.convert("CMYK"), "JPEG"),
    "MPO": encoded(SMALL, "MPO", **MORE),
    "PNG": encoded(SMALL, exif=TURNED),
    "palette": encoded(SMALL.quantize(16), transparency=1),
    "1 bit": encoded(SMALL.convert("1")),
    "alpha": encoded(SMALL.convert("RGBA")),
    "16 bits": encoded(GREY16, transparency=90),
    "animated PNG": encoded(SMALL, **MORE),
    "WebP": encoded(SMALL, "WEBP", exif=TURNED),
    "lossless": encoded(SMALL.convert("RGBA"), "WEBP", lossless=True),
    "animated WebP": encoded(SMALL, "WEBP", **MORE),
    "GIF": encoded(SMALL, "GIF"),
    "animated GIF": encoded(SMALL, "GIF", transparency=3, disposal=2, **MORE),
    "BMP": encoded(SMALL, "BMP"),
    "palette BMP": encoded(SMALL.quantize(16), "BMP"),
    "TIFF": encoded(SMALL, "TIFF", exif=TURNED),
    "packed TIFF": encoded(SMALL, "TIFF", compression="tiff_lzw"),
    "JPEG in TIFF": encoded(SMALL, "TIFF", compression="jpeg"),
    "16-bit TIFF": encoded(GREY16, "TIFF"),
    "PPM": encoded(SMALL, "PPM"),
    "16-bit PGM": b"P5\n3 2\n1000\n" + bytes(12),
    "ASCII PPM": b"P3\n3 2\n255\n" + b" ".join(b"%d" % i for i in range(18)),
}


def damaged(data, rng):
    """The file with some bytes cut off, cut out, flipped or overwritten."""
    data, how = bytearray(data), rng.integers(5)
    place = rng.integers(len(data))
    if how == 0:
        return bytes(data[:place])
    if how == 1:
        del data[place : place + rng.integers(1, 20)]
        return bytes(data)
    early = len(data) if how < 4 else min(len(data), 100)  # where headers are
    for place in rng.integers(early, size=rng.integers(1, 6)):
        data[place] = data[place] ^ 1 << rng.integers(8) if how == 2 else rng.integers(256)
    return bytes(data)


@pytest.mark.filterwarnings("ignore")  # of Pillow, at what is odd in a file
@pytest.mark.parametrize("name", FILES)
def test_damaged_files_are_pictures_or_bad_samples(name):
    rng = np.random.default_rng(0)
    outcomes = set()
    for number in range(60):
        data = damaged(FILES[name], rng) if number else FILES[name]
        for decode in (
            lambda data: decode_image(data, "x\n.img"),
            lambda data: decode_random_crop(
                data, "x\n.img", (16, 16), np.random.default_rng(0), (0.3, 1), (0.75, 1.33)
            ),
        ):
            try:
                pixels = decode(data)
                assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
                outcomes.add("picture")
            except SampleError as error:
                assert error.reason in REASONS and str(error).startswith("x\\n.img: ")
                assert "\n" not in str(error)
                outcomes.add(error.reason)
        assert number or outcomes == {"picture"}
    assert len(outcomes) > 1  # some were damaged


@pytest.mark.parametrize(
    "error", [SyntaxError("a\nb"), IndexError(), KeyError(3), AssertionError(), ZeroDivisionError()]
)
def test_whatever_a_library_raises_becomes_one_line_with_the_name(error):
    with pytest.raises(ImageError, match=r"^x\.jpg: cannot be decoded \(.+\)$") as found:
        with decoding("x.jpg"):
            raise error
    assert found.value.reason == "damaged" and found.value.__cause__ is error


def test_no_memory_is_too_large_and_interrupts_pass():
    with pytest.raises(ImageError, match="no memory") as found, decoding("x"):
        raise MemoryError
    assert found.value.reason == "too_large"
    with pytest.raises(KeyboardInterrupt), decoding("x"):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    "kind, shape, message",
    [
        ("PNG", (1 << 14, 1 << 13), ""),
        ("PNG", (1 << 14, (1 << 13) + 1), f"8193x16384 is over {MAX_PIXELS} pixels"),
        ("WEBP", (1 << 13, 1 << 13), ""),
        ("WEBP", (1 << 13, (1 << 13) + 1), f"8193x8192 is over {MAX_PIXELS // 2} pixels"),
        ("PNG", (1, MAX_SIDE), ""),
        ("PNG", (1, MAX_SIDE + 1), f"has a side over {MAX_SIDE} pixels"),
        ("TIFF", (MAX_SIDE + 1, 1), f"has a side over {MAX_SIDE} pixels"),
    ],
)
def test_limits_of_pixels(kind, shape, message):
    if not message:
        return check_pixels(shape, kind, "x")
    with pytest.raises(ImageError, match=message) as error:
        check_pixels(shape, kind, "x")
    assert error.value.reason == "too_large"


def test_a_tile_of_a_tiff_counts_as_pixels():
    tags = {256: 16, 257: 16, 258: 8, 259: 8, 262: 1, 322: 1 << 14, 323: 1 << 14, 324: 8, 325: 8}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)
    with pytest.raises(ImageError, match=rf"16384x16384 is over {MAX_PIXELS} pixels"):
        decode_image(data, "x")


SIDE = 3000  # so that what a process takes anyhow is small beside the pixels
MEMORY = {  # bytes for a pixel
    "grey of 16 bits": (lambda: png(SIDE, SIDE, 16, 0, bytes(2 * SIDE)), 12),
    "RGBA": (lambda: png(SIDE, SIDE, 8, 6, bytes(4 * SIDE)), 12),
    "grey with alpha": (lambda: png(SIDE, SIDE, 8, 4, bytes(2 * SIDE)), 12),
    "palette": (lambda: encoded(Image.new("P", (SIDE, SIDE)), transparency=0), 12),
    "turned": (lambda: encoded(Image.new("RGB", (SIDE, SIDE)), exif=TURNED), 12),
    "progressive CMYK": (
        lambda: encoded(Image.new("CMYK", (SIDE, SIDE)), "JPEG", progressive=True),
        12.5,  # with the decoder's own
    ),
    "32-bit TIFF": (
        lambda: encoded(Image.new("I", (SIDE, SIDE)), "TIFF", compression="tiff_deflate"),
        12,
    ),
    "WebP with alpha": (
        lambda: encoded(Image.new("RGBA", (SIDE, SIDE)), "WEBP", lossless=True),
        24,
    ),
}


@pytest.mark.skipif(sys.platform != "linux", reason="asks the system for the peak of memory")
@pytest.mark.parametrize("name", MEMORY)
def test_memory_of_decoding_is_bounded(name, tmp_path):
    make, bytes_per_pixel = MEMORY[name]
    (tmp_path / "x").write_bytes(make())
    code = (
        "import re, sys, pathlib\n"
        "from PIL import Image\n"
        "from unitok_jax.data.images.transforms import decode_image\n"
        "def peak():\n"
        "    status = pathlib.Path('/proc/self/status').read_text()\n"
        "    return int(re.search(r'VmHWM:\\s+(\\d+) kB', status)[1]) * 1024\n"
        "Image.init()\n"
        "data = pathlib.Path(sys.argv[1]).read_bytes()\n"
        "before = peak()\n"
        "decode_image(data, 'x')\n"
        "print(peak() - before)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) <= bytes_per_pixel * SIDE**2


def test_blocks_are_put_together(monkeypatch):
    """What is converted in blocks is what is converted at once."""
    pixels = np.random.default_rng(0).integers(0, 256, (37, 70, 4), np.uint8)
    for turned in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = turned
        data = encoded(Image.fromarray(pixels), exif=exif)
        whole = decode_image(data, "")
        with monkeypatch.context() as patched:
            patched.setattr("unitok_jax.data.images.transforms._BLOCK", 16)
            np.testing.assert_array_equal(decode_image(data, ""), whole)


@pytest.mark.parametrize("shape", [(1, 100_000), (100_000, 1), (2, 50_000)])
def test_a_strip_is_resized_without_its_whole(shape):
    """To cover 256 pixels, a strip of 100 000 would become 6.5 thousand million pixels."""
    strip = np.zeros((*shape, 3), np.uint8)
    height, width = shape
    strip[
        max(0, height // 2 - 50) : height // 2 + 50, max(0, width // 2 - 50) : width // 2 + 50
    ] = 200
    centre = resize_center_crop(strip, (256, 256))
    assert centre.shape == (256, 256, 3) and (centre == 200).all()


def test_resizing_a_part_is_cutting_it_out_of_the_whole(monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (30, 400, 3), np.uint8)
    for size in ((64, 64), (48, 96)):
        whole = resize_center_crop(image, size)
        with monkeypatch.context() as patched:
            patched.setattr("unitok_jax.data.images.transforms._WHOLE", 0)
            part = resize_center_crop(image, size)
        assert np.abs(part.astype(int) - whole).max() <= 1


def test_the_limit_lies_below_that_of_pillow():
    assert MAX_PIXELS <= 2 * Image.MAX_IMAGE_PIXELS
