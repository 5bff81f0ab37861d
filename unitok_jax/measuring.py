"""All figures of a card: which pass gives them, what they are compared with, what is left out."""

import argparse
import contextlib
import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from unitok_jax import card_pictures, cluster, frozen, sharding, training_images
from unitok_jax.commands import arguments
from unitok_jax.data.health import Tally
from unitok_jax.data.labels import label_set
from unitok_jax.data.progress import Progress
from unitok_jax.data.records import LabelledSource, subset
from unitok_jax.data.sources import open_source
from unitok_jax.data.specs import data_config
from unitok_jax.data.text import END_OF_TEXT, Tokenizer
from unitok_jax.evaluate import zero_shot
from unitok_jax.evaluate.probe import linear_probe
from unitok_jax.evaluate.retrieval import caption_retrieval
from unitok_jax.evaluation import Evaluator, Pass, Shown, caption_tokens, digest
from unitok_jax.fid import RESIZE, Fid

COMPARED = 1000  # images whose codes are computed in float32 and in bfloat16
FEW = 10  # tokens for each row of a codebook, below which its usage says little
_DOING = {"originals": "originals", "features": "features", "dtypes": "codes by dtype"}


@dataclasses.dataclass
class Measured:
    """What a card tells; figures as in `card.json`."""

    metrics: dict[str, float]
    codebooks: dict[str, Any]
    counts: np.ndarray  # (K, V) how often each code was chosen
    per_image: dict[str, np.ndarray]
    shown: Shown  # of the images `order`
    order: list[int]  # positions among the images measured
    chosen: dict[str, list[int]]
    names: dict[int, str]
    query: int
    warnings: list[str]
    not_measured: list[dict[str, str]]
    left_out: dict[str, Any]
    provenance: dict[str, Any]


class Notes:
    """What a reader must know: warnings, also printed, and what was not measured."""

    def __init__(self):
        self.warnings, self.not_measured = [], []

    def warn(self, text: str) -> None:
        """A line of the card and of stderr, of the lead alone."""
        self.warnings.append(text)
        if cluster.is_lead():
            print(f"warning: {text}", file=sys.stderr, flush=True)

    def skip(self, what: str, reason: str, to_measure: str) -> None:
        """A figure that the card does not have."""
        self.not_measured.append({"what": what, "reason": reason, "to_measure": to_measure})


class _Job:
    """What a card is measured with: model, networks and data, opened and checked before any work.

    The tokenizer's own copy of the weights is dropped; the mesh has them.
    """

    def __init__(self, args: argparse.Namespace, size: tuple[int, int] | None):
        tokenizer = arguments.load_tokenizer(args)
        self.hash, self.config = tokenizer.hash, tokenizer.config
        self.precision = tokenizer.precision
        self.size = size or tokenizer.image_size
        self.data = arguments.data(args, tokenizer, self.size, max_bad=args.max_bad)
        self.max_bad = args.max_bad
        self.source, self.left_out = self._open("data", args.data, self.data, args.max_images)
        self.probe = None
        if args.probe:
            keys = {key: self.data[key] for key in ("image_size", "context_length", "num_threads")}
            self.probe_data = data_config(args.probe, num_workers=args.num_workers, **keys)
            self.probe, _ = self._open("probe", args.probe, self.probe_data, 0)
        self.labels = self._labels(args)
        networks = {
            kind: frozen.load(kind, path, "float32", key=f"--{kind}", turn_off=f"no --{kind}")[1]
            for kind, path in (("inception", args.inception), ("lpips", args.lpips))
            if path
        }
        self.digests = {kind: digest(params) for kind, params in networks.items()}
        self.mesh = sharding.make_mesh(-1, 1)
        self.params = sharding.replicate(jax.device_get(tokenizer.params), self.mesh)
        self.networks = sharding.replicate(networks, self.mesh)
        self.evaluator = Evaluator(
            self.config.model.to_dict(),
            self.mesh,
            dict.fromkeys(networks, "float32"),
            self.precision,
        )
        self.batch_size = self.evaluator.batch_size(args.batch_size, len(self.source))
        self.text = not args.no_text and self.config.model.text.vocab_size > END_OF_TEXT

    def _open(self, flag, value, data, most):
        """A source, and what it left out when it was opened."""
        source = open_source(data, require_captions=False)
        left_out = getattr(source, "tally", Tally())
        self._check(left_out, len(source) + left_out.total, flag, value)
        return subset(source, range(min(len(source), most))) if most else source, left_out

    def _check(self, bad: Tally, count, flag, value):
        if bad.total > self.max_bad * count:
            raise ValueError(
                f"{bad.total} images of --{flag}={value} cannot be used, more than "
                f"--max_bad={self.max_bad} allows; mend or remove them, or give a larger share, as "
                f"--max_bad=0.01 for one image in 100:\n{bad}"
            )

    def _labels(self, args):
        """(names, templates) of the classes, or None; checks what belongs to labels."""
        labelled = isinstance(self.source, LabelledSource)
        given = {"labels": args.labels, "templates": args.templates, "probe": args.probe or None}
        for flag, value in given.items():
            if value is not None and not labelled:
                raise ValueError(
                    f"--{flag} needs labelled images, and --data={args.data} has no labels; give "
                    "a folder of class folders as --data=labelled:PATH"
                )
        if not labelled:
            return None
        if self.probe is not None:
            if not isinstance(self.probe, LabelledSource):
                raise ValueError(
                    f"--probe={args.probe} has no labels; give a folder of class folders as "
                    "--probe=labelled:PATH"
                )
            if tuple(self.probe.class_names) != tuple(self.source.class_names):
                raise ValueError(
                    f"--probe={args.probe} has {len(self.probe.class_names)} classes that are not "
                    f"the {len(self.source.class_names)} of --data={args.data}: they must have the "
                    "same names in the same order"
                )
        names, templates = self.source.class_names, self.source.class_templates
        if args.labels is not None:
            names, templates = label_set(args.labels, args.templates or "")
        elif args.templates is not None:
            templates = label_set("a,b", args.templates).templates
        if len(names) != len(self.source.class_names):
            raise ValueError(
                f"--labels={args.labels} has {len(names)} names, and --data={args.data} has "
                f"{len(self.source.class_names)} classes; name each class, in their order"
            )
        return names, templates

    def run(self, source, data=None, batch_size=None, what="all", **options) -> Pass:
        batch_size = batch_size or self.batch_size
        data, told = data or self.data, None
        with contextlib.ExitStack() as stack:
            if cluster.is_lead():
                what_is_done = _DOING.get(what, "measuring")
                progress = Progress(len(source), "image", what=what_is_done)
                told = stack.enter_context(progress).update
            return self.evaluator.run(
                *(self.params, self.networks, source, data, batch_size),
                **options,
                what=what,
                told=told,
            )

    def run_usable(self, flag, value, source, data=None, **options) -> tuple[Pass, Tally]:
        """A pass over the images that can be used, and what all processes left out.

        Which rows of a batch were read is known to all, so that none waits for one that gave up.
        """
        most = int(self.max_bad * len(source))
        found, left_out = self.run(source, data, max_left_out=most, **options), Tally()
        left_out.update(map(Tally.from_json, cluster.from_all(found.left_out.to_json())))
        self._check(left_out, len(source), flag, value)
        if not len(found.positions):
            raise ValueError(f"--{flag}={value}: none of its images can be used")
        return found, left_out

    def encode(self, texts) -> np.ndarray:
        tokens = Tokenizer(self.data.context_length)(texts)
        return self.evaluator.encode_text(self.params, tokens, self.batch_size)


def measure(args: argparse.Namespace, size: tuple[int, int] | None) -> Measured:
    """Measures what the command's arguments ask for. All processes call it.

    Args:
      args: of `unitok evaluate`.
      size: (height, width); None: the model's.

    Raises:
      ValueError, OSError: arguments, weights or images that do not fit.
    """
    notes = Notes()
    with cluster.together():
        job = _Job(args, size)
        fid = Fid(args, job, notes)
    fid.agree()
    cluster.agree(
        {"tokenizer": job.hash, "images": len(job.source), "batch size": job.batch_size}
        | {f"weights of {kind}": value for kind, value in job.digests.items()}
    )
    what = "rebuilt" if fid.known else "all"
    found, left_out = job.run_usable("data", args.data, job.source, what=what)
    left_out.update([job.left_out])
    if left_out.total:
        notes.warn(f"{left_out.total} images were left out")
    source = subset(job.source, found.positions.tolist())
    metrics = found.reconstruction.result()
    metrics |= fid.measure(found, source)
    first = subset(source, range(min(len(source), COMPARED)))
    agreement = job.run(first, batch_size=job.mesh.size, what="dtypes").agreement
    books = found.codebooks.result() | agreement.result()
    for key in ("bits_per_token", "max_bits_per_token", "codes_changed", "tokens_changed"):
        metrics[key] = books.pop(key)
    books |= _usable(found.codebooks.counts, notes)
    if "lpips" not in job.networks:
        notes.skip("LPIPS", "no weights of LPIPS were named", "Give --lpips=FILE.")
    metrics |= _text_measures(args, job, source, found, notes)
    metrics |= _probe(args, job, source, found, notes)
    per_image = found.reconstruction.per_image()
    chosen = card_pictures.choose(per_image["psnr"])
    order = sorted(position for positions in chosen.values() for position in positions)
    # The program of the pass, whose batches have one shape: nothing is compiled again.
    shown = job.run(subset(source, order), show=len(order), what=what).shown
    if training_images.same(job.config.data, job.data):
        notes.warn("the model was trained on these images: figures of others may be worse")
    for kind in ("inception", "lpips"):
        if getattr(args, kind) == frozen.SEEDED:
            notes.warn(f"{kind} has random weights: its figures mean nothing beside published ones")
    return Measured(
        metrics,
        books,
        found.codebooks.counts,
        per_image,
        shown,
        order,
        chosen,
        {position: source[position]["name"] for position in order},
        job.config.model.num_query,
        notes.warnings,
        notes.not_measured,
        left_out.to_json(),
        _provenance(args, job, found, fid),
    )


def _usable(counts: np.ndarray, notes: Notes) -> dict[str, Any]:
    """How many rows of a codebook the tokens that were measured can use at all."""
    tokens, rows = int(counts[0].sum()), counts.shape[1]
    usable = min(rows, tokens)
    if tokens < FEW * rows:
        notes.warn(
            f"{tokens:,} tokens were measured, which can use {usable:,} of the {rows:,} rows of a "
            f"codebook at most: usage says little below {FEW} tokens for each row"
        )
    used = (counts > 0).sum(axis=1)
    return {"tokens": tokens, "rows": rows, "usable": usable, "usage_of_usable": used / usable}


def _text_measures(args, job, source, found, notes) -> Mapping[str, float]:
    if not job.text:
        rows = job.config.model.text.vocab_size
        reason = f"the model's text tower has {rows} token ids and does not know CLIP's vocabulary"
        how = "Give a model that does."
        if args.no_text:
            reason, how = "--no_text", "Leave out --no_text."
        notes.skip("zero-shot classification, image-text retrieval", reason, how)
        return {}
    features = found.image_features
    if job.labels:
        reason = "the captions of labelled images are made of the names of classes"
        how = "Give images with captions as --data."
        notes.skip("image-text retrieval", reason, how)
        classes = zero_shot.class_features(job.encode, *job.labels)
        labels = np.array([source.label(index) for index in range(len(source))], np.int64)
        return zero_shot.zero_shot(features, classes, labels)
    how = "Give --data=labelled:PATH, a folder of class folders."
    notes.skip("zero-shot classification", "the data has no labels", how)
    tokens, owner = caption_tokens(source, job.data.context_length)
    if not len(tokens):
        how = "Give captions with --captions, or images that have some."
        notes.skip("image-text retrieval", "the data has no captions", how)
        return {}
    texts = job.evaluator.encode_text(job.params, tokens, job.batch_size)
    return caption_retrieval(features, texts, owner, tokens)


def _probe(args, job, source, found, notes) -> Mapping[str, float]:
    if job.probe is None:
        how = "Give --probe=labelled:PATH, training images of the classes of --data."
        notes.skip("linear probe", "no training images were named", how)
        return {}
    train, left_out = job.run_usable(
        "probe", args.probe, job.probe, job.probe_data, what="features"
    )
    if left_out.total:
        notes.warn(f"{left_out.total} images of --probe were left out")
    return linear_probe(
        train.image_features,
        _labels(job.probe)[train.positions],
        found.image_features,
        _labels(source),
        len(source.class_names),
        args.probe_method,
    )


def _labels(source: LabelledSource) -> np.ndarray:
    label: Callable[[int], int] = source.label
    return np.array([label(index) for index in range(len(source))], np.int64)


def _provenance(args, job, found, fid) -> dict[str, Any]:
    return {
        "images": len(found.positions),
        "data": args.data,
        "captions": args.captions or "-",
        "size": f"{job.size[0]}x{job.size[1]}",
        "preprocessing": RESIZE,
        "pixels": f"sha256 {found.digest}",
        "checkpoint": args.checkpoint,
        "training_images": training_images.describe(job.config.data, job.data),
        "tokenizer_hash": job.hash,
        "precision": job.precision,
        **fid.statistics,
        **{
            f"{kind}_weights": f"{getattr(args, kind)}, sha256 {value}"
            for kind, value in job.digests.items()
        },
        "batch_size": job.batch_size,
    }
