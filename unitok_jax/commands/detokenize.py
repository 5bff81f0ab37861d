"""Turns codes on disk back into pictures.

`unitok detokenize --checkpoint=DIR --codes=DIR --output=DIR` writes a PNG per record,
named by its key; the same command again continues.
"""

import argparse
import io
import pathlib
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from unitok_jax.codes import STRIDE
from unitok_jax.commands import arguments
from unitok_jax.data.codes.records import CodeRecords, open_codes
from unitok_jax.data.images.transforms import to_uint8
from unitok_jax.data.writing.folders import claim, sweep, write_bytes
from unitok_jax.system.paths import printable
from unitok_jax.system.progress import Progress

FORMAT = "unitok_jax.detokenized"
COMMAND = "unitok detokenize"


def detokenize(tokenizer, codes: CodeRecords, output: pathlib.Path, view: int) -> int:
    """Writes the images of records; existing images are kept.

    Args:
      tokenizer: the `Tokenizer` that made the codes.
      codes: records from `open_codes`, or a slice.
      output: folder for the PNGs.
      view: index of the view, from 0.

    Returns:
      the number of images written.

    Raises:
      ValueError: another tokenizer, codes that do not fit it or their grid, a view that does not
        exist, keys without a valid or with a repeated file name.
      OSError: writing failed.
    """
    check(tokenizer, codes, view)
    names = file_names(record["key"] for record in codes)
    missing = [i for i, name in enumerate(names) if not (output / name).is_file()]
    with Progress(len(names), "picture", len(names) - len(missing)) as progress:
        for start in range(0, len(missing), tokenizer.batch_size):
            places = missing[start : start + tokenizer.batch_size]
            rows = np.stack([codes[i]["codes"][view] for i in places])
            images = to_uint8(tokenizer.decode(rows, codes.grid))
            for place, image in zip(places, images, strict=True):
                path = output / names[place]
                path.parent.mkdir(parents=True, exist_ok=True)
                picture = io.BytesIO()
                Image.fromarray(image).save(picture, "PNG")
                write_bytes(path, picture.getvalue())
                progress.update()
    return len(missing)


def check(tokenizer, codes: CodeRecords, view: int) -> None:
    """Refuses codes of another tokenizer, or without this view.

    Raises:
      ValueError: the message gives both values.
    """
    if codes.tokenizer_hash != tokenizer.hash:
        raise ValueError(
            f"--codes: they were made by the tokenizer with hash {codes.tokenizer_hash}; "
            f"--checkpoint has hash {tokenizer.hash}: give the checkpoint that made them"
        )
    settings = codes.manifest["settings"]
    rows, columns = codes.grid
    expected = tokenizer.config.model.num_query + rows * columns
    if settings["tokens"] != expected or codes.codebook_shape != tokenizer.codebook_shape:
        raise ValueError(
            f"--codes: {settings['tokens']} codes of each of (codebooks, rows) = "
            f"{codes.codebook_shape} do not fit the grid {codes.grid} of this model, which has "
            f"{expected} of {tokenizer.codebook_shape}"
        )
    views = codes.manifest["views"]
    if not 0 <= view < views:
        raise ValueError(f"--view={view}: the records have views 0 to {views - 1}")


def file_names(keys: Iterable[str]) -> list[str]:
    """Returns the file name of each key's PNG: a relative path below the output.

    Raises:
      ValueError: a key with '..' or NUL or without a name, or two keys with the same file.
    """
    names: dict[str, str] = {}
    for key in keys:
        path = PurePosixPath(key.replace("\\", "/").lstrip("/"))
        if not path.name or ".." in path.parts or "\0" in key:
            raise ValueError(
                f"the key {key!r} names no file below --output; leave it out by --keys"
            )
        name = str(path) if path.suffix.lower() == ".png" else f"{path}.png"
        if name in names:
            raise ValueError(
                f"the keys {names[name]!r} and {key!r} would both be written to {name}; write them "
                "by --keys to different folders"
            )
        names[name] = key
    for name, key in names.items():
        for folder in PurePosixPath(name).parents:
            if str(folder) in names:
                raise ValueError(
                    f"the keys {names[str(folder)]!r} and {key!r}: {folder} cannot be a file and a "
                    "folder; write them by --keys to different folders"
                )
    return list(names)


def _chosen(codes: CodeRecords, keys: Sequence[str], limit: int | None) -> CodeRecords:
    if limit is not None and limit < 1:
        raise ValueError(f"--limit={limit} must be at least 1")
    if not keys:
        return codes[:limit]
    try:
        return codes.take([codes.find(key) for key in dict.fromkeys(keys)][:limit])
    except KeyError as error:
        raise ValueError(f"--keys: no record has the key {error.args[0]!r}") from error


def main() -> None:
    """Runs the command; an error in its input ends as one line and exit code 2."""
    parser = arguments.make_parser("detokenize", __doc__)
    arguments.add_checkpoint(parser)
    parser.add_argument(
        "--codes", required=True, type=arguments.path, help="folder that unitok tokenize wrote"
    )
    parser.add_argument("--output", required=True, type=arguments.path, help="folder for the PNGs")
    parser.add_argument("--keys", default="", help="of the records, with commas; default: all")
    parser.add_argument("--limit", type=int, help="so many pictures at most")
    parser.add_argument("--view", type=int, default=0, help="which view of each record")
    parser.add_argument("--batch_size", type=int, help="pictures at once")
    arguments.run(parser, _run, continues=True)


def _run(args: argparse.Namespace) -> None:
    codes = open_codes(args.codes)
    keys = [key for key in args.keys.split(",") if key]
    chosen = _chosen(codes, keys, args.limit)
    tokenizer = arguments.load_tokenizer(args, batch_size=args.batch_size)
    check(tokenizer, chosen, args.view)
    settings = {
        "format": FORMAT,
        "--codes": [shard["sha256"] for shard in codes.manifest["shards"]],
        "--keys": keys,
        "--limit": args.limit,
        "--view": args.view,
        "tokenizer": tokenizer.hash,
        "precision": tokenizer.precision,
    }
    claim(args.output, settings, COMMAND)
    wrote = detokenize(tokenizer, chosen, args.output, args.view)
    sweep(args.output)
    side = " x ".join(str(STRIDE * cells) for cells in codes.grid)
    there = len(chosen) - wrote
    print(f"{wrote} pictures of {side} px written to {printable(args.output)}, {there} were there")
