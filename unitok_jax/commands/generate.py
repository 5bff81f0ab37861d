"""Draws images: codes from a generator or a multimodal model, and pictures from its tokenizer.

`unitok generate --checkpoint=GENERATOR --tokenizer=TOKENIZER --labels=207 --count=16 --output=DIR`
writes a PNG per sample, their codes, a contact sheet and, with --write=npz, the archive that ADM's
evaluator reads. The same command again continues. Any number of hosts may share the work, started
as those of a training run with one shared --output. docs/guides/draw.md tells more.
"""

import argparse
import functools
import hashlib
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from unitok_jax.commands import arguments
from unitok_jax.models.precision import PRECISIONS
from unitok_jax.system.foreign_files import check_lines
from unitok_jax.system.paths import printable
from unitok_jax.weights.torch_options import WEIGHTS

KINDS = ("codes", "png", "npz")
ROUNDINGS = ("half_even", "half_up")  # of `evaluation.samples`, which is slow to import
FILTERS = ("temperature", "top_k", "top_p")
WINDOW = 16  # batches of a multimodal model that are drawn at once


def main() -> None:
    """Runs the command; an error in its input ends as one line and exit code 2."""
    parser = arguments.make_parser("generate", __doc__)
    parser.add_argument(
        "--checkpoint",
        required=True,
        type=arguments.place,
        help="of a generator or a multimodal model: workdir, folder, .pth, .safetensors or "
        "hf://owner/name",
    )
    arguments.add_tokenizer(
        parser,
        "of its codes; --write=codes needs it for texts of a generator alone; default: that of a "
        "multimodal run",
    )
    arguments.add_heads(parser)
    parser.add_argument(
        "--labels",
        help="such as 207 or 0-9,207; balanced: all in turn; random; or a file, one a line",
    )
    parser.add_argument(
        "--prompts",
        type=arguments.path,
        help="a file with a text a line, or a .json by id, instead of --labels",
    )
    parser.add_argument(
        "--count", type=int, help="samples in all; default: one for each label or text"
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
        help="of guidance, 1: none; a number, K of them with commas, or a .npy file of (N, K)",
    )
    parser.add_argument("--guided_tokens", type=int, help="first tokens that are guided; or all")
    parser.add_argument("--temperature", type=float, default=1.0, help="0: the largest logit")
    parser.add_argument("--top_k", type=int, help="largest logits that are kept; default: all")
    parser.add_argument("--top_p", type=float, default=1.0, help="probability that is kept, (0, 1]")
    parser.add_argument(
        "--released",
        action="store_true",
        help="of a multimodal model: as the release draws, which is not how it was trained",
    )
    parser.add_argument(
        "--precision",
        choices=tuple(PRECISIONS),
        default="float32",
        help="of generator and tokenizer; docs/guides/use_from_python.md",
    )
    parser.add_argument(
        "--weights", choices=WEIGHTS, help="of the generator's run: the average, or those trained"
    )
    parser.add_argument(
        "--rounding",
        choices=ROUNDINGS,
        default="half_even",
        help="of pictures to 8 bits; half_up: as ADM's sampler",
    )
    parser.add_argument("--shard_size", type=int, default=128, help="samples per file of codes")
    parser.add_argument("--batch_size", type=int, help="samples at once on all devices")
    arguments.add_cluster(parser)
    arguments.run(parser, _run, continues=True)


def _run(args: argparse.Namespace) -> None:
    import jax

    from unitok_jax.data.writing.folders import claim
    from unitok_jax.evaluation.samples import CODES
    from unitok_jax.generate import folder as drawn

    kinds = _kinds(args.write)
    drawing = {name: getattr(args, name) for name in ("key", "guided_tokens", *FILTERS)}
    drawing["scale"] = _scale(args.scale)
    _check(args)
    arguments.connect(args)
    given = read_prompts(args.prompts) if args.prompts else None
    found = _find_tokenizer(args, kinds)
    sampler = load_generator(args)
    if args.released and not isinstance(sampler, TextSampler):
        raise ValueError("--released means nothing of a generator: it draws one way; leave it out")
    sampler.check_settings(**drawing)
    tokenizer = load_tokenizer(args, found) if found else None
    del found  # it may hold the weights in the host's memory
    if tokenizer is not None:
        sampler.check(tokenizer)
    prompts, count, told = _prompts(args, given, sampler, tokenizer)
    drawing |= {"released": True} if args.released else {}
    told |= {f"--{name}": value for name, value in drawing.items()}
    told["--rounding"] = args.rounding
    settings = drawn.settings_of(sampler, tokenizer, told, count, args.shard_size)
    claim(args.output, settings, drawn.COMMAND)
    claim(args.output / CODES, drawn.codes_settings(settings), drawn.COMMAND)
    job = jax.process_index(), jax.process_count()
    folder = drawn.Folder(args.output, settings, kinds, *job, given.names if given else ())
    if folder.is_finished():
        print(f"{printable(args.output)} is finished: nothing to do")
        return
    drawn.draw(sampler, tokenizer, folder, prompts, drawing)
    side = " x ".join(map(str, folder.size))
    what = "codes" if kinds == ["codes"] else f"pictures of {side} px"
    print(f"{what} of {count} samples in {printable(args.output)}")


def _check(args: argparse.Namespace) -> None:
    """Refuses flags that do not fit each other, before anything is loaded."""
    if (args.labels is None) == (args.prompts is None):
        raise ValueError("give one of --labels and --prompts: what is to be drawn")
    if args.count is not None and args.count < 1:
        raise ValueError(f"--count={args.count} must be at least 1")


def _find_tokenizer(args: argparse.Namespace, kinds: list[str]) -> arguments.FoundTokenizer | None:
    """Returns the tokenizer of the codes, None if it is neither given nor needed."""
    if not args.tokenizer and kinds == ["codes"]:
        # Texts for a generator are read by the tokenizer's tower.
        if not args.prompts or _is_multimodal(args.checkpoint):
            return None
    found = arguments.find_tokenizer(args)
    if found is None:
        what = f"--prompts={args.prompts}" if args.prompts else f"--write={args.write}"
        raise ValueError(f"{what} needs --tokenizer, that of the generator's codes")
    return found


def _is_multimodal(checkpoint: str) -> bool:
    from unitok_jax.weights import load

    return load.is_folder(checkpoint) and load.product(checkpoint) == "multimodal"


def _prompts(args, given, sampler, tokenizer):
    """Returns the prompts, the number of samples, and what the folder's settings tell of both."""
    from unitok_jax.generate.folder import Classes, Texts

    if given is not None:
        texts, window = given.texts, 1
        if isinstance(sampler, TextSampler):
            try:
                sampler.check_texts(texts)
            except ValueError as error:
                file = printable(args.prompts)
                raise ValueError(f"--prompts={file}, counted from 0: {error}") from error
            encode, window = _given, WINDOW
        else:
            encode = functools.partial(sampler.text_prompts, tokenizer)
            lengths = _lengths(args.prompts, texts)
            encode(texts[:1])  # refused now, if at all
            _tell_cuts(args.prompts, lengths, tokenizer.config.model.text.context_length)
        prompts, count = Texts(texts, encode, window), args.count or len(texts)
        kind, content = "captions", "\n".join([*texts, *given.names]).encode()
    else:
        labels = labels_of(args.labels, args.count, sampler.classes, args.key)
        prompts, count, content = Classes(labels), len(labels), labels.tobytes()
        kind = args.labels if args.labels in ("balanced", "random") else "given"
    digest = hashlib.sha256(content).hexdigest()[:16]
    return prompts, count, {"prompts": kind, "digest of the prompts": digest}


class TextSampler(NamedTuple):
    """Multimodal model as a folder of drawn images takes it: as `generate.api.Sampler`."""

    batch_size: int
    hash: str
    tokenizer_hash: str | None
    precision: str
    grid: tuple[int, int]
    codebook_shape: tuple[int, int]
    classes: int
    check: Callable
    check_settings: Callable
    check_texts: Callable
    sample: Callable  # of `texts`


def load_generator(args):
    """Loads the `Sampler` or `TextSampler` that the arguments name, on all devices here.

    What the file of a generator lacks, and is assumed, is told.
    """
    rest = {"precision": args.precision, "weights": args.weights}
    if _is_multimodal(args.checkpoint):
        from unitok_jax.multimodal.api import load_multimodal

        model = load_multimodal(args.checkpoint, None, args.batch_size, **rest)
        others = {"classes": 0, "sample": model.draw}
        names = [name for name in TextSampler._fields if name not in others]
        return TextSampler(**{name: getattr(model, name) for name in names}, **others)
    from unitok_jax.generate.api import load_generator

    sampler = load_generator(args.checkpoint, args.batch_size, **rest)
    for note in sampler.notes:
        print(f"--checkpoint={printable(args.checkpoint)}: {note}", file=sys.stderr)
    return sampler


def _given(texts: Sequence[str]) -> dict[str, Sequence[str]]:
    return {"texts": texts}


def load_tokenizer(args: argparse.Namespace, found: arguments.FoundTokenizer):
    """Loads the `Tokenizer` that was found, on all devices of this process."""
    import jax

    heads = arguments.heads(args)
    return found.load(heads, precision=args.precision, devices=jax.local_devices())


def labels_of(text: str, count: int | None, classes: int, seed: int) -> np.ndarray:
    """Returns the label of every sample, int32 (count,).

    Args:
      text: labels and ranges with commas; 'balanced', every class in turn; 'random', drawn evenly;
        or a file with a label a line. Labels that are given are repeated in turn.
      count: number of samples; None: one for each label that is given.
      classes: number of classes of the generator.
      seed: of random labels; those of a larger count begin with those of a smaller.

    Raises:
      ValueError: labels that are none, or no count where one is needed.
    """
    if not classes:
        raise ValueError(f"--labels={text}: this generator's prompts are texts")
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
    lines = file.read_text(encoding="utf-8-sig", errors="replace").split()
    if not lines or not all(re.fullmatch(r"\d{1,9}", line) for line in lines):
        raise ValueError(f"--labels={text}: the file must hold a label a line, and nothing else")
    return [range(int(line), int(line) + 1) for line in lines]


def read_prompts(file: pathlib.Path):
    """Reads the `Prompts` of a file: a .json by id, or a text a line, whose pictures have no names.

    Raises:
      ValueError: as of `read_texts` and of `prompt_files.read_prompts`, or a file of other records.
      OSError: the file cannot be read.
    """
    from unitok_jax.data.formats import prompt_files

    if _is_by_id(file):
        return prompt_files.read_prompts(file.read_bytes(), f"--prompts={file}")
    check_lines(file, f"--prompts={file}", "a text a line, as .txt, or a .json by id")
    return prompt_files.Prompts(read_texts(file), [])


def read_texts(file: pathlib.Path) -> list[str]:
    """Reads a text a line; a line ends at a newline alone, and not at U+2028, say.

    Raises:
      ValueError: no text, a blank line before the last text, or bytes that are no UTF-8.
      OSError: the file cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8-sig").rstrip()
    except UnicodeDecodeError as error:
        raise ValueError(f"--prompts={file} is no text in UTF-8: {error}") from error
    if not text:
        raise ValueError(f"--prompts={file} is empty; it must hold a text a line")
    lines = text.split("\n")
    blank = next((number for number, line in enumerate(lines, 1) if not line.strip()), None)
    if blank:
        raise ValueError(f"--prompts={file}: line {blank} is empty; a prompt needs a word")
    return [line.strip() for line in lines]


def _lengths(file: pathlib.Path, texts: list[str]) -> list[int]:
    """Counts the tokens of texts, start and end included; refuses one without any between."""
    from unitok_jax.data.text import TextTokenizer

    lengths = list(map(TextTokenizer().length, texts))
    if 2 in lengths:
        number = lengths.index(2)
        where = f"--prompts={file}: {_unit(file)} {number + 1}"
        raise ValueError(f"{where}, {texts[number]!r:.100}, has no word")
    return lengths


def _tell_cuts(file: pathlib.Path, lengths: list[int], length: int) -> None:
    cut = [number for number, count in enumerate(lengths, 1) if count > length]
    if cut:
        print(
            f"{len(cut)} of {len(lengths)} texts of --prompts={printable(file)} have over {length} "
            f"tokens and lose their last words: {_unit(file)} {', '.join(map(str, cut[:5]))}",
            file=sys.stderr,
        )


def _unit(file: pathlib.Path) -> str:
    return "prompt" if _is_by_id(file) else "line"


def _is_by_id(file: pathlib.Path) -> bool:
    return file.suffix.lower() == ".json"


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
            with file.open("rb") as opened:
                return np.lib.format.read_array(opened, allow_pickle=False).tolist()
        except ValueError as error:
            raise ValueError(f"--scale={text} is not an array of NumPy: {error}") from error
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f"--scale={text}: expected numbers with commas, or a .npy file") from error
    return numbers if len(numbers) > 1 else numbers[0]
