"""Draws images: codes from a generator, and pictures of them from its tokenizer.

`unitok generate --checkpoint=GENERATOR --tokenizer=TOKENIZER --labels=balanced --count=1000
--output=DIR` writes a PNG per sample, their codes, a contact sheet and, with --write=npz, the
archive that ADM's evaluator reads. The same command again continues. Any number of hosts may share
the work, started as those of a training run with one shared --output.
"""

import argparse
import hashlib
import pathlib
import re

import numpy as np

from unitok_jax.commands import arguments
from unitok_jax.models.precision import PRECISIONS
from unitok_jax.system.paths import printable
from unitok_jax.weights.torch_options import WEIGHTS

KINDS = ("codes", "png", "npz")


def main() -> None:
    """Runs the command; an error in its input ends as one line and exit code 2."""
    parser = arguments.make_parser("generate", __doc__)
    parser.add_argument(
        "--checkpoint", required=True, type=arguments.place, help="workdir of a generator"
    )
    parser.add_argument(
        "--tokenizer", type=arguments.place, help="of its codes; not needed for --write=codes"
    )
    parser.add_argument(
        "--labels",
        required=True,
        help="such as 207 or 0-9,207; balanced: all in turn; random; or a file, one a line",
    )
    parser.add_argument(
        "--count", type=int, help="samples in all; default: one for each label that is given"
    )
    parser.add_argument("--output", required=True, type=arguments.path, help="folder to fill")
    parser.add_argument(
        "--write",
        default="png",
        help="some of codes, png, npz, with commas; codes are written always; default: png",
    )
    parser.add_argument("--key", type=int, default=0, help="seed of all draws")
    parser.add_argument(
        "--scale",
        default="1",
        help="of guidance, 1: none; a number, or K for the codebooks; or a .npy file: see the page",
    )
    parser.add_argument("--guided_tokens", type=int, help="first tokens that are guided; or all")
    parser.add_argument("--temperature", type=float, default=1.0, help="0: the largest logit")
    parser.add_argument("--top_k", type=int, help="largest logits that are kept; default: all")
    parser.add_argument("--top_p", type=float, default=1.0, help="probability that is kept, (0, 1]")
    parser.add_argument(
        "--precision",
        choices=tuple(PRECISIONS),
        default="float32",
        help="of generator and tokenizer; docs/guides/use_from_python.md",
    )
    parser.add_argument(
        "--weights", choices=WEIGHTS, help="of the generator's run: the average, or those trained"
    )
    parser.add_argument("--shard_size", type=int, default=128, help="samples per file of codes")
    parser.add_argument("--batch_size", type=int, help="samples at once on all devices")
    arguments.add_cluster(parser)
    arguments.run(parser, _run, continues=True)


def _run(args: argparse.Namespace) -> None:
    import jax

    from unitok_jax.data.writing.folders import claim
    from unitok_jax.generate import folder as drawn

    kinds = _kinds(args.write)
    scale = _scale(args.scale)
    if kinds != ["codes"] and args.tokenizer is None:
        raise ValueError(f"--write={args.write} needs --tokenizer, which makes pictures of codes")
    arguments.connect(args)
    sampler = load_generator(args)
    labels = labels_of(args.labels, args.count, sampler.classes, args.key)
    drawing = {
        "key": args.key,
        "scale": scale,
        "guided_tokens": args.guided_tokens,
        "temperature": args.temperature,
        "top_k": args.top_k,
        "top_p": args.top_p,
    }
    sampler.check_settings(**drawing)
    tokenizer = None
    if kinds != ["codes"]:
        tokenizer = load_tokenizer(args)
        sampler.check(tokenizer)
    told = {f"--{name}": value for name, value in drawing.items()} | {
        "--labels": args.labels if args.labels in ("balanced", "random") else "given",
        "digest of the labels": hashlib.sha256(labels.tobytes()).hexdigest()[:16],
    }
    settings = drawn.settings_of(sampler, tokenizer, told, len(labels), args.shard_size)
    claim(args.output, settings, drawn.COMMAND)
    claim(args.output / "codes", drawn.codes_settings(settings), drawn.COMMAND)
    job = jax.process_index(), jax.process_count()
    folder = drawn.Folder(args.output, settings, kinds, *job)
    if folder.is_finished():
        print(f"{printable(args.output)} is finished: nothing to do")
        return
    drawn.draw(sampler, tokenizer, folder, drawn.Classes(labels), drawing)
    side = " x ".join(map(str, folder.size))
    what = "codes" if kinds == ["codes"] else f"pictures of {side} px"
    print(f"{what} of {len(labels)} samples in {printable(args.output)}")


def load_generator(args):
    """Loads the `Sampler` that the arguments name, on all devices of this process."""
    from unitok_jax.generate.api import load_generator

    return load_generator(
        args.checkpoint, args.batch_size, precision=args.precision, weights=args.weights
    )


def load_tokenizer(args):
    """Loads the `Tokenizer` that the arguments name, on all devices of this process."""
    import jax

    from unitok_jax.tokenizer.api import load

    return load(args.tokenizer, precision=args.precision, devices=jax.local_devices())


def labels_of(text: str, count: int | None, classes: int, seed: int) -> np.ndarray:
    """Returns the label of every sample, int32 (count,).

    Args:
      text: labels and ranges with commas; 'balanced', every class in turn; 'random', drawn evenly;
        or a file with a label a line. Labels that are given are repeated in turn.
      count: number of samples; None: one for each label that is given.
      classes: number of classes of the generator.
      seed: of random labels; those of a larger count begin with those of a smaller.

    Raises:
      ValueError: labels that are none, no count where one is needed, or a count below 1.
    """
    if not classes:
        raise ValueError(f"--labels={text}: this generator's prompts are texts")
    if count is not None and count < 1:
        raise ValueError(f"--count={count} must be at least 1")
    if text in ("balanced", "random"):
        if count is None:
            raise ValueError(f"--labels={text} needs --count, the number of samples")
        if text == "random":
            return np.random.default_rng(seed).integers(classes, size=count, dtype=np.int32)
        return np.arange(count, dtype=np.int32) % classes
    ranges = _ranges(text)
    wrong = next((part[-1] for part in ranges if part[-1] >= classes), None)
    if wrong is not None:
        raise ValueError(
            f"--labels={text}: label {wrong} is none of this generator's: they are 0 to "
            f"{classes - 1}"
        )
    labels = np.concatenate([np.arange(part.start, part.stop, dtype=np.int32) for part in ranges])
    return np.resize(labels, len(labels) if count is None else count)


def _ranges(text: str) -> list[range]:
    """Reads labels of an argument, or of a file that it names, none of them empty."""
    matches = [re.fullmatch(r"(\d{1,9})(?:-(\d{1,9}))?", part) for part in text.split(",")]
    if all(matches):
        ranges = [range(int(m[1]), int(m[2] or m[1]) + 1) for m in matches]
        if all(ranges):
            return ranges
    file = arguments.path(text)
    if not file.is_file():
        raise ValueError(
            f"--labels={text}: expected labels and ranges such as 207 or 0-9,207, balanced, "
            "random, or a file with a label a line"
        )
    lines = file.read_text().split()
    if not lines or not all(re.fullmatch(r"\d{1,9}", line) for line in lines):
        raise ValueError(f"--labels={text}: the file must hold a label a line, and nothing else")
    return [range(int(line), int(line) + 1) for line in lines]


def _kinds(text: str) -> list[str]:
    given = text.split(",")
    unknown = [kind for kind in given if kind not in KINDS]
    if unknown:
        raise ValueError(f"--write={text}: {unknown[0]!r} is none of {', '.join(KINDS)}")
    return [kind for kind in KINDS if kind in {"codes", *given}]


def _scale(text: str):
    """Returns the scale as JSON values: a number, or lists of them."""
    if text.endswith(".npy"):
        file: pathlib.Path = arguments.path(text)
        try:
            return np.load(file, allow_pickle=False).tolist()
        except ValueError as error:
            raise ValueError(f"--scale={text} is not an array of NumPy: {error}") from error
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--scale={text}: expected numbers with commas, or a .npy file") from error
    return numbers if len(numbers) > 1 else numbers[0]
