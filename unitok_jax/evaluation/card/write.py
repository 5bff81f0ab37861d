"""The files of a card: card.json, card.md, card.html and pictures/."""

import datetime
import importlib.metadata
import json
import math
import pathlib
from typing import Any

import jax
import numpy as np
from PIL import Image

from unitok_jax import __version__
from unitok_jax.evaluation.card import pages
from unitok_jax.evaluation.card import pictures as card_pictures
from unitok_jax.evaluation.card.drawn import DrawnCard
from unitok_jax.evaluation.card.measure import Card
from unitok_jax.pictures.comparison import tile
from unitok_jax.system.paths import printable


def write(folder: str | pathlib.Path, card: Card, command: str = "") -> dict[str, Any]:
    """Writes a card's files. Process 0 alone calls it.

    Args:
      folder: is made if it is not there.
      card: of `measure`, on process 0.
      command: that made it, for its provenance; empty: none did.

    Returns:
      What card.json holds.

    Raises:
      OSError: it cannot be written, or `folder` has pictures.
    """
    folder = pathlib.Path(folder)
    pictures = folder / "pictures"
    pictures.mkdir(parents=True)

    def save(name, picture):
        Image.fromarray(picture).save(pictures / f"{name}.png")
        return f"pictures/{name}.png"

    samples, listed = card.samples, []
    psnr = card.per_image["psnr"]
    for kind, positions in card.chosen.items():
        for number, position in enumerate(positions, 1):
            row = card.order.index(position)
            file = save(
                f"{kind}_{number}",
                card_pictures.panel(samples.images[row], samples.reconstructions[row]),
            )
            name = card.names[position]
            listed.append(
                {"kind": kind, "name": name, "psnr": _number("psnr", psnr[position]), "file": file}
            )
    save("code_use", card_pictures.code_use(card.counts, card.codebooks))
    middle = card.order.index((card.chosen["median"] + card.chosen["worst"])[0])
    code_map = card_pictures.code_map(samples.images[middle], samples.codes[middle], card.query)
    save("code_map", code_map)
    by = {"command": command} if command else {}
    content = {
        "title": f"UniTok: {card.provenance['checkpoint']}",
        "images": len(psnr),
        "data": card.provenance["data"],
        "metrics": {key: _number(key, value) for key, value in card.metrics.items()},
        "codebooks": {key: np.asarray(v).tolist() for key, v in card.codebooks.items()},
        "warnings": card.warnings,
        "not_measured": card.not_measured,
        "left_out": card.left_out,
        "pictures": listed,
        "code_map": card.names[card.order[middle]],
        "provenance": card.provenance | _versions() | by,
    }
    return _write_texts(folder, content)


def write_drawn(folder: str | pathlib.Path, card: DrawnCard, command: str = "") -> dict[str, Any]:
    """Writes the files of a card of drawn images; arguments, result and errors as of `write`."""
    folder, sheet = pathlib.Path(folder), "pictures/samples.png"
    (folder / "pictures").mkdir(parents=True)
    height = math.isqrt(len(card.shown) - 1) + 1
    Image.fromarray(tile(list(card.shown), height)).save(folder / sheet)
    content = {
        "title": f"Drawn: {card.samples}",
        "images": card.images,
        "data": card.samples,
        "metrics": {key: _number(key, value) for key, value in card.metrics.items()},
        "warnings": card.warnings,
        "not_measured": card.not_measured,
        "sheet": sheet,
        "provenance": card.provenance | _versions() | ({"command": command} if command else {}),
    }
    return _write_texts(folder, content)


def _write_texts(folder, content):
    content = _escaped(content)
    texts = {
        "card.json": json.dumps(content, indent=2, allow_nan=False) + "\n",
        "card.md": pages.markdown(content),
        "card.html": pages.page(content, folder),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return content


def _escaped(value):
    """A value of JSON whose texts can be printed: names of files need be neither that nor UTF-8."""
    if isinstance(value, dict):
        return {key: _escaped(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_escaped(each) for each in value]
    return printable(value) if isinstance(value, str) else value


def _number(name: str, value) -> float | str:
    value = float(value)
    if np.isnan(value):
        raise ValueError(
            f"{name} is not a number: the model's outputs are not finite; are its weights whole?"
        )
    if np.isinf(value):  # identical pictures; JSON has no infinity
        return "inf"
    return value


def _versions() -> dict:
    packages = {name: importlib.metadata.version(name) for name in ("jax", "flax", "numpy")}
    packages |= {"pillow": importlib.metadata.version("pillow"), "unitok_jax": __version__}
    devices = jax.devices()
    return {
        "versions": packages,
        "devices": f"{len(devices)} {devices[0].device_kind}, {jax.process_count()} processes",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
