"""What experiments share: results that are kept, and runs of training."""

import contextlib
import dataclasses
import time
from pathlib import Path

import jax

from experiments import report
from unitok_jax.data.writing.folders import claim, write_json
from unitok_jax.runtime import sharding

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
