"""The state of training and the one jitted step that changes it."""

import functools
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct

from unitok_jax import losses, optim
from unitok_jax.models.unitok import UniTok, abstract_model

MAX_LOG_SCALE = 4.605170185988092  # ln 100, where CLIP clamps the logarithm of its logit scale


@struct.dataclass
class Player:
    """A network that is trained, with its optimiser."""

    params: Any  # nested dict of float32 arrays
    opt_state: Any


@struct.dataclass
class TrainState:
    """Everything that a step changes. Frozen networks are an argument of the step instead."""

    step: jax.Array  # int32 scalar, the number of updates done; also the data position
    generator: Player
    discriminator: Player | None

    def items(self) -> dict[str, Any]:
        """The state as items of a checkpoint: `params` for users of the model, and the rest."""
        training = {
            "step": self.step,
            "generator": self.generator.opt_state,
            "discriminator": self.discriminator,
        }
        return {"params": self.generator.params, "training": training}

    @classmethod
    def from_items(cls, items: dict[str, Any]) -> "TrainState":
        """The inverse of `items`."""
        training = items["training"]
        generator = Player(items["params"], training["generator"])
        return cls(training["step"], generator, training["discriminator"])


def init_params(model: dict, key: jax.Array):
    """Fresh parameters of a UniTok as a nested dict."""
    return nnx.to_pure_dict(nnx.state(UniTok(**model, rngs=nnx.Rngs(params=key))))


def to_float(images: jax.Array) -> jax.Array:
    """uint8 images to float32 in [-1, 1]; float images as they are."""
    return images / 127.5 - 1.0 if images.dtype == jnp.uint8 else images


def codebook_counts(codes: jax.Array, rows: int, weights: jax.Array | None = None) -> jax.Array:
    """How often each row of each codebook is used: (B, K, N) -> (K, V) float32.

    weights: (B,) factor of each image; 1 if not given.
    """
    b, k, n = codes.shape
    weights = jnp.ones((b,)) if weights is None else weights.astype(jnp.float32)
    index = codes + rows * jnp.arange(k)[:, None]
    weights = jnp.broadcast_to(weights[:, None, None], codes.shape)
    counts = jnp.zeros((k * rows,)).at[index.ravel()].add(weights.ravel())
    return counts.reshape(k, rows)


def codebook_health(counts: jax.Array) -> dict[str, jax.Array]:
    """Counts (K, V) -> usage (part of the rows in use, 0 to 1) and perplexity, both (K,)."""
    p = counts / jnp.maximum(counts.sum(axis=-1, keepdims=True), 1)
    entropy = -jnp.sum(p * jnp.log(jnp.maximum(p, 1e-30)), axis=-1)
    return {"usage": jnp.mean(counts > 0, axis=-1), "perplexity": jnp.exp(entropy)}


class Trainer:
    """The pure functions of a run: init, train step and evaluation step, closed over the config."""

    def __init__(self, config):
        """config: the whole configuration; only `seed steps model loss optim` are read."""
        self.model = config.model.to_dict()
        self.graph, self.abstract_params = abstract_model(self.model)
        self.entries = config.model.vocab_size // config.model.num_codebooks  # V
        self.weights = config.loss.to_dict()
        self.seed = config.seed
        optim_config = config.optim
        self.learning_rate = optim_config.learning_rate
        self.schedule = functools.partial(
            optim.warmup_cosine,
            steps=config.steps,
            warmup_fraction=optim_config.warmup_fraction,
            final_fraction=optim_config.final_fraction,
        )
        self.optimizer = optim.adamw(
            betas=optim_config.betas,
            eps=optim_config.eps,
            weight_decay=optim_config.weight_decay,
            clip_norm=optim_config.clip_norm,
        )

    def init(self) -> TrainState:
        """The state before the first step."""
        params = init_params(self.model, self._key("params"))
        generator = Player(params, self.optimizer.init(params))
        return TrainState(jnp.zeros((), jnp.int32), generator, None)

    def losses(self, params, batch, key):
        """Total loss of a batch, and (named losses, the model's output)."""
        images = to_float(batch["image"])
        entropy = self.weights["entropy"] != 0
        output = nnx.merge(self.graph, params)(images, batch["text"], key, entropy)
        named = {
            "l1": losses.l1_loss(output.reconstruction, images),
            "l2": losses.l2_loss(output.reconstruction, images),
            "vq": output.vq_loss,
        }
        if entropy:
            named["entropy"] = output.entropy_loss
        if self.weights["contrastive"]:
            named["contrastive"] = losses.contrastive_loss(
                output.image_features, output.text_features, output.logit_scale
            )
        total = sum(self.weights[name] * value for name, value in named.items())
        return total, (named, output)

    def train_step(self, state: TrainState, frozen, batch) -> tuple[TrainState, dict]:
        """One update.

        Args:
          state: donated.
          frozen: parameters of the frozen networks, a nested dict; empty while no loss uses one.
          batch: {'image': (B, H, W, 3) uint8 or float in [-1, 1], 'text': (B, L) int32}.

        Returns:
          The next state, and float32 metrics: scalars, and (K,) vectors of the codebooks.
        """
        del frozen
        params = state.generator.params
        key = jax.random.fold_in(self._key("step"), state.step)
        grad = jax.value_and_grad(self.losses, has_aux=True)
        (total, (named, output)), grads = grad(params, batch, key)
        updates, opt_state = self.optimizer.update(grads, state.generator.opt_state, params)
        rate = self.learning_rate * self.schedule(state.step)
        params = optax.apply_updates(params, jax.tree.map(lambda u: -rate * u, updates))
        params["logit_scale"] = jnp.clip(params["logit_scale"], 0.0, MAX_LOG_SCALE)
        metrics = {
            "loss": total,
            **{f"loss/{name}": value for name, value in named.items()},
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": rate,
            "logit_scale": output.logit_scale,
            **codebook_health(codebook_counts(output.codes, self.entries)),
        }
        state = state.replace(step=state.step + 1, generator=Player(params, opt_state))
        return state, metrics

    def eval_step(self, params, batch) -> dict:
        """One batch of evaluation; rows with mask False count nothing.

        Args:
          params: the generator's.
          batch: as for training, and 'mask' (B,) bool.

        Returns:
          'squared_error' (B,) of the clipped reconstruction, 'reconstruction' (B, H, W, 3) in
          [-1, 1], 'counts' (K, V), 'image_features' (B, E).
        """
        images = to_float(batch["image"])
        model = nnx.merge(self.graph, params)
        reconstruction, codes, features = model.reconstruct(images)
        reconstruction = jnp.clip(reconstruction, -1.0, 1.0)
        return {
            "squared_error": losses.squared_error(reconstruction, images),
            "reconstruction": reconstruction,
            "counts": codebook_counts(codes, self.entries, batch["mask"]),
            "image_features": features,
        }

    def text_features(self, params, text) -> jax.Array:
        """(B, L) token ids -> (B, E) unit vectors."""
        return nnx.merge(self.graph, params).encode_text(text)

    def _key(self, name: str) -> jax.Array:
        # Folded in from (seed, name, step) and never stored, so that resuming is exact.
        return jax.random.fold_in(jax.random.key(self.seed), zlib.crc32(name.encode()))
