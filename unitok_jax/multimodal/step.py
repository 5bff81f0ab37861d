"""The training state of a multimodal model and the one jitted step that updates it."""

import functools
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct
from jax.sharding import Mesh

from unitok_jax import trees
from unitok_jax.models.layers import Keys
from unitok_jax.multimodal import adapters, objective
from unitok_jax.multimodal.model import FROZEN, Multimodal, abstract_model
from unitok_jax.multimodal.rows import KINDS
from unitok_jax.runtime import sharding
from unitok_jax.training import optim
from unitok_jax.training.optim import Trainable


@struct.dataclass
class TrainState:
    """Training state: all arrays that a step updates. There is no average of the weights."""

    step: jax.Array  # int32 scalar, the number of batches seen; also the data position
    network: Trainable  # all parameters, and the optimiser of those that are trained
    skipped: jax.Array  # int32 scalar, number of skipped steps so far
    skipped_in_a_row: jax.Array  # int32 scalar, skipped steps since the last applied one

    @property
    def params(self):
        """Parameters that users of the model read."""
        return self.network.params

    def items(self) -> dict[str, Any]:
        """Returns the state as checkpoint items: `params` for users of the model, and the rest."""
        training = {
            "step": self.step,
            "optimizer": self.network.opt_state,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
        }
        return {"params": self.params, "training": training}

    @classmethod
    def from_items(cls, items: dict[str, Any]) -> "TrainState":
        """Builds the state from `items`."""
        training = items["training"]
        return cls(
            step=training["step"],
            network=Trainable(items["params"], training["optimizer"]),
            skipped=training["skipped"],
            skipped_in_a_row=training["skipped_in_a_row"],
        )


class MultimodalSteps:
    """Pure functions of a run: init and train step, closed over the configuration."""

    def __init__(self, config):
        """Builds the functions from the whole configuration."""
        settings = config.optim
        self.model, self.lora_rank = config.model.to_dict(), settings.lora_rank
        self.graph, self.abstract_params = abstract_model(self.model, self.lora_rank)
        self.seed, self.chunk = config.seed, config.loss.chunk
        self.weights = objective.Weights(config.loss.z_weight, config.loss.text_weight)
        named = [kind for part in config.data.mixture for kind in part[1:2]]
        self.kinds = [kind for kind in KINDS if kind in named]
        fixed = adapters.fixed(self.model) if self.lora_rank else ()
        self.frozen = (*FROZEN, *fixed, *settings.frozen)
        self.accumulation = settings.accumulation
        self.max_learning_rate = settings.learning_rate
        self._schedule = dict(
            kind=settings.schedule,
            steps=config.steps + 1,  # the final fraction is that of the step after the last
            warmup_steps=int(config.steps * settings.warmup_fraction),
            start_fraction=0.0,
            final_fraction=settings.final_fraction,
        )
        self.optimizer = optim.chosen(settings)

    def init(self) -> TrainState:
        """Initialises the state before the first step."""
        key = self._key("params")
        model = Multimodal(**self.model, rngs=Keys(key), lora_rank=self.lora_rank)
        return self.start(nnx.to_pure_dict(nnx.state(model)))

    def start(self, params) -> TrainState:
        """Builds the state before the first step, of a model with `params`."""
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            network=Trainable(params, self.optimizer.init(self._split(params)[1])),
            skipped=jnp.zeros((), jnp.int32),
            skipped_in_a_row=jnp.zeros((), jnp.int32),
        )

    def learning_rate(self, step: jax.Array) -> jax.Array:
        """Computes the learning rate of a step."""
        return self.max_learning_rate * optim.learning_rate_schedule(step, **self._schedule)

    def sums(self, params, batch, gather=None, shards: int = 1) -> objective.Sums:
        """Computes the sums of a batch: `objective.sums`.

        Args:
          params: of the model.
          batch: as for `objective.sums`.
          gather: replicates sharded parameters on every device, those of blocks one by one as they
            run; None: they are not sharded.
          shards: devices that hold rows of the batch.
        """
        if gather is not None:
            blocks, rest = trees.split(params, ("*.decoder.blocks.*",))
            params = trees.merge(blocks, gather(rest))
        model = nnx.merge(self.graph, params)
        if gather is not None:
            # As the kernels are multiplied: half the bytes in bfloat16.
            dtype = model.dtype
            for part in (model.language, model.head):
                if hasattr(part, "decoder"):
                    part.decoder.gather = lambda block: gather(_cast_kernels(block, dtype))
        return objective.sums(model, batch, self.chunk, shards)

    def train_step(
        self, state: TrainState, batch, *, gather=None, shards: int = 1
    ) -> tuple[TrainState, dict]:
        """Updates the model; a step that is not finite updates only the counters.

        Every id of the batch weighs the same, and every code, whatever part of it they are in.

        Args:
          state: donated.
          batch: as for `objective.sums`; its rows are a multiple of `optim.accumulation`.
          gather, shards: as for `sums`.

        Returns:
          The next state, and metrics: float32 scalars, among them `loss/KIND` of each kind of the
          mixture; the (K,) losses of the codebooks; the int32 counters `skipped` and
          `skipped_in_a_row`.
        """
        fixed, trained = self._split(state.network.params)
        books = self.model["num_codebooks"]
        codes = books * objective.drawn_tokens(batch)
        count = self.weights.predictions(objective.predicted_ids(batch), codes)

        def loss(trained, part):
            sums = self.sums(trees.merge(trained, fixed), part, gather, shards)
            return sums.total(self.weights) / jnp.where(count > 0, count, 1), sums

        grads, sums = self._accumulate(jax.grad(loss, has_aux=True), trained, batch)
        losses = objective.losses(sums, self.weights)
        rate = self.learning_rate(state.step)
        network = Trainable(trained, state.network.opt_state)
        network = optim.apply(self.optimizer, network, grads, rate)
        metrics = {
            "loss": losses.total,
            "text_loss": losses.text,
            "image_loss": losses.image,
            "z_loss": losses.z,
            "loss_per_codebook": losses.per_codebook,
            **{f"loss/{kind}": losses.per_kind[KINDS.index(kind)] for kind in self.kinds},
            "predicted_ids": sums.ids,
            "drawn_tokens": sums.image_tokens,
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": rate,
        }
        finite = jnp.isfinite(losses.total) & jnp.isfinite(metrics["grad_norm"])
        finite &= jnp.isfinite(optax.tree.norm(network.params))
        new = state.replace(
            network=Trainable(trees.merge(network.params, fixed), network.opt_state)
        )
        new, counters = optim.applied(new, state, finite)
        return new, metrics | counters

    def _accumulate(self, gradients, trained, batch):
        """Adds what `gradients` returns for each part of a batch."""
        parts = self.accumulation
        if parts == 1:
            return gradients(trained, batch)

        def split(x):  # strided: each device splits its own rows
            return x.reshape(len(x) // parts, parts, *x.shape[1:]).swapaxes(0, 1)

        batches = jax.tree.map(split, dict(batch))
        shapes = jax.eval_shape(gradients, trained, jax.tree.map(lambda x: x[0], batches))
        start = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)

        def step(total, part):
            return jax.tree.map(jnp.add, total, gradients(trained, part)), None

        return jax.lax.scan(step, start, batches)[0]

    def _split(self, params):
        """Returns the parameters that are not trained, and those that are."""
        return trees.split(params, self.frozen, "optim.frozen")

    def _key(self, name: str) -> jax.Array:
        return jax.random.fold_in(jax.random.key(self.seed), zlib.crc32(name.encode()))


def _cast_kernels(params, dtype):
    def cast(path, leaf):
        return leaf.astype(dtype) if path[-1].key == "kernel" else leaf

    return jax.tree_util.tree_map_with_path(cast, params)


class Programs:
    """Functions of `MultimodalSteps`, jitted with the shardings of one mesh."""

    def __init__(self, steps: MultimodalSteps, mesh: Mesh):
        """Compiles nothing yet."""
        self.abstract, self.shardings = sharding.place_shapes(jax.eval_shape(steps.init), mesh)
        whole, split = sharding.replicated(mesh), sharding.batch_sharding(mesh)
        gather = functools.partial(jax.lax.with_sharding_constraint, shardings=whole)
        self.init = jax.jit(steps.init, out_shardings=self.shardings)
        self.step = jax.jit(
            functools.partial(steps.train_step, gather=gather, shards=mesh.size),
            in_shardings=(self.shardings, split),
            out_shardings=(self.shardings, whole),
            donate_argnums=0,
        )
        self.evaluate = jax.jit(
            functools.partial(steps.sums, gather=gather, shards=mesh.size),
            in_shardings=(self.shardings.network.params, split),
            out_shardings=whole,
        )
