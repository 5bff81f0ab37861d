"""Measures a tokenizer on a set of images, and writes what it found as a card.

`unitok evaluate --checkpoint=DIR --data=labelled:/data/val --output=card/` writes
card.json, card.md, card.html and pictures/. docs/evaluation.md says what each figure means.
"""

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import pathlib
import shlex
import sys

import jax
import numpy as np
from PIL import Image

from unitok_jax import __version__, card_page, card_pictures, cluster, outputs, reference
from unitok_jax.commands import arguments
from unitok_jax.measuring import Measured, measure
from unitok_jax.paths import printable


def main() -> None:
    """The command; what is wrong with its input ends as one line and exit code 2."""
    parser = arguments.make_parser("evaluate", __doc__)
    arguments.add_checkpoint(parser)
    arguments.add_data(parser)
    add = parser.add_argument
    add("--output", required=True, type=arguments.path, help="folder of the card; new or empty")
    add("--size", help="N or HEIGHTxWIDTH; default: the model's")
    add("--max_images", type=int, default=50_000, help="the first of the data; 0: all")
    add("--batch_size", type=int, default=64, help="of all devices, rounded up to a multiple")
    add("--max_bad", type=float, default=0.0, help="share of images that may be left out")
    add(
        "--inception",
        default="",
        type=arguments.place,
        help="weights of Inception, for FID and IS; or seeded",
    )
    add("--lpips", default="", type=arguments.place, help="weights of LPIPS; or seeded")
    add(
        "--reference", default="", type=arguments.place, help=".npz with mu and sigma to compare to"
    )
    add("--save_reference", type=arguments.path, help="new .npz for the originals' mu and sigma")
    add(
        "--cache", default="", type=arguments.place, help="of statistics; default: the user's cache"
    )
    add("--labels", help="names of the data's classes: a,b,c, a file or imagenet")
    add("--templates", help="sentences with {}: a file, one sentence or imagenet")
    add(
        "--probe",
        default="",
        type=arguments.place,
        help="labelled training images of a linear probe, as --data",
    )
    add("--probe_method", choices=("logistic", "ridge"), default="logistic", help="of the probe")
    add("--no_text", action="store_true", help="measure nothing that needs the text tower")
    arguments.add_cluster(parser)
    arguments.run(parser, _run)


def _run(args: argparse.Namespace) -> None:
    _check(args)
    arguments.connect(args)
    with contextlib.ExitStack() as stack:
        folder = None
        with cluster.together():
            if cluster.is_lead():
                if args.save_reference:
                    arguments.check_new(args.save_reference, "save_reference")
                if args.inception:
                    cache = reference.cache_folder(args.cache)
                    arguments.check_writable(cache / "reference.npz", "cache")
                folder = stack.enter_context(outputs.new_folder(args.output, "--output"))
        size = arguments.image_size(args.size) if args.size else None
        found = measure(args, size)
        if folder is not None:
            _write(folder, args, found)
    if folder is not None:
        print(printable(args.output / "card.html"))


def _check(args):
    for flag in ("max_images", "batch_size"):
        if getattr(args, flag) < (flag == "batch_size"):
            raise ValueError(f"--{flag}={getattr(args, flag)} must be positive")
    if not 0 <= args.max_bad <= 1:
        raise ValueError(f"--max_bad={args.max_bad} is a share of the images: give 0..1")
    for flag in ("reference", "save_reference"):
        if getattr(args, flag) and not args.inception:
            raise ValueError(f"--{flag} needs Inception: give its weights as --inception=FILE")
    if args.templates and args.no_text:
        raise ValueError("--templates means nothing with --no_text; leave one of them out")


def _write(folder: pathlib.Path, args, found: Measured) -> None:
    pictures = folder / "pictures"
    pictures.mkdir()

    def save(name, picture):
        Image.fromarray(picture).save(pictures / f"{name}.png")
        return f"pictures/{name}.png"

    shown, listed = found.shown, []
    psnr = found.per_image["psnr"]
    for kind, positions in found.chosen.items():
        for number, position in enumerate(positions, 1):
            row = found.order.index(position)
            file = save(
                f"{kind}_{number}",
                card_pictures.panel(shown.images[row], shown.reconstructions[row]),
            )
            name = found.names[position]
            listed.append(
                {"kind": kind, "name": name, "psnr": _number(psnr[position]), "file": file}
            )
    save("code_use", card_pictures.code_use(found.counts, found.codebooks))
    middle = found.order.index((found.chosen["median"] + found.chosen["worst"])[0])
    save("code_map", card_pictures.code_map(shown.images[middle], shown.codes[middle], found.query))
    card = {
        "title": f"UniTok: {args.checkpoint}",
        "images": len(psnr),
        "data": args.data,
        "metrics": {key: _number(value) for key, value in found.metrics.items()},
        "codebooks": {key: np.asarray(v).tolist() for key, v in found.codebooks.items()},
        "warnings": found.warnings,
        "not_measured": found.not_measured,
        "left_out": found.left_out,
        "pictures": listed,
        "code_map": found.names[found.order[middle]],
        "provenance": found.provenance | _versions(),
    }
    card = _escaped(card)
    texts = {
        "card.json": json.dumps(card, indent=2, allow_nan=False) + "\n",
        "card.md": card_page.markdown(card),
        "card.html": card_page.page(card, folder),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name, value, _, _ in card_page.rows(card):
        print(f"{name:28} {value}")


def _escaped(value):
    """A value of JSON whose texts can be printed: names of files need be neither that nor UTF-8."""
    if isinstance(value, dict):
        return {key: _escaped(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_escaped(each) for each in value]
    return printable(value) if isinstance(value, str) else value


def _number(value) -> float | str:
    value = float(value)
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
        "command": shlex.join(["unitok", "evaluate", *sys.argv[1:]]),
    }
