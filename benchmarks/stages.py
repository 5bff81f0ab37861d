"""Times of every stage of the networks, forward and in training, against the roofline.

    python -m benchmarks --only stages [--config b16] [--batch 1]

A stage is compiled alone, for inputs of the same shape as within the whole. XLA fuses across the
borders of stages, and a training step also updates weights: the sum of the stages is near the
whole, not equal. Stochastic depth and the recomputation of `remat="everything"` are left out.
"""

import functools
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from benchmarks import inference, roofline, timing
from unitok_jax import trees
from unitok_jax.codes import STRIDE
from unitok_jax.models.discriminator import DiscriminatorHeads, fit_to_patches
from unitok_jax.models.pretrained.dinov2 import PATCH, WIDTH, DinoV2
from unitok_jax.models.unitok import abstract_model
from unitok_jax.tokenizer import augment
from unitok_jax.weights import pretrained


class Stage(NamedTuple):
    """Stage: a function of arrays, and the arguments that training differentiates by."""

    function: Callable
    args: tuple
    dtype: str
    gradients: tuple[int, ...] = (0, 1)
    reference: Callable | None = None  # the function without recomputation, if it recomputes

    def both_ways(self, *args):
        """Returns the output, and the gradients of half its sum of squares."""

        def forward(*chosen):
            inputs = list(args)
            for position, value in zip(self.gradients, chosen, strict=True):
                inputs[position] = value
            return self.function(*inputs)

        out, pull = jax.vjp(forward, *(args[position] for position in self.gradients))
        # Not an array of ones: XLA simplifies products with constants.
        return out, pull(out)


class _Model:
    """Builder of the tokenizer's stages from its parts."""

    def __init__(self, config, params):
        self.config, self.params, self.stages = config, params, {}
        model = config.model.to_dict()
        self.graph, self.abstract = abstract_model(model)
        self.plain_graph, _ = abstract_model(model | {"remat": "none"})

    def add(self, name, globs, function, x, dtype=None, by_input=True):
        """Adds function(module, x) with the parameters of `globs`; returns its output."""
        own, rest = trees.split(self.params, globs)[0], trees.split(self.abstract, globs)[1]

        def run(own, x, graph=self.graph):
            return function(nnx.merge(graph, trees.merge(own, rest)), x)

        self.stages[name] = Stage(
            run,
            (own, timing.fill(x)),
            dtype or self.config.model.dtype,
            (0, 1) if by_input else (0,),
            functools.partial(run, graph=self.plain_graph),
        )
        return jax.eval_shape(run, own, x)


def of_model(config, params, batch: int) -> dict[str, Stage]:
    """Builds the tokenizer's stages in the order of the data.

    `codebook search` and `codebook lookup` are the quantizer's parts in encoding and decoding,
    `quantizer` is the quantizer in training.
    """
    model, dtype = _Model(config, params), config.model.dtype
    (height, width), query = config.data.image_size, config.model.num_query
    grid = height // STRIDE, width // STRIDE
    codebook = ["quantizer.*"] if params["quantizer"] else []

    def run(blocks, x):
        for block in blocks if isinstance(blocks, nnx.List) else [blocks]:
            x = block(x)
        return x

    def pool(m, x):
        return m.encoder.pool(x).reshape(batch, grid[0] * grid[1], -1)

    def encoder_trunk(m, x):
        # The number of tokens includes the queries, whose values do not change the time.
        x = jnp.pad(x, ((0, 0), (query, 0), (0, 0))).astype(m.encoder.stream)
        return m.encoder.norm(m.encoder.blocks(x))

    def decoder_trunk(m, x):
        x = m.decoder.norm(m.decoder.blocks(x.astype(m.decoder.stream))[:, query:])
        return x.reshape(batch, *grid, -1)

    x = jax.ShapeDtypeStruct((batch, height, width, 3), jnp.dtype(dtype))
    x = model.add("stem", ["encoder.stem.*"], lambda m, x: m.encoder.stem(x), x, by_input=False)
    for i in range(len(params["encoder"]["stages"])):
        stage = functools.partial(lambda m, x, i: run(m.encoder.stages[i], x), i=i)
        x = model.add(f"stage {i + 1}", [f"encoder.stages.{i}.*"], stage, x)
    x = model.add("pool", ["encoder.pool.*"], pool, x)
    x = model.add("encoder trunk", ["encoder.blocks.*", "encoder.norm.*"], encoder_trunk, x)
    x = jax.ShapeDtypeStruct(x.shape, jnp.float32)
    x = model.add("quant projection", ["quant_proj.*"], lambda m, x: m.quant_proj(x), x, "float32")
    model.add("quantizer", codebook, lambda m, x: m.quantizer(x)[::2], x, "float32")
    x = model.add("codebook search", codebook, lambda m, x: m.quantizer.indices(x), x, "float32")
    x = model.add("codebook lookup", codebook, lambda m, x: m.quantizer.lookup(x), x, "float32")
    tokens = x = model.add(
        "post projection", ["post_quant_proj.*"], lambda m, x: m.post_quant_proj(x), x, "float32"
    )
    x = model.add("decoder trunk", ["decoder.blocks.*", "decoder.norm.*"], decoder_trunk, x)
    for name in ("up_conv1", "up_conv2", "up_conv3"):
        up = functools.partial(lambda m, x, name: run(getattr(m.decoder, name), x), name=name)
        x = model.add(name, [f"decoder.{name}.*"], up, x)
    globs = ["decoder.up_conv4.conv1.*", "decoder.up_conv4.norm1.*"]
    x = model.add("up_conv4", globs, lambda m, x: m.decoder.up_conv4(x), x)
    model.add("to_rgb", ["decoder.up_conv4.conv2.*"], lambda m, x: m.decoder.to_rgb(x), x)
    ids = jax.ShapeDtypeStruct((batch, config.model.text.context_length), jnp.int32)
    model.add("text tower", ["text_encoder.*"], lambda m, x: m.encode_text(x), ids, by_input=False)
    globs = ["fc_norm.*", "projection.*"]
    model.add("image features", globs, lambda m, x: m._pool(x), tokens, "float32")
    return model.stages


def of_losses(config, batch: int) -> dict[str, Stage]:
    """Builds the stages of the other networks of training."""
    dtype, (height, width) = config.model.dtype, config.data.image_size
    images = timing.fill(jax.ShapeDtypeStruct((batch, height, width, 3), jnp.float32))
    out = {}
    if config.loss.perceptual:
        graph, shapes = pretrained.abstract("lpips", "float32")
        call = functools.partial(lambda p, x, y, graph: nnx.merge(graph, p)(x, y), graph=graph)
        out["LPIPS"] = Stage(call, (timing.fill(shapes), images, images), "float32", (1,))
    if not config.gan.weight:
        return out

    def views(images, key, fade, crop, offset):
        images = images if fade is None else augment.blur(images, fade)
        probability = 1.0 if fade is None else config.gan.augment_probability
        draws = augment.draw(key, len(images), probability)
        return fit_to_patches(augment.diff_aug(images, draws), crop, offset)

    def all_views(both, key, fade, crop, offset):
        # Real and rebuilt; the views for consistency are not blurred.
        blurred = views(both, key, fade, crop, offset)
        if not config.gan.consistency:
            return blurred
        return jnp.concatenate([blurred, views(both, key, None, crop, offset)])

    ramps = jax.random.key(0), jnp.float32(0.5), jnp.bool_(False), jnp.zeros(2)
    out["augmentation, generator"] = Stage(views, (images, *ramps), "float32", (0,))
    both = jnp.concatenate([images, images])
    out["augmentation, discriminator"] = Stage(all_views, (both, *ramps), "float32", ())
    stream = jnp.promote_types(dtype, config.model.residual_dtype)
    kwargs = dict(dtype=jnp.dtype(dtype), stream=stream)
    graph, shapes = nnx.split(nnx.eval_shape(lambda: DinoV2(**kwargs, rngs=nnx.Rngs(0))))
    params = timing.fill(nnx.to_pure_dict(shapes))
    heads, shapes = nnx.split(nnx.eval_shape(lambda: DiscriminatorHeads(rngs=nnx.Rngs(0))))
    head_params = timing.fill(nnx.to_pure_dict(shapes))
    sides = height // PATCH * PATCH, width // PATCH * PATCH
    count = batch * (4 if config.gan.consistency else 2)
    for name, size in (("generator", batch), ("discriminator", count)):
        generator = name == "generator"
        x = timing.fill(jax.ShapeDtypeStruct((size, *sides, 3), jnp.float32))
        out[f"DINOv2, {name}"] = Stage(
            lambda p, x: nnx.merge(graph, p)(x), (params, x), dtype, (1,) if generator else ()
        )
        tokens = sides[0] * sides[1] // PATCH**2
        features = (timing.fill(jax.ShapeDtypeStruct((size, tokens, WIDTH), jnp.float32)),) * 5
        out[f"heads, {name}"] = Stage(
            lambda p, x: nnx.merge(heads, p)(x),
            (head_params, features),
            "float32",
            (1,) if generator else (0,),
        )
    return out


def plan(config, params, batch: int) -> dict[str, dict[str, roofline.Job]]:
    """Returns group -> name -> job to compile.

    `encode` and `decode` are their stages, forward; `train` has the stages of a step before the
    adversarial phase, forward and backward; `adversary` has the further stages of a step in that
    phase; `forward` is the forward pass of stages that only training needs.
    """
    model, losses = of_model(config, params, batch), of_losses(config, batch)
    names = list(model)
    search, text = names.index("codebook search"), names.index("text tower")
    stages = model | losses
    forward = {name: roofline.Job(s.function, s.args, s.dtype) for name, s in stages.items()}
    back = forward | {
        name: forward[name]._replace(
            function=s.both_ways,
            reference=s._replace(function=s.reference or s.function).both_ways,
        )
        for name, s in stages.items()
        if s.gradients
    }
    inferred = ("codebook search", "codebook lookup")
    lpips = [name for name in losses if name == "LPIPS"]
    groups = {
        "encode": (forward, [name for name in names[: search + 1] if name != "quantizer"]),
        "decode": (forward, names[search + 1 : text]),
        "train": (back, [name for name in names if name not in inferred] + lpips),
        "adversary": (back, [name for name in losses if name not in lpips]),
        "forward": (forward, ["quantizer", *names[text:], *losses]),
    }
    return {
        group: {name: table[name] for name in chosen} for group, (table, chosen) in groups.items()
    }


def measure(config, batch: int, rounds: int, peaks: Mapping, wholes: Mapping) -> dict:
    """Measures the roofline of every stage.

    Args:
      config: the whole configuration.
      batch: number of images.
      rounds: rounds in which all stages, encoding and decoding take turns.
      peaks: result of `timing.peaks`.
      wholes: seconds of 'train' and 'adversary', as far as known.

    Returns:
      Group of `plan` -> {'stages': {name: figures}, 'sum': seconds, 'whole': seconds or None}.
    """
    params = timing.fill(abstract_model(config.model.to_dict())[1])
    groups = plan(config, params, batch)
    jobs = {(group, name): job for group, stages in groups.items() for name, job in stages.items()}
    methods = inference.methods(config, params, batch)
    jobs |= {("whole", name): job for name, job in methods.items()}
    programs = roofline.compiled(jobs, at_once=os.cpu_count())
    calls = {
        key: functools.partial(timing.finish, program, *jobs[key].args)
        for key, (program, _) in programs.items()
    }
    seconds = timing.medians(calls, rounds)
    wholes = dict(wholes) | {name: seconds["whole", name] for name in methods}
    out = {}
    for group, stages in groups.items():
        found = {
            name: roofline.figures(programs[group, name][1], seconds[group, name], peaks)
            for name in stages
        }
        total = sum(row["seconds"] for row in found.values())
        whole = wholes.get(group)
        for row in found.values():
            row["of_whole"] = row["seconds"] / (whole or total)
        out[group] = {"stages": found, "sum": total, "whole": whole}
    return out
