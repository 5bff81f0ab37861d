"""Members of a tar, from its headers alone."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

BLOCK = 512
MAX_HEADER = 1 << 20  # bytes of a long name or of PAX records; real ones have some hundred

Read = Callable[[int, int], bytes]  # (offset, size) -> bytes


class Member(NamedTuple):
    name: str
    head: int  # start of its first header
    data: int  # start of its bytes
    size: int
    regular: bool  # a file, not a link, device or folder


class CutError(ValueError):
    """The tar ends, or stops being a tar, at byte `offset`."""

    def __init__(self, offset: int, why: str):
        super().__init__(why)
        self.offset = offset


class NoEndError(CutError):
    """The tar ends after a whole member, without the zeros that say that it was the last."""


def members(read: Read, size: int, window: int = 0) -> Iterator[Member]:
    """Yields the members of a tar: ustar, GNU long names, PAX. Sparse files are not `regular`.

    Time and memory are linear in what is read; a header of more than `MAX_HEADER` bytes is damage.

    Args:
        read: returns bytes of the tar.
        size: the size of the tar in bytes.
        window: minimum number of bytes per fetch.

    Raises:
        CutError: an invalid header, or the tar ends within a header.
        NoEndError: all members are whole, but the end marker is missing.
    """
    fetch = _Window(read, size, window).get
    offset = head = 0
    name, stated, sparse = None, None, False  # of the next member, from headers of its own
    while offset + BLOCK <= size:
        block = fetch(offset, BLOCK)
        kind = block[156:157]
        if not block.strip(b"\0"):
            return
        length = _check(block, offset)
        data = offset + BLOCK
        if kind in b"LKxg":
            if data + length > size:
                raise CutError(offset, "the tar ends within a header")
            if length > MAX_HEADER:
                raise CutError(offset, f"a header of {length} bytes")
            if kind == b"L":
                name = _text(fetch(data, length))
            elif kind == b"x":
                fields = _pax(fetch(data, length), offset)
                name, stated = fields.get("path", name), fields.get("size", stated)
                sparse = sparse or "sparse" in fields
            offset = data + -(-length // BLOCK) * BLOCK
            continue
        length = length if stated is None else stated
        length = 0 if kind in b"123456" else length  # links, devices, folders, pipes
        more = kind == b"S" and block[482]  # a GNU sparse file with a continued map
        while more and data + BLOCK <= size:
            more, data = fetch(data, BLOCK)[504], data + BLOCK
        full = _name(block) if name is None else name
        regular = kind in b"0\x007" and not full.endswith("/") and not sparse
        yield Member(full, head, data, length, regular)
        offset = head = data + -(-length // BLOCK) * BLOCK
        name, stated, sparse = None, None, False
    if offset < size or head < offset:
        raise CutError(offset, "the tar ends within a header")
    if size:
        raise NoEndError(size, "the tar has no end-of-archive block")


class _Window:
    """Window of bytes over a file that is read forward."""

    def __init__(self, read: Read, size: int, window: int):
        self._read, self._size, self._window = read, size, window
        self._start, self._bytes = 0, b""

    def get(self, offset: int, size: int) -> bytes:
        start = offset - self._start
        if not 0 <= start <= len(self._bytes) - size:
            wanted = min(max(self._window, size), self._size - offset)
            self._start, self._bytes, start = offset, self._read(offset, wanted), 0
        return self._bytes[start : start + size]


def _check(block: bytes, offset: int) -> int:
    """Checks a header; returns the number of bytes after it."""
    try:
        stated = _number(block[148:156])
        size = _number(block[124:136])
    except ValueError as error:
        raise CutError(offset, "there is no header") from error
    if stated != sum(block[:148]) + sum(block[156:]) + 8 * ord(" "):
        raise CutError(offset, "the header's checksum is wrong")
    return size


def _number(field: bytes) -> int:
    if field[0] == 0x80:  # base 256, for sizes too large for octal
        return int.from_bytes(field[1:], "big")
    return _positive(int(field.split(b"\0", 1)[0].strip() or b"0", 8))


def _name(block: bytes) -> str:
    name = _text(block[:100])
    # GNU tar, whose magic ends in spaces, stores other fields in the place of ustar's prefix.
    prefix = _text(block[345:500]) if block[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _text(field: bytes) -> str:
    return field.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def _pax(data: bytes, offset: int) -> dict[str, Any]:
    """Parses 'path', 'size' and 'sparse' from PAX records, each a line 'length key=value'."""
    fields, start, end = {}, 0, len(data.rstrip(b"\0"))
    try:
        while start < end:
            space = data.index(b" ", start, start + 20)
            stop = start + int(data[start:space])
            if not space < stop <= end or data[stop - 1 : stop] != b"\n":
                raise ValueError(stop)
            key, _, value = data[space + 1 : stop - 1].partition(b"=")
            if key == b"path":
                fields["path"] = _text(value)
            elif key == b"size":
                fields["size"] = _positive(int(value))
            elif key.startswith(b"GNU.sparse."):
                fields["sparse"] = True
            start = stop
    except ValueError as error:
        raise CutError(offset, "the PAX header is damaged") from error
    return fields


def _positive(number: int) -> int:
    if number < 0:
        raise ValueError(f"{number} is below 0")
    return number


def split(name: str) -> tuple[str, str]:
    """Splits a member's name into key and lower-case extension as WebDataset does; '' if none.

    The key is the folder and the base name up to its first dot.
    """
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, extension = base.partition(".")
    return (f"{folder}{slash}{stem}", extension.lower()) if stem and extension else ("", "")
