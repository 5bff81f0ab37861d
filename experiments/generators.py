"""Generators on codes of several kinds, at a size that two CPU cores can train.

    python -m experiments.generators --output=runs/experiment [--seeds 0 1 2] [--codes mcq4 rq4]
    python -m experiments.generators --output=runs/experiment --report [--plots=FOLDER]

An encoder and a decoder learn drawn shapes of 64 px once. For each seed and kind of codes they and
a quantizer are trained on, all pictures are tokenized, and a generator of their classes is trained
for each depth of the head; what it draws is measured. A result is a JSON file in OUTPUT/results:
what is there is not run again, so that the same command continues. `--report` prints the tables.
"""

import functools
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from PIL import Image
from scipy.ndimage import uniform_filter

from experiments import report, running
from experiments.cells import (
    CLASSES,
    CODES,
    HEADS,
    SCALES,
    SEEDS,
    SHARED,
    Budget,
    base_config,
    generator_config,
    tokenizer_config,
)
from experiments.pictures import COMMAND, PARTS, Pictures
from experiments.running import Kept, is_saved, psnr, trained, write_codes
from unitok_jax.data.images.transforms import to_uint8
from unitok_jax.data.sources import open_source
from unitok_jax.evaluation.metrics.codebook import CodebookUse
from unitok_jax.generate.api import Sampler
from unitok_jax.generate.loading import Weights
from unitok_jax.generate.model import Generator
from unitok_jax.generate.run import Run as GeneratorRun
from unitok_jax.models.layers import Keys
from unitok_jax.tokenizer.api import Tokenizer, load
from unitok_jax.tokenizer.run import Run as TokenizerRun
from unitok_jax.tokenizer.step import init_params

BATCH = 64  # pictures that are encoded, drawn and decoded at once
BASE_FOLDER = "base"  # of the tokenizer that all others start from
SHEET = 16  # drawn pictures that are kept of each generator


class Experiment(Kept):
    """All runs of one folder; every method returns a result of JSON values."""

    def __init__(self, folder: Path, budget: Budget):
        """Sets up the folder.

        Raises:
          ValueError: the folder is of another budget.
        """
        super().__init__(folder, "experiments.generators", budget)

    @functools.cached_property
    def pictures(self) -> Pictures:
        """The rendered pictures."""
        return Pictures(self.folder / "pictures", self.budget.pictures, self.budget.held_out)

    def originals(self) -> dict:
        """Measures held-out originals, as they are, blurred, and without colour: the yardstick."""
        pictures = self.pictures.read("held_out", self.budget.drawn)
        grey = np.broadcast_to(pictures.mean(axis=3, keepdims=True), pictures.shape)
        kinds = {"as they are": pictures, "blurred": _blurred(pictures), "grey": grey}
        measured = {
            kind: self.pictures.measure(changed.round().astype(np.uint8))
            for kind, changed in kinds.items()
        }
        return {"kind": "originals", "measured": measured}

    def base(self) -> dict:
        """Trains the encoder and the decoder that all tokenizers start from."""
        run = TokenizerRun(base_config(self.pictures.folder, self.budget))
        return {"kind": "base"} | self._train_tokenizer(run, self.folder / BASE_FOLDER, 0, {})

    def tokenizer(self, name: str, seed: int) -> dict:
        """Trains a tokenizer, writes the codes of all pictures, and measures reconstructions."""
        place = self._place(name, seed)
        base = load(self.folder / BASE_FOLDER).params
        shared = {part: jax.device_get(base[part]) for part in SHARED}
        run = self._tokenizer_run(name)
        measured = self._train_tokenizer(run, place / "tokenizer", seed, shared)
        tokenizer = self._load(place)
        for part in PARTS:
            self._tokenize(tokenizer, part, place / "codes" / part)
        return {"kind": "tokenizer", "codes": name, "seed": seed} | measured

    def _train_tokenizer(self, run: TokenizerRun, place: Path, seed: int, shared) -> dict:
        """Trains and saves a tokenizer, unless it is there, and measures its reconstructions.

        shared: parameters to start from by their part; the others are fresh.
        """
        if not is_saved(place):
            model = run.config.model.to_dict()

            def start(key, shared):
                return run.steps.start(init_params(model, key) | shared, None)

            state = trained(run, start, seed, shared)
            Tokenizer(run.config, state.generator.params).save(place)
        tokenizer = load(place, batch_size=BATCH)
        pictures = self.pictures.read("held_out", self.budget.drawn)
        codes = tokenizer.encode(pictures)
        use = CodebookUse()
        books, entries = tokenizer.codebook_shape
        use.update([np.bincount(codes[:, k].ravel(), minlength=entries) for k in range(books)])
        rebuilt = to_uint8(tokenizer.decode(codes))
        return {
            "psnr": psnr(rebuilt, pictures),
            "bits_per_token": use.result()["bits_per_token"],
            "rebuilt": self.pictures.measure(rebuilt),
        }

    def generator(self, name: str, head: int, seed: int) -> dict:
        """Trains a generator on the codes of `tokenizer(name, seed)`; measures what it draws."""
        place = self._place(name, seed)
        run = GeneratorRun(generator_config(name, head, place / "codes", self.budget))
        model = run.config.model.to_dict()

        def params(key):
            return nnx.to_pure_dict(nnx.state(Generator(**model, rngs=Keys(key))))

        state = trained(run, lambda key: run.steps.start(params(key)), seed)
        loss, _ = run.evaluate(state)
        weights = Weights(run.config, jax.device_get(state.params), run.records.tokenizer_hash)
        sampler, tokenizer = Sampler(weights, batch_size=BATCH), self._load(place)
        labels, drawn = np.arange(self.budget.drawn) % CLASSES, {}
        for scale in SCALES:
            codes = sampler.sample(labels, key=seed, scale=scale)
            drawn[scale] = to_uint8(tokenizer.decode(codes))
        self._keep(f"{name}-{head}-{seed}", drawn[SCALES[1]])
        return {
            "kind": "generator",
            "codes": name,
            "head": head,
            "seed": seed,
            "bits_per_image": float(loss["bits_per_image"]),
            "drawn": [
                {"scale": scale} | self.pictures.measure(pictures)
                for scale, pictures in drawn.items()
            ],
        }

    @functools.lru_cache(maxsize=len(CODES))  # noqa: B019  an experiment ends with its process
    def _tokenizer_run(self, name) -> TokenizerRun:
        """Builds a run, whose compiled step serves all seeds."""
        return TokenizerRun(tokenizer_config(name, self.pictures.folder, self.budget))

    def _place(self, name, seed) -> Path:
        return self.folder / f"{name}-{seed}"

    def _load(self, place) -> Tokenizer:
        return load(place / "tokenizer", batch_size=BATCH)

    def _tokenize(self, tokenizer, part, output) -> None:
        data = self.pictures.data(part)
        source = open_source(data)
        write_codes(tokenizer, source, data, output, COMMAND, shard_size=4096)

    def _keep(self, name, pictures) -> None:
        """Keeps a row of pictures, of as many labels spread over all."""
        row = np.concatenate(list(pictures[:CLASSES][:: CLASSES // SHEET]), axis=1)
        folder = self.folder / report.SHEETS
        folder.mkdir(exist_ok=True)
        Image.fromarray(row).save(folder / f"{name}.png")


def _blurred(pictures):
    """Replaces every pixel by the mean over the 5 x 5 around it."""
    return uniform_filter(pictures.astype(np.float32), (0, 5, 5, 0), mode="nearest")


def main() -> None:
    """Runs what is missing, or reports."""
    parts = {"codes": CODES}
    running.main(__doc__, Experiment, Budget, SEEDS, parts, run_all, report.tables, report.plot)


def run_all(experiment: Experiment, seeds: list[int], names: list[str]) -> None:
    """Runs what has no result yet, all of a seed before the next."""
    experiment.once("originals", experiment.originals)
    experiment.once("base", experiment.base)
    for seed in seeds:
        for name in names:
            run = functools.partial(experiment.tokenizer, name, seed)
            experiment.once(f"tokenizer-{name}-{seed}", run)
            for head in HEADS[name]:
                run = functools.partial(experiment.generator, name, head, seed)
                experiment.once(f"generator-{name}-{head}-{seed}", run)


if __name__ == "__main__":
    main()
