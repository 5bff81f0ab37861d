"""Training run of a tokenizer: mesh, data, frozen networks and steps of one configuration."""

import functools
import logging
import zlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
from ml_collections import ConfigDict

from unitok_jax import trees
from unitok_jax.checkpoints import differences
from unitok_jax.checkpoints.manager import Checkpoints
from unitok_jax.data.buckets import open_buckets
from unitok_jax.data.health import Health
from unitok_jax.data.identity import identity
from unitok_jax.data.pipeline import effective_batch_size, train_batches
from unitok_jax.data.sources import open_source
from unitok_jax.data.teacher_features import TeacherFeatures, open_teacher_features
from unitok_jax.data.text_features import open_text_features
from unitok_jax.evaluation import suite
from unitok_jax.evaluation.evaluator import Evaluator
from unitok_jax.pictures.comparison import comparison
from unitok_jax.runtime import sharding
from unitok_jax.tokenizer import frozen_networks, sizes
from unitok_jax.tokenizer.config_checks import check, check_beginning
from unitok_jax.tokenizer.evaluation_images import EvaluationImages
from unitok_jax.tokenizer.losses import OF_PAIRS
from unitok_jax.tokenizer.plan import plan
from unitok_jax.tokenizer.step import Programs, TokenizerSteps, TrainState
from unitok_jax.tokenizer.teaching import HEADS
from unitok_jax.training.optim import Trainable
from unitok_jax.training.plan import memory
from unitok_jax.weights import initialize, load, teachers
from unitok_jax.weights.report import Report
from unitok_jax.weights.text_tower import tower_hash

log = logging.getLogger(__name__)


class Run:
    """Training run of a tokenizer: mesh, compiled steps and data, from one configuration."""

    picture, unit = "reconstruction", "images"
    samples_per_row = 1
    plan = staticmethod(plan)

    def __init__(self, config: ConfigDict, devices=None):
        """Builds everything but the weights.

        Args:
          config: the whole configuration.
          devices: devices of the mesh; by default all devices of the job.

        Raises:
          ValueError: a value of the configuration does not fit; the message names its key.
        """
        check(config)
        check_beginning(config)
        self.config = config
        self.mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, devices)
        self.stages = sizes.stages(config.steps, config.data)
        self.steps = TokenizerSteps(config)  # before the data, whose index may take an hour
        self.source = open_source(config.data)
        Health(config.data.max_bad).check_source(self.source)
        self.text_features = None
        if config.data.text_features:
            self.text_features = open_text_features(config.data.text_features)
            self.text_features.check(self.source, config.model.to_dict())
        self.teacher_features, taught = None, {}
        if config.teacher.features:
            self.teacher_features, taught = self._open_teacher_features()
        self._divisor = self.steps.batch_divisor(self.mesh.size)
        self.samples, self.origin = len(self.source), config.data.source
        self.batch_size = effective_batch_size(config.data, self.samples, self._divisor)
        self.buckets = None
        if config.data.bucket_ratio:
            self.buckets = open_buckets(self.source, config.data, config.seed, self.batch_size)
        for key in OF_PAIRS:
            if self.batch_size == 1 and config.loss[key]:
                raise ValueError(
                    f"the data source holds {self.samples} samples: batches of 1 leave "
                    f"loss.{key}={config.loss[key]} no other pair; set it to 0"
                )
        self.eval_images = EvaluationImages(config.data, config.eval, self.source)
        self.programs = Programs(self.steps, self.mesh)
        networks = frozen_networks.load(self.steps, config.frozen, config.model.dtype)
        digests = frozen_networks.digests(networks) | taught
        self._digests = {f"digest of frozen.{part}": value for part, value in digests.items()}
        self.frozen = sharding.replicate(networks, self.mesh)
        self.evaluator = Evaluator(
            config.model.to_dict(),
            self.mesh,
            dict.fromkeys(networks.keys() & {"lpips", "inception"}, "float32"),
        )

    def _open_teacher_features(self) -> tuple[TeacherFeatures, dict[str, int]]:
        """Opens the features that the run learns from; returns them and their teacher's digests.

        With `frozen.teacher`, which is not needed beside them, that file must be the same teacher.
        """
        config, teaching = self.config, self.steps.teaching
        found = open_teacher_features(config.teacher.features)
        found.check(self.source, teaching.settings(config.data), teaching.names)
        if config.frozen.teacher:
            teacher = frozen_networks.load_teacher(teaching, config.frozen.teacher)
            found.check_teacher(teachers.digests(teacher))
        return found, found.settings["teacher"]

    def train_step(self, step: int, state: TrainState, batch) -> tuple[TrainState, dict]:
        """Runs update number `step`, from 0: `TokenizerSteps.train_step` of the step's phase."""
        return self.programs.of_step(step)(state, self.frozen, batch)

    def planned_memory(self, step: int, state: TrainState, batch) -> dict[str, int]:
        """Returns the bytes on each device that the compiled `train_step` needs."""
        return memory(self.programs.of_step(step), state, self.frozen, batch)

    def state_from(self, items: dict[str, Any]) -> TrainState:
        """Builds the state from a checkpoint's items.

        Raises:
          ValueError: `data.text_features` is of another text tower. Or the discriminator was
            trained, and by `steps` and `gan.start_fraction` its training would only begin later:
            a run cannot go back from its adversarial phase to the first.
        """
        state = self._with_its_tower(TrainState.from_items(items))
        adversary, step = self.steps.adversary, int(jax.device_get(state.step))
        if adversary is None or step >= self.config.steps or adversary.acts(step):
            return state
        if _has_acted(state.discriminator):
            raise ValueError(
                f"the discriminator has acted by step {step}, but with steps={self.config.steps} "
                f"and gan.start_fraction={self.config.gan.start_fraction} it begins after step "
                f"{adversary.first - 1}; lower gan.start_fraction to at most "
                f"{(step - adversary.first + adversary.start) / self.config.steps:.4g}"
            )
        return state

    @property
    def abstract(self) -> TrainState:
        """Shapes, dtypes and shardings of a state."""
        return self.programs.abstract

    def parameters(self, state: TrainState) -> dict[str, Any]:
        """Returns the arrays by part: the model's, the discriminator's, a teacher's heads."""
        found = dict(state.generator.params)
        if state.discriminator is not None:
            found["discriminator"] = state.discriminator.params
        if state.teacher_heads is not None:
            found[HEADS] = state.teacher_heads.params
        return found

    def initial_state(self) -> TrainState:
        """Builds the state before the first step: fresh, or from the weights that `init` names.

        Raises:
          ValueError, OSError: the weights do not fit; the message lists the differences. Or
            `data.text_features` is of another text tower, or the weights lack what is frozen.
        """
        return self._with_its_tower(self._initial_state())

    def _initial_state(self) -> TrainState:
        init = self.config.init
        if not init.path:
            return self.programs.init()
        path = load.local(init.path)
        if not path.exists():
            raise FileNotFoundError(f"init.path={init.path}: there is no such file or folder")
        if init.training:
            return self._trained_state(init.path)
        fresh = self.programs.init()
        params, report = initialize.initial_params(
            path,
            self.programs.abstract.generator.params,
            fresh.generator.params,
            model=self.config.model.to_dict(),
            include=init.include,
        )
        log.info("%s", report)
        _check_kept(report, params, self.config.optim.frozen)
        return self.programs.start(params, fresh.discriminator)

    def _with_its_tower(self, state: TrainState) -> TrainState:
        """Returns a state whose text tower is the one behind the stored features, if any are."""
        if self.text_features is not None:
            tower = state.generator.params["text_encoder"]
            self.text_features.check_tower(tower_hash(self.config.model.to_dict(), tower))
        return state

    def _trained_state(self, path: str) -> TrainState:
        """Loads both networks and optimisers of a workdir, at step 0; the average is reset."""
        with Checkpoints(path) as checkpoints:
            meta = checkpoints.meta()
            problems = initialize.training_differences(meta["config"], self.config.to_dict())
            problems += differences.fact_differences(meta["data"], self._learned_from)
            if problems:
                raise ValueError(
                    f"init.training=True: {path} was saved with another configuration:\n  "
                    + "\n  ".join(problems)
                )
            averaged = bool(meta["config"]["optim"]["ema_decay"])
            target = self.programs.abstract.replace(
                ema=self.programs.abstract.generator.params if averaged else None
            )
            state = TrainState.from_items(checkpoints.restore(target.items()))
        adversary = self.steps.adversary
        if adversary is not None and adversary.start and _has_acted(state.discriminator):
            raise ValueError(
                f"init.training=True: the discriminator of {path} has acted, but with "
                f"gan.start_fraction={self.config.gan.start_fraction} it begins after step "
                f"{adversary.start}: set gan.start_fraction=0, or leave out init.training"
            )
        zero = jax.numpy.zeros_like(state.step)
        return state.replace(
            step=zero,
            skipped=zero.copy(),
            skipped_in_a_row=zero.copy(),
            ema=jax.tree.map(jax.numpy.copy, state.generator.params)
            if self.config.optim.ema_decay
            else None,
        )

    def batches(self, start_step: int):
        """Returns this process's rows of the batches from `start_step` on; close after use."""
        if len(self.stages) > 1:
            log.info("image sizes: %s", sizes.line(self.stages))
        if self.buckets is not None:
            log.info("images by the size of their bucket: %s", self.buckets.line())
        return train_batches(
            self.config.data,
            self.config.seed,
            source=self.source,
            start_step=start_step,
            rows=sharding.local_rows(self.mesh, self.batch_size),
            divisor=self._divisor,
            text_features=self.text_features,
            teacher_features=self.teacher_features,
            sizes=self.stages,
            buckets=self.buckets,
        )

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """Facts that a checkpoint depends on: saved, and compared on resuming.

        The data position depends on the samples and their order, the discriminator's heads on the
        DINOv2, those of a teacher on the teacher.
        """
        facts = {"samples in the data": self.samples, "batch size": self.batch_size}
        parts = getattr(self.source, "parts", (self.source,))
        if any(hasattr(part, "blocks") for part in parts):
            facts["data.window"] = self.config.data.window
        if self.buckets is not None:
            facts["images in the buckets"] = self.buckets.facts()
        return facts | identity(self.source) | self._learned_from

    @property
    def shared(self) -> dict[str, Any]:
        """Values that must be equal on all processes of a job: their data and frozen networks."""
        stored = {
            "data.text_features": self.text_features,
            "teacher.features": self.teacher_features,
        }
        return (
            differences.flat(self.facts)
            | self._digests
            | {"samples to evaluate": len(self.eval_images.source)}
            | {
                f"digest of {key}": zlib.crc32("".join(found.sha256 if found else ()).encode())
                for key, found in stored.items()
            }
        )

    @property
    def _learned_from(self):
        """Digests of the frozen networks whose features trained heads read or predict."""
        kinds = {"dinov2"} | ({"teacher"} if self.config.loss.teacher_token else set())
        return {k: value for k, value in self._digests.items() if k.split(".")[-1] in kinds}

    @property
    def files(self) -> dict[str, str]:
        """Files that users of the weights need beside them: none."""
        return {}

    def prepare(self, resumed: bool) -> None:
        """Decodes the evaluation images once: `EvaluationImages.prepare`."""
        self.eval_images.prepare(resumed)

    def evaluate(self, state: TrainState) -> tuple[dict[str, float | np.ndarray], np.ndarray]:
        """Runs one pass over the evaluation images, resized and centre-cropped.

        Returns:
          Metrics (scalars, and (K,) vectors of the codebooks) and a uint8 picture of
          original | reconstruction | error.
        """
        params, source = state.params, self.eval_images.source
        config, data = self.config.eval, self.config.data
        batch_size = self.evaluator.batch_size(config.batch_size, len(source))
        result = self.evaluator.run(
            params, self.frozen, source, data, batch_size, show=config.grid_images
        )
        metrics = result.reconstruction.result() | result.codebooks.result() | suite.rfid(result)
        if any(self.config.loss[key] for key in OF_PAIRS):
            metrics |= suite.text_figures(
                result.image_features,
                source,
                lambda tokens: self.evaluator.encode_text(params, tokens, config.batch_size),
                data.context_length,
                captions=self.eval_images.captions,
                labels=suite.label_set_of(source),
            )
        return metrics, comparison(result.samples.images, result.samples.reconstructions)


def _has_acted(discriminator: Trainable) -> bool:
    """Returns True if a discriminator was updated: its optimiser has counted."""
    return bool(jax.device_get(optax.tree.get(discriminator.opt_state, "count")))


def _check_kept(report: Report, params, frozen: Sequence[str]) -> None:
    """Checks that a file gives all that a run keeps as it is.

    Raises:
      ValueError: what it lacks would stay random, or what it has deeper would be cut off.
    """
    kept, _ = trees.split(params, frozen, "optim.frozen")
    if lacks := report.lacks(trees.flatten(kept)):
        raise ValueError(
            f"optim.frozen={tuple(frozen)} keeps weights as they are, and init.path={report.path}, "
            f"{report.kind}, does not give all of them: {lacks}; set the keys of the model "
            "to the file's, take them with init.include, or leave them out of optim.frozen"
        )
