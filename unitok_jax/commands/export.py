"""Writes a tokenizer as compiled-on-load programs that run without this package.

`unitok export --checkpoint=DIR --output=DIR` writes `encode.jax` and `decode.jax` (jax.export),
`weights.safetensors`, `export.json` and `example.py`, which shows how to use them: it needs jax,
flatbuffers, numpy, safetensors and pillow.
"""

import argparse

from unitok_jax.commands import arguments
from unitok_jax.system.paths import printable
from unitok_jax.tokenizer.export import programs


def main() -> None:
    """Runs the command; an error in its input ends as one line and exit code 2."""
    parser = arguments.make_parser("export", __doc__)
    arguments.add_checkpoint(parser)
    parser.add_argument("--output", required=True, type=arguments.path, help="a new folder")
    parser.add_argument("--size", help="N or HEIGHTxWIDTH of the images; default: the model's")
    parser.add_argument(
        "--platforms", default="cpu,cuda,tpu", help=f"some of {','.join(programs.PLATFORMS)}"
    )
    parser.add_argument("--batch_size", type=int, help="images of a call; default: any number")
    arguments.run(parser, _run)


def _run(args: argparse.Namespace) -> None:
    platforms = args.platforms.split(",")
    unknown = [name for name in platforms if name not in programs.PLATFORMS]
    if unknown or len(set(platforms)) < len(platforms):
        raise ValueError(
            f"--platforms={args.platforms}: expected different ones of "
            f"{','.join(programs.PLATFORMS)}"
        )
    if args.batch_size is not None and args.batch_size < 1:
        raise ValueError(f"--batch_size={args.batch_size} must be at least 1")
    size = arguments.image_size(args.size) if args.size else None
    tokenizer = arguments.load_tokenizer(args)
    programs.write(args.output, tokenizer, size or tokenizer.image_size, platforms, args.batch_size)
    total = sum(path.stat().st_size for path in args.output.iterdir())
    output, example = printable(args.output), printable(args.output / "example.py")
    print(f"{output}: {total / 1e6:.1f} MB; try python {example} IMAGE")
