"""How the camera was held, and pictures whose pixels are whole whatever else is in the file."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from helpers.image_files import (
    EXIF,
    TURNED,
    XMP,
    chunk,
    encoded,
    exif,
    picture,
    png,
    segment,
    with_chunks,
    with_riff,
    with_segments,
    xmp,
)
from unitok_jax.data.images.crops import decode_random_crop, resize
from unitok_jax.data.images.metadata import orientation, scans, without_metadata
from unitok_jax.data.images.transforms import ImageError, decode_image

JPEG = encoded(picture(), "JPEG", quality=95, subsampling=0)
PNG = encoded(picture())
WEBP = encoded(picture(), "WEBP", lossless=True)
PLAIN = {"JPEG": JPEG, "PNG": PNG, "WEBP": WEBP}


def hexadecimal(data):
    """EXIF as ImageMagick puts it into the text of a PNG."""
    return b"Raw profile type exif\0\0" + zlib.compress(
        b"\nexif\n%8d\n" % len(data) + data.hex().encode() + b"\n"
    )


def itxt(text, packed=False):
    body = zlib.compress(text) if packed else text
    return b"XML:com.adobe.xmp\0" + bytes([packed, 0]) + b"\0\0" + body


FILES = {
    "JPEG, EXIF": lambda n: with_segments(JPEG, segment(0xE1, EXIF + exif(n))),
    "JPEG, big-endian": lambda n: with_segments(JPEG, segment(0xE1, EXIF + exif(n, ">"))),
    "JPEG, 32-bit value": lambda n: with_segments(JPEG, segment(0xE1, EXIF + exif(n, kind=4))),
    "JPEG, XMP": lambda n: with_segments(JPEG, segment(0xE1, XMP + xmp(n))),
    "JPEG, XMP element": lambda n: with_segments(
        JPEG, segment(0xE1, XMP + xmp(n, "><tiff:Orientation>{}</tiff:Orientation>"))
    ),
    "JPEG, EXIF without the tag, XMP": lambda n: with_segments(
        JPEG, segment(0xE1, XMP + xmp(n)), segment(0xE1, EXIF + exif(9, tag=0x0100))
    ),
    "JPEG, XMP before EXIF": lambda n: with_segments(
        JPEG, segment(0xE1, XMP + xmp(9 - n)), segment(0xE1, EXIF + exif(n))
    ),
    "JPEG, a comment that looks like EXIF": lambda n: with_segments(
        JPEG, segment(0xFE, EXIF + exif(9 - n)), segment(0xE1, EXIF + exif(n))
    ),
    "JPEG, a profile that looks like EXIF": lambda n: with_segments(
        JPEG,
        segment(0xE2, b"ICC_PROFILE\0\1\1" + EXIF + exif(9 - n)),
        segment(0xE1, EXIF + exif(n)),
    ),
    "JPEG, EXIF twice": lambda n: with_segments(
        JPEG, segment(0xE1, EXIF + exif(n)), segment(0xE1, EXIF + exif(9 - n))
    ),
    "JPEG, padded and after much": lambda n: with_segments(
        JPEG, *5 * [segment(0xE2, bytes(65533))], b"\xff\xff", segment(0xE1, EXIF + exif(n))
    ),
    "PNG, eXIf": lambda n: with_chunks(PNG, chunk(b"eXIf", exif(n))),
    "PNG, eXIf at the end": lambda n: PNG[:-12] + chunk(b"eXIf", exif(n)) + PNG[-12:],
    "PNG, EXIF as text": lambda n: with_chunks(PNG, chunk(b"zTXt", hexadecimal(EXIF + exif(n)))),
    "PNG, XMP": lambda n: with_chunks(PNG, chunk(b"iTXt", itxt(xmp(n)))),
    "PNG, packed XMP": lambda n: with_chunks(PNG, chunk(b"iTXt", itxt(xmp(n), packed=True))),
    "WEBP, EXIF": lambda n: with_riff(WEBP, (b"EXIF", exif(n))),
    "WEBP, EXIF as in a JPEG": lambda n: with_riff(WEBP, (b"EXIF", EXIF + exif(n))),
    "WEBP, XMP": lambda n: with_riff(WEBP, (b"XMP ", xmp(n))),
    "WEBP, by Pillow": lambda n: encoded(picture(), "WEBP", lossless=True, exif=EXIF + exif(n)),
}


@pytest.mark.parametrize("turned", range(1, 9))
@pytest.mark.parametrize("name", FILES)
def test_training_and_evaluation_turn_alike(name, turned):
    data = FILES[name](turned)
    assert orientation(data) == turned
    upright = TURNED[turned](decode_image(PLAIN[name.split(",")[0]], ""))
    seen = decode_image(data, name)
    np.testing.assert_array_equal(seen, upright)
    size = upright.shape[:2]
    rng = np.random.default_rng(0)
    trained = decode_random_crop(data, name, size, rng, (1, 1), (1, 1))
    np.testing.assert_array_equal(trained, seen)


MALFORMED = {
    "nothing": b"",
    "no byte order": b"neither II nor MM",
    "no directory": b"II*\0",
    "directory outside": b"II*\0" + struct.pack("<I", 1 << 31),
    "tags cut off": exif(6)[:12],
    "value cut off": exif(6)[:18],
    "more tags than bytes": b"II*\0" + struct.pack("<IH", 8, 65535) + bytes(24),
    "a value of another type": exif(6).replace(struct.pack("<HH", 0x0112, 3), b"\x12\1\7\0"),
    "0": exif(0),
    "9": exif(9),
    "65535": exif(65535),
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("kind", PLAIN)
def test_malformed_exif_means_upright(kind, name):
    data = {
        "JPEG": lambda: with_segments(JPEG, segment(0xE1, EXIF + MALFORMED[name])),
        "PNG": lambda: with_chunks(PNG, chunk(b"eXIf", MALFORMED[name])),
        "WEBP": lambda: with_riff(WEBP, (b"EXIF", MALFORMED[name])),
    }[kind]()
    assert orientation(data) == 1
    upright = decode_image(PLAIN[kind], "")
    np.testing.assert_array_equal(decode_image(data, ""), upright)
    rng = np.random.default_rng(0)
    trained = decode_random_crop(data, "", (12, 20), rng, (1, 1), (1, 1))
    np.testing.assert_array_equal(trained, resize(upright, (12, 20)))


def test_orientation_of_other_files_and_of_pieces():
    for kind in ("GIF", "BMP", "TIFF", "PPM"):
        assert orientation(encoded(picture(), kind)) == 1
    for name, make in FILES.items():
        data = make(6)
        found = {orientation(data[:length]) for length in range(0, len(data), 7)}
        assert found <= {1, 3, 6}, name  # 3: of what is there first


LARGE = zlib.compress(bytes(3_000_000))
BROKEN = {
    "PNG, a profile of 3 MB": with_chunks(PNG, chunk(b"iCCP", b"p\0\0" + LARGE)),
    "PNG, text of 3 MB": with_chunks(PNG, chunk(b"zTXt", b"k\0\0" + LARGE)),
    "PNG, text of 3 MB at the end": PNG[:-12] + chunk(b"zTXt", b"k\0\0" + LARGE) + PNG[-12:],
    "PNG, 70 texts of 1 MB": with_chunks(
        PNG, *70 * [chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000)))]
    ),
    "PNG, a text without its sum": with_chunks(PNG, chunk(b"tEXt", b"k\0v")[:-4] + bytes(4)),
    "PNG, a profile that is none": with_chunks(PNG, chunk(b"iCCP", b"p\0\0none")),
    "PNG, an animation without frames": with_chunks(PNG, chunk(b"acTL", b"")),
    "PNG, times and sizes cut short": with_chunks(
        PNG, chunk(b"pHYs", b"\0"), chunk(b"gAMA", b""), chunk(b"cHRM", b"\0"), chunk(b"sRGB", b"")
    ),
    "JPEG, EXIF that is none": with_segments(JPEG, segment(0xE1, EXIF + b"MM\0*\xff\xff\xff\xff")),
    "JPEG, a profile of 6 MB in 99 parts": with_segments(
        JPEG,
        *(segment(0xE2, b"ICC_PROFILE\0" + bytes([i, 99]) + bytes(60000)) for i in range(99)),
    ),
    "JPEG, Photoshop's block cut short": with_segments(
        JPEG, segment(0xED, b"Photoshop 3.0\x008BIM\x03\xed\0")
    ),
    "JPEG, JFIF and Adobe cut short": with_segments(
        JPEG, segment(0xE0, b"JFIF\0\1"), segment(0xE0, b"JFXX\0"), segment(0xEE, b"Adobe\0")
    ),
    "JPEG, several pictures that are not there": with_segments(
        JPEG, segment(0xE2, b"MPF\0II*\0\x08\0\0\0\x01\0\x01\xb0\x04\0\x01\0\0\0\x05\0\0\0")
    ),
    "WEBP, EXIF and XMP of 3 MB": with_riff(
        WEBP, (b"EXIF", bytes(3_000_000)), (b"XMP ", bytes(3_000_000))
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_whole_pixels_are_read_whatever_else_is_there(name):
    expected = decode_image(PLAIN[name.split(",")[0]], "")
    np.testing.assert_array_equal(decode_image(BROKEN[name], name), expected)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_metadata_is_left_out_and_nothing_else(kind):
    assert without_metadata(PLAIN[kind]) is PLAIN[kind]
    files = {name: make(6) for name, make in FILES.items()} | BROKEN
    del files["JPEG, padded and after much"]  # the padding stays
    for name, data in files.items():
        if name.startswith(kind):
            assert without_metadata(data) == PLAIN[kind], name


def test_what_is_no_metadata_stays():
    """The colours of a JPEG and the transparency of a PNG; what is cut off stays cut off."""
    cmyk = encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")
    assert b"Adobe" in cmyk and without_metadata(cmyk) is cmyk
    clear = png(2, 1, 8, 0, b"\x05\x06", chunk(b"tRNS", b"\0\x05"))
    assert without_metadata(clear) is clear
    for data in (
        with_segments(JPEG, segment(0xFE, bytes(100))),
        with_chunks(PNG, bytes([0, 0, 255])),
    ):
        assert without_metadata(data[:90]) == data[:90]


@pytest.mark.parametrize(
    "depth, colour, row, transparent, expected",
    [
        (1, 0, b"\x40", 1, (0, 255)),  # white on black: both are white or one is black
        (1, 0, b"\x40", 0, (255, 255)),
        (2, 0, b"\x60", 1, (255, 170)),
        (4, 0, b"\x5a", 5, (255, 170)),
        (8, 0, b"\x5a\x5b", 0x5A, (255, 0x5B)),
        (16, 0, b"\x5a\x5a\x5a\x5b", 0x5A5A, (255, 0x5A)),
        (16, 0, b"\0\0\xff\xff", 0, (255, 255)),
    ],
)
def test_transparent_grey_of_every_depth_is_white(depth, colour, row, transparent, expected):
    clear = chunk(b"tRNS", struct.pack(">H", transparent))
    pixels = decode_image(png(2, 1, depth, colour, row, clear), "")
    np.testing.assert_array_equal(pixels, np.repeat(np.array([expected]), 3).reshape(1, 2, 3))


def test_transparent_colour_of_16_bits_is_white():
    row = struct.pack(">6H", 0x0102, 0x0304, 0x0506, 0x1102, 0x1304, 0x1506)
    clear = chunk(b"tRNS", struct.pack(">3H", 0x0102, 0x0304, 0x0506))
    pixels = decode_image(png(2, 1, 16, 2, row, clear), "")
    np.testing.assert_array_equal(pixels, [[(255, 255, 255), (0x11, 0x13, 0x15)]])


def many_scans(count):
    data = encoded(picture().convert("L"), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * count + data[-2:]


def test_scans_are_counted_within_the_image_alone():
    assert scans(JPEG) == 1
    progressive = encoded(picture(), "JPEG", progressive=True)
    assert scans(progressive) == 10
    hidden = segment(0xFE, b"\xff\xd9" + 50 * b"\xff\xda")
    several = with_segments(progressive, hidden, hidden) + 200 * b"\xff\xda"
    assert scans(several) == 10
    data = many_scans(200)
    behind = data.rindex(b"\xff\xda", 0, len(data) // 2)
    assert scans(data[:behind] + hidden + data[behind:]) > 200


def test_a_jpeg_of_very_many_scans_is_refused(monkeypatch):
    decode_image(many_scans(80), "x.jpg")
    begun = []
    monkeypatch.setattr("simplejpeg.decode_jpeg", lambda *_, **__: begun.append(1))
    for decode in (
        lambda data: decode_image(data, "x.jpg"),
        lambda data: decode_random_crop(
            data, "x.jpg", (16, 16), np.random.default_rng(0), (1, 1), (1, 1)
        ),
    ):
        with pytest.raises(ImageError, match=r"x\.jpg: more than 100 scans") as error:
            decode(many_scans(200))
        assert error.value.reason == "too_large"
    assert not begun
