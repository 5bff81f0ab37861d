"""Recipes of tokenizers at a size that two CPU cores can train: what helps, at equal time?

    python -m experiments.recipes --output=runs/recipes [--seeds 0 1 2] [--cells base rotation]
    python -m experiments.recipes --output=runs/recipes --data=emoji
    python -m experiments.recipes --output=runs/recipes --report [--plots=FOLDER]

Each of `recipe_cells.CELLS` is trained on drawn shapes, or on emoji, as long as the base: for as
many pictures, and, where its step takes another time, for as many steps as the base's time allows.
All see the same pictures in the same order, with the same seeds of the weights, and are evaluated
on combinations held out from training. A result is a JSON file in OUTPUT/results: what is there is
not run again, so that the same command continues. `--report` prints the tables.
"""

import contextlib
import functools
import itertools
import time
from pathlib import Path

import jax
import numpy as np

from experiments import recipe_report, report, running
from experiments.recipe_cells import (
    BASE,
    CELLS,
    DATA,
    SEEDS,
    Budget,
    cell_config,
    steps_at_equal_time,
)
from experiments.running import Kept, is_saved, trained
from unitok_jax.data.images.transforms import to_uint8
from unitok_jax.evaluation.shapes import scores
from unitok_jax.evaluation.shapes.exam import Exam, shown
from unitok_jax.runtime import sharding
from unitok_jax.tokenizer.api import Tokenizer, load
from unitok_jax.tokenizer.run import Run
from unitok_jax.tokenizer.step import init_params

BATCH = 64  # pictures that are encoded and decoded at once
COUNTED = ("psnr", "ssim", "zero_shot_top1", "image_to_text", "bits_per_token")
"""Figures of an evaluation that are kept, of those that a recipe has."""


class Experiment(Kept):
    """All runs of one folder; every method returns a result of JSON values."""

    def __init__(self, folder: Path, budget: Budget):
        """Sets up the folder.

        Raises:
          ValueError: the folder is of another budget.
        """
        super().__init__(folder, "experiments.recipes", budget)

    def price(self, data: str, name: str) -> dict:
        """Measures the seconds of a recipe's run and of the base's, in turns."""
        runs = [self._run(each, data, self.budget.steps) for each in (BASE, name)]
        states = [_start(run, 0, {}) for run in runs]
        seconds = np.zeros(2)
        for number in range(self.budget.timed):
            step = number * self.budget.steps // self.budget.timed
            batches = [_batch(run, step) for run in runs]
            tries = np.zeros((3, 2))  # the first may compile
            for row, which in np.ndindex(tries.shape):
                began = time.perf_counter()
                states[which], metrics = runs[which].train_step(step, states[which], batches[which])
                jax.block_until_ready(metrics)
                tries[row, which] = time.perf_counter() - began
            seconds += tries[1:].min(axis=0)
        base, mine = (seconds / self.budget.timed).tolist()
        return {"kind": "price", "data": data, "cell": name, "seconds": mine, "base": base}

    def recipe(self, data: str, name: str, seed: int, at: str, steps: int) -> dict:
        """Trains a recipe and measures it on held-out combinations.

        Args:
          data: one of `DATA`.
          name: of a cell.
          seed: of the weights.
          at: 'pictures' or 'time', what the base has as much of.
          steps: of the run.
        """
        run, cell = self._run(name, data, steps), CELLS[name]
        shared = {}
        if cell.start:
            found = load(self._place(data, cell.start, seed)).params
            shared = {part: jax.device_get(found[part]) for part in cell.parts}
        state = trained(run, _starter(run), seed, shared)
        metrics, _ = run.evaluate(state)
        tokenizer = Tokenizer(run.config, jax.device_get(state.generator.params), batch_size=BATCH)
        if at == "pictures":
            place = self._place(data, name, seed)
            if not is_saved(place):
                tokenizer.save(place)
        figures = {key: float(metrics[key]) for key in COUNTED if key in metrics}
        usage = np.asarray(metrics["usage"])
        figures |= {"usage_min": float(usage.min()), "usage_mean": float(usage.mean())}
        if data == "shapes":
            figures |= self._examined(tokenizer)
        about = {"kind": "recipe", "data": data, "cell": name, "seed": seed}
        return about | {"at": at, "steps": steps, "figures": figures}

    def _examined(self, tokenizer: Tokenizer) -> dict[str, float]:
        """Reads colours and forms of reconstructions, and probes the features for them."""
        exam = Exam("held_out", self.budget.examined, tokenizer.image_size)
        rebuilt = to_uint8(tokenizer.decode(tokenizer.encode(exam.pictures)))
        read = scores.read(rebuilt, [shown(scene) for scene in exam.scenes])
        probed = scores.probe(tokenizer.encode_image, [exam])["held_out"]
        figures = {f"rebuilt_{key}": read[key] for key in ("colour", "form")}
        return figures | {f"probe_{key}": probed[key] for key in ("colour", "form")}

    @functools.lru_cache(maxsize=4)  # noqa: B019  an experiment ends with its process
    def _run(self, name: str, data: str, steps: int) -> Run:
        """Builds a run, whose compiled step serves all seeds."""
        return Run(cell_config(name, data, self.budget, steps))

    def _place(self, data: str, name: str, seed: int) -> Path:
        return self.folder / f"{_file(data, name)}-{seed}"


def _starter(run: Run):
    model = run.config.model.to_dict()
    return lambda key, shared: run.steps.start(init_params(model, key) | shared, None)


def _start(run: Run, seed: int, shared: dict):
    placed = jax.jit(_starter(run), out_shardings=run.programs.shardings)
    return placed(jax.random.key(seed), shared)


def _batch(run: Run, step: int):
    with contextlib.closing(run.batches(step)) as batches:
        return sharding.shard_batch(next(batches), run.mesh)


def run_all(experiment: Experiment, seeds: list[int], names: list[str], data: list[str]) -> None:
    """Runs what has no result yet: all recipes of a seed before the next, at equal pictures first.

    A cell that others begin from comes before them.
    """
    for each, name in itertools.product(data, names):
        run = functools.partial(experiment.price, each, name)
        experiment.once(f"price-{_file(each, name)}", run)
    needed = [CELLS[name].start for name in names if CELLS[name].start]
    steps = experiment.budget.steps
    for seed, each in itertools.product(seeds, data):
        for name in dict.fromkeys([*needed, *names]):
            _once(experiment, each, name, seed, "pictures", steps)
        prices = report.select(report.read(experiment.folder), kind="price", data=each)
        prices = {price["cell"]: price for price in prices}
        for name in names:
            longer = steps_at_equal_time(prices[name], steps)
            if longer != steps:
                _once(experiment, each, name, seed, "time", longer)


def _once(experiment, data, name, seed, at, steps) -> None:
    run = functools.partial(experiment.recipe, data, name, seed, at, steps)
    experiment.once(f"{_file(data, name)}-{seed}-{at}", run)


def _file(data: str, name: str) -> str:
    return f"{data}-{name.replace(' ', '_')}"


def main() -> None:
    """Runs what is missing, or reports."""
    parts, told = {"cells": CELLS, "data": DATA}, recipe_report
    running.main(__doc__, Experiment, Budget, SEEDS, parts, run_all, told.tables, _plot)


def _plot(results: list[dict], _: Path, output: Path) -> None:
    recipe_report.plot(results, output)


if __name__ == "__main__":
    main()
