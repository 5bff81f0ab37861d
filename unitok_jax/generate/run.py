"""Training run of a generator: mesh, codes and steps of one configuration."""

import functools
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from unitok_jax.checkpoints import differences
from unitok_jax.data.images.transforms import to_uint8
from unitok_jax.data.pipeline import effective_batch_size
from unitok_jax.data.records import first_names
from unitok_jax.evaluation.codec import Codec
from unitok_jax.generate import data
from unitok_jax.generate.companion import TextStates
from unitok_jax.generate.config_checks import check
from unitok_jax.generate.loading import FEATURES, TOKENIZER
from unitok_jax.generate.plan import plan
from unitok_jax.generate.prompts import Captions, Features, open_prompts
from unitok_jax.generate.quality import DrawnQuality
from unitok_jax.generate.step import GeneratorSteps, Programs, TrainState
from unitok_jax.models.sampling import Filters
from unitok_jax.pictures.sheet import contact_sheet, load_font
from unitok_jax.runtime import processes, sharding
from unitok_jax.training.plan import memory
from unitok_jax.weights import load


class Run:
    """Training run of a generator, from one configuration."""

    picture, unit = "drawn", "images"
    samples_per_row = 1
    plan = staticmethod(plan)

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
        self.records = data.open_records(config.data.path, "data.path", config.model)
        self.samples, self.origin = len(self.records), config.data.path
        self.batch_size = effective_batch_size(
            config.data, self.samples, self.mesh.size, reason="the number of devices"
        )
        self.eval_records = self._held_out()[: config.eval.max_images]
        self.prompts = open_prompts(config)
        tower, frozen, self._codec = self._companion()
        self.frozen = sharding.replicate(frozen, self.mesh)
        self._quality = DrawnQuality(config, self.mesh) if config.eval.drawn_images else None
        self.steps = GeneratorSteps(config, tower)
        self.programs = Programs(self.steps, self.mesh)

    def _held_out(self):
        config, ours = self.config, self.records.tokenizer_hash
        if not config.eval.path:
            return self.records
        records = data.open_records(config.eval.path, "eval.path", config.model)
        if records.tokenizer_hash != ours:
            raise ValueError(
                f"eval.path={config.eval.path} holds codes of tokenizer {records.tokenizer_hash}, "
                f"and data.path of {ours}: tokenize both with one"
            )
        names = [each.manifest["settings"].get("class_names") for each in (self.records, records)]
        if config.model.prompt == "class" and names[0] != names[1]:
            raise ValueError(
                f"eval.path={config.eval.path} holds codes of other classes than data.path: "
                f"{first_names(names[1])} and {first_names(names[0])}"
            )
        return records

    def _companion(self) -> tuple[TextStates | None, dict[str, Any], Codec | None]:
        """Loads what is needed of the tokenizer of the codes: (text tower, its arrays, codec)."""
        config, tower, frozen, codec = self.config, None, {}, None
        draws = bool(config.data.tokenizer and (config.eval.preview or config.eval.drawn_images))
        if not draws and not isinstance(self.prompts, Captions):
            return None, {}, None
        theirs, params = load.read_maker(
            config.data.tokenizer, self.records.tokenizer_hash, "data.path"
        )
        if isinstance(self.prompts, Captions):
            tower = TextStates(theirs.model.to_dict(), config.model.to_dict())
            frozen = {"text_encoder": jax.device_get(params["text_encoder"])}
        if draws and (processes.is_lead() or config.eval.drawn_images):
            codec = Codec(theirs, params)
        return tower, frozen, codec

    @property
    def abstract(self) -> TrainState:
        """Shapes, dtypes and shardings of a state."""
        return self.programs.abstract

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """Facts that a checkpoint depends on: the codes, their order and their tokenizer."""
        digest = 0
        for shard in self.records.manifest["shards"]:
            digest = zlib.crc32(shard["sha256"].encode(), digest)
        return {
            "samples in the data": self.samples,
            "batch size": self.batch_size,
            TOKENIZER: self.records.tokenizer_hash,
            "precision of the codes": self.records.precision,
            "digest of the codes": f"{digest:08x}",
        } | self._text_facts

    @property
    def _text_facts(self) -> dict[str, Any]:
        if isinstance(self.prompts, Features):
            return {FEATURES: f"{self.prompts.digest(self.records):08x}"}
        return {"features of texts": "text tower"} if self.steps.tower else {}

    @property
    def shared(self) -> dict[str, Any]:
        """Values that must be equal on all processes of a job."""
        return differences.flat(self.facts) | {"images to evaluate": len(self.eval_records)}

    @property
    def files(self) -> dict[str, str]:
        """Files that users of the weights need beside them: none."""
        return {}

    def prepare(self, resumed: bool) -> None:
        """Reads first records and their prompts, so that what is wrong is told at the start.

        Raises:
          ValueError, OSError: a record has no prompt.
        """
        for records in (self.records, self.eval_records):
            self.prompts(records[0])
        if isinstance(self.prompts, Captions) and not resumed:
            self.prompts.tell_cuts(self.records)

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
            self.prompts,
            start_step=start_step,
            rows=sharding.local_rows(self.mesh, self.batch_size),
        )

    def train_step(self, step: int, state: TrainState, batch) -> tuple[TrainState, dict]:
        """Runs update number `step`, from 0: `GeneratorSteps.train_step`."""
        return self.programs.step(state, self.frozen, batch)

    def planned_memory(self, step: int, state: TrainState, batch) -> dict[str, int]:
        """Returns the bytes on each device that the compiled `train_step` needs."""
        return memory(self.programs.step, state, self.frozen, batch)

    def evaluate(
        self, state: TrainState
    ) -> tuple[dict[str, float | np.ndarray], np.ndarray | None]:
        """Measures the loss of the held-out codes, with the average of the weights.

        Returns:
          `loss`, the mean over codes in nats; `loss_per_codebook` (K,); `bits_per_image`, of all
          codes; `gain`, the bits a code fewer than a uniform guess needs; `gfid` and the inception
          score of `eval.drawn_images` images. A picture of `preview`, if there is a tokenizer to
          decode with, on process 0.
        """
        count, size = len(self.eval_records), self.config.eval.batch_size
        size = sharding.rounded_up(min(size, count), self.mesh.size)
        total = np.zeros(self.config.model.num_codebooks)
        for begin in range(0, count, size):
            own = [begin + row for row in sharding.local_rows(self.mesh, size)]
            rows = data.eval_rows(self.eval_records, own, self.prompts)
            batch = sharding.shard_batch(rows, self.mesh)
            total += jax.device_get(self.programs.evaluate(state.params, self.frozen, batch))
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
        if self._quality:
            metrics |= self._quality(self._drawn_images(state.params))
        return metrics, self.preview(state.params)

    def _drawn_images(self, params) -> Iterator[np.ndarray]:
        """Draws `eval.drawn_images` images in batches: all labels in turn, or captions in order."""
        settings, count = self.config.eval, self.config.eval.drawn_images
        size, filters = min(settings.batch_size, count), Filters(temperature=settings.temperature)
        for begin in range(0, count, size):
            # The last batch is as large as the others: another size would be another program.
            numbers = range(begin, begin + size)
            codes = self.draw(params, self._prompts_in_turn, numbers, filters, settings.scale)
            yield self._pictures(codes)[: count - begin]

    def _prompts_in_turn(self, numbers: Sequence[int]) -> dict[str, np.ndarray]:
        if self.config.model.prompt == "class":
            return {"labels": np.array(numbers, np.int32) % self.config.model.classes}
        records = [number % len(self.eval_records) for number in numbers]
        return data.eval_rows(self.eval_records, records, self.prompts)

    def preview(self, params) -> np.ndarray | None:
        """Draws `eval.preview` images, of labels over all classes or of the first captions.

        All processes call it. Returns the uint8 sheet on process 0; None elsewhere, or without
        `data.tokenizer`.
        """
        config = self.config
        count = config.eval.preview
        if config.model.prompt == "text":
            count = min(count, len(self.eval_records))
        if not config.data.tokenizer or not count:
            return None
        labels = np.arange(count, dtype=np.int32) * config.model.classes // count

        def prompts(numbers):
            if config.model.prompt == "class":
                return {"labels": labels[numbers]}
            return data.eval_rows(self.eval_records, numbers, self.prompts)

        filters = Filters(temperature=config.eval.temperature)
        codes = self.draw(params, prompts, range(count), filters, config.eval.scale)
        if not processes.is_lead():
            return None
        if config.model.prompt == "class":
            names = self.records.manifest["settings"]["class_names"]
            texts = [names[label] if label < len(names) else str(label) for label in labels]
        else:
            # Stored features need no captions.
            texts = [next(iter(r["captions"]), r["key"]) for r in self.eval_records[:count]]
        images = self._pictures(codes)
        return np.asarray(contact_sheet(images, texts, [False] * count, load_font()))

    def _pictures(self, codes: np.ndarray) -> np.ndarray:
        return to_uint8(self._codec.decode(codes, self.config.model.grid))

    def draw(
        self,
        params,
        prompts: Callable[[list[int]], dict[str, np.ndarray]],
        numbers: Sequence[int],
        filters,
        scale,
    ) -> np.ndarray:
        """Draws codes (n, K, N) on all devices; all processes call it with the same arguments.

        Args:
          params: of the generator, placed as in a state.
          prompts: reads the prompts of samples, rows of a batch, by their numbers; a process reads
            those of its own devices.
          numbers: of the samples: a sample is a function of its number, its prompt and the seed.
          filters: as for `sampling.sample`.
          scale: of guidance; 1: none.
        """
        count = len(numbers)
        size = sharding.rounded_up(count, self.mesh.size)
        # Rows past the end draw first samples again.
        own = [numbers[row % count] for row in sharding.local_rows(self.mesh, size)]
        rows = prompts(own) | {"numbers": np.array(own, np.int32)}
        batch = sharding.shard_batch(rows, self.mesh)
        codes = self.programs.sample(
            params, self.frozen, batch, batch.pop("numbers"), filters, scale
        )
        return np.asarray(codes)[:count]
