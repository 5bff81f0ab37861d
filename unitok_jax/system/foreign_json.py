"""JSON that this package did not write, or that may have been damaged since."""

import json
from typing import Any


def parse(text: str | bytes, name: str) -> Any:
    """The value of a JSON document.

    Args:
      text: the document; bytes are UTF-8, with or without a byte order mark.
      name: of the document, as a message should give it: 'captions.jsonl, line 3'.

    Raises:
      ValueError: no JSON, bytes that are not UTF-8, nesting deeper than Python parses, or an
        integer of more digits than Python reads; the message begins with `name`.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{name}: the JSON is nested too deeply") from error
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are such
        raise ValueError(f"{name}: no JSON that can be read: {error}") from error


def parse_object(text: str | bytes, name: str) -> dict[str, Any]:
    """As `parse`, of a document that must be an object.

    Raises:
      ValueError: as `parse`, or another kind of value.
    """
    value = parse(text, name)
    if not isinstance(value, dict):
        raise ValueError(f"{name}: expected a JSON object, found {type(value).__name__}")
    return value
