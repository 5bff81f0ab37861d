"""Says what is in images, among classes that you name: zero-shot classification, as CLIP's.

`unitok classify --checkpoint=DIR --data=FILE_OR_FOLDER --labels="cat,dog,car"`
prints for each image the most probable classes. Probabilities are among the named classes alone.
"""

import argparse
import json

import numpy as np

from unitok_jax.commands import arguments
from unitok_jax.data.formats.labels import label_set
from unitok_jax.data.inputs import Inputs
from unitok_jax.system.paths import printable


def main() -> None:
    """Runs the command; an error in its input ends as one line and exit code 2."""
    parser = arguments.make_parser("classify", __doc__)
    arguments.add_checkpoint(parser)
    arguments.add_images(parser)
    parser.add_argument(
        "--labels",
        required=True,
        help="names with commas between them, a text file with one a line, or imagenet",
    )
    parser.add_argument(
        "--templates",
        default="",
        help="one sentence with {} for the name, a text file with one a line, or imagenet",
    )
    parser.add_argument("--top", type=int, default=5, help="classes to print; default: 5")
    parser.add_argument("--output", type=arguments.path, help="new JSON file for the same results")
    arguments.run(parser, _run)


def _run(args: argparse.Namespace) -> None:
    labels = label_set(args.labels, args.templates)
    if args.top < 1:
        raise ValueError(f"--top={args.top} must be at least 1")
    if args.output:
        arguments.check_new(args.output, "output")
    inputs = Inputs(args.data)
    tokenizer = arguments.load_tokenizer(args)
    classes = tokenizer.class_features(labels.names, labels.templates)
    results = []
    for images in inputs.batches(tokenizer.image_size, tokenizer.batch_size):
        for row in tokenizer.probabilities(images, classes):
            top = np.argsort(-row, kind="stable")[: args.top]
            found = {printable(labels.names[i]): round(float(row[i]), 6) for i in top}
            name = printable(inputs.names[len(results)])
            results.append({"name": name, "classes": found})
            line = "  ".join(f"{label} {share:.1%}" for label, share in found.items())
            print(f"{name}  {line}", flush=True)
    if args.output:
        text = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
        arguments.write_new(args.output, text.encode(), "output")
