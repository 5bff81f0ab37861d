"""Finds the images of a folder that are nearest to a text, by the cosine of their features.

`unitok retrieve --checkpoint=DIR --data=FOLDER --query="a red car"` prints them;
`--output=sheet.png` draws them.
"""

import argparse
import io

import numpy as np
from PIL import Image

from unitok_jax.commands import arguments
from unitok_jax.data.inputs import Inputs
from unitok_jax.pictures.comparison import tile
from unitok_jax.pictures.sheet import contact_sheet, load_font
from unitok_jax.system.paths import printable

_KINDS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def retrieve(tokenizer, inputs: Inputs, queries: list[str], top: int) -> list[dict[int, float]]:
    """Finds the nearest images of each query.

    Args:
      tokenizer: a `Tokenizer`.
      inputs: the images; they are resized and cropped to the tokenizer's size.
      queries: Q texts.
      top: maximum number of images per query.

    Returns:
      Q dicts of position in `inputs` -> cosine, the nearest first.
    """
    texts = tokenizer.encode_text(queries)
    batches = inputs.batches(tokenizer.image_size, tokenizer.batch_size)
    images = np.concatenate([tokenizer.encode_image(batch) for batch in batches])
    cosines = texts @ images.T
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :top]
    return [
        {int(i): float(row[i]) for i in found} for row, found in zip(cosines, nearest, strict=True)
    ]


def main() -> None:
    """Runs the command; an error in its input ends as one line and exit code 2."""
    parser = arguments.make_parser("retrieve", __doc__)
    arguments.add_checkpoint(parser)
    arguments.add_images(parser, "a folder of images")
    parser.add_argument(
        "--query", required=True, action="append", help="a text; give it again for more"
    )
    parser.add_argument("--top", type=int, default=5, help="images for each; default: 5")
    parser.add_argument("--output", type=arguments.path, help="new .png, .jpg or .webp of them")
    arguments.run(parser, _run)


def _run(args: argparse.Namespace) -> None:
    if not all(query.strip() for query in args.query):
        raise ValueError("--query is empty; for example --query='a red car'")
    if args.top < 1:
        raise ValueError(f"--top={args.top} must be at least 1")
    if args.output and args.output.suffix.lower() not in _KINDS:
        raise ValueError(
            f"--output={args.output} is none of {', '.join(_KINDS)}; for example sheet.png"
        )
    if args.output:
        arguments.check_new(args.output, "output")
    inputs = Inputs(args.data)
    tokenizer = arguments.load_tokenizer(args)
    found = retrieve(tokenizer, inputs, args.query, args.top)
    for query, nearest in zip(args.query, found, strict=True):
        print(printable(query))
        for index, cosine in nearest.items():
            print(f"  {cosine:.4f}  {printable(inputs.names[index])}")
    if args.output:
        rows = [
            _row(inputs, tokenizer.image_size, query, nearest)
            for query, nearest in zip(args.query, found, strict=True)
        ]
        picture = io.BytesIO()
        kind = _KINDS[args.output.suffix.lower()]
        Image.fromarray(tile(rows, height=len(rows))).save(picture, kind)
        arguments.write_new(args.output, picture.getvalue(), "output")
        print(printable(args.output))


def _row(inputs, size, query, nearest):
    images = np.stack([inputs.image(index, size) for index in nearest])
    captions = [
        f"{cosine:.3f} {printable(inputs.names[index])}" for index, cosine in nearest.items()
    ]
    captions[0] = f"{printable(query)}: {captions[0]}"
    marked = [True] + [False] * (len(captions) - 1)
    return np.asarray(contact_sheet(images, captions, marked, load_font()))
