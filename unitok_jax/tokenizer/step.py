"""The training state and the one jitted step that updates it, for generator and discriminator."""

import functools
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct
from jax.sharding import Mesh

from unitok_jax import trees
from unitok_jax.models import recomputation
from unitok_jax.models.images import to_float
from unitok_jax.models.layers import Keys
from unitok_jax.models.quantizers.base import Learning, codebook_counts, codebook_health
from unitok_jax.models.unitok import UniTok, abstract_model
from unitok_jax.runtime import sharding
from unitok_jax.tokenizer import codebooks
from unitok_jax.tokenizer.adversary import Adversary
from unitok_jax.tokenizer.losses import NETWORK_TERMS
from unitok_jax.tokenizer.objective import Objective, split_batch
from unitok_jax.tokenizer.teaching import HEADS, Teaching, check_taught
from unitok_jax.tokenizer.times import Times
from unitok_jax.training import optim
from unitok_jax.training.optim import Trainable
from unitok_jax.weights import pretrained

MAX_LOG_SCALE = 4.605170185988092  # ln 100, where CLIP clamps the logarithm of its logit scale


@struct.dataclass
class TrainState:
    """Training state: all arrays that a step updates. Frozen networks are a separate argument."""

    step: jax.Array  # int32 scalar, the number of batches seen; also the data position
    generator: Trainable
    discriminator: Trainable | None
    ema: Any  # the generator's averaged parameters, or None
    skipped: jax.Array  # int32 scalar, number of skipped steps so far
    skipped_in_a_row: jax.Array  # int32 scalar, skipped steps since the last applied one
    usage: jax.Array | None = None  # (K, V) `codebooks.MovingMeans.usage`, or None
    teacher_heads: Trainable | None = None  # predict a teacher's features from the tokens

    @property
    def params(self):
        """Parameters that evaluation and export use: the average if there is one."""
        return self.generator.params if self.ema is None else self.ema

    def items(self) -> dict[str, Any]:
        """Returns the state as checkpoint items: `params` for users of the model, and the rest."""
        training = {
            "step": self.step,
            "generator": self.generator.opt_state,
            "discriminator": self.discriminator,
            "skipped": self.skipped,
            "skipped_in_a_row": self.skipped_in_a_row,
        }
        if self.teacher_heads is not None:
            training[HEADS] = self.teacher_heads
        if self.ema is not None:
            training["params"] = self.generator.params
        if self.usage is not None:
            training["codebook_usage"] = self.usage
        return {"params": self.params, "training": training}

    @classmethod
    def from_items(cls, items: dict[str, Any]) -> "TrainState":
        """Builds the state from `items`."""
        training = items["training"]
        averaged = "params" in training
        return cls(
            step=training["step"],
            generator=Trainable(
                training["params"] if averaged else items["params"], training["generator"]
            ),
            discriminator=training["discriminator"],
            ema=items["params"] if averaged else None,
            skipped=training["skipped"],
            skipped_in_a_row=training["skipped_in_a_row"],
            usage=training.get("codebook_usage"),
            teacher_heads=training.get(HEADS),
        )


def init_params(model: dict, key: jax.Array):
    """Initialises the parameters of a UniTok, as a nested dict."""
    return nnx.to_pure_dict(nnx.state(UniTok(**model, rngs=Keys(key))))


class TokenizerSteps:
    """Pure functions of a run: init and train step, closed over the configuration."""

    def __init__(self, config):
        """Builds the functions from the whole configuration."""
        self.model = config.model.to_dict()
        self.graph, self.abstract_params = abstract_model(self.model)
        if config.data.text_features:
            _check_locked(self.abstract_params, config.optim.frozen)
        if config.loss.teacher_token:
            check_taught(self.abstract_params, config.optim.frozen, config.loss.teacher_token)
        self.entries = self.model["vocab_size"] // self.model["num_codebooks"]  # V
        self.seed = config.seed
        settings = config.optim
        times = Times.from_fractions(config.steps, settings, config.gan)
        self.max_learning_rate = settings.learning_rate
        self.accumulation = settings.accumulation
        self.ema_decay = settings.ema_decay
        self.means = codebooks.moving_means(config.codebook)
        self.wrong_share = codebooks.wrong_share(config.codebook, config.steps)
        self.frozen = settings.frozen
        self.frozen_parts = (*self.frozen, *(codebooks.PARAMETERS if self.means else ()))
        self._schedule = dict(
            kind=settings.schedule,
            steps=times.total,
            warmup_steps=times.warmup,
            start_fraction=0.0,
            final_fraction=settings.final_fraction,
        )
        self.optimizer = optim.chosen(settings)
        self.adversary, remat = None, recomputation.of_frozen(config.model.remat)
        if config.gan.weight:
            self.adversary = Adversary(
                config.gan,
                times,
                schedule=settings.schedule,
                dtype=config.model.dtype,
                stream=config.model.residual_dtype,
                remat=remat,
            )
        self.teaching = None
        if config.loss.teacher_token or config.loss.teacher_relation:
            self.teaching = Teaching(
                config.teacher,
                config.loss,
                size=config.model.size,
                dtype=config.model.dtype,
                stream=config.model.residual_dtype,
            )
        self.objective = Objective(
            config.loss,
            self.graph,
            self.adversary,
            self.teaching,
            accumulation=self.accumulation,
            decode_every=round(1 / config.data.decode_fraction),
            remat=remat,
            learning=Learning(config.codebook.gradient, means=self.means is not None),
            wrong_near=config.codebook.wrong_near,
        )
        self.idle = self.objective.idle
        needed = {
            "lpips": [f"loss.{name}" for name in NETWORK_TERMS if config.loss[name]],
            "dinov2": ["gan.weight"] if config.gan.weight else [],
        }
        # Frozen networks that a step takes, but the teacher: kind -> keys of the losses.
        self.networks = {kind: keys for kind, keys in needed.items() if keys}

    def abstract_networks(self) -> dict[str, Any]:
        """Returns the shapes of the parameters of all frozen networks that a step takes."""
        dtype = self.model["dtype"]
        found = {kind: pretrained.abstract(kind, dtype)[1] for kind in self.networks}
        return found | ({"teacher": self.teaching.abstract} if self.takes_teacher else {})

    @property
    def takes_teacher(self) -> bool:
        """Whether a step computes a teacher: there is one, and its features are not stored."""
        return self.teaching is not None and not self.teaching.stored

    def batch_divisor(self, devices: int) -> int:
        """Returns the divisor of a global batch: each device needs whole, equal micro-batches."""
        return devices * self.accumulation * self.objective.decode_every

    def init(self) -> TrainState:
        """Initialises the state before the first step."""
        discriminator = None
        if self.adversary is not None:
            discriminator = self.adversary.init(self._key("discriminator"))
        return self.start(init_params(self.model, self._key("params")), discriminator)

    def start(self, params, discriminator: Trainable | None) -> TrainState:
        """Builds the state before the first step, of a generator with `params`."""
        _, trainable = self._split(params)
        heads = None
        if self.teaching is not None:
            heads = self.teaching.init(self._key(HEADS), self.optimizer)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            generator=Trainable(params, self.optimizer.init(trainable)),
            discriminator=discriminator,
            # A copy, as both trees are donated to the step.
            ema=jax.tree.map(jnp.copy, params) if self.ema_decay else None,
            skipped=jnp.zeros((), jnp.int32),
            skipped_in_a_row=jnp.zeros((), jnp.int32),
            usage=self.means.start(params["quantizer"]) if self.means else None,
            teacher_heads=heads,
        )

    def learning_rate(self, step: jax.Array) -> jax.Array:
        """Computes the generator's learning rate of a step."""
        return self.max_learning_rate * optim.learning_rate_schedule(step, **self._schedule)

    def train_step(
        self,
        state: TrainState,
        frozen,
        batch,
        *,
        adversarial: bool,
        gather: Callable[[Any], Any],
    ) -> tuple[TrainState, dict]:
        """Updates the generator and, in the adversarial phase, the discriminator.

        A step whose loss, gradients or new weights are not finite is skipped: it updates only the
        counters.

        Args:
          state: donated.
          frozen: parameters of the frozen networks `networks`, {'lpips': ..., 'dinov2': ...}, and
            of the 'teacher' if the step computes one.
          batch: {'image': (B, H, W, 3) uint8 or float in [-1, 1], 'text': (B, L) int32, or
            (B, E) float32 features of the text tower}, and a teacher's stored features.
          adversarial: static; False computes nothing of the adversary.
          gather: replicates sharded parameters on every device.

        Returns:
          The next state, and metrics: float32 scalars, (K,) vectors of the codebooks, and the
          int32 counters `skipped` and `skipped_in_a_row`.
        """
        keys = jax.random.split(jax.random.fold_in(self._key("step"), state.step), 4)
        schedule = self.adversary.schedule(state.step, keys[0]) if adversarial else None
        batches = batch | {"image": to_float(batch["image"])}
        batches = {k: split_batch(x, self.accumulation) for k, x in batches.items()}
        if self.teaching is not None:
            teacher = frozen["teacher"] if self.takes_teacher else None
            batches |= self.teaching.targets(teacher, batches)
        fixed, trainable = self._split(state.generator.params)
        learned, taught = trainable, state.teacher_heads
        if taught is not None:
            learned = trainable | {HEADS: taught.params}
        heads = gather(state.discriminator.params) if adversarial else None
        wrong = {"wrong_share": self.wrong_share(state.step)} if self.wrong_share else {}
        grads, assigned, rebuilt, metrics = self.objective.gradients(
            gather(learned), gather(fixed), heads, frozen, batches, schedule, keys[1:3], **wrong
        )
        of_heads = grads.pop(HEADS, None)
        rate = self.learning_rate(state.step)
        generator = Trainable(trainable, state.generator.opt_state)
        generator = optim.apply(self.optimizer, generator, grads, rate)
        params = trees.merge(generator.params, fixed)
        # Their gradients are 0, and all that would move them is the decay.
        params |= {part: state.generator.params[part] for part in self.idle if part in params}
        # The sigmoid loss needs no limit, and what is not trained stays as it is.
        if "logit_scale" in trainable and "logit_bias" not in params:
            params["logit_scale"] = jnp.clip(params["logit_scale"], 0.0, MAX_LOG_SCALE)
        usage = state.usage
        if self.means:
            key = jax.random.fold_in(self._key("codebooks"), state.step)
            params["quantizer"], usage, moved = self.means.update(
                params["quantizer"], usage, *assigned, key
            )
            metrics |= moved
        new = state.replace(generator=Trainable(params, generator.opt_state), usage=usage)
        if taught is not None:
            taught = optim.apply(self.optimizer, taught, of_heads, rate)
            new = new.replace(teacher_heads=taught)
        metrics |= wrong | {
            "grad_norm": optax.tree.norm(grads),
            "learning_rate": rate,
            **codebook_health(codebook_counts(assigned.codes, self.entries)),
        }
        finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"])
        finite &= jnp.isfinite(optax.tree.norm(generator.params))
        if self.means:
            finite &= jnp.isfinite(optax.tree.norm(params["quantizer"]))
        if taught is not None:
            finite &= jnp.isfinite(optax.tree.norm(taught.params))
        if adversarial:
            discriminator, of_discriminator = self.adversary.update(
                state.discriminator,
                heads,
                frozen["dinov2"],
                batches["image"][:, :: self.objective.decode_every],
                rebuilt,
                schedule,
                state.step,
                keys[3],
            )
            new = new.replace(discriminator=discriminator)
            metrics |= of_discriminator
            finite &= jnp.isfinite(metrics["gan/grad_norm"])
            finite &= jnp.isfinite(optax.tree.norm(discriminator.params))
        if self.ema_decay:
            # An average of equal numbers is not always that number: what is frozen is copied.
            (kept, moving), (_, average) = (
                trees.split(tree, self.frozen, "optim.frozen") for tree in (params, state.ema)
            )
            average = optim.ema(average, moving, self.ema_decay, state.step)
            new = new.replace(ema=trees.merge(average, kept))
        new, counters = optim.applied(new, state, finite)
        return new, metrics | counters

    def _split(self, params):
        return trees.split(params, self.frozen_parts, "optim.frozen")

    def _key(self, name: str) -> jax.Array:
        # Folded in from (seed, name, step) and never stored, so that resuming is exact.
        return jax.random.fold_in(jax.random.key(self.seed), zlib.crc32(name.encode()))


class Programs:
    """Functions of `TokenizerSteps`, jitted with the shardings of one mesh."""

    def __init__(self, steps: TokenizerSteps, mesh: Mesh):
        """Compiles nothing yet.

        Args:
          steps: functions to jit.
          mesh: mesh of devices, or of the devices of a topology.
        """
        self._adversary = steps.adversary
        self.abstract, self.shardings = sharding.place_shapes(jax.eval_shape(steps.init), mesh)
        self.init = jax.jit(steps.init, out_shardings=self.shardings)
        self.start = jax.jit(steps.start, out_shardings=self.shardings)
        whole, split = sharding.replicated(mesh), sharding.batch_sharding(mesh)
        # By default XLA leaves the parameters sharded and gathers the activations: in every block
        # of every micro-batch, a hundred times the bytes.
        gather = functools.partial(jax.lax.with_sharding_constraint, shardings=whole)
        # {False: before the adversary acts, True: from then on}
        self.phases = {
            adversarial: jax.jit(
                functools.partial(steps.train_step, adversarial=adversarial, gather=gather),
                in_shardings=(self.shardings, whole, split),
                out_shardings=(self.shardings, whole),
                donate_argnums=0,
            )
            for adversarial in (False, True)
        }

    def of_step(self, step: int):
        """Returns the jitted `train_step` of update number `step`, from 0."""
        return self.phases[self._adversary is not None and self._adversary.acts(step)]


def _check_locked(params, frozen: Sequence[str]) -> None:
    """Refuses stored text features of a tower that is trained."""
    _, trainable = trees.split(params, frozen, "optim.frozen")
    trained = trees.flatten({"text_encoder": trainable.get("text_encoder", {})})
    if trained:
        raise ValueError(
            f"optim.frozen={tuple(frozen)} trains {next(iter(trained))}, and data.text_features "
            "holds what the text tower gave before: add 'text_encoder.*' to optim.frozen, or set "
            "data.text_features=''"
        )
