"""Faults of the networks and of the adversary: who is dropped, augmented, and quantized how."""

from . import Mutation

ADVERSARY, AUGMENT = "unitok_jax/tokenizer/adversary.py", "unitok_jax/tokenizer/augment.py"
CONVOLUTIONS, DINOV2 = (
    "unitok_jax/models/convolutions.py",
    "unitok_jax/models/pretrained/dinov2.py",
)
HEADS, LAYERS = "unitok_jax/models/discriminator.py", "unitok_jax/models/layers.py"
QUANTIZER, RESIDUAL, LOOKUP_FREE = (
    f"unitok_jax/models/quantizers/{x}.py" for x in ("multi_codebook", "residual", "lookup_free")
)
TEST_ADVERSARY, RANDOMNESS = (
    "tests/tokenizer/test_adversary.py",
    "tests/training/test_randomness.py",
)
TEST_AUGMENT, TEST_QUANTIZERS = "tests/tokenizer/test_augment.py", "tests/models/test_quantizers.py"
TEST_MODELS, TEST_GPU_FORMS = "tests/models/test_models.py", "tests/models/test_gpu_forms.py"
TEST_OPTIM, TEST_HEADS = "tests/training/test_optim.py", "tests/models/test_discriminator.py"
ATTENTION, TEST_FORMS = "unitok_jax/models/attention.py", "tests/models/test_gpu_attention.py"

RECOMPUTATION, TEST_RECOMPUTATION = (
    "unitok_jax/models/recomputation.py",
    "tests/models/test_recomputation.py",
)

MUTATIONS = [
    Mutation(
        "linear layers whose outputs are not kept as products",
        LAYERS,
        "return product(super().__call__(x))",
        "return super().__call__(x)",
        f"{TEST_RECOMPUTATION} -k products_are_kept",
    ),
    Mutation(
        "convolutions that 'products' keeps whole",
        RECOMPUTATION,
        '{"products": "products", "everything": "blocks"}.get(remat, "none")',
        '{"everything": "blocks"}.get(remat, "none")',
        f"{TEST_RECOMPUTATION} -k name_to_name",
    ),
    Mutation(
        "frozen networks that recompute nothing",
        RECOMPUTATION,
        'return "blocks" if remat == "everything" else "none"',
        'return "none"',
        f"{TEST_RECOMPUTATION} -k frozen",
    ),
    Mutation(
        "a depthwise convolution that saves float32 arrays",
        CONVOLUTIONS,
        "cpu=lambda x, kernel: _depthwise_by_shifts(x, kernel, stride),",
        "cpu=lambda x, kernel: _depthwise_by_shifts("
        "x.astype(jnp.float32), kernel.astype(jnp.float32), stride).astype(x.dtype),",
        f"{TEST_MODELS} -k depthwise_gradients",
    ),
    Mutation(
        "an older file's True that recomputes nothing",
        RECOMPUTATION,
        '_OLDER = {True: "blocks", False: "none"}',
        '_OLDER = {True: "none", False: "none"}',
        f"{TEST_RECOMPUTATION} -k older",
    ),
    Mutation(
        "one key for all four views of the discriminator",
        ADVERSARY,
        "keys = jax.random.split(key, 4)",
        "keys = [key] * 4",
        f"{TEST_ADVERSARY} -k view",
    ),
    Mutation(
        "generated images that are not augmented for the generator",
        ADVERSARY,
        "views = self._augment(images, schedule.fade, key)",
        "views = images",
        f"{TEST_ADVERSARY} -k augmented",
    ),
    Mutation(
        "an update that grows with the micro-batches",
        ADVERSARY,
        "lambda x: x / len(real), total",
        "lambda x: x, total",
        f"{TEST_ADVERSARY} -k whole_batch",
    ),
    Mutation(
        "a consistency loss without its weight",
        ADVERSARY,
        'value + self._gan["consistency"] * consistency',
        "value + consistency",
        f"{TEST_ADVERSARY} -k weighted",
    ),
    Mutation(
        "every image cropped",
        ADVERSARY,
        'jax.random.uniform(coin) < self._gan["crop_probability"]',
        "jax.random.uniform(coin) < 1",
        f"{TEST_ADVERSARY} -k coin",
    ),
    Mutation(
        "crops on the diagonal",
        ADVERSARY,
        "jax.random.uniform(offset, (2,))",
        "jnp.full((2,), jax.random.uniform(offset))",
        f"{TEST_ADVERSARY} -k coin",
    ),
    Mutation(
        "a blur that fades with the weight",
        ADVERSARY,
        "optim.ramp(step, self.start, self._times.gan_blur)",
        "optim.ramp(step, self.start, self._times.gan_ramp)",
        f"{TEST_OPTIM} -k ramps_of",
    ),
    Mutation(
        "an adversarial phase that begins a step early",
        ADVERSARY,
        "return step > self.start",
        "return step >= self.start",
        f"{TEST_OPTIM} -k ramps_of",
    ),
    Mutation(
        "a discriminator's schedule that begins with the run",
        ADVERSARY,
        "learning_rate_schedule(step - self.start",
        "learning_rate_schedule(step",
        f"{TEST_OPTIM} -k begins_with_it",
    ),
    Mutation(
        "one coin for all transforms",
        AUGMENT,
        "jax.random.uniform(coins, (3,)) < probability",
        "jnp.full((3,), jax.random.uniform(coins)) < probability",
        f"{RANDOMNESS} -k coin",
    ),
    Mutation(
        "one draw for a whole batch",
        AUGMENT,
        "jax.random.uniform(uniform, (7, batch))",
        "jnp.broadcast_to(jax.random.uniform(uniform, (7, 1)), (7, batch))",
        f"{RANDOMNESS} -k draws_for_itself",
    ),
    Mutation(
        "one draw for all transforms",
        AUGMENT,
        "jax.random.uniform(uniform, (7, batch))",
        "jnp.broadcast_to(jax.random.uniform(uniform, (1, batch)), (7, batch))",
        f"{RANDOMNESS} -k draws_for_itself",
    ),
    Mutation(
        "translations twice as long",
        AUGMENT,
        "_SHIFT = 0.125",
        "_SHIFT = 0.25",
        f"{TEST_AUGMENT} -k transform",
    ),
    Mutation(
        "cutouts twice as large",
        AUGMENT,
        "_CUTOUT = 0.2",
        "_CUTOUT = 0.4",
        f"{TEST_AUGMENT} -k transform",
    ),
    Mutation(
        "a saturation of half the range",
        AUGMENT,
        "(images - grey) * (2 * saturation)",
        "(images - grey) * (0.5 + saturation)",
        f"{TEST_AUGMENT} -k transform",
    ),
    Mutation(
        "a blur of half the width",
        AUGMENT,
        "largest = math.sqrt(images.shape[1] / 2)",
        "largest = math.sqrt(images.shape[1] / 8)",
        f"{TEST_AUGMENT} -k blur_equals",
    ),
    Mutation(
        "patches cropped without the last place",
        HEADS,
        "offset * (side - fitted + 1)",
        "offset * (side - fitted)",
        f"{TEST_HEADS} -k window",
    ),
    Mutation(
        "heads that see zeros beyond the ends",
        HEADS,
        'padding="CIRCULAR"',
        'padding="SAME"',
        f"{TEST_HEADS} -k reference[64]",
    ),
    Mutation(
        "a constant rate of stochastic depth",
        LAYERS,
        "jnp.linspace(0.0, self.drop_path, self.depth)",
        "jnp.full((self.depth,), self.drop_path)",
        f"{RANDOMNESS} -k rates_grow",
    ),
    Mutation(
        "one mask for attention and MLP",
        LAYERS,
        "rate, keys[1])",
        "rate, keys[0])",
        f"{RANDOMNESS} -k attention_and_mlp",
    ),
    Mutation(
        "one mask for all samples",
        LAYERS,
        "(x.shape[0],) + (1,) * (x.ndim - 1)",
        "(1,) * x.ndim",
        f"{RANDOMNESS} -k dropped_whole",
    ),
    Mutation(
        "kept residuals that are not scaled",
        LAYERS,
        "x * (keep / (1.0 - rate)).astype(x.dtype)",
        "x * keep.astype(x.dtype)",
        f"{RANDOMNESS} -k dropped_whole",
    ),
    Mutation(
        "one key for all blocks",
        LAYERS,
        "self.drop_path == 0 else jax.random.split(key, self.depth)",
        "self.drop_path == 0 else jnp.stack([key] * self.depth)",
        f"{RANDOMNESS} -k rates_grow",
    ),
    Mutation(
        "the last of equal rows, on a CPU",
        QUANTIZER,
        "better = cosines[:, :, i] > best",
        "better = cosines[:, :, i] >= best",
        f"{TEST_QUANTIZERS} -k equal_rows",
    ),
    Mutation(
        "the last of equal rows, by argmax",
        QUANTIZER,
        "jnp.argmax(_cosines(chunk, rows), axis=-1).astype",
        "(len(rows) - 1 - jnp.argmax(_cosines(chunk, rows)[..., ::-1], axis=-1)).astype",
        f"{TEST_QUANTIZERS} -k equal_rows",
    ),
    Mutation(
        "a commitment that moves the rows, too",
        QUANTIZER,
        "jnp.mean((lax.stop_gradient(chosen) - chunks) ** 2)",
        "jnp.mean((chosen - chunks) ** 2)",
        f"{TEST_QUANTIZERS} -k own_side",
    ),
    Mutation(
        "a codebook loss that moves the encoder, too",
        QUANTIZER,
        "jnp.mean((chosen - lax.stop_gradient(chunks)) ** 2)",
        "jnp.mean((chosen - chunks) ** 2)",
        f"{TEST_QUANTIZERS} -k own_side",
    ),
    Mutation(
        "the weight of the commitment on the other term",
        QUANTIZER,
        "self.commitment_weight * commitment + codebook",
        "commitment + self.commitment_weight * codebook",
        f"{TEST_QUANTIZERS} -k own_side",
    ),
    Mutation(
        "no gradient through the codes",
        QUANTIZER,
        "chunks + lax.stop_gradient(chosen - chunks)",
        "lax.stop_gradient(chosen)",
        f"{TEST_QUANTIZERS} -k straight_through",
    ),
    Mutation(
        "residual: a commitment that moves the rows, too",
        RESIDUAL,
        "jnp.mean((jax.lax.stop_gradient(chosen) - residuals) ** 2)",
        "jnp.mean((chosen - residuals) ** 2)",
        f"{TEST_QUANTIZERS} -k own_side",
    ),
    Mutation(
        "residual: rows that move with the levels after them",
        RESIDUAL,
        "return residual - jax.lax.stop_gradient(chosen), (",
        "return residual - chosen, (",
        f"{TEST_QUANTIZERS} -k its_own_level",
    ),
    Mutation(
        "residual: the nearest by angle",
        RESIDUAL,
        "products - jnp.sum(rows**2, axis=-1) / 2",
        "products",
        f"{TEST_QUANTIZERS} -k distance_decides",
    ),
    Mutation(
        "fsq: rounded down",
        LOOKUP_FREE,
        "jnp.round((bounded + 1) / 2 * steps)",
        "jnp.floor((bounded + 1) / 2 * steps)",
        "tests/models/test_lookup_free.py",
    ),
    Mutation(
        "pixels around a corner in the order of their parities",
        CONVOLUTIONS,
        "list(_phase_kernels(kernel).values())[::-1]",
        "list(_phase_kernels(kernel).values())",
        f"{TEST_MODELS} -k upsampling_convolution",
    ),
    Mutation(
        "four convolutions for an up-sampling on GPUs",
        CONVOLUTIONS,
        '"cuda": _upsample_by_corners, ',
        "",
        f"{TEST_GPU_FORMS} -k upsampling",
    ),
    Mutation(
        "patches of whole rows",
        DINOV2,
        "x.swapaxes(2, 3).reshape(",
        "x.reshape(",
        f"{TEST_GPU_FORMS} -k product_is",
    ),
    Mutation(
        "cuDNN's attention before Ampere",
        ATTENTION,
        "if capability < gpu.AMPERE:",
        "if False:",
        f"{TEST_FORMS} -k refuses",
    ),
    Mutation(
        "cuDNN's attention of an odd number of tokens, which has no gradient",
        ATTENTION,
        "if tokens % 2:",
        "if False:",
        f"{TEST_FORMS} -k differentiated",
    ),
    Mutation(
        "scores saved for a form that does not run",
        ATTENTION,
        "plain = recomputed(jax.checkpoint(plain))",
        "plain = plain",
        f"{TEST_FORMS} -k scores",
    ),
    Mutation(
        "exported programs for the GPU of this machine",
        "unitok_jax/models/gpu.py",
        "if _for_any.get() or jax",
        "if jax",
        f"{TEST_FORMS} -k any_machine",
    ),
    Mutation(
        "a norm's gradient without the mean of the gradient",
        "unitok_jax/models/elementwise.py",
        " - jnp.mean(to_unit, axis=-1, keepdims=True)",
        "",
        "tests/models/test_elementwise.py -k values",
    ),
]
