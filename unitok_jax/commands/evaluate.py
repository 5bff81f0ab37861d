"""Measures a tokenizer on a set of images, and writes what it found as a card.

`unitok evaluate --checkpoint=DIR --data=labelled:/data/val --output=card/` writes
card.json, card.md, card.html and pictures/. docs/guides/evaluate.md says what each figure means.
"""

import argparse
import contextlib
import shlex
import sys

from unitok_jax.commands import arguments
from unitok_jax.data.sources import open_source
from unitok_jax.evaluation.card import pages, statistics, write
from unitok_jax.evaluation.card.measure import measure
from unitok_jax.evaluation.card.settings import CardSettings
from unitok_jax.runtime import processes
from unitok_jax.system import outputs
from unitok_jax.system.paths import printable


def main() -> None:
    """Runs the command; an error in its input ends as one line and exit code 2."""
    parser = arguments.make_parser("evaluate", __doc__)
    arguments.add_checkpoint(parser)
    arguments.add_data(parser)
    add = parser.add_argument
    add("--output", required=True, type=arguments.path, help="folder of the card; new or empty")
    add("--size", help="N or HEIGHTxWIDTH; default: the model's")
    add(
        "--max_images",
        type=int,
        default=CardSettings.max_images,
        help="the first of the data; 0: all",
    )
    add(
        "--batch_size",
        type=int,
        default=CardSettings.batch_size,
        help="of all devices, rounded up to a multiple",
    )
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
    settings = _settings(args)
    arguments.connect(args)
    with contextlib.ExitStack() as stack:
        folder = None
        with processes.fail_together():
            if processes.is_lead():
                if args.save_reference:
                    arguments.check_new(args.save_reference, "save_reference")
                if args.inception:
                    cache = statistics.cache_folder(args.cache)
                    arguments.check_writable(cache / "reference.npz", "cache")
                folder = stack.enter_context(outputs.new_folder(args.output, "--output"))
        size = arguments.image_size(args.size) if args.size else None
        with processes.fail_together():
            tokenizer = arguments.load_tokenizer(args)
            size = size or tokenizer.image_size
            data = arguments.data(args, tokenizer, size, max_bad=args.max_bad)
            source = open_source(data, require_captions=False)
        card = measure(tokenizer, source, data, settings)
        if folder is not None:
            command = shlex.join(["unitok", "evaluate", *sys.argv[1:]])
            content = write.write(folder, card, command)
            for name, value, _, _ in pages.rows(content):
                print(f"{name:28} {value}")
    if folder is not None:
        print(printable(args.output / "card.html"))


def _settings(args: argparse.Namespace) -> CardSettings:
    if not 0 <= args.max_bad <= 1:
        raise ValueError(f"--max_bad={args.max_bad} is a share of the images: give 0..1")
    return CardSettings(
        checkpoint=args.checkpoint,
        data=args.data,
        max_images=args.max_images,
        batch_size=args.batch_size,
        inception=args.inception,
        lpips=args.lpips,
        reference=args.reference,
        save_reference=args.save_reference,
        cache=args.cache,
        labels=args.labels,
        templates=args.templates,
        probe=args.probe,
        probe_method=args.probe_method,
        text=not args.no_text,
    )
