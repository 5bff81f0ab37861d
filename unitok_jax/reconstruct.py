"""Rebuilds images through their codes: what a tokenizer keeps, seen and measured.

`python -m unitok_jax.reconstruct --checkpoint=DIR --input=FILE_OR_FOLDER --output=DIR` writes a PNG
per image and `comparison.png` (original | reconstruction | error), and prints the PSNR of each.
"""

import argparse
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from unitok_jax import commands
from unitok_jax.data.inputs import Inputs
from unitok_jax.data.transforms import (
    decode_image,
    resize_center_crop,
    to_float,
    to_uint8,
)
from unitok_jax.evaluate.reconstruction import psnr
from unitok_jax.metrics import comparison, tile
from unitok_jax.models.vitamin import STRIDE
from unitok_jax.tokenizer import Tokenizer

_COMPARED = 24  # images in comparison.png


def reconstruct(
    tokenizer: Tokenizer,
    inputs: Sequence[tuple[str, bytes]],
    output: pathlib.Path,
    size: tuple[int, int] | None,
) -> dict[str, float]:
    """Rebuilds encoded image files one by one.

    Args:
      tokenizer: the model.
      inputs: names without suffix, may have folders, and the bytes of image files.
      output: folder for the PNGs.
      size: (height, width) to resize and crop to; None cuts each image to multiples of 16.

    Returns:
      name -> PSNR in dB, of the 8-bit pictures, in the order of `inputs`.
    """
    output.mkdir(parents=True, exist_ok=True)
    ratios, rows = {}, []
    for name, data in inputs:
        image = decode_image(data, name)
        image = resize_center_crop(image, size or _native(image, name))
        rebuilt = to_uint8(tokenizer.reconstruct(image[None]))[0]
        path = output / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rebuilt).save(path)
        error = np.mean((to_float(rebuilt) - to_float(image)) ** 2, dtype=np.float64)
        ratios[name] = float(psnr(error))
        print(f"{name}  {ratios[name]:.2f} dB  {image.shape[0]}x{image.shape[1]}", flush=True)
        if len(rows) < _COMPARED:
            rows.append(comparison(image[None], rebuilt[None]))
    Image.fromarray(tile(rows)).save(output / "comparison.png")
    return ratios


def _native(image: np.ndarray, name: str) -> tuple[int, int]:
    height, width = image.shape[:2]
    if min(height, width) < STRIDE:
        raise ValueError(
            f"{name} has {height}x{width} pixels, fewer than a token's {STRIDE}; give --size"
        )
    return height // STRIDE * STRIDE, width // STRIDE * STRIDE


def main() -> None:
    """The command; what is wrong with its input ends as one line and exit code 2."""
    parser = commands.make_parser("reconstruct", __doc__)
    commands.add_checkpoint(parser)
    commands.add_input(parser)
    parser.add_argument("--output", required=True, type=pathlib.Path, help="folder for the PNGs")
    parser.add_argument(
        "--size", help="N, HEIGHTxWIDTH or native (cut to multiples of 16); default: the model's"
    )
    args = parser.parse_args()
    commands.run(lambda: _run(args))


def _run(args: argparse.Namespace) -> None:
    native = args.size == "native"
    size = commands.image_size(args.size) if args.size and not native else None
    inputs = Inputs(args.input)
    home = args.input if args.input.is_dir() else args.input.parent
    if args.input.exists() and args.output.resolve() == home.resolve():
        raise ValueError(
            f"--output={args.output} is the folder of the input, whose images would be "
            "overwritten; give another"
        )
    tokenizer = commands.load_tokenizer(args)
    size = None if native else size or tokenizer.image_size
    ratios = reconstruct(tokenizer, inputs, args.output, size)
    print(f"mean  {np.mean(list(ratios.values())):.2f} dB  {args.output / 'comparison.png'}")


if __name__ == "__main__":
    main()
