"""Measures a tokenizer, drawn images, or the answers of a multimodal model.

`unitok evaluate --checkpoint=DIR --data=labelled:/data/val --output=card/` writes
card.json, card.md, card.html and pictures/. docs/guides/evaluate.md says what each figure means.
`unitok evaluate --samples=SAMPLES --reference=FILE.npz --inception=FILE --output=card/` measures
drawn images: gFID and others.
`unitok evaluate --checkpoint=MM --vqa=gqa --questions=FILE --images=DIR --output=answers/` asks a
multimodal model the questions of a benchmark; docs/guides/evaluate_answers.md. The same command
again continues.
`unitok evaluate --checkpoint=MM --tokenizer=TOKENIZER --shapes=256 --output=scores/` examines one
that was trained on drawn shapes: docs/guides/train_on_shapes.md.
"""

import argparse
import contextlib
import math
import pathlib
import shlex
import sys
from collections.abc import Iterator, Sequence

import jax

from unitok_jax.commands import arguments
from unitok_jax.data.formats.question_files import BENCHMARKS, INSTRUCTION, read_questions
from unitok_jax.data.sources import check_outside, open_source
from unitok_jax.data.specs import data_config, split
from unitok_jax.data.writing.folders import claim
from unitok_jax.evaluation import answers
from unitok_jax.evaluation.card import pages, statistics, write
from unitok_jax.evaluation.card.drawn import DrawnSettings, measure_drawn
from unitok_jax.evaluation.card.measure import measure
from unitok_jax.evaluation.card.settings import CardSettings
from unitok_jax.evaluation.shapes import report as shapes_report
from unitok_jax.evaluation.shapes.edits import measure_edits
from unitok_jax.evaluation.shapes.measure import measure as measure_shapes
from unitok_jax.models import draw_settings
from unitok_jax.multimodal.api import MultimodalModel, load_multimodal
from unitok_jax.runtime import processes, sharding
from unitok_jax.system import outputs
from unitok_jax.system.paths import printable


def main() -> None:
    """Runs the command; an error in its input ends as one line and exit code 2."""
    parser = arguments.make_parser("evaluate", __doc__)
    arguments.add_checkpoint(parser, required=False)
    arguments.add_data(parser, required=False)
    add = parser.add_argument
    add(
        "--samples",
        default="",
        type=arguments.place,
        help="drawn images to measure instead: samples.npz, PNGs, or what unitok generate wrote",
    )
    arguments.add_tokenizer(
        parser, "of a multimodal model's codes, for --vqa and --shapes; default: its run's"
    )
    add("--vqa", choices=tuple(BENCHMARKS), help="benchmark of questions about images instead")
    add("--questions", type=arguments.path, help="its file or folder, or LLaVA's .jsonl")
    add(
        "--annotations",
        type=arguments.path,
        help="answers of people: VQAv2's file; beside LLaVA's questions, the benchmark's own",
    )
    add("--images", type=arguments.path, help="folder of the questions' images")
    add(
        "--shapes",
        type=int,
        help="instead: so many drawn shapes of seen and of held-out pairs, asked about and drawn, "
        "and as many edits",
    )
    add("--scales", help="of guidance, of what is drawn with --shapes; default: 1,2,4")
    add("--temperature", type=float, help="of the same; 0: the likeliest codes; default: 1")
    add(
        "--instruction",
        default=INSTRUCTION,
        help="line below questions that are not LLaVA's; '': none",
    )
    add(
        "--output",
        required=True,
        type=arguments.path,
        help="folder of the card, new or empty; of answers, to be continued",
    )
    add("--size", help="N or HEIGHTxWIDTH; default: the model's")
    add(
        "--max_images",
        type=int,
        default=CardSettings.max_images,
        help="the first of the data, or of the samples; 0: all",
    )
    add(
        "--batch_size",
        type=int,
        default=CardSettings.batch_size,
        help="images, questions or drawings at once, rounded up to a multiple of the devices",
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
    add("--probe_method", choices=("logistic", "ridge"), help="of the probe; default: logistic")
    add("--no_text", action="store_true", help="measure nothing that needs the text tower")
    arguments.add_cluster(parser)
    arguments.run(parser, _run)


def _run(args: argparse.Namespace) -> None:
    if args.instruction != INSTRUCTION and not args.vqa:
        raise ValueError("--instruction means nothing without --vqa; leave it out")
    if args.probe_method and not args.probe:
        raise ValueError("--probe_method means nothing without --probe; leave it out")
    if args.shapes is not None:
        _run_shapes(args)
        return
    for name in ("scales", "temperature"):
        if getattr(args, name) is not None:
            raise ValueError(f"--{name} means nothing without --shapes; leave it out")
    if args.vqa:
        _run_answers(args)
        return
    for name in _OF_QUESTIONS:
        if getattr(args, name):
            raise ValueError(f"--{name} means nothing without --vqa; leave it out")
    if args.tokenizer:
        raise ValueError("--tokenizer means nothing without --vqa or --shapes; leave it out")
    if args.samples:
        _run_drawn(args)
        return
    for name in ("checkpoint", "data"):
        if not getattr(args, name):
            raise ValueError(
                f"--{name} is missing: give --checkpoint and --data, or --samples to measure drawn "
                "images"
            )
    named = [(name, getattr(args, name)) for name in ("data", "probe")]
    places = [(f"--{name}", *split(value)) for name, value in named if value]
    check_outside(args.output, "--output", places)
    settings = _settings(args)
    with _new_card(args, caches=bool(args.inception)) as folder:
        size = arguments.image_size(args.size) if args.size else None
        with processes.fail_together():
            tokenizer = arguments.load_tokenizer(args)
            size = size or tokenizer.image_size
            data = arguments.data(args, tokenizer, size, max_bad=args.max_bad)
            source = open_source(data, require_captions=False)
        card = measure(tokenizer, source, data, settings)
        if folder is not None:
            _print(write.write(folder, card, _command()))


def _run_drawn(args: argparse.Namespace) -> None:
    """Measures drawn images."""
    for name in ("size", "lpips", "cache", "labels", "templates", "probe", "no_text", "max_bad"):
        if getattr(args, name):
            raise ValueError(f"--{name} means nothing with --samples; leave it out")
    settings = DrawnSettings(
        samples=args.samples,
        inception=args.inception,
        reference=args.reference,
        data=args.data or "",
        save_reference=args.save_reference,
        checkpoint=args.checkpoint or "",
        captions=args.captions,
        max_images=args.max_images,
        batch_size=args.batch_size,
    )
    with _new_card(args, caches=False) as folder:
        with processes.fail_together():
            tokenizer = arguments.load_tokenizer(args) if args.checkpoint else None

        def open_data(size):
            data = data_config(
                args.data,
                image_size=size,
                context_length=2,  # captions are not read
                index=args.index,
                num_threads=args.num_threads,
                num_workers=args.num_workers,
            )
            return open_source(data, require_captions=False), data

        card = measure_drawn(settings, tokenizer, open_data if args.data else None)
        if folder is not None:
            _print(write.write_drawn(folder, card, _command()))


@contextlib.contextmanager
def _new_card(args: argparse.Namespace, caches: bool) -> Iterator[pathlib.Path | None]:
    """Joins the job and yields the card's folder on process 0, None elsewhere; prints its page."""
    arguments.connect(args)
    with contextlib.ExitStack() as stack:
        folder = None
        with processes.fail_together():
            if processes.is_lead():
                if args.save_reference:
                    arguments.check_new(args.save_reference, "save_reference")
                if caches:
                    cache = statistics.cache_folder(args.cache)
                    arguments.check_writable(cache / "reference.npz", "cache")
                folder = stack.enter_context(outputs.new_folder(args.output, "--output"))
        yield folder
    if folder is not None:
        print(printable(args.output / "card.html"))


def _run_answers(args: argparse.Namespace) -> None:
    """Asks a multimodal model the questions of a benchmark."""
    found = _check_multimodal(args, "vqa", needed=("questions", "images"))
    questions = read_questions(args.vqa, args.questions, args.annotations or "", args.instruction)
    answers.check_images(questions, args.images)
    model = _load_multimodal(args, found)
    del found  # it may hold the weights in the host's memory
    settings = answers.settings_of(args.vqa, questions, _facts(model, args.precision))
    claim(args.output, settings, "unitok evaluate --vqa")
    given = answers.ask(model, questions, args.images, args.output, model.batch_size)
    for name, value in answers.write(args.output, settings, questions, given).items():
        print(f"{name:28} {value:.2f}")
    print(printable(args.output / answers.FIGURES))


def _facts(model: MultimodalModel, precision: str) -> dict[str, str | int]:
    """Returns what the answers to given questions depend on, as JSON values."""
    return {
        "model": model.hash,
        "tokenizer": model.tokenizer.hash,
        **model.question_facts,
        "precision": precision,
        # Both change the last bits of logits, and so occasionally an answer.
        "platform": jax.default_backend(),
        "questions per device": model.batch_size // jax.local_device_count(),
    }


def _run_shapes(args: argparse.Namespace) -> None:
    """Examines a multimodal model on drawn shapes."""
    found = _check_multimodal(args, "shapes", unused=("vqa", *_OF_QUESTIONS))
    if args.shapes < 1:
        raise ValueError(f"--shapes={args.shapes} must be at least 1 picture")
    scales = _scales("1,2,4" if args.scales is None else args.scales)
    temperature = 1.0 if args.temperature is None else args.temperature
    draw_settings.check_temperature(temperature, "--temperature")
    with outputs.new_folder(args.output, "--output") as folder:
        model = _load_multimodal(args, found)
        del found  # it may hold the weights in the host's memory
        tokenizer = model.tokenizer
        results = measure_shapes(model, tokenizer, args.shapes, scales, temperature)
        size = tokenizer.image_size
        edited = measure_edits(model, tokenizer, args.shapes, size, scales, temperature)
        facts = {
            "model": model.hash,
            "tokenizer": tokenizer.hash,
            "temperature": temperature,
            "command": _command(),
        }
        print(shapes_report.write(folder, results, edited, facts))
    print(printable(args.output / shapes_report.SHEET))


def _scales(text: str) -> list[float]:
    try:
        found = [float(each) for each in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 <= scale < math.inf for scale in found):
        raise ValueError(f"--scales={text} must be numbers of at least 0 with commas, as 1,2,4")
    return found


def _check_multimodal(
    args: argparse.Namespace, flag: str, needed: Sequence[str] = (), unused: Sequence[str] = ()
) -> arguments.FoundTokenizer:
    """Checks the flags of what is measured of a multimodal model with --FLAG.

    Returns:
      The tokenizer of its codes.
    """
    for name in (*_OF_IMAGES, *unused, "coordinator", "processes", "process"):
        if getattr(args, name):
            raise ValueError(f"--{name} means nothing with --{flag}; leave it out")
    if args.max_images != CardSettings.max_images:
        raise ValueError(f"--max_images means nothing with --{flag}: all questions are asked")
    for name in ("checkpoint", *needed):
        if not getattr(args, name):
            raise ValueError(f"--{name} is missing: --{flag} needs it")
    if args.batch_size < 1:
        raise ValueError(f"--batch_size={args.batch_size} must be at least 1")
    found = arguments.find_tokenizer(args)
    if found is None:
        raise ValueError(f"--tokenizer is missing: --{flag} needs it")
    return found


def _load_multimodal(args: argparse.Namespace, found: arguments.FoundTokenizer) -> MultimodalModel:
    # In float32: other codes otherwise.
    return load_multimodal(
        args.checkpoint,
        found.load(arguments.heads(args)),
        sharding.rounded_up(args.batch_size, jax.local_device_count()),
        precision=args.precision,
        weights=args.weights,
    )


_OF_QUESTIONS = ("questions", "annotations", "images")
# flags that only measures of images know
_OF_IMAGES = (
    *("samples", "data", "captions", "index", "size", "max_bad", "inception", "lpips"),
    *("reference", "save_reference", "cache", "labels", "templates", "probe", "no_text"),
    *("num_threads", "num_workers"),
)


def _command() -> str:
    return shlex.join(["unitok", "evaluate", *sys.argv[1:]])


def _print(content: dict) -> None:
    for name, value, _, _ in pages.rows(content):
        print(f"{name:28} {value}")


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
        probe_method=args.probe_method or CardSettings.probe_method,
        text=not args.no_text,
    )
