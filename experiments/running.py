"""What experiments share: the command line, results that are kept, and runs of training."""

import argparse
import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from experiments import report
from unitok_jax.commands import tokenize
from unitok_jax.data.writing.folders import claim, write_json
from unitok_jax.evaluation.metrics import reconstruction
from unitok_jax.runtime import compilation_cache, sharding
from unitok_jax.system.paths import expand

TOLD = 100  # steps between lines that tell the loss


class Kept:
    """Folder of one experiment and one budget, whose results are files: none is computed twice."""

    def __init__(self, folder: Path, name: str, budget):
        """Sets up the folder.

        Args:
          folder: of all results.
          name: of the module that fills it.
          budget: dataclass of the sizes of all runs.

        Raises:
          ValueError: the folder is of another experiment or budget.
        """
        self.folder, self.budget = folder, budget
        claim(folder, {"format": name} | dataclasses.asdict(budget), f"python -m {name}")
        (folder / report.RESULTS).mkdir(exist_ok=True)

    def once(self, name: str, run) -> None:
        """Keeps the result of `run()` as `name`, unless there is one."""
        path = self.folder / report.RESULTS / f"{name}.json"
        if not path.exists():
            began = time.process_time()
            result = run()
            write_json(path, result | {"cpu_seconds": round(time.process_time() - began)})
            print(name, result, flush=True)


def trained(run, start, seed: int, *arguments):
    """Runs all steps of a run.

    A run's own seed is a constant of its programs, and compiling them takes longer than training:
    so the seeds of an experiment are those of the weights alone, and the pictures come in the same
    order for all.

    Args:
      run: of a tokenizer, a generator or a multimodal model.
      start: computes the state before the first step from a key and `arguments`.
      seed: of the key.
    """
    placed = jax.jit(start, out_shardings=run.programs.shardings)
    state = placed(jax.random.key(seed), *arguments)
    with contextlib.closing(run.batches(0)) as batches:
        for step in range(run.config.steps):
            batch = sharding.shard_batch(next(batches), run.mesh)
            state, metrics = run.train_step(step, state, batch)
            if (step + 1) % TOLD == 0:
                print(f"step {step + 1}: loss {float(metrics['loss']):.3f}", flush=True)
    if skipped := int(metrics["skipped"]):
        raise FloatingPointError(f"{skipped} steps were skipped, not finite")
    return state


def is_saved(place: Path) -> bool:
    """Returns True if a tokenizer was saved there as a whole; a kill may leave a part of one."""
    return (place / "checkpoints").is_dir()


def write_codes(tokenizer, source, data, output: Path, command: str, shard_size: int) -> None:
    """Writes the codes of whole pictures to a folder.

    Args:
      tokenizer: makes them.
      source: of the pictures.
      data: the `data` config of the source.
      output: the folder; a part that is there stays.
      command: that fills it.
      shard_size: pictures of a file.
    """
    settings = tokenize.settings_of(
        *(tokenizer, source, data),
        storage="array_record",
        shard_size=shard_size,
        views="center",
        crop_scale=1.0,
    )
    claim(output, settings, command)
    tokenize.tokenize(tokenizer, source, data, settings, output)


def psnr(rebuilt: np.ndarray, pictures: np.ndarray) -> float:
    """Computes the mean over pictures of the PSNR in dB; both uint8 (N, H, W, 3)."""
    error = ((rebuilt.astype(np.float64) - pictures) ** 2).mean((1, 2, 3))
    return float(np.mean(reconstruction.psnr(np.maximum(error, 1e-9) / 127.5**2)))


def main(
    about: str,
    experiment: Callable[[Path, object], Kept],
    budget: type,
    seeds: Sequence[int],
    parts: Mapping[str, Sequence[str]],
    run_all: Callable,
    tables: Callable[[list[dict]], str],
    plot: Callable[[list[dict], Path, Path], None],
) -> None:
    """Runs what is missing of an experiment, or reports.

    Args:
      about: the module's docstring.
      experiment: makes the experiment of a folder and a budget.
      budget: dataclass of the sizes of all runs; each is a flag.
      seeds: those that are run without --seeds.
      parts: flags that choose parts, with their choices; all of them by default.
      run_all: runs what has no result, of the experiment, the seeds and the choices of each part.
      tables: formats results.
      plot: plots results, of a folder, into another one.
    """
    sizes = [field.name for field in dataclasses.fields(budget)]
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--output", type=expand, required=True, help="folder of all results")
    parser.add_argument("--seeds", nargs="+", type=int, default=list(seeds))
    for name, choices in parts.items():
        parser.add_argument(f"--{name}", nargs="+", choices=choices, default=list(choices))
    for size in sizes:
        parser.add_argument(f"--{size}", type=int, default=getattr(budget, size))
    parser.add_argument("--report", action="store_true", help="only print the tables")
    parser.add_argument("--plots", type=expand, help="with --report: folder; needs matplotlib")
    arguments = parser.parse_args()
    if not arguments.report:
        compilation_cache.enable()
        try:
            chosen = budget(**{size: getattr(arguments, size) for size in sizes})
            made = experiment(arguments.output, chosen)
        except (ValueError, OSError) as error:
            parser.error(str(error))
        run_all(made, arguments.seeds, *(getattr(arguments, name) for name in parts))
    results = report.read(arguments.output)
    if not results:
        parser.error(f"--output={arguments.output} holds no results; run it without --report")
    print(tables(results))
    if arguments.plots:
        plot(results, arguments.output, arguments.plots)
