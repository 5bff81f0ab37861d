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

from unitok_jax import sharding
from unitok_jax.checkpoint import Checkpoints
from unitok_jax.data.pipeline import effective_batch_size, eval_batches, train_batches
from unitok_jax.data.sources import LabelledSource, open_source
from unitok_jax.data.text import END_OF_TEXT, Tokenizer
from unitok_jax.data.transforms import check_size, decode_image, to_uint8
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
        _check(config)
        self.config = config
        self.mesh = sharding.make_mesh(config.mesh.data, config.mesh.fsdp, devices)
        self.source = open_source(config.data)
        self.batch_size = effective_batch_size(config.data, len(self.source), self.mesh.size)
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
        self.init = jax.jit(self.trainer.init, out_shardings=self.shardings)
        self.train_step = jax.jit(
            self.trainer.train_step,
            in_shardings=(self.shardings, whole, split),
            out_shardings=(self.shardings, whole),
            donate_argnums=0,
        )
        params = self.shardings.generator.params
        self.eval_step = jax.jit(
            self.trainer.eval_step, in_shardings=(params, split), out_shardings=whole
        )
        self.text_features = jax.jit(
            self.trainer.text_features, in_shardings=(params, split), out_shardings=whole
        )

    def batches(self, start_step: int):
        """This process's share of the training batches from `start_step` on; close it after use."""
        return train_batches(
            self.config.data,
            self.config.seed,
            source=self.source,
            start_step=start_step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            divisor=self.mesh.size,
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
                out = jax.device_get(self.eval_step(params, arrays))
                mask = jax.device_get(arrays["mask"])
                reconstruction.update(out["squared_error"], mask)
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
            state = run.init()
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
    means, pending, evaluation = RunningMean(), None, {}
    frozen = {}
    if start >= config.steps:
        log.info("step %d of %d is done: nothing to train", start, config.steps)
        metrics, _ = run.evaluate(state.generator.params)
        return {f"eval/{key}": value for key, value in metrics.items()}
    for step in range(start + 1, config.steps + 1):
        batch = sharding.shard_batch(next(batches), run.mesh)
        state, metrics = run.train_step(state, frozen, batch)
        # The metrics of the step before: fetching this one's would make the device wait.
        if pending is not None:
            means.update(jax.device_get(pending))
        pending = metrics
        if step == start + 1:
            jax.block_until_ready(metrics)
            progress.start(step)
        last = step == config.steps
        evaluates = last or step % config.eval.every == 0
        saves = last or step % config.checkpoint.every == 0
        # A save ends a window of means too, so that a resumed run writes the same records.
        if evaluates or saves or step % config.log.every == 0:
            means.update(jax.device_get(pending))
            pending = None
            values = means.result()
            _check_finite(step, values)
            writer.scalars(step, values)
            progress.update(step, _headline(values))
        if evaluates:
            metrics, picture = run.evaluate(state.generator.params)
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


def _open_eval_source(config: ConfigDict):
    data = config.data.copy_and_resolve_references()
    for key in ("source", "path", "captions"):
        data[key] = config.eval[key]
    try:
        return open_source(data, require_captions=False)
    except (ValueError, OSError) as error:
        raise type(error)(str(error).replace("data.", "eval.")) from error


def _check_finite(step: int, values: dict[str, np.ndarray]) -> None:
    """Stops before anything bad is saved."""
    bad = [key for key, value in values.items() if not np.all(np.isfinite(value))]
    if bad:
        raise FloatingPointError(
            f"not finite since the record before step {step}: {', '.join(bad)}; nothing of it was "
            "saved. Start again from the newest checkpoint with a lower optim.learning_rate"
        )


def _check(config: ConfigDict) -> None:
    check_size(config.data.image_size)
    positive = {
        "steps": config.steps,
        "eval.every": config.eval.every,
        "eval.batch_size": config.eval.batch_size,
        "eval.max_images": config.eval.max_images,
        "eval.grid_images": config.eval.grid_images,
        "checkpoint.every": config.checkpoint.every,
        "checkpoint.keep_latest": config.checkpoint.keep_latest,
        "log.every": config.log.every,
    }
    for key, value in positive.items():
        if value < 1:
            raise ValueError(f"{key}={value} must be at least 1")
    if config.model.text.vocab_size <= END_OF_TEXT:
        raise ValueError(
            f"model.text.vocab_size={config.model.text.vocab_size} has no row for the token ids of "
            f"captions, which reach {END_OF_TEXT}; set it to {END_OF_TEXT + 1}"
        )
    if config.eval.path and not config.eval.source:
        raise ValueError(
            f"eval.path={config.eval.path} is not read without eval.source; set it to folder"
        )
    if len(config.optim.betas) != 2:
        raise ValueError(f"optim.betas={config.optim.betas} must hold two values")
    metrics = ("eval/psnr", "eval/image_to_text", "eval/text_to_image")
    if config.checkpoint.best_metric not in metrics:
        raise ValueError(
            f"checkpoint.best_metric={config.checkpoint.best_metric!r} is not one of "
            f"{', '.join(metrics)}"
        )
    for key, value in config.loss.items():
        if value < 0:
            raise ValueError(f"loss.{key}={value} must not be negative")
