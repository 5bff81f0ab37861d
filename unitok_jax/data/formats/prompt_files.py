"""Prompts of benchmarks of drawing: JSON with a text by id, and the names that scorers look for.

GenAI-Bench   {"00000": {"prompt": "...", ...}, ...}, whose scorer reads ID.jpeg
MJHQ-30K      {"ID": {"category": "...", "prompt": "..."}, ...}, in folders by category
"""

import re
from typing import NamedTuple

from unitok_jax.system.foreign_json import parse_object

_PART = re.compile(r"[\w-][\w.-]{0,199}", re.ASCII)


class Prompts(NamedTuple):
    """Texts in the order of the file, and the path of the picture of each."""

    texts: list[str]
    names: list[str]  # relative


def read_prompts(content: bytes, name: str) -> Prompts:
    """Reads the texts of a benchmark.

    With a category the picture of a text is `CATEGORY/ID.png`, else `ID.jpeg`: GenAI-Bench's scorer
    knows no other name, and reads whatever kind of picture it finds there.

    Args:
      content: of the file.
      name: of the file, for messages.

    Raises:
      ValueError: another form, a blank text, or an id that cannot be the name of a file.
    """
    texts, names, known = [], [], set()
    for key, entry in parse_object(content, name).items():
        text = entry.get("prompt") if isinstance(entry, dict) else None
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f'{name}: {key!r} has no text: expected {{"prompt": "..."}}')
        category = entry.get("category")
        parts = [key] if category is None else [category, key]
        wrong = [part for part in parts if not isinstance(part, str) or not _PART.fullmatch(part)]
        if wrong:
            raise ValueError(
                f"{name}: {wrong[0]!r} cannot name a picture: ids and categories are up to 200 "
                "letters, digits, '.', '_' and '-'"
            )
        path = f"{'/'.join(parts)}.{'jpeg' if category is None else 'png'}"
        if path.lower() in known:
            raise ValueError(f"{name}: two ids differ in case alone: {key!r}")
        known.add(path.lower())
        texts.append(" ".join(text.split()))
        names.append(path)
    if not texts:
        raise ValueError(f"{name} has no prompt")
    return Prompts(texts, names)
