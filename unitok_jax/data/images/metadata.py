"""What an image file says beside its pixels: how the camera was held, and what may be left out.

Read here and not by a library, because training and evaluation decode with different ones: both
must turn a picture the same way, and read one whose pixels are whole whatever else is in the file.
"""

import itertools
import re
import struct
import zlib
from collections.abc import Iterator

MAX_SCANS = 100  # of a JPEG; encoders write 20 at most
JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"  # begin such segments of a JPEG
_PNG_XMP, _PNG_EXIF = b"XML:com.adobe.xmp\0", b"Raw profile type exif\0"  # as text in a PNG
_COLOURS = {b"\xe0": (b"JFIF\0", 18), b"\xee": (b"Adobe", 16)}  # how they begin, bytes at least
_SCAN, _MARKER = b"\xff\xda", re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_ORIENTATION = 0x0112  # the tag in EXIF
_IN_XMP = re.compile(rb"""tiff:Orientation(?:=["']|>)([0-9])""")
_LAYOUT = {1: "B", 3: "H", 4: "I"}  # types of EXIF that an orientation may have
_UNPACKED = 1 << 20  # bytes of compressed text that are looked at

Chunk = tuple[bytes, int, int]  # kind, where it begins, where the next begins


def orientation(data: bytes) -> int:
    """How the stored pixels must be turned, 1 (not at all) to 8, as EXIF numbers it.

    What EXIF says counts; where it says nothing of it, or is not there, what XMP says; and where
    neither can be read, pixels are upright. JPEG, PNG and WebP are looked at; for any other file 1.

    Args:
        data: an image file, which may be damaged in any way.
    """
    exif, xmp = _blocks(data)
    value = _of_exif(exif) if exif else None
    if value is None:
        found = _IN_XMP.search(xmp)
        value = int(found[1]) if found else 1
    return value if 1 <= value <= 8 else 1


def without_metadata(data: bytes) -> bytes:
    """The file without what does not change its pixels: `data` itself if there is none of it.

    Profiles, texts and thumbnails of a JPEG and a PNG, which may be damaged, or larger than a
    library reads. A file that is cut off or malformed stays so.
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
    """How often a JPEG goes over its pixels; a few bytes can make a decoder do it once more."""
    most = data.count(_SCAN)  # metadata and what is appended may hold these bytes as well
    return most if most <= MAX_SCANS else sum(kind == b"\xda" for kind, *_ in _jpeg_chunks(data))


def _needless_in_jpeg(data: bytes, kind: bytes, start: int, end: int) -> bool:
    """Comments and application segments, but those that tell the colours."""
    if kind in _COLOURS:
        begin, size = _COLOURS[kind]
        return end - start < size or not data.startswith(begin, start + 4)
    return kind == b"\xfe" or b"\xe0" < kind <= b"\xef"


def _needless_in_png(data: bytes, kind: bytes, start: int, end: int) -> bool:
    """Chunks that a decoder need not know, but transparency."""
    return kind[:1].islower() and kind != b"tRNS"


def _blocks(data: bytes) -> tuple[bytes, bytes]:
    """The first EXIF, from its byte order on, and the first XMP; b'' for what there is not."""
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
    """The tag's value, None if there is no tag; 1 if that cannot be told."""
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
    """The beginning of a text in a PNG, behind its keyword; b'' if it cannot be unpacked."""
    text, packed = chunk.partition(b"\0")[2], kind == b"zTXt"
    if kind == b"zTXt":
        text = text[1:]  # the method, of which there is one
    elif kind == b"iTXt":
        packed = text[:1] == b"\1"
        text = text[2:].partition(b"\0")[2].partition(b"\0")[2]  # behind language and translation
    try:
        return zlib.decompressobj().decompress(text, _UNPACKED) if packed else text[:_UNPACKED]
    except zlib.error:
        return b""


def _from_hex(text: bytes) -> bytes:
    """EXIF as ImageMagick writes it: an empty line, what it is, how long, and hexadecimal."""
    digits = b"".join(text.split(b"\n")[3:])
    try:
        return bytes.fromhex(digits[: len(digits) // 2 * 2].decode("ascii"))
    except ValueError:
        return b""


def _jpeg_header(data: bytes) -> Iterator[Chunk]:
    return itertools.takewhile(lambda chunk: chunk[0] != b"\xda", _jpeg_chunks(data))


def _jpeg_chunks(data: bytes) -> Iterator[Chunk]:
    """The segments up to the end of the image, kind being the second byte of their markers."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        kind = data[place + 1 : place + 2]
        if kind == b"\xff":  # padding
            place += 1
        elif kind == b"\x01" or b"\xd0" <= kind <= b"\xd7":  # markers that stand alone
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
