"""The adversary's side of a training step: its inputs, its loss and its schedule.

StyleGAN-T's discriminator (arXiv 2301.09515): trained heads on a frozen DINOv2, DiffAug, and
balanced consistency (arXiv 2002.04724).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from unitok_jax.models.discriminator import DiscriminatorHeads, fit_to_patches
from unitok_jax.models.layers import Keys
from unitok_jax.models.pretrained.dinov2 import DinoV2
from unitok_jax.tokenizer import augment, losses
from unitok_jax.tokenizer.times import Times
from unitok_jax.training import optim


class AdversarySchedule(NamedTuple):
    """Schedule values of the adversarial loss at one step, for generator and discriminator."""

    weight: jax.Array  # scalar, the factor of the adaptive weight, or the constant weight
    fade: jax.Array  # scalar, strength of the blur, 1 to 0
    crop: jax.Array  # bool scalar: images are cropped to whole patches, not resized
    offset: jax.Array  # (2,) in [0, 1): start of a crop


class Adversary:
    """The adversarial part of a training step as pure functions, closed over `config.gan`."""

    def __init__(self, gan, times: Times, *, schedule: str, dtype: str, stream: str, remat: bool):
        """Builds the functions.

        Args:
          gan: `config.gan`.
          times: schedule lengths of the run.
          schedule: learning-rate schedule, one of `optim.SCHEDULES`.
          dtype: compute dtype of DINOv2.
          stream: dtype of DINOv2's residual stream, unless `dtype` is wider.
          remat: True to recompute DINOv2's activations in the backward pass.
        """
        self._gan, self._times = gan.to_dict(), times
        self.start = times.gan_start
        # The first step of a weight above 0: a ramp begins with 0.
        self.first = self.start + bool(times.gan_ramp)
        # Limits of the adaptive weight; None: the weight is that of the schedule.
        self.adaptive_limits = self._gan["adaptive_limits"] if gan.adaptive else None
        self._rate_schedule = dict(
            kind=schedule,
            steps=times.total - self.start,
            warmup_steps=times.gan_warmup,
            start_fraction=0.0,
            final_fraction=gan.final_fraction,
        )
        # The heads are float32: consistency squares the difference of nearly equal logits.
        self._heads = nnx.graphdef(nnx.eval_shape(lambda: DiscriminatorHeads(rngs=Keys(0))))
        kwargs = dict(dtype=jnp.dtype(dtype), stream=jnp.promote_types(dtype, stream), remat=remat)
        self._dinov2 = nnx.graphdef(nnx.eval_shape(lambda: DinoV2(**kwargs, rngs=Keys(0))))
        self.optimizer = optim.adamw(
            betas=gan.betas,
            eps=gan.eps,
            weight_decay=gan.weight_decay,
            clip_norm=gan.clip_norm,
        )

    def init(self, key: jax.Array) -> optim.Trainable:
        """Initialises the heads and their optimiser."""
        params = nnx.to_pure_dict(nnx.state(DiscriminatorHeads(rngs=Keys(key))))
        return optim.Trainable(params, self.optimizer.init(params))

    def acts(self, step: int) -> bool:
        """Returns True if `step` is in the adversarial phase, that is, its weight is above 0."""
        return step >= self.first

    def schedule(self, step: jax.Array, key: jax.Array) -> AdversarySchedule:
        """Returns a step's values; crop or resize is drawn once for real and rebuilt images."""
        coin, offset = jax.random.split(key)
        return AdversarySchedule(
            weight=self._gan["weight"] * optim.ramp(step, self.start, self._times.gan_ramp),
            fade=1.0 - optim.ramp(step, self.start, self._times.gan_blur),
            crop=jax.random.uniform(coin) < self._gan["crop_probability"],
            offset=jax.random.uniform(offset, (2,)),
        )

    def learning_rate(self, step: jax.Array) -> jax.Array:
        """Computes the discriminator's learning rate, scheduled from the adversarial phase on."""
        multiplier = optim.learning_rate_schedule(step - self.start, **self._rate_schedule)
        return self._gan["learning_rate"] * multiplier

    def update(
        self, discriminator: optim.Trainable, heads, dinov2, real, fake, schedule, step, key
    ):
        """Updates the discriminator once.

        Args:
          discriminator: the heads and their optimiser.
          heads: the discriminator's parameters, replicated on every device.
          dinov2: parameters of the frozen network.
          real, fake: images and their reconstructions, (M, b, H, W, 3) float32, in micro-batches.
          schedule: the `AdversarySchedule` of this step, the same as the generator's.
          step: int32 scalar.
          key: random key of the augmentations.

        Returns:
          The next discriminator, and metrics.
        """
        loss = jax.value_and_grad(self.discriminator_loss, has_aux=True)

        def one(inputs):
            real, fake, key = inputs
            (_, named), grads = loss(heads, dinov2, real, fake, schedule, key)
            return grads, named

        def add(total, inputs):
            return jax.tree.map(jnp.add, total, one(inputs)), None

        inputs = real, fake, jax.random.split(key, len(real))
        first = jax.tree.map(lambda x: x[0], inputs)
        if len(real) == 1:
            # A single micro-batch needs no loop; on a CPU the body of a loop runs on one core.
            total = one(first)
        else:
            zeros = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(one, first))
            total, _ = jax.lax.scan(add, zeros, inputs)
        grads, named = jax.tree.map(lambda x: x / len(real), total)
        rate = self.learning_rate(step)
        metrics = {f"gan/{name}": value for name, value in named.items()} | {
            "gan/grad_norm": optax.tree.norm(grads),
            "gan/learning_rate": rate,
            "gan/blur": schedule.fade,
        }
        return optim.apply(self.optimizer, discriminator, grads, rate), metrics

    def generator_loss(self, heads, dinov2, images, schedule: AdversarySchedule, key) -> jax.Array:
        """Computes the generator's loss of augmented reconstructions (B, H, W, 3)."""
        views = self._augment(images, schedule.fade, key)
        logits = self._logits(heads, self._features(dinov2, views, schedule))
        return losses.generator_loss(self._gan["generator_loss"], logits)

    def discriminator_loss(self, heads, dinov2, real, fake, schedule: AdversarySchedule, key):
        """Computes the discriminator's loss of a batch and the metrics of its parts.

        Args:
          heads: parameters, differentiable.
          dinov2: parameters of the frozen network.
          real, fake: (B, H, W, 3) float32.
          schedule: its values at this step. The views for consistency are not blurred.
          key: random key of the augmentations.

        Returns:
          The scalar loss, and scalars: `discriminator` (without consistency), `consistency`,
          `accuracy_real`, `accuracy_fake` (fractions of the logits with the right sign).
        """
        keys = jax.random.split(key, 4)
        views = [
            self._augment(real, schedule.fade, keys[0]),
            self._augment(fake, schedule.fade, keys[1]),
        ]
        consistent = self._gan["consistency"] != 0
        if consistent:
            views += [self._augment(real, None, keys[2]), self._augment(fake, None, keys[3])]
        # Concatenated within each image's row, so that the batch axis keeps its sharding.
        stacked = jnp.stack(views, axis=1).reshape(-1, *real.shape[1:])
        features = jax.lax.stop_gradient(self._features(dinov2, stacked, schedule))
        logits = self._logits(heads, features)
        logits = logits.reshape(len(real), len(views), -1).swapaxes(0, 1)
        value = losses.discriminator_loss(self._gan["loss"], logits[0], logits[1])
        parts = {
            "discriminator": value,
            "accuracy_real": jnp.mean(logits[0] > 0),
            "accuracy_fake": jnp.mean(logits[1] < 0),
        }
        if consistent:
            # The targets are not detached, as in the reference.
            consistency = jnp.mean((logits[2] - logits[0]) ** 2)
            consistency += jnp.mean((logits[3] - logits[1]) ** 2)
            parts["consistency"] = consistency
            value = value + self._gan["consistency"] * consistency
        return value, parts

    def _augment(self, images, fade, key):
        """Augments images; without `fade` the strong view of consistency, always augmented."""
        if fade is None:
            draws = augment.draw(key, images.shape[0], 1.0)
        else:
            images = augment.blur(images, fade)
            draws = augment.draw(key, images.shape[0], self._gan["augment_probability"])
        return augment.diff_aug(images, draws)

    def _features(self, dinov2, images, schedule):
        images = fit_to_patches(images, schedule.crop, schedule.offset)
        return nnx.merge(self._dinov2, dinov2)(images)

    def _logits(self, heads, features):
        return nnx.merge(self._heads, heads)(features)
