"""Image files, of encoders and put together by hand."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

EXIF, XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"

# What a viewer must do to the stored pixels, after the EXIF standard.
TURNED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(height=24, width=40):
    """White in one corner, so that every way of turning it differs."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = 255
    return Image.fromarray(pixels)


def make_images(folder, *names):
    """Small files of these names, of different colours."""
    for index, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (index, 0, 0)).save(path)


def exif(orientation, order="<", tag=0x0112, kind=3):
    """EXIF with one tag, from its byte order on."""
    begin = b"II*\0" if order == "<" else b"MM\0*"
    value = struct.pack({1: order + "B3x", 3: order + "H2x", 4: order + "I"}[kind], orientation)
    return begin + struct.pack(f"{order}IHHHI", 8, 1, tag, kind, 1) + value + bytes(4)


def xmp(orientation, form='tiff:Orientation="{}"'):
    return f"<x:xmpmeta><rdf:Description {form.format(orientation)}/></x:xmpmeta>".encode()


def chunk(kind, body):
    """Of a PNG."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def segment(marker, body):
    """Of a JPEG."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def with_segments(data, *segments):
    """A JPEG with more segments at its beginning."""
    return data[:2] + b"".join(segments) + data[2:]


def with_chunks(data, *chunks):
    """A PNG with more chunks behind its header."""
    return data[:33] + b"".join(chunks) + data[33:]


def with_riff(data, *chunks):
    """A WebP with more chunks, (kind, body), at its end."""
    more = b"".join(
        kind + struct.pack("<I", len(body)) + body + bytes(len(body) % 2) for kind, body in chunks
    )
    return data[:4] + struct.pack("<I", len(data) - 8 + len(more)) + data[8:] + more


def png(width, height, depth, colour, row, *chunks):
    """A PNG of equal rows of stored samples."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pack = zlib.compressobj(9)
    rows = b"".join(pack.compress(b"\0" + row) for _ in range(height)) + pack.flush()
    end = chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(chunks) + end
