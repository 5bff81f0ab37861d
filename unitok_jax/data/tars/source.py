"""Samples of WebDataset tars by position: image and captions are read straight from the shard."""

import functools
import re
from pathlib import Path
from typing import Any

import numpy as np

from unitok_jax.data.formats.folders import CAPTION_KEYS
from unitok_jax.data.health import SampleError
from unitok_jax.data.tars import index as tar_index
from unitok_jax.data.tars import index_files
from unitok_jax.data.tars.scan import BLOCK, NO_CAPTION, TEXT, CaptionRule, CutError, members, split
from unitok_jax.data.tars.shards import Reader, expand
from unitok_jax.system.foreign_json import parse_object

_GAP = 64 << 10  # largest gap in bytes between image and caption for a single read


class TarSource:
    """Samples of tars, in the order of the shards and of the members in each shard.

    Args:
        place: the folder of the index.
        state: the name of the index's state.
        index: the loaded index.
        field: of JSON captions; '' for the one of `folders.CAPTION_KEYS` that is there.
        require_captions: whether a sample without captions is an error.

    Attributes:
        tally: samples that the index skips.
    """

    def __init__(
        self,
        place: Path,
        state: str,
        index: index_files.Index,
        field: str = "",
        require_captions: bool = True,
    ):
        self.tally = index.tally
        self._place, self._state, self._index = place, state, index
        self._length = len(index.rows)
        self._field, self._require_captions = field, require_captions
        self._reader = Reader()

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "_index"}

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < self._length:
            raise IndexError(f"{index} is not in [0, {self._length})")
        shard = int(np.searchsorted(self._index.ends, index, side="right"))
        shard_name = self._index.names[shard]
        image, image_size, blocks, caption, caption_size, kind = self._index.rows[index]
        path = f"{self._index.root}/{shard_name}"
        begin = blocks * BLOCK  # offset of the image in its span, after its headers
        spans = [(image - begin, image + image_size)]
        if kind != NO_CAPTION:
            spans.append((caption, caption + caption_size))
        if min(spans)[0] < 0 or max(end for _, end in spans) > self._index.sizes[shard]:
            raise OSError(f"{path} does not hold what its index says: row {index} lies outside")
        member, *text = self._read(path, spans)
        header, encoded = bytes(member[:begin]), bytes(member[begin:])
        name = f"{shard_name}/{_key(path, header, image_size)}"
        captions = self._captions(name, bytes(text[0]), kind) if text else ()
        if not captions and self._require_captions:
            raise SampleError(f"{name}: the caption is empty", "no_caption")
        return {"name": name, "image": encoded, "captions": captions}

    @functools.cached_property
    def _index(self) -> index_files.Index:  # reloaded in a worker process
        return index_files.load(self._place, self._state)

    def _read(self, path: str, spans: list[tuple[int, int]]) -> list[memoryview]:
        """Reads the bytes of spans, (start, end); in one read if the spans are close."""
        start, end = min(spans)[0], max(span[1] for span in spans)
        if end - start > sum(last - first for first, last in spans) + _GAP:
            parts = [self._reader.read(path, first, last - first) for first, last in spans]
            return [memoryview(part) for part in parts]
        data = memoryview(self._reader.read(path, start, end - start))
        return [data[first - start : last - start] for first, last in spans]

    def _captions(self, name: str, data: bytes, kind: int) -> tuple[str, ...]:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise SampleError(
                f"{name}: the caption is not UTF-8 ({error})", "bad_caption"
            ) from error
        found = [text] if kind == TEXT else self._json_captions(name, text)
        return tuple(caption.strip() for caption in found if caption.strip())

    def _json_captions(self, name: str, text: str) -> list[str]:
        try:
            record = parse_object(text, name)
        except ValueError as error:
            raise SampleError(str(error), "bad_caption") from error
        keys = [key for key in ([self._field] if self._field else CAPTION_KEYS) if key in record]
        if len(keys) > 1:
            raise SampleError(
                f"{name}: holds {' and '.join(keys)}; say which one with "
                f"--config.data.captions=json:{keys[0]}",
                "bad_caption",
            )
        captions = record[keys[0]] if keys else None
        captions = [captions] if isinstance(captions, str) else captions or []
        if not isinstance(captions, list) or not all(isinstance(item, str) for item in captions):
            raise SampleError(
                f"{name}: {keys[0]!r} must be a string or a list of strings, not {_kind(captions)}",
                "bad_caption",
            )
        return captions


def tar_source(
    path: str, captions: str = "", index: str = "", *, require_captions: bool = True
) -> TarSource:
    """Opens the samples of WebDataset tars, by the offsets of their members.

    A sample is the consecutive members with one key: an image, and a caption. Unusable samples
    are skipped and counted in `tally`.

    Args:
        path: as for `shards.expand`.
        captions: the extension of the members that are captions, as txt, or json:field; '' for
            .txt and, where there is none, the caption in .json.
        index: folder of indexes; '' for beside the shards or in the user's cache.
        require_captions: whether a sample without a caption is skipped, or simply has none.

    Raises:
        ValueError: a pattern, shard or `captions` that cannot be; no samples.
        FileNotFoundError: shards that are not there.
        OSError: a shard cannot be read, or no index written.
    """
    rule = _rule(captions)
    query = tar_index.Query(path, rule, require_captions)
    place, state, found = tar_index.open_index(query, expand(path), index)
    return TarSource(place, state, found, rule.field, require_captions)


def _rule(captions: str) -> CaptionRule:
    if not captions:
        return CaptionRule()
    extension, colon, field = captions.partition(":")
    extension = extension.removeprefix(".").lower()
    if not re.fullmatch(r"\w[\w.+-]*", extension) or colon and not field:
        raise ValueError(
            f"data.captions={captions}: of tars, it is the extension of the caption's member, as "
            "txt, or the field of a JSON member, as json:caption"
        )
    if colon or extension.split(".")[-1] == "json":
        return CaptionRule("", extension, field)
    return CaptionRule(extension, "")


def _kind(value: Any) -> str:
    """Returns the JSON type of a value, which may itself be too long or too deep to print."""
    if isinstance(value, list):
        kinds = {type(item).__name__ for item in value if not isinstance(item, str)}
        return f"a list with {' and '.join(sorted(kinds))}"
    return type(value).__name__


def _key(path: str, headers: bytes, image_size: int) -> str:
    """Returns the key from the headers before an image, which must still match the index."""
    size = len(headers) + image_size
    try:
        member = next(members(lambda offset, size: headers[offset : offset + size], size), None)
    except CutError as error:
        raise OSError(f"{path} has changed since it was indexed: {error}") from error
    if member is None or (member.data, member.size) != (len(headers), image_size):
        raise OSError(f"{path} has changed since it was indexed")
    return split(member.name)[0]
