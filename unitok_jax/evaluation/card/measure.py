"""All figures of a card: which pass gives them, what they are compared with, what is left out."""

import contextlib
import dataclasses
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from unitok_jax.data.formats.labels import LabelSet, label_set
from unitok_jax.data.health import Tally
from unitok_jax.data.records import LabelledSource, Source, subset
from unitok_jax.data.sources import open_source
from unitok_jax.data.specs import data_config
from unitok_jax.data.text import END_OF_TEXT
from unitok_jax.evaluation import suite
from unitok_jax.evaluation.card import pictures, statistics, training_images
from unitok_jax.evaluation.card.fid import Fid
from unitok_jax.evaluation.card.settings import CardSettings
from unitok_jax.evaluation.evaluator import EvaluationResult, Evaluator, Samples, digest
from unitok_jax.evaluation.metrics.probe import linear_probe
from unitok_jax.runtime import processes, sharding
from unitok_jax.system.progress import Progress
from unitok_jax.weights import pretrained

COMPARED = 1000  # images whose codes are computed in float32 and in bfloat16
FEW = 10  # tokens for each row of a codebook, below which its usage says little
_DOING = {"originals": "originals", "features": "features", "dtypes": "codes by dtype"}


@dataclasses.dataclass
class Card:
    """Contents of a card; figures as in `card.json`."""

    metrics: dict[str, float]
    codebooks: dict[str, Any]
    counts: np.ndarray  # (K, V) how often each code was chosen
    per_image: dict[str, np.ndarray]
    samples: Samples  # of the images `order`
    order: list[int]  # positions among the images measured
    chosen: dict[str, list[int]]
    names: dict[int, str]
    query: int
    warnings: list[str]
    not_measured: list[dict[str, str]]
    left_out: dict[str, Any]
    provenance: dict[str, Any]


class Notes:
    """Notes for the reader of a card: warnings, also printed, and figures it does not have."""

    def __init__(self):
        self.warnings, self.not_measured = [], []

    def warn(self, text: str) -> None:
        """A line of the card and of stderr, of the lead alone."""
        self.warnings.append(text)
        if processes.is_lead():
            print(f"warning: {text}", file=sys.stderr, flush=True)

    def skip(self, what: str, reason: str, to_measure: str) -> None:
        """A figure that the card does not have."""
        self.not_measured.append({"what": what, "reason": reason, "to_measure": to_measure})


class CardInputs:
    """Model, networks and data that a card is measured with, checked before any work.

    Attributes:
      settings, data: as given.
      hash, config, precision: of the tokenizer.
      source: the images to measure.
      left_out: of the data, when it was opened.
      probe, probe_data: the training images of the linear probe, and their config; None: no probe.
      labels: the names of the classes and their templates; None: the data has no labels.
      digests: of the networks' weights, by their kind.
      mesh: all devices of the job; `params` and `networks` lie on all of them.
      evaluator: of the passes.
      batch_size: of a pass.
      text: True if the text tower is measured.
    """

    def __init__(self, tokenizer, source: Source, data: ConfigDict, settings: CardSettings):
        """Opens and loads what `settings` name; arguments and errors as of `measure`."""
        self.settings, self.data = settings, data
        self.hash, self.config = tokenizer.hash, tokenizer.config
        self.precision = tokenizer.precision
        self.left_out = self._left_out("data", settings.data, source)
        limit = settings.max_images
        self.source = subset(source, range(min(len(source), limit))) if limit else source
        self.probe, self.probe_data = None, None
        if settings.probe:
            names = ("image_size", "context_length", "num_threads", "num_workers")
            keys = {key: data[key] for key in names}
            self.probe_data = data_config(settings.probe, **keys)
            self.probe = open_source(self.probe_data, require_captions=False)
            self._left_out("probe", settings.probe, self.probe)
        self.labels = self._labels()
        networks = {
            kind: pretrained.load(kind, path, "float32", key=f"--{kind}", turn_off=f"no --{kind}")[
                1
            ]
            for kind, path in settings.networks.items()
        }
        self.digests = {kind: digest(params) for kind, params in networks.items()}
        self.mesh = sharding.make_mesh(-1, 1)
        self.params = sharding.replicate(tokenizer.params, self.mesh)
        self.networks = sharding.replicate(networks, self.mesh)
        self.evaluator = Evaluator(
            self.config.model.to_dict(),
            self.mesh,
            dict.fromkeys(networks, "float32"),
            self.precision,
        )
        self.batch_size = self.evaluator.batch_size(settings.batch_size, len(self.source))
        self.text = settings.text and self.config.model.text.vocab_size > END_OF_TEXT

    def _left_out(self, flag, value, source) -> Tally:
        """Images that a source left out when it was opened, checked."""
        left_out = getattr(source, "tally", Tally())
        self._check(left_out, len(source) + left_out.total, flag, value)
        return left_out

    def _check(self, bad: Tally, count, flag, value):
        if bad.total > self.data.max_bad * count:
            raise ValueError(
                f"{bad.total} images of --{flag}={value} cannot be used, more than "
                f"--max_bad={self.data.max_bad} allows; mend or remove them, or give a larger "
                f"share, as --max_bad=0.01 for one image in 100:\n{bad}"
            )

    def _labels(self) -> LabelSet | None:
        """The classes of labelled data; checks what belongs to labels."""
        settings = self.settings
        own = suite.label_set_of(self.source)
        given = {
            "labels": settings.labels,
            "templates": settings.templates,
            "probe": settings.probe or None,
        }
        for flag, value in given.items():
            if value is not None and own is None:
                raise ValueError(
                    f"--{flag} needs labelled images, and --data={settings.data} has no labels; "
                    "give a folder of class folders as --data=labelled:PATH"
                )
        if own is None:
            return None
        if self.probe is not None:
            if not isinstance(self.probe, LabelledSource):
                raise ValueError(
                    f"--probe={settings.probe} has no labels; give a folder of class folders as "
                    "--probe=labelled:PATH"
                )
            if tuple(self.probe.class_names) != tuple(own.names):
                raise ValueError(
                    f"--probe={settings.probe} has {len(self.probe.class_names)} classes that are "
                    f"not the {len(own.names)} of --data={settings.data}: they must have the same "
                    "names in the same order"
                )
        names, templates = own
        if settings.labels is not None:
            names, templates = label_set(settings.labels, settings.templates or "")
        elif settings.templates is not None:
            templates = label_set("a,b", settings.templates).templates
        if len(names) != len(own.names):
            raise ValueError(
                f"--labels={settings.labels} has {len(names)} names, and --data={settings.data} "
                f"has {len(own.names)} classes; name each class, in their order"
            )
        return LabelSet(names, templates)

    def run(self, source, data=None, batch_size=None, kind="all", **options) -> EvaluationResult:
        """Makes a pass, as `Evaluator.run`; process 0 tells its progress."""
        batch_size = batch_size or self.batch_size
        data, on_batch = data or self.data, None
        with contextlib.ExitStack() as stack:
            if processes.is_lead():
                doing = _DOING.get(kind, "measuring")
                progress = Progress(len(source), "image", what=doing)
                on_batch = stack.enter_context(progress).update
            return self.evaluator.run(
                *(self.params, self.networks, source, data, batch_size),
                **options,
                kind=kind,
                on_batch=on_batch,
            )

    def run_usable(
        self, flag, value, source, data=None, **options
    ) -> tuple[EvaluationResult, Tally]:
        """A pass over the images that can be used, and what all processes left out.

        Which rows of a batch were read is known to all, so that none waits for one that gave up.
        """
        max_left_out = int(self.data.max_bad * len(source))
        result, left_out = self.run(source, data, max_left_out=max_left_out, **options), Tally()
        left_out.update(map(Tally.from_json, processes.from_all(result.left_out.to_json())))
        self._check(left_out, len(source), flag, value)
        if not len(result.positions):
            raise ValueError(f"--{flag}={value}: none of its images can be used")
        return result, left_out

    def encode_text(self, tokens: np.ndarray) -> np.ndarray:
        """Encodes token ids (T, L) as unit vectors (T, E)."""
        return self.evaluator.encode_text(self.params, tokens, self.batch_size)


def measure(tokenizer, source: Source, data: ConfigDict, settings: CardSettings) -> Card:
    """Measures a tokenizer on images. All processes call it.

    Args:
      tokenizer: a `Tokenizer`; its weights are copied to every device of the job that lacks them.
      source: the images; those that cannot be used, up to the share `data.max_bad`, are left out.
      data: the `data` config that opens it, as `data.specs.data_config` makes it; its `image_size`
        is that of the pictures measured.
      settings: what to measure.

    Returns:
      The card; FID and the inception score are on process 0 alone.

    Raises:
      ValueError, OSError, ImportError: settings, weights or images that do not fit.
    """
    notes = Notes()
    with processes.fail_together():
        inputs = CardInputs(tokenizer, source, data, settings)
        fid = Fid(settings, inputs.source, data, inputs.digests.get("inception", ""), notes)
    fid.agree()
    processes.agree(
        {"tokenizer": inputs.hash, "images": len(inputs.source), "batch size": inputs.batch_size}
        | {f"weights of {kind}": value for kind, value in inputs.digests.items()}
    )
    main_pass = "rebuilt" if fid.known else "all"
    result, left_out = inputs.run_usable("data", settings.data, inputs.source, kind=main_pass)
    left_out.update([inputs.left_out])
    if left_out.total:
        notes.warn(f"{left_out.total} images were left out")
    usable = subset(inputs.source, result.positions.tolist())
    metrics = result.reconstruction.result()
    metrics |= fid.measure(result, lambda: inputs.run(usable, kind="originals").originals.result())
    compared = subset(usable, range(min(len(usable), COMPARED)))
    agreement = inputs.run(compared, batch_size=inputs.mesh.size, kind="dtypes").agreement
    codebooks = result.codebooks.result() | agreement.result()
    for key in ("bits_per_token", "max_bits_per_token", "codes_changed", "tokens_changed"):
        metrics[key] = codebooks.pop(key)
    codebooks |= _usable(result.codebooks.counts, notes)
    if "lpips" not in inputs.networks:
        notes.skip("LPIPS", "no weights of LPIPS were named", "Give --lpips=FILE.")
    metrics |= _text_figures(inputs, usable, result, notes)
    metrics |= _probe(inputs, usable, result, notes)
    per_image = result.reconstruction.per_image()
    chosen = pictures.choose(per_image["psnr"])
    order = sorted(position for positions in chosen.values() for position in positions)
    # The program of the pass, whose batches have one shape: nothing is compiled again.
    samples = inputs.run(subset(usable, order), show=len(order), kind=main_pass).samples
    if training_images.same(inputs.config.data, data):
        notes.warn("the model was trained on these images: figures of others may be worse")
    for kind, weights in settings.networks.items():
        if weights == pretrained.SEEDED:
            notes.warn(f"{kind} has random weights: its figures mean nothing beside published ones")
    return Card(
        metrics,
        codebooks,
        result.codebooks.counts,
        per_image,
        samples,
        order,
        chosen,
        {position: usable[position]["name"] for position in order},
        inputs.config.model.num_query,
        notes.warnings,
        notes.not_measured,
        left_out.to_json(),
        _provenance(inputs, result, fid),
    )


def _usable(counts: np.ndarray, notes: Notes) -> dict[str, Any]:
    """The number of rows of a codebook that the measured tokens can use at all."""
    tokens, rows = int(counts[0].sum()), counts.shape[1]
    usable = min(rows, tokens)
    if tokens < FEW * rows:
        notes.warn(
            f"{tokens:,} tokens were measured, which can use {usable:,} of the {rows:,} rows of a "
            f"codebook at most: usage says little below {FEW} tokens for each row"
        )
    used = (counts > 0).sum(axis=1)
    return {"tokens": tokens, "rows": rows, "usable": usable, "usage_of_usable": used / usable}


def _text_figures(
    inputs: CardInputs, source: Source, result: EvaluationResult, notes: Notes
) -> Mapping[str, float]:
    if not inputs.text:
        rows = inputs.config.model.text.vocab_size
        reason = f"the model's text tower has {rows} token ids and does not know CLIP's vocabulary"
        how = "Give a model that does."
        if not inputs.settings.text:
            reason, how = "--no_text", "Leave out --no_text."
        notes.skip("zero-shot classification, image-text retrieval", reason, how)
        return {}
    captions, length = None, inputs.data.context_length
    if inputs.labels:
        reason = "the captions of labelled images are made of the names of classes"
        how = "Give images with captions as --data."
        notes.skip("image-text retrieval", reason, how)
    else:
        how = "Give --data=labelled:PATH, a folder of class folders."
        notes.skip("zero-shot classification", "the data has no labels", how)
        captions = suite.captions_of(source, length)
        if not len(captions.tokens):
            how = "Give captions with --captions, or images that have some."
            notes.skip("image-text retrieval", "the data has no captions", how)
    return suite.text_figures(
        *(result.image_features, source, inputs.encode_text, length),
        captions=captions,
        labels=inputs.labels,
    )


def _probe(
    inputs: CardInputs, source: Source, result: EvaluationResult, notes: Notes
) -> Mapping[str, float]:
    if inputs.probe is None:
        how = "Give --probe=labelled:PATH, training images of the classes of --data."
        notes.skip("linear probe", "no training images were named", how)
        return {}
    settings = inputs.settings
    train, left_out = inputs.run_usable(
        "probe", settings.probe, inputs.probe, inputs.probe_data, kind="features"
    )
    if left_out.total:
        notes.warn(f"{left_out.total} images of --probe were left out")
    return linear_probe(
        train.image_features,
        suite.labels_of(inputs.probe)[train.positions],
        result.image_features,
        suite.labels_of(source),
        len(source.class_names),
        settings.probe_method,
    )


def _provenance(inputs: CardInputs, result: EvaluationResult, fid: Fid) -> dict[str, Any]:
    settings, data = inputs.settings, inputs.data
    return {
        "images": len(result.positions),
        "data": settings.data,
        "captions": data.captions or "-",
        "size": f"{data.image_size[0]}x{data.image_size[1]}",
        "preprocessing": statistics.RESIZE,
        "pixels": f"sha256 {result.digest}",
        "checkpoint": settings.checkpoint,
        "training_images": training_images.describe(inputs.config.data, data),
        "tokenizer_hash": inputs.hash,
        "precision": inputs.precision,
        **fid.statistics,
        **{
            f"{kind}_weights": f"{settings.networks[kind]}, sha256 {value}"
            for kind, value in inputs.digests.items()
        },
        "batch_size": inputs.batch_size,
    }
