"""JSON that another program wrote, or that may have been damaged since."""

import json
from typing import Any


def parse(text: str | bytes, name: str) -> Any:
    """Parses a JSON document and returns its value.

    Args:
      text: the document; bytes are UTF-8, with or without a byte order mark.
      name: the name of the document in messages, such as 'captions.jsonl, line 3'.

    Raises:
      ValueError: not JSON, bytes that are not UTF-8, nesting deeper than Python parses, or an
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
    """Parses a JSON document that must be an object.

    Raises:
      ValueError: as `parse`, or another kind of value.
    """
    value = parse(text, name)
    if not isinstance(value, dict):
        raise ValueError(f"{name}: expected a JSON object, found {type(value).__name__}")
    return value
