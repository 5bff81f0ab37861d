"""Rebuilds images through their codes: what a tokenizer keeps, seen and measured.

`unitok reconstruct --checkpoint=DIR --data=FILE_OR_FOLDER --output=DIR` writes a PNG
per image and `comparison.png` (original | reconstruction | error), and prints the PSNR of each. The
same command again replaces what it wrote, and nothing else.
"""

import argparse
import io
import pathlib

import numpy as np
from PIL import Image

from unitok_jax.codes import STRIDE
from unitok_jax.commands import arguments
from unitok_jax.data.images.transforms import decode_image, resize_center_crop, to_float, to_uint8
from unitok_jax.data.inputs import Inputs
from unitok_jax.data.sources import check_outside
from unitok_jax.data.specs import split
from unitok_jax.data.writing.folders import SETTINGS, claim, sweep, write_bytes
from unitok_jax.evaluation.metrics.reconstruction import psnr
from unitok_jax.pictures import captioned
from unitok_jax.system.paths import printable
from unitok_jax.tokenizer.api import Tokenizer

FORMAT = "unitok_jax.reconstructed.2"
COMMAND = "unitok reconstruct"
_COMPARED = 24  # images in comparison.png


def reconstruct(
    tokenizer: Tokenizer,
    inputs: Inputs,
    output: pathlib.Path,
    size: tuple[int, int] | None,
    facts: dict | None = None,
) -> tuple[dict[str, float], pathlib.Path]:
    """Rebuilds images one by one, and prints a line for each.

    Args:
      tokenizer: the model.
      inputs: the images.
      output: folder for the PNGs: new, empty, or of an earlier call with the same `size` and
        `facts`, whose files are replaced.
      size: (height, width) to resize and crop to; None cuts each image to multiples of 16.
      facts: JSON values that tell the model and the inputs from others.

    Returns:
      name -> PSNR in dB, of the 8-bit pictures, in the order of `inputs`; and the picture that
      compares the first images, which is `comparison.png` unless an image has this name.

    Raises:
      ValueError: the folder holds anything else, an image cannot be used, or its name is that of a
        folder with other images.
      OSError: reading or writing failed.
    """
    files = [pathlib.PurePath(f"{name}.png") for name in inputs.names]
    sheet = _sheet_name(files)
    claim(output, {"format": FORMAT, "--size": size and list(size), **(facts or {})}, COMMAND)
    ratios, rows = {}, []
    for (name, data), file in zip(inputs, files, strict=True):
        image = decode_image(data, name)
        image = resize_center_crop(image, size or _native(image, name))
        rebuilt = to_uint8(tokenizer.reconstruct(image[None]))[0]
        (output / file).parent.mkdir(parents=True, exist_ok=True)
        _write(output / file, Image.fromarray(rebuilt))
        error = np.mean((to_float(rebuilt) - to_float(image)) ** 2, dtype=np.float64)
        ratios[name] = float(psnr(error))
        print(
            f"{printable(name)}  {ratios[name]:.2f} dB  {image.shape[0]}x{image.shape[1]}  "
            f"({len(ratios)} of {len(files)})",
            flush=True,
        )
        if len(rows) < _COMPARED:
            rows.append(captioned.row(name, ratios[name], image, rebuilt))
    _write(output / sheet, captioned.draw(rows))
    sweep(output)
    return ratios, output / sheet


def _sheet_name(files: list[pathlib.PurePath]) -> str:
    """Returns comparison.png, or comparison_2.png and so on if an image has that name.

    Raises:
      ValueError: a file has the name of a folder.
    """
    folders = {folder for file in files for folder in file.parents}
    taken = {str(file).casefold() for file in [*files, *folders]}
    for file in [*files, pathlib.PurePath(SETTINGS)]:
        if file in folders:
            raise ValueError(
                f"{printable(file)} would be a picture or {SETTINGS} and also a folder of pictures;"
                " rename that folder of --data"
            )
    number, name = 1, "comparison.png"
    while name in taken:
        number += 1
        name = f"comparison_{number}.png"
    return name


def _write(path: pathlib.Path, picture: Image.Image) -> None:
    file = io.BytesIO()
    picture.save(file, "PNG")
    write_bytes(path, file.getvalue())


def _native(image: np.ndarray, name: str) -> tuple[int, int]:
    height, width = image.shape[:2]
    if min(height, width) < STRIDE:
        raise ValueError(
            f"{name} has {height}x{width} pixels, fewer than a token's {STRIDE}; give --size"
        )
    return height // STRIDE * STRIDE, width // STRIDE * STRIDE


def main() -> None:
    """Runs the command; an error in its input ends as one line and exit code 2."""
    parser = arguments.make_parser("reconstruct", __doc__)
    arguments.add_checkpoint(parser)
    arguments.add_images(parser)
    parser.add_argument("--output", required=True, type=arguments.path, help="folder for the PNGs")
    parser.add_argument(
        "--size", help="N, HEIGHTxWIDTH or native (cut to multiples of 16); default: the model's"
    )
    arguments.run(parser, _run)


def _run(args: argparse.Namespace) -> None:
    native = args.size == "native"
    size = arguments.image_size(args.size) if args.size and not native else None
    check_outside(args.output, "--output", [("--data", *split(args.data))])
    inputs = Inputs(args.data)
    tokenizer = arguments.load_tokenizer(args)
    size = None if native else size or tokenizer.image_size
    facts = {
        "--data": printable(inputs.place),
        "tokenizer": tokenizer.hash,
        "precision": tokenizer.precision,
    }
    ratios, sheet = reconstruct(tokenizer, inputs, args.output, size, facts)
    print(f"mean  {np.mean(list(ratios.values())):.2f} dB  {printable(sheet)}")
