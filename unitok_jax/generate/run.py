"""Training run of a generator: mesh, codes and steps of one configuration."""

import functools
import math
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from unitok_jax.checkpoints import differences
from unitok_jax.data.pipeline import effective_batch_size
from unitok_jax.generate import data
from unitok_jax.generate.config_checks import check
from unitok_jax.generate.step import GeneratorSteps, Programs, TrainState
from unitok_jax.runtime import sharding


class Run:
    """Training run of a generator, from one configuration."""

    def __init__(self, config: ConfigDict, devices=None):
        """Builds everything but the weights.

        Args:
          config: the whole configuration.
          devices: devices of the mesh; by default all devices of the job.

        Raises:
          ValueError: a value of the configuration does not fit; the message names its key.
          OSError: codes cannot be read.
        """
        check(config)
        self.config = config
        self.mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, devices)
        self.steps = GeneratorSteps(config)
        self.records = data.open_records(config.data.path, "data.path", config.model)
        self.samples, self.origin = len(self.records), config.data.path
        self.batch_size = effective_batch_size(config.data, self.samples, self.mesh.size)
        held_out = self.records
        if config.eval.path:
            held_out = data.open_records(config.eval.path, "eval.path", config.model)
            if held_out.tokenizer_hash != self.records.tokenizer_hash:
                raise ValueError(
                    f"eval.path={config.eval.path} holds codes of tokenizer "
                    f"{held_out.tokenizer_hash}, and data.path of {self.records.tokenizer_hash}: "
                    "tokenize both with one"
                )
        self.eval_records = held_out[: config.eval.max_images]
        self.programs = Programs(self.steps, self.mesh)

    @property
    def abstract(self) -> TrainState:
        """Shapes, dtypes and shardings of a state."""
        return self.programs.abstract

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """Facts that a checkpoint depends on: the codes, their order and their tokenizer."""
        shards = [[shard["file"], shard["count"]] for shard in self.records.manifest["shards"]]
        return {
            "samples in the data": self.samples,
            "batch size": self.batch_size,
            "tokenizer of the codes": self.records.tokenizer_hash,
            "precision of the codes": self.records.precision,
            "shards of the codes": {"files": shards},
        }

    @property
    def shared(self) -> dict[str, Any]:
        """Values that must be equal on all processes of a job."""
        return differences.flat(self.facts) | {"images to evaluate": len(self.eval_records)}

    def prepare(self, resumed: bool) -> None:
        """Reads one record of the codes to evaluate, so that what is wrong is told at the start."""
        data.check_label(self.eval_records[0], self.config.model.classes)

    def initial_state(self) -> TrainState:
        """Builds the state before the first step."""
        return self.programs.init()

    def state_from(self, items: dict[str, Any]) -> TrainState:
        """Builds the state from a checkpoint's items."""
        return TrainState.from_items(items)

    def parameters(self, state: TrainState) -> dict[str, Any]:
        """Returns the arrays by part of the model."""
        return dict(state.generator.params)

    def batches(self, start_step: int):
        """Returns this process's rows of the batches from `start_step` on; close after use."""
        settings = self.config.data.copy_and_resolve_references()
        settings.batch_size = self.batch_size
        return data.train_batches(
            settings,
            self.config.seed,
            self.records,
            self.config.model,
            start_step=start_step,
            rows=sharding.local_rows(self.mesh, self.batch_size),
        )

    def train_step(self, step: int, state: TrainState, batch) -> tuple[TrainState, dict]:
        """Runs update number `step`, from 0: `GeneratorSteps.train_step`."""
        return self.programs.step(state, batch)

    def planned_memory(self, step: int, state: TrainState, batch) -> dict[str, int]:
        """Returns the bytes on each device that the compiled `train_step` needs."""
        plan = self.programs.step.lower(state, batch).compile().memory_analysis()
        return {
            "arguments": plan.argument_size_in_bytes,
            "new outputs": plan.output_size_in_bytes - plan.alias_size_in_bytes,
            "temporaries": plan.temp_size_in_bytes,
        }

    def evaluate(self, state: TrainState) -> tuple[dict[str, float | np.ndarray], None]:
        """Measures the loss of the held-out codes, with the average of the weights.

        Returns:
          `loss`, the mean over codes in nats; `loss_per_codebook` (K,); `bits_per_image`, of all
          codes; `gain`, the bits a code fewer than a uniform guess needs. No picture.
        """
        count, size = len(self.eval_records), self.config.eval.batch_size
        size = -(-min(size, count) // self.mesh.size) * self.mesh.size
        total = np.zeros(self.config.model.num_codebooks)
        for begin in range(0, count, size):
            rows = data.eval_rows(self.eval_records, range(begin, begin + size), self.config.model)
            batch = {k: sharding.shard_whole(v, self.mesh) for k, v in rows.items()}
            total += jax.device_get(self.programs.evaluate(state.params, batch))
        per_codebook = total / count
        codes = math.prod((len(total), *self.config.model.grid))
        entries = self.config.model.vocab_size // len(total)
        loss = float(per_codebook.mean())
        metrics = {
            "loss": loss,
            "loss_per_codebook": per_codebook,
            "bits_per_image": codes * loss / math.log(2),
            "gain": (math.log(entries) - loss) / math.log(2),
        }
        return metrics, None
