"""Metadata of an image file: its orientation, and the parts that do not affect its pixels.

Read here and not by a library, because training and evaluation decode with different libraries:
both must turn an image the same way, and accept any file whose pixels are intact.
"""

import itertools
import re
import struct
import zlib
from collections.abc import Iterator

MAX_SCANS = 100  # scans of a JPEG; encoders write 20 at most
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"  # beginnings of JPEG segments
_PNG_XMP, _PNG_EXIF = b"XML:com.adobe.xmp\0", b"Raw profile type exif\0"  # text keywords in a PNG
_COLOURS = {b"\xe0": (b"JFIF\0", 18), b"\xee": (b"Adobe", 16)}  # beginning, minimum length in bytes
_SCAN, _MARKER = b"\xff\xda", re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_ORIENTATION = 0x0112  # the tag in EXIF
_IN_XMP = re.compile(rb"""tiff:Orientation(?:=["']|>)([0-9])""")
_LAYOUT = {1: "B", 3: "H", 4: "I"}  # EXIF types allowed for an orientation
_UNPACKED = 1 << 20  # bytes of compressed text that are unpacked

Chunk = tuple[bytes, int, int]  # kind, start, start of the next


def orientation(data: bytes) -> int:
    """Returns the rotation and mirroring that make the stored pixels upright: EXIF 1 (none) to 8.

    EXIF takes precedence; if it is missing or has no orientation, XMP decides; if neither can be
    read, the pixels are upright. JPEG, PNG and WebP are supported; any other file gives 1.

    Args:
        data: an image file, possibly damaged in any way.
    """
    exif, xmp = _blocks(data)
    value = _of_exif(exif) if exif else None
    if value is None:
        found = _IN_XMP.search(xmp)
        value = int(found[1]) if found else 1
    return value if 1 <= value <= 8 else 1


def without_metadata(data: bytes) -> bytes:
    """Removes the parts that do not affect the pixels; returns `data` itself if there are none.

    Removes profiles, texts and thumbnails of a JPEG or PNG, which may be damaged, or larger than a
    library accepts. A truncated or malformed file stays so.
    """
    if data.startswith(JPEG):
        chunks, needless = _jpeg_header(data), _needless_in_jpeg
    elif data.startswith(PNG):
        chunks, needless = _png_chunks(data), _needless_in_png
    else:
        return data
    kept, begin = bytearray(), 0
    for kind, start, end in chunks:
        if needless(data, kind, start, end):
            kept += data[begin:start]
            begin = end
    return bytes(kept + data[begin:]) if begin else data


def scans(data: bytes) -> int:
    """Counts the scans of a JPEG's pixels; each may cost a full pass for a few bytes."""
    most = data.count(_SCAN)  # metadata and trailing data may contain these bytes, too
    return most if most <= MAX_SCANS else sum(kind == b"\xda" for kind, *_ in _jpeg_chunks(data))


def _needless_in_jpeg(data: bytes, kind: bytes, start: int, end: int) -> bool:
    """Returns True for comments and application segments, except those that define the colours."""
    if kind in _COLOURS:
        begin, size = _COLOURS[kind]
        return end - start < size or not data.startswith(begin, start + 4)
    return kind == b"\xfe" or b"\xe0" < kind <= b"\xef"


def _needless_in_png(data: bytes, kind: bytes, start: int, end: int) -> bool:
    """Returns True for chunks that a decoder may ignore, except transparency."""
    return kind[:1].islower() and kind != b"tRNS"


def _blocks(data: bytes) -> tuple[bytes, bytes]:
    """Returns the first EXIF, from its byte order on, and the first XMP; b'' if missing."""
    exif = xmp = b""
    if data.startswith(JPEG):
        for kind, start, end in _jpeg_header(data):
            if kind == b"\xe1" and data.startswith(_EXIF, start + 4):
                exif = exif or data[start + 4 : end]
            elif kind == b"\xe1" and data.startswith(_XMP, start + 4):
                xmp = xmp or data[start + 4 : end]
    elif data.startswith(PNG):
        for kind, start, end in _png_chunks(data):
            if kind == b"eXIf":
                exif = exif or data[start + 8 : end - 4]
            elif kind in (b"tEXt", b"zTXt") and data.startswith(_PNG_EXIF, start + 8):
                exif = exif or _from_hex(_text(kind, data[start + 8 : end - 4]))
            elif kind == b"iTXt" and data.startswith(_PNG_XMP, start + 8):
                xmp = xmp or _text(kind, data[start + 8 : end - 4])
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        for kind, start, end in _riff_chunks(data):
            if kind == b"EXIF":
                exif = exif or data[start + 8 : end]
            elif kind == b"XMP ":
                xmp = xmp or data[start + 8 : end]
    return exif.removeprefix(_EXIF), xmp


def _of_exif(exif: bytes) -> int | None:
    """Reads the orientation tag: None if there is no tag, 1 if it cannot be read."""
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (first,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, first)
        for place in range(first + 2, first + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(f"{order}HH", exif, place)
            if tag == _ORIENTATION:
                return struct.unpack_from(order + _LAYOUT[kind], exif, place + 8)[0]
    except (struct.error, KeyError):
        return 1
    return None


def _text(kind: bytes, chunk: bytes) -> bytes:
    """Returns the beginning of a PNG text after its keyword; b'' if it cannot be unpacked."""
    text, packed = chunk.partition(b"\0")[2], kind == b"zTXt"
    if kind == b"zTXt":
        text = text[1:]  # the compression method; only one exists
    elif kind == b"iTXt":
        packed = text[:1] == b"\1"
        text = text[2:].partition(b"\0")[2].partition(b"\0")[2]  # after language and translation
    try:
        return zlib.decompressobj().decompress(text, _UNPACKED) if packed else text[:_UNPACKED]
    except zlib.error:
        return b""


def _from_hex(text: bytes) -> bytes:
    """Decodes EXIF as ImageMagick writes it: an empty line, its kind, its length, hexadecimal."""
    digits = b"".join(text.split(b"\n")[3:])
    try:
        return bytes.fromhex(digits[: len(digits) // 2 * 2].decode("ascii"))
    except ValueError:
        return b""


def _jpeg_header(data: bytes) -> Iterator[Chunk]:
    return itertools.takewhile(lambda chunk: chunk[0] != b"\xda", _jpeg_chunks(data))


def _jpeg_chunks(data: bytes) -> Iterator[Chunk]:
    """Yields the segments up to the end of the image; kind is the second byte of the marker."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        kind = data[place + 1 : place + 2]
        if kind == b"\xff":  # fill byte
            place += 1
        elif kind == b"\x01" or b"\xd0" <= kind <= b"\xd7":  # markers without a segment
            place += 2
        else:
            end = place + 2 + int.from_bytes(data[place + 2 : place + 4], "big")
            if kind in b"\x00\xd9" or end < place + 4 or end > len(data):
                return
            yield kind, place, end
            place = end
            if kind == b"\xda":  # pixels follow, up to the next marker
                found = _MARKER.search(data, end)
                place = found.start() if found else len(data)


def _png_chunks(data: bytes) -> Iterator[Chunk]:
    place = len(PNG)
    while place + 12 <= len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        if end > len(data):
            return
        yield data[place + 4 : place + 8], place, end
        place = end


def _riff_chunks(data: bytes) -> Iterator[Chunk]:
    place = 12
    while place + 8 <= len(data):
        size = int.from_bytes(data[place + 4 : place + 8], "little")
        yield data[place : place + 4], place, min(place + 8 + size, len(data))
        place += 8 + size + size % 2
