"""The loop: build, restore, step, log, save, evaluate. The only room that knows all rooms."""

import contextlib
import functools
import itertools
import logging
import pathlib

import jax
import numpy as np
from clu import parameter_overview
from ml_collections import ConfigDict

from unitok_jax import frozen, initialize, sharding
from unitok_jax.checkpoint import Checkpoints
from unitok_jax.checks import check
from unitok_jax.data.pipeline import effective_batch_size, eval_batches, train_batches
from unitok_jax.data.sources import LabelledSource, open_source
from unitok_jax.data.text import Tokenizer
from unitok_jax.data.transforms import decode_image, to_uint8
from unitok_jax.evaluate.codebook import CodebookUse
from unitok_jax.evaluate.reconstruction import Reconstruction
from unitok_jax.evaluate.retrieval import caption_retrieval
from unitok_jax.evaluate.zero_shot import classify
from unitok_jax.metrics import Progress, RunningMean, Writer, comparison
from unitok_jax.step import Trainer, TrainState

log = logging.getLogger(__name__)


class Run:
    """What a run is made of: mesh, compiled steps and data, built from one configuration."""

    def __init__(self, config: ConfigDict, devices=None):
        """Builds everything but the weights.

        Args:
          config: the whole configuration.
          devices: what the mesh is made of; all devices of the job by default.

        Raises:
          ValueError: a value of the configuration does not fit; the message names its key.
        """
        check(config)
        self.config = config
        self.mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, devices)
        self.source = open_source(config.data)
        self._divisor = self.mesh.size * config.optim.accumulation
        self.batch_size = effective_batch_size(config.data, len(self.source), self._divisor)
        self.eval_source = self.source
        if config.eval.source:
            self.eval_source = _open_eval_source(config)
        self.trainer = Trainer(config)
        abstract = jax.eval_shape(self.trainer.init)
        self.shardings = sharding.state_shardings(abstract, self.mesh)
        self.abstract = jax.tree.map(
            lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
            abstract,
            self.shardings,
        )
        whole, split = sharding.replicated(self.mesh), sharding.batch_sharding(self.mesh)
        self.frozen = jax.device_put(_load_frozen(config), whole)
        self.init = jax.jit(self.trainer.init, out_shardings=self.shardings)
        self.start = jax.jit(self.trainer.start, out_shardings=self.shardings)
        self.phases = {
            adversarial: jax.jit(
                functools.partial(self.trainer.train_step, adversarial=adversarial),
                in_shardings=(self.shardings, whole, split),
                out_shardings=(self.shardings, whole),
                donate_argnums=0,
            )
            for adversarial in (False, True)
        }
        params = self.shardings.generator.params
        self.eval_step = jax.jit(
            self.trainer.eval_step, in_shardings=(params, whole, split), out_shardings=whole
        )
        self.text_features = jax.jit(
            self.trainer.text_features, in_shardings=(params, split), out_shardings=whole
        )

    def train_step(self, step: int, state: TrainState, batch) -> tuple[TrainState, dict]:
        """Update number `step`, from 0: `Trainer.train_step` of its phase, compiled once each."""
        adversary = self.trainer.adversary
        return self.phases[adversary is not None and adversary.acts(step)](
            state, self.frozen, batch
        )

    def initial_state(self) -> TrainState:
        """The state before the first step: fresh, or from the weights that `init` names.

        Raises:
          ValueError, OSError: the weights do not fit; the message says what differs.
        """
        init = self.config.init
        if not init.path:
            return self.init()
        if init.training:
            with Checkpoints(init.path) as checkpoints:
                items = checkpoints.restore(self.abstract.items())
            zero = jax.numpy.zeros_like(self.abstract.step, device=self.abstract.step.sharding)
            return TrainState.from_items(items).replace(
                step=zero, skipped=zero.copy(), skipped_in_a_row=zero.copy()
            )
        fresh = self.init()
        params, report = initialize.initial_params(
            init.path,
            self.abstract.generator.params,
            fresh.generator.params,
            model=self.config.model.to_dict(),
            include=init.include,
        )
        log.info("%s", report)
        return self.start(params, fresh.discriminator)

    def batches(self, start_step: int):
        """This process's share of the training batches from `start_step` on; close it after use."""
        return train_batches(
            self.config.data,
            self.config.seed,
            source=self.source,
            start_step=start_step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            divisor=self._divisor,
        )

    @property
    def data_facts(self) -> dict[str, int]:
        """What a data position means only together with: saved and compared on resuming."""
        return {"samples": len(self.source), "batch_size": self.batch_size}

    def check_evaluation_images(self) -> None:
        """Decodes every evaluation image once, so that a bad one ends a run at its start.

        Raises:
          ImageError: one cannot be read; the message names it.
        """
        for index in range(min(len(self.eval_source), self.config.eval.max_images)):
            record = self.eval_source[index]
            decode_image(record["image"], record["name"])

    def evaluate(self, params) -> tuple[dict[str, float | np.ndarray], np.ndarray]:
        """One pass over the evaluation images, resized and centre-cropped.

        Returns:
          Metrics (scalars, and (K,) vectors of the codebooks) and a uint8 picture of
          original | reconstruction | error.
        """
        config = self.config.eval
        count = min(len(self.eval_source), config.max_images)
        batch_size = -(-min(config.batch_size, count) // self.mesh.size) * self.mesh.size
        reconstruction, codebooks = Reconstruction(), CodebookUse()
        features, pictures = [], []
        batches = eval_batches(
            self.eval_source,
            self.config.data,
            batch_size,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        with contextlib.closing(batches):
            for batch in itertools.islice(batches, -(-count // batch_size)):
                images = batch["image"]
                arrays = sharding.shard_batch(
                    {"image": images, "mask": batch["mask"] & (batch["index"] < count)}, self.mesh
                )
                out = jax.device_get(self.eval_step(params, self.frozen, arrays))
                mask = jax.device_get(arrays["mask"])
                reconstruction.update(out["squared_error"], mask, out.get("lpips"))
                codebooks.update(out["counts"])
                features.append(out["image_features"][mask])
                missing = config.grid_images - sum(map(len, pictures))
                if missing > 0:
                    rebuilt = to_uint8(out["reconstruction"][mask][:missing])
                    pictures.append(comparison(images[mask][:missing], rebuilt))
        metrics = reconstruction.result() | codebooks.result()
        image_features = np.concatenate(features)
        metrics |= self._retrieval(params, image_features)
        if self.config.loss.contrastive and isinstance(self.eval_source, LabelledSource):
            tokenizer = Tokenizer(self.config.data.context_length)
            metrics |= classify(
                self.eval_source,
                image_features,
                lambda texts: self._encode_text(params, tokenizer(texts)),
            )
        return metrics, np.concatenate(pictures)

    @functools.cached_property
    def _captions(self) -> tuple[np.ndarray, np.ndarray]:
        """All captions of the evaluation images: token ids (T, L) and the image of each (T,)."""
        count = min(len(self.eval_source), self.config.eval.max_images)
        owned = [
            (index, caption)
            for index in range(count)
            for caption in self.eval_source[index]["captions"]
        ]
        tokens = Tokenizer(self.config.data.context_length)([caption for _, caption in owned])
        return tokens, np.array([index for index, _ in owned])

    def _retrieval(self, params, image_features) -> dict[str, float]:
        tokens, owner = self._captions
        if not self.config.loss.contrastive or not len(tokens):
            return {}
        text_features = self._encode_text(params, tokens)
        return caption_retrieval(image_features, text_features, owner, tokens)

    def _encode_text(self, params, tokens) -> np.ndarray:
        """Token ids (T, L) to unit vectors (T, E), in batches of one shape."""
        size = -(-self.config.eval.batch_size // self.mesh.size) * self.mesh.size
        padded = np.pad(tokens, ((0, -len(tokens) % size), (0, 0)))
        chunks = [
            jax.device_get(
                self.text_features(params, sharding.shard_batch({"text": c}, self.mesh)["text"])
            )
            for c in padded.reshape(-1, size, tokens.shape[1])
        ]
        return np.concatenate(chunks)[: len(tokens)]


def train(config: ConfigDict, workdir: str) -> dict[str, float | np.ndarray]:
    """Trains until `config.steps`, from the newest checkpoint of `workdir` if there is one.

    Returns:
      The metrics of the last evaluation.

    Raises:
      ValueError: the configuration or the checkpoint does not fit.
      OSError: the workdir cannot be written.
    """
    folder = _make_workdir(workdir)
    run = Run(config)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(folder, config.checkpoint, create=True))
        if checkpoints.latest_step() is None:
            run.check_evaluation_images()
            state = run.initial_state()
        else:
            items = checkpoints.restore(run.abstract.items(), config, run.data_facts)
            state = TrainState.from_items(items)
            log.info("resumed %s at step %d", folder, int(state.step))
        (folder / "config.json").write_text(config.to_json(indent=2) + "\n")
        _overview(state)
        start = int(state.step)
        writer = Writer(folder, start, config.log.tensorboard)
        stack.callback(writer.close)
        batches = stack.enter_context(contextlib.closing(run.batches(start)))
        progress = Progress(start, config.steps, run.batch_size)
        stack.callback(progress.close)
        metrics = _loop(run, state, batches, checkpoints, writer, progress)
    log.info("finished: %s", folder)
    return metrics


def _loop(run, state, batches, checkpoints, writer, progress):
    config, start = run.config, int(state.step)
    window, pending, evaluation = _Window(config.optim.max_skipped), None, {}
    if start >= config.steps:
        log.info("step %d of %d is done: nothing to train", start, config.steps)
        metrics, _ = run.evaluate(state.params)
        return {f"eval/{key}": value for key, value in metrics.items()}
    for step in range(start + 1, config.steps + 1):
        batch = sharding.shard_batch(next(batches), run.mesh)
        state, metrics = run.train_step(step - 1, state, batch)
        # The metrics of the step before: fetching this one's would make the device wait.
        if pending is not None:
            window.update(step - 1, jax.device_get(pending))
        pending = metrics
        if step == start + 1:
            jax.block_until_ready(metrics)
            progress.start(step)
        last = step == config.steps
        evaluates = last or step % config.eval.every == 0
        saves = last or step % config.checkpoint.every == 0
        # A save ends a window of means too, so that a resumed run writes the same records.
        if evaluates or saves or step % config.log.every == 0:
            window.update(step, jax.device_get(pending))
            pending = None
            values = window.result()
            writer.scalars(step, values)
            progress.update(step, _headline(values))
        if evaluates:
            metrics, picture = run.evaluate(state.params)
            evaluation = {f"eval/{key}": value for key, value in metrics.items()}
            writer.scalars(step, evaluation)
            writer.image(step, "reconstruction", picture)
            log.info("step %d  %s", step, _line(evaluation))
        if saves:
            checkpoints.save(
                step, state.items(), config, evaluation if evaluates else {}, run.data_facts
            )
        if evaluates or saves:
            progress.start(step)
    return evaluation


class _Window:
    """Means of the metrics of applied steps, and the count of those that were skipped."""

    def __init__(self, max_skipped: int):
        self._means, self._max_skipped, self._skipped = RunningMean(), max_skipped, 0

    def update(self, step: int, metrics: dict[str, np.ndarray]) -> None:
        """The metrics of one step.

        Raises:
          FloatingPointError: too many steps in a row were skipped.
        """
        self._skipped = int(metrics.pop("skipped"))
        in_a_row = int(metrics.pop("skipped_in_a_row"))
        if not in_a_row:
            self._means.update(metrics)
            return
        bad = ", ".join(key for key, value in metrics.items() if not np.all(np.isfinite(value)))
        log.warning("step %d was skipped, not finite: %s", step, bad)
        if in_a_row >= self._max_skipped:
            raise FloatingPointError(
                f"{in_a_row} steps in a row up to step {step} were skipped, not finite: {bad}. The "
                "weights are those before them and nothing bad was saved: start again from the "
                "newest checkpoint with a lower optim.learning_rate, or look at the data "
                f"(optim.max_skipped={self._max_skipped})"
            )

    def result(self) -> dict[str, np.ndarray]:
        """The means since the last result, and `skipped`, the steps skipped in all."""
        return self._means.result() | {"skipped": np.int64(self._skipped)}


def _headline(values):
    names = [name for name in values if name == "loss" or name.startswith("loss/")]
    return {name: values[name] for name in names}


def _line(values):
    return "  ".join(
        f"{name} {np.array2string(np.asarray(value), precision=3)}"
        for name, value in values.items()
    )


def _overview(state: TrainState) -> None:
    table = parameter_overview.get_parameter_overview(
        state.generator.params, include_stats="sharding"
    )
    log.info("parameters:\n%s", table)


def _make_workdir(workdir: str) -> pathlib.Path:
    if not workdir:
        raise ValueError("--workdir is empty; set --workdir=DIR for checkpoints and metrics")
    folder = pathlib.Path(workdir).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(f"--workdir={workdir} cannot be written: {error}") from error
    return folder


def _load_frozen(config: ConfigDict) -> dict:
    """Parameters of the frozen networks that the configuration uses."""
    needed = {
        "lpips": ("loss.perceptual", config.loss.perceptual),
        "dinov2": ("gan.weight", config.gan.weight),
    }
    return {
        kind: frozen.load(
            kind,
            config.frozen[kind],
            config.model.dtype,
            key=f"frozen.{kind}",
            turn_off=f"{key}=0",
        )[1]
        for kind, (key, weight) in needed.items()
        if weight
    }


def _open_eval_source(config: ConfigDict):
    data = config.data.copy_and_resolve_references()
    for key in ("source", "path", "captions"):
        data[key] = config.eval[key]
    try:
        return open_source(data, require_captions=False)
    except (ValueError, OSError) as error:
        raise type(error)(str(error).replace("data.", "eval.")) from error
