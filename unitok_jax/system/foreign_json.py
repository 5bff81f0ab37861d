"""JSON that another program wrote, or that may have been damaged since."""

import json
from typing import Any


def parse(text: str | bytes, name: str) -> Any:
    """Parses a JSON document and returns its value.

    Args:
      text: the document; bytes are UTF-8, with or without a byte order mark.
      name: the name of the document in messages, such as 'captions.jsonl, line 3'.

    Raises:
      ValueError: not JSON, bytes that are not UTF-8, nesting deeper than Python parses, an integer
        of more digits than Python reads, or a key that an object repeats, whose values but the last
        would be lost; the message begins with `name`.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        return json.loads(text, object_pairs_hook=_object)
    except _RepeatedKeyError as error:
        raise ValueError(f"{name}: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{name}: the JSON is nested too deeply") from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are such
        raise ValueError(f"{name}: no JSON that can be read: {error}") from error


def parse_object(text: str | bytes, name: str) -> dict[str, Any]:
    """Parses a JSON document that must be an object.

    Raises:
      ValueError: as `parse`, or another kind of value.
    """
    value = parse(text, name)
    if not isinstance(value, dict):
        raise ValueError(f"{name}: expected a JSON object, found {type(value).__name__}")
    return value


class _RepeatedKeyError(ValueError):
    """A key comes twice in an object."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise _RepeatedKeyError(f"the key {twice!r:.100} comes twice in an object; keep one")
    return found
