"""The generator's objective: losses of the model's outputs, gradients over micro-batches."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from unitok_jax import trees
from unitok_jax.models.layers import Keys
from unitok_jax.models.pretrained.lpips import Lpips
from unitok_jax.models.quantizers.base import PLAIN, Learning
from unitok_jax.models.quantizers.wrong_codes import Wrong
from unitok_jax.tokenizer import losses
from unitok_jax.tokenizer.adversary import Adversary, AdversarySchedule
from unitok_jax.tokenizer.teaching import HEADS, Teaching

# Outputs of a model, with the parts whose parameters nothing else depends on.
_ALONE = {
    "reconstruction": ("decoder",),
    "image_features": ("fc_norm", "projection"),
    "text_features": ("text_encoder",),
}


class Assigned(NamedTuple):
    """Codes of a batch and, where the codebooks are moving means, what each was chosen for."""

    codes: jax.Array  # (B, K, N) int32
    inputs: jax.Array | None  # (B, K, N, C) float32


class Objective:
    """The generator's objective as pure functions, closed over `config.loss`."""

    def __init__(
        self,
        loss,
        graph,
        adversary: Adversary | None,
        teaching: Teaching | None = None,
        *,
        accumulation: int,
        decode_every: int,
        remat: str,
        learning: Learning = PLAIN,
        wrong_near: int = 0,
    ):
        """Builds the functions.

        Args:
          loss: `config.loss`, the weight of each of `losses.TERMS` and the kind of one.
          graph: graph of the UniTok, for `nnx.merge`.
          adversary: source of the loss added in the adversarial phase, or None.
          teaching: loss of the tokens of a teacher, or None without a teacher.
          accumulation: number of micro-batches of a step.
          decode_every: one of `decode_every` images of a micro-batch is decoded.
          remat: what LPIPS recomputes: one of `recomputation.BLOCKS`.
          learning: how the codebooks learn.
          wrong_near: number of nearest rows that a wrong code is drawn from.
        """
        self._graph, self._adversary, self._teaching = graph, adversary, teaching
        self._weights = weights = {name: loss[name] for name in losses.TERMS}
        table = losses.TERMS | {"contrastive": losses.CONTRASTIVE[loss.contrastive_kind]}
        self._count, self.decode_every = accumulation, decode_every
        self._learning, self._wrong_near = learning, wrong_near
        # Outputs that the losses depend on: the rest of the model is neither computed nor
        # differentiated. (The first two cost nothing beside the codes.)
        outputs = {"vq_loss", "logit_scale"} | ({"reconstruction"} if adversary else set())
        for name, term in table.items():
            outputs |= set(term.outputs) if weights[name] else set()
        self._outputs = sorted(outputs)
        # Parts of the model that no loss reaches.
        idle = (parts for output, parts in _ALONE.items() if output not in outputs)
        self.idle = tuple(itertools.chain(*idle))
        self._terms = {
            name: term
            for name, term in table.items()
            if weights[name] or (term.free and outputs.issuperset(term.outputs))
        }
        if weights["teacher_relation"]:
            term = self._terms["teacher_relation"]
            divergence = functools.partial(term.function, temperature=teaching.temperature)
            self._terms["teacher_relation"] = term._replace(function=divergence)
        self._lpips = None
        if any(term.network for term in self._terms.values()):
            # Float32 whatever the model's dtype: features of similar images differ little.
            kwargs = dict(dtype=jnp.float32, remat=remat)
            self._lpips = nnx.graphdef(nnx.eval_shape(lambda: Lpips(**kwargs, rngs=Keys(0))))

    def gradients(
        self,
        trainable,
        fixed,
        heads,
        frozen,
        batches,
        schedule: AdversarySchedule | None,
        keys,
        wrong_share: jax.Array | None = None,
    ):
        """Computes the gradients of the total loss of all micro-batches, M of b images.

        With one micro-batch: forward pass, cotangents of its outputs, backward pass. With more, the
        cotangents of all outputs are computed first and then propagated one micro-batch at a time
        (GradCache, arXiv 2101.06983). So the contrastive loss takes every pair and the adaptive
        weight comes from the gradients of the whole batch, at the cost of one more forward pass.
        (The entropy term, off by default, takes its mean distribution within a micro-batch.)

        Args:
          trainable: parameters to differentiate; nested dict. With a loss of a teacher's tokens
            the heads are among them, as `teaching.HEADS`.
          fixed: the model's other parameters.
          heads: the discriminator's parameters; not read without `schedule`.
          frozen: parameters of the frozen networks, {'lpips': ..., 'dinov2': ...}.
          batches: {'image': (M, b, H, W, 3) float32 in [-1, 1], 'text': (M, b, L) int32, or
            (M, b, E) float32 features}, and the targets of `teaching`.
          schedule: the adversary's values at this step; None before the adversarial phase.
          keys: two random keys, of stochastic depth and of the discriminator's augmentations.
          wrong_share: share of the tokens that get wrong codes; None: nothing is replaced.

        Returns:
          Gradients like `trainable`; `Assigned` of M b images; reconstruction (M, d, H, W, 3)
          float32 of every `decode_every`-th image of a micro-batch; metrics.
        """
        inputs = batches, *(jax.random.split(key, self._count) for key in keys)

        def whole(trainable):
            return trees.merge({k: v for k, v in trainable.items() if k != HEADS}, fixed)

        def forward(trainable, batch, key):
            heads = trainable.get(HEADS)
            trained = trainable.keys()
            return self._forward(whole(trainable), heads, trained, batch, key, wrong_share)

        def image_terms(aux, batch, key):
            return self._image_terms(whole(trainable), heads, frozen, schedule, aux, batch, key)

        send = self._send_at_once if self._count == 1 else self._send_in_turn
        grads, assigned, rebuilt, metrics = send(trainable, inputs, forward, image_terms, schedule)
        return grads, jax.tree.map(_join, assigned), rebuilt, metrics

    def _forward(self, params, heads, trained, batch, key, wrong_share):
        """Computes the outputs of a micro-batch for the losses; `Assigned`, images, features."""
        model = nnx.merge(self._graph, params)
        # A frozen part computes as at inference: no stochastic depth.
        encoder_key, decoder_key = jax.random.split(key)
        towers = (("encoder", encoder_key), ("decoder", decoder_key))
        keys = tuple(key if tower in trained else None for tower, key in towers)
        entropy, learning = "entropy_loss" in self._outputs, self._learning
        if wrong_share is not None:
            wrong = Wrong(jax.random.fold_in(key, 2), wrong_share, self._wrong_near)
            learning = learning._replace(wrong=wrong)
        output = model(batch["image"], batch["text"], keys, entropy, self.decode_every, learning)
        outputs = {name: getattr(output, name) for name in self._outputs if name in output._fields}
        if heads is not None:
            outputs["teacher_token_loss"] = self._teaching.token_loss(heads, output.tokens, batch)
        assigned = Assigned(output.codes, output.quantized if self._learning.means else None)
        return outputs, (assigned, output.reconstruction, output.last_features)

    def _send_at_once(self, trainable, inputs, forward, image_terms, schedule):
        """Computes the gradients of the only micro-batch, `Assigned`, reconstruction, metrics."""
        batch, key, augment_key = _first(inputs)
        outputs, pull, aux = jax.vjp(
            lambda trainable: forward(trainable, batch, key), trainable, has_aux=True
        )
        found = outputs, *aux[:2], image_terms(aux, batch, augment_key)
        outputs, assigned, rebuilt, terms = jax.tree.map(lambda x: x[None], found)
        cotangents, metrics = self._cotangents(outputs, terms, inputs[0], schedule)
        (grads,) = pull(_first(cotangents))
        return grads, assigned, rebuilt, metrics

    def _send_in_turn(self, trainable, inputs, forward, image_terms, schedule):
        """Computes the gradients of several micro-batches, one forward and backward at a time."""

        def look(inputs):
            batch, key, augment_key = inputs
            outputs, aux = forward(trainable, batch, key)
            return outputs, *aux[:2], image_terms(aux, batch, augment_key)

        def send_down(total, inputs):
            (batch, key, _), cotangents = inputs
            pull = jax.vjp(lambda trainable: forward(trainable, batch, key)[0], trainable)[1]
            return jax.tree.map(jnp.add, total, pull(cotangents)[0]), None

        outputs, assigned, rebuilt, terms = jax.lax.map(look, inputs)
        cotangents, metrics = self._cotangents(outputs, terms, inputs[0], schedule)
        zeros = jax.tree.map(jnp.zeros_like, trainable)
        grads, _ = jax.lax.scan(send_down, zeros, (inputs, cotangents))
        return grads, assigned, rebuilt, metrics

    def _image_terms(self, params, heads, frozen, schedule, aux, batch, key):
        """Computes losses of the decoded images of a micro-batch, and their cotangents."""
        _, rebuilt, last_features = aux
        if "reconstruction" not in self._outputs:
            return {"named": {}}
        terms = self._pixel_terms(rebuilt, batch["image"][:: self.decode_every], frozen)
        if schedule is not None:
            terms |= self._gan_terms(rebuilt, heads, frozen, schedule, key)
            if self._adversary.adaptive_limits is not None:
                decoder = nnx.merge(self._graph, params).decoder
                at_kernel = functools.partial(decoder.to_rgb, last_features)
                pull = jax.vjp(at_kernel, decoder.up_conv4.conv2.kernel[...])[1]
                terms |= {
                    "gradient": pull(terms["cotangent"])[0],
                    "gan_gradient": pull(terms["gan_cotangent"])[0],
                }
        return terms

    def _pixel_terms(self, rebuilt, images, frozen):
        """Computes reconstruction losses of a micro-batch and the cotangent of the weighted sum."""

        def total(rebuilt):
            named, pixels = {}, (rebuilt, images)
            if self._lpips is not None:
                lpips = nnx.merge(self._lpips, frozen["lpips"])
                features = *map(lpips.features, pixels), lpips  # once for all terms
            for name, term in self._terms.items():
                if name in losses.PIXEL_TERMS:
                    named[name] = term.function(*(features if term.network else pixels))
            return sum(self._weights[name] * value for name, value in named.items()), named

        (_, named), cotangent = jax.value_and_grad(total, has_aux=True)(rebuilt)
        return {"named": named, "cotangent": cotangent}

    def _gan_terms(self, rebuilt, heads, frozen, schedule, key):
        """Computes the adversarial loss of a micro-batch and its cotangent."""
        loss, gan_cotangent = jax.value_and_grad(self._adversary.generator_loss, argnums=2)(
            heads, frozen["dinov2"], rebuilt, schedule, key
        )
        return {"gan": loss, "gan_cotangent": gan_cotangent}

    def _cotangents(self, outputs, terms, batches, schedule):
        """Computes cotangents of all outputs, for the loss of the whole batch, and metrics."""
        count, weights = self._count, self._weights
        mean = functools.partial(jnp.mean, axis=0)
        cotangents = {name: jnp.zeros_like(value) for name, value in outputs.items()}
        metrics = {k: mean(outputs[k]) for k in ("logit_scale", "logit_bias") if k in outputs}
        named = {}
        for name, term in self._terms.items():
            if name in losses.PIXEL_TERMS:
                named[name] = mean(terms["named"][name])
            elif term.function is None:
                (output,) = term.outputs
                named[name] = mean(outputs[output])
                cotangents[output] += weights[name] / count
            else:
                stacked = [outputs[output] for output in term.outputs]
                whole = [mean(x) if x.ndim == 1 else _join(x) for x in stacked]
                targets = [_join(batches[target]) for target in term.targets]
                argnums = tuple(range(len(whole)))
                named[name], grads = jax.value_and_grad(term.function, argnums)(*whole, *targets)
                for output, grad in zip(term.outputs, grads, strict=True):
                    grad = weights[name] * grad
                    cotangents[output] += split_batch(grad, count) if grad.ndim else grad / count
        metrics |= {f"loss/{name}": value for name, value in named.items()}
        total = sum(weights[name] * value for name, value in named.items())
        if "reconstruction" in outputs:
            cotangent = terms["cotangent"]
            if schedule is not None:
                weight, limits = schedule.weight, self._adversary.adaptive_limits
                if limits is not None:
                    norms = (optax.tree.norm(mean(terms[k])) for k in ("gradient", "gan_gradient"))
                    weight = schedule.weight * losses.adaptive_weight(*norms, limits)
                cotangent = cotangent + weight * terms["gan_cotangent"]
                metrics |= {"loss/gan": mean(terms["gan"]), "gan/weight": weight}
                total = total + weight * metrics["loss/gan"]
            cotangents["reconstruction"] = cotangent / count
        return cotangents, metrics | {"loss": total}


def split_batch(x: jax.Array, count: int) -> jax.Array:
    """Splits (B, ...) into (count, B / count, ...), strided: each device splits its own rows."""
    return x.reshape(x.shape[0] // count, count, *x.shape[1:]).swapaxes(0, 1)


def _join(x):
    """Inverts `split_batch`; the batch axis stays sharded over the devices."""
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])


def _first(tree):
    return jax.tree.map(lambda x: x[0], tree)
