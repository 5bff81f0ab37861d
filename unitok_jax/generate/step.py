"""The training state of a generator and the one jitted step that updates it."""

import functools
import math
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct
from jax.sharding import Mesh

from unitok_jax.generate import objective, sampling
from unitok_jax.generate.companion import TextStates
from unitok_jax.generate.model import Generator
from unitok_jax.models.layers import Keys
from unitok_jax.models.sampling import Filters
from unitok_jax.runtime import sharding
from unitok_jax.training import optim
from unitok_jax.training.optim import Trainable


@struct.dataclass
class TrainState:
    """Training state: all arrays that a step updates."""

    step: jax.Array  # int32 scalar, the number of batches seen; also the data position
    generator: Trainable
    ema: Any  # averaged parameters, or None
    skipped: jax.Array  # int32 scalar, number of skipped steps so far
    skipped_in_a_row: jax.Array  # int32 scalar, skipped steps since the last applied one

    @property
    def params(self):
        """Parameters that sampling and export use: the average if there is one."""
        return self.generator.params if self.ema is None else self.ema

    def items(self) -> dict[str, Any]:
        """Returns the state as checkpoint items: `params` for users of the model, and the rest."""
        training = {
            "step": self.step,
            "generator": self.generator.opt_state,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
        }
        if self.ema is not None:
            training["params"] = self.generator.params
        return {"params": self.params, "training": training}

    @classmethod
    def from_items(cls, items: dict[str, Any]) -> "TrainState":
        """Builds the state from `items`."""
        training = items["training"]
        averaged = "params" in training
        params = training["params"] if averaged else items["params"]
        return cls(
            step=training["step"],
            generator=Trainable(params, training["generator"]),
            ema=items["params"] if averaged else None,
            skipped=training["skipped"],
            skipped_in_a_row=training["skipped_in_a_row"],
        )


def abstract_model(model: dict) -> tuple[nnx.GraphDef, dict]:
    """Returns the graph of a generator and the shapes of its parameters, without any arrays.

    model: the keyword arguments of `Generator`.
    """
    graph, params = nnx.split(nnx.eval_shape(lambda: Generator(**model, rngs=Keys(0))))
    return graph, nnx.to_pure_dict(params)


def embed_prompts(model: Generator, batch, null: int, guided: bool) -> tuple[jax.Array, Any]:
    """Embeds the prompts of a batch (B, T, D); guided (2 B, T, D), null prompts behind.

    Args:
      model: generator.
      batch: 'labels' (B,); or 'features' and 'valid' of texts, and 'null' if some are null prompts.
      null: the null class; not read for texts.
      guided: null prompts are needed.

    Returns:
      The prompts and, of texts, (B, T) or (2 B, T) bool, which of their tokens there are.
    """
    if "labels" in batch:
        labels = batch["labels"]
        behind = jnp.full_like(labels, null)
        return model.prompt(jnp.concatenate([labels, behind]) if guided else labels), None
    features, valid = batch["features"], batch["valid"]
    dropped = batch.get("null", jnp.zeros(len(features), bool))
    if guided:
        features, valid = (jnp.concatenate([x, x]) for x in (features, valid))
        dropped = jnp.concatenate([dropped, jnp.ones_like(dropped)])
    return model.prompt(features, dropped), valid


class GeneratorSteps:
    """Pure functions of a run: init and train step, closed over the configuration."""

    def __init__(self, config, tower: TextStates | None = None):
        """Builds the functions.

        Args:
          config: the whole configuration.
          tower: computes the features of texts; None: batches have features or labels.
        """
        self.tower = tower
        self.model = config.model.to_dict()
        self.graph, self.abstract_params = abstract_model(self.model)
        self.seed, self.drop_prompt = config.seed, config.loss.drop_prompt
        self.chunk = config.loss.chunk
        settings = config.optim
        self.max_learning_rate, self.ema_decay = settings.learning_rate, settings.ema_decay
        self._schedule = dict(
            kind=settings.schedule,
            # The final fraction is that of the step after the last, as the reference's.
            steps=config.steps + 1,
            warmup_steps=int(config.steps * settings.warmup_fraction),
            start_fraction=0.0,
            final_fraction=settings.final_fraction,
        )
        self.optimizer = optim.chosen(settings)

    def init(self) -> TrainState:
        """Initialises the state before the first step."""
        key = self._key("params")
        return self.start(nnx.to_pure_dict(nnx.state(Generator(**self.model, rngs=Keys(key)))))

    def start(self, params) -> TrainState:
        """Builds the state before the first step, of a generator with `params`."""
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            generator=Trainable(params, self.optimizer.init(params)),
            # A copy, as both trees are donated to the step.
            ema=jax.tree.map(jnp.copy, params) if self.ema_decay else None,
            skipped=jnp.zeros((), jnp.int32),
            skipped_in_a_row=jnp.zeros((), jnp.int32),
        )

    def learning_rate(self, step: jax.Array) -> jax.Array:
        """Computes the learning rate of a step."""
        return self.max_learning_rate * optim.learning_rate_schedule(step, **self._schedule)

    def evaluate(self, params, batch) -> jax.Array:
        """Computes the sum over images of each codebook's loss, (K,); `mask` (B,) leaves out."""
        mask = batch["mask"].astype(jnp.float32)
        return mask.sum() * self.losses(params, batch, weights=mask)

    def losses(self, params, batch, key=None, weights=None) -> jax.Array:
        """Computes the loss of each codebook, (K,).

        Args:
          params: of the generator.
          batch: {'codes': (B, K, N)}, and {'labels': (B,)} or {'features': (B, T, F), 'valid':
            (B, T), 'null': (B,)} of texts, as `with_features` adds them.
          key: for dropout, of prompts too; None: nothing is dropped.
          weights: (B,) weights of the images; None: 1 each.
        """
        model = nnx.merge(self.graph, params)
        drop, rest = (None, None) if key is None else jax.random.split(key)
        prompt = self.prompt(model, batch, drop)
        return objective.losses(
            model,
            batch["codes"],
            prompt,
            valid=batch.get("valid"),
            weights=weights,
            key=rest,
            chunk=self.chunk,
        )

    def prompt(self, model: Generator, batch, key=None) -> jax.Array:
        """Embeds the prompts of a batch (B, T, D); with a key some become the null prompt."""
        some = batch["labels" if self.model["prompt"] == "class" else "features"]
        dropped = jnp.zeros(len(some), bool)
        if key is not None:
            dropped = jax.random.bernoulli(key, self.drop_prompt, dropped.shape)
        if self.model["prompt"] == "class":
            return model.prompt(jnp.where(dropped, self.model["classes"], batch["labels"]))
        return model.prompt(batch["features"], dropped | batch["null"])

    def with_features(self, frozen, batch) -> dict[str, jax.Array]:
        """Adds the features of the token ids 'text' (B, T) of a batch, if it has any.

        frozen: {'text_encoder': parameters of the tower}, or {} if there is none.
        """
        if "text" not in batch:
            return batch
        return dict(batch) | self.tower(frozen["text_encoder"], batch["text"])

    def sample(self, params, batch, numbers: jax.Array, filters: Filters, scale: float):
        """Samples codes (B, K, N) int32 for the prompts of a batch.

        A sample is a function of the seed, its prompt and its number, whatever else is drawn.

        Args:
          params: of the generator.
          batch: prompts, as for `losses`; 'codes' are not read.
          numbers: (B,) int32.
          filters: as for `sampling.sample`.
          scale: of guidance; 1: none.
        """
        model = nnx.merge(self.graph, params)
        prompt, valid = embed_prompts(model, batch, self.model["classes"], guided=scale != 1)
        scales = None
        if scale != 1:
            scales = jnp.full((math.prod(model.grid), model.num_codebooks), scale)
        keys = jax.vmap(functools.partial(jax.random.fold_in, self._key("sample")))(numbers)
        return sampling.sample(model, prompt, keys, filters=filters, scale=scales, valid=valid)[0]

    def train_step(self, state: TrainState, batch, *, gather) -> tuple[TrainState, dict]:
        """Updates the generator; a step that is not finite updates only the counters.

        Args:
          state: donated.
          batch: as for `losses`.
          gather: replicates sharded parameters on every device.

        Returns:
          The next state, and metrics: float32 scalars, the (K,) losses of the codebooks, and the
          int32 counters `skipped` and `skipped_in_a_row`.
        """
        key = jax.random.fold_in(self._key("step"), state.step)
        params = state.generator.params

        def loss(params):
            parts = self.losses(params, batch, key)
            return parts.mean(), parts

        (value, parts), grads = jax.value_and_grad(loss, has_aux=True)(gather(params))
        rate = self.learning_rate(state.step)
        generator = optim.apply(self.optimizer, state.generator, grads, rate)
        metrics = {
            "loss": value,
            "loss_per_codebook": parts,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": rate,
        }
        finite = jnp.isfinite(value) & jnp.isfinite(metrics["grad_norm"])
        finite &= jnp.isfinite(optax.tree.norm(generator.params))
        new = state.replace(generator=generator)
        if self.ema_decay:
            average = optim.ema(state.ema, generator.params, self.ema_decay, state.step)
            new = new.replace(ema=average)
        new, counters = optim.applied(new, state, finite)
        return new, metrics | counters

    def _key(self, name: str) -> jax.Array:
        # Folded in from (seed, name, step) and never stored, so that resuming is exact.
        return jax.random.fold_in(jax.random.key(self.seed), zlib.crc32(name.encode()))


class Programs:
    """Functions of `GeneratorSteps`, jitted with the shardings of one mesh."""

    def __init__(self, steps: GeneratorSteps, mesh: Mesh):
        """Compiles nothing yet."""
        self.abstract, self.shardings = sharding.place_shapes(jax.eval_shape(steps.init), mesh)
        whole, split = sharding.replicated(mesh), sharding.batch_sharding(mesh)
        gather = functools.partial(jax.lax.with_sharding_constraint, shardings=whole)

        def step(state, frozen, batch):
            return steps.train_step(state, steps.with_features(frozen, batch), gather=gather)

        def evaluate(params, frozen, batch):
            return steps.evaluate(gather(params), steps.with_features(frozen, batch))

        def sample(params, frozen, batch, numbers, filters, scale):
            batch = steps.with_features(frozen, batch)
            return steps.sample(gather(params), batch, numbers, filters, scale)

        params = self.shardings.generator.params
        self.init = jax.jit(steps.init, out_shardings=self.shardings)
        self.step = jax.jit(
            step,
            in_shardings=(self.shardings, whole, split),
            out_shardings=(self.shardings, whole),
            donate_argnums=0,
        )
        self.evaluate = jax.jit(evaluate, in_shardings=(params, whole, split), out_shardings=whole)
        self.sample = jax.jit(
            sample,
            in_shardings=(params, whole, split, split),
            out_shardings=whole,
            static_argnums=(4, 5),
        )
