"""Samples of one WebDataset tar: the grouping of members, and their positions."""

from typing import NamedTuple

import numpy as np

from unitok_jax.data.formats.folders import IMAGE_SUFFIXES
from unitok_jax.data.formats.recognise import other_format
from unitok_jax.data.health import Tally
from unitok_jax.data.tars.members import BLOCK, CutError, Member, NoEndError, Read, members, split
from unitok_jax.system.paths import is_remote

NO_CAPTION, TEXT, JSON = range(3)
# Position of a sample in its shard. `head_blocks` blocks of headers come before the image.
ROW = np.dtype(
    [
        ("image", "<u8"),
        ("image_size", "<u4"),
        ("head_blocks", "<u2"),
        ("caption", "<u8"),
        ("caption_size", "<u4"),
        ("caption_kind", "u1"),
    ]
)
_WINDOW = 1 << 20  # bytes per fetch from a disk
_WINDOW_REMOTE = 8 << 20
_MAX_SIZE = 2**32 - 1
MAX_CAPTION = 1 << 24  # size limit of a caption member in bytes
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip"),
    b"BZh": ("bzip2", "bunzip2"),
    b"\xfd7zXZ": ("xz", "unxz"),
    b"\x28\xb5\x2f\xfd": ("zstd", "unzstd"),
}


class CaptionRule(NamedTuple):
    """Rule that selects the caption member of a sample.

    Attributes:
        text: extension of a member that is the caption, '' for none.
        json: extension of a member that holds the caption; second choice.
        field: where in it; '' for the one of `folders.CAPTION_KEYS` that is there.
    """

    text: str = "txt"
    json: str = "json"
    field: str = ""


class _Group:
    """Members with one key."""

    def __init__(self, key: str):
        self.key = key
        self.images: list[Member] = []
        self.text: Member | None = None
        self.json: Member | None = None

    @property
    def caption(self) -> tuple[Member | None, int]:
        if self.text is not None and self.text.size:
            return self.text, TEXT
        if self.json is not None and self.json.size:
            return self.json, JSON
        return None, NO_CAPTION


class _Samples:
    """Rows and tally of one shard, from its members in their order."""

    def __init__(self, shard: str, rule: CaptionRule, require_captions: bool):
        self._shard, self._rule, self._required = shard, rule, require_captions
        self._group: _Group | None = None
        self._seen: set[str] = set()
        self.rows: list[tuple[int, ...]] = []
        self.tally = Tally()

    def begin(self, name: str) -> str:
        """Starts the next member; returns its extension, '' if it belongs to no sample."""
        key, extension = split(name)
        if key and (self._group is None or self._group.key != key):
            self.finish()
            self._group = _Group(key)
        return extension

    def add(self, member: Member) -> None:
        extension, group = self.begin(member.name), self._group
        if not extension:
            return
        if f".{extension}" in IMAGE_SUFFIXES:
            group.images.append(member)
        elif extension == self._rule.text:
            group.text = group.text or member
        elif extension == self._rule.json:
            group.json = group.json or member

    def cut(self) -> None:
        """Handles an unreadable rest of the tar: the last sample may have lost members."""
        group = self._group
        if group is not None and not (group.images and group.caption[0]):
            self._group = None
        self.finish()

    def finish(self) -> None:
        """Ends the last key, which has no more members."""
        group, self._group = self._group, None
        if group is None:
            return
        caption, kind = group.caption
        reason = self._fault(group, caption)
        self._seen.add(group.key)
        if reason:
            self.tally.add(reason, f"{self._shard}/{group.key}")
            return
        image = group.images[0]
        blocks = min((image.data - image.head) // BLOCK, 2**16 - 1)
        text = (caption.data, caption.size, kind) if caption else (0, 0, NO_CAPTION)
        self.rows.append((image.data, image.size, blocks, *text))

    def _fault(self, group: _Group, caption: Member | None) -> str:
        if group.key in self._seen:
            return "duplicate_key"
        if len(group.images) != 1:
            return "two_images" if group.images else "no_image"
        if not group.images[0].size:
            return "empty"
        if group.images[0].size > _MAX_SIZE:
            return "too_large"
        if caption is None:
            return "no_caption" if self._required else ""
        return "bad_caption" if caption.size > MAX_CAPTION else ""


class Scan(NamedTuple):
    rows: np.ndarray  # (samples,) of ROW
    tally: Tally
    warnings: list[str]


def scan(
    read: Read, path: str, name: str, size: int, rule: CaptionRule, require_captions: bool
) -> Scan:
    """Scans the samples of one shard.

    Args:
        read: returns bytes of the shard.
        path: the path of the shard, for messages.
        name: the name of the shard, used in sample names.
        size: the size of the shard in bytes.
        rule: selects the caption member.
        require_captions: whether a sample without a caption is skipped.

    Raises:
        ValueError: the shard is compressed, or not a tar.
        OSError: the shard cannot be read.
    """
    samples = _Samples(name, rule, require_captions)
    warnings, count = [], 0
    start = read(0, min(size, 8))
    for magic, (kind, tool) in _COMPRESSED.items():
        if start.startswith(magic):
            raise ValueError(
                f"data.path: {path} is compressed ({kind}); samples are read at random, which "
                f"needs a plain tar: {tool} it, or pack it again with `tar -cf`"
            )
    window = _WINDOW_REMOTE if is_remote(path) else _WINDOW
    try:
        for member in members(read, size, window):
            if member.data + member.size > size:
                samples.begin(member.name)
                raise CutError(member.data, f"the tar ends within {member.name}")
            count += 1
            if member.regular:
                samples.add(member)
        samples.finish()
    except NoEndError as error:
        samples.finish()  # some writers omit the end marker, so the last sample may be whole
        samples.tally.add("unreadable", f"{name} from byte {error.offset}")
        warnings.append(
            f"{path}: {error}: its {len(samples.rows)} samples are used, but it may have been cut "
            f"at byte {size}. Compare its size with the original, or fetch it again"
        )
    except CutError as error:
        if not count and error.offset == 0:
            other = other_format(path, "tar")
            raise ValueError(
                f"data.path: {path} is not a tar: {error}" + (f". {other}" if other else "")
            ) from error
        samples.cut()
        lost = _lost(error.offset, size, len(samples.rows) + samples.tally.total)
        samples.tally.add("unreadable", f"{name} from byte {error.offset}", lost)
        warnings.append(
            f"{path}: {error} at byte {error.offset} of {size}; {len(samples.rows)} samples before "
            f"it are used, about {lost} after it are not. Fetch the shard again"
        )
    if not count and not warnings:
        warnings.append(f"{path} is an empty tar: it has no samples")
    return Scan(np.array(samples.rows, ROW), samples.tally, warnings)


def _lost(offset: int, size: int, count: int) -> int:
    """Estimates the number of samples after byte `offset` from the `count` samples before it."""
    mean = offset / max(count, 1)
    return max(round((size - offset) / mean), 1)
