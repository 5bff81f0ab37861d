"""Models that read and draw shapes, at a size that two CPU cores can train: what helps?

    python -m experiments.unified --output=runs/unified [--seeds 0 1 2] [--cells unified reads]
    python -m experiments.unified --output=runs/unified --report [--plots=FOLDER]

For each seed and tokenizer of `unified_cells.TOKENIZERS` pictures are learnt and tokenized; on
their codes each model of `unified_cells.CELLS` is trained, and examined on seen and held-out pairs
of colour and form. A result is a JSON file in OUTPUT/results: what is there is not run again, so
that the same command continues. `--report` prints the tables.
"""

import functools
from pathlib import Path

import jax
from flax import nnx

from experiments import report, running, unified_report
from experiments.running import Kept, is_saved, psnr, trained, write_codes
from experiments.unified_cells import (
    CELLS,
    PARTS,
    SCALES,
    SEEDS,
    Budget,
    model_config,
    tokenizer_config,
)
from unitok_jax.data.images.transforms import to_uint8
from unitok_jax.data.records import subset
from unitok_jax.data.sources import open_source
from unitok_jax.evaluation.shapes import report as files
from unitok_jax.evaluation.shapes import scores
from unitok_jax.evaluation.shapes.exam import PAIRS, Exam, shown
from unitok_jax.evaluation.shapes.measure import measure
from unitok_jax.models.layers import Keys
from unitok_jax.multimodal.api import MultimodalModel
from unitok_jax.multimodal.loading import Form, Weights
from unitok_jax.multimodal.model import Multimodal
from unitok_jax.multimodal.run import Run as MultimodalRun
from unitok_jax.tokenizer.api import Tokenizer, load
from unitok_jax.tokenizer.run import Run as TokenizerRun
from unitok_jax.tokenizer.step import init_params

NAME = "experiments.unified"
BATCH = 64  # pictures, questions or texts at once
HELD_OUT = 512  # pictures of held-out pairs whose codes are evaluated on


class Experiment(Kept):
    """All runs of one folder; every method returns a result of JSON values."""

    def __init__(self, folder: Path, budget: Budget):
        """Sets up the folder.

        Raises:
          ValueError: the folder is of another budget.
        """
        super().__init__(folder, NAME, budget)

    def tokenizer(self, name: str, seed: int) -> dict:
        """Trains a tokenizer, writes its codes, and measures reconstructions and features."""
        place = self._place(name, seed)
        if not is_saved(place / "tokenizer"):
            run = TokenizerRun(tokenizer_config(name, self.budget))
            model = run.config.model.to_dict()

            def start(key):
                return run.steps.start(init_params(model, key), None)

            state = trained(run, start, seed)
            Tokenizer(run.config, state.generator.params).save(place / "tokenizer")
        tokenizer = self._load(place)
        for part, count in zip(PARTS, (self.budget.pictures, HELD_OUT), strict=True):
            self._tokenize(tokenizer, name, part, count, place / "codes" / part)
        exams = [Exam(pairs, self.budget.examined, tokenizer.image_size) for pairs in PAIRS]
        return {
            "kind": "tokenizer",
            "tokenizer": name,
            "seed": seed,
            "rebuilt": {exam.pairs: _rebuilt(tokenizer, exam) for exam in exams},
            "probe": scores.probe(tokenizer.encode_image, exams),
        }

    def model(self, name: str, seed: int) -> dict:
        """Trains a model on the codes of its tokenizer, and examines it."""
        place = self._place(CELLS[name].tokenizer, seed)
        run = MultimodalRun(model_config(name, place, self.budget))
        keys = run.config.model.to_dict()

        def start(key, found):
            params = nnx.to_pure_dict(nnx.state(Multimodal(**keys, rngs=Keys(key))))
            return run.steps.start(params | {"image": params["image"] | found})

        state = trained(run, start, seed, run.initial_params()["image"])
        losses, _ = run.evaluate(state)
        tokenizer = self._load(place)
        form = Form(run.config.data.template, run.config.data.bare_images)
        params = jax.device_get(state.params)
        weights = Weights(run.config, params, tokenizer.hash, run.text, form)
        model = MultimodalModel(weights, tokenizer, BATCH, jax.local_devices()[:1])
        results = measure(model, tokenizer, self.budget.examined, SCALES, key=seed)
        self._keep(f"{name}-{seed}", results)
        found = {result.exam.pairs: result.figures for result in results}
        told = {key: float(losses[key]) for key in ("text_loss", "image_loss")}
        return {"kind": "model", "cell": name, "seed": seed} | told | {"examined": found}

    def _place(self, name: str, seed: int) -> Path:
        return self.folder / f"{name}-{seed}"

    def _load(self, place: Path) -> Tokenizer:
        return load(place / "tokenizer", batch_size=BATCH, devices=jax.local_devices()[:1])

    def _tokenize(self, tokenizer: Tokenizer, name, part: str, count: int, output: Path) -> None:
        """Writes the codes of the first pictures of a split."""
        data = tokenizer_config(name, self.budget).data.copy_and_resolve_references()
        data.path = part
        source = subset(open_source(data), range(count))
        write_codes(tokenizer, source, data, output, f"python -m {NAME}", shard_size=10_000)

    def _keep(self, name: str, results) -> None:
        folder = self.folder / report.SHEETS
        folder.mkdir(exist_ok=True)
        files.sheet(results).save(folder / f"{name}.png")


def _rebuilt(tokenizer: Tokenizer, exam: Exam) -> dict[str, float]:
    """Measures the reconstructions of an examination's pictures."""
    rebuilt = to_uint8(tokenizer.decode(tokenizer.encode(exam.pictures)))
    shares = scores.read(rebuilt, [shown(scene) for scene in exam.scenes])
    return {"psnr": psnr(rebuilt, exam.pictures)} | shares


def run_all(experiment: Experiment, seeds: list[int], names: list[str]) -> None:
    """Runs what has no result yet, all of a seed before the next, a tokenizer before its models."""
    for seed in seeds:
        for name in names:
            needed = CELLS[name].tokenizer
            run = functools.partial(experiment.tokenizer, needed, seed)
            experiment.once(f"tokenizer-{needed}-{seed}", run)
            run = functools.partial(experiment.model, name, seed)
            experiment.once(f"model-{name.replace(' ', '_')}-{seed}", run)


def main() -> None:
    """Runs what is missing, or reports."""
    parts, told = {"cells": CELLS}, unified_report
    running.main(__doc__, Experiment, Budget, SEEDS, parts, run_all, told.tables, _plot)


def _plot(results: list[dict], _: Path, output: Path) -> None:
    unified_report.plot(results, output)


if __name__ == "__main__":
    main()
