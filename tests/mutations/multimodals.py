"""Faults of multimodal models: what sees what, what is predicted, and what weighs how much."""

from . import Mutation

MODEL = "unitok_jax/multimodal/model.py"
OBJECTIVE = "unitok_jax/multimodal/objective.py"
SAMPLING = "unitok_jax/multimodal/sampling.py"
TRANSFORMER = "unitok_jax/models/transformer.py"
LAYOUT = "unitok_jax/weights/llama_layout.py"
API, ASKING = "unitok_jax/multimodal/api.py", "unitok_jax/multimodal/asking.py"
LOADING, RUN = "unitok_jax/multimodal/loading.py", "unitok_jax/multimodal/run.py"
PADDING = "unitok_jax/data/images/padding.py"
ADAPTERS = "unitok_jax/multimodal/adapters.py"
TEST_API = "tests/multimodal/test_asking_and_drawing.py"
TEST_OBJECTIVE = "tests/multimodal/test_token_losses.py"
TEST_TRAINING = "tests/multimodal/test_multimodal_training.py"
TEST_SAMPLING = "tests/multimodal/test_answers_and_drawings.py"
PARITY = "tests/parity/test_multimodal.py"

MUTATIONS = [
    Mutation(
        "logits that the compiler of GPUs gathers on every device",
        OBJECTIVE,
        "jax.lax.switch(piece[-1].sum(), (lambda: start, lambda: part(*piece)))",
        "jax.lax.cond(piece[-1].any(), lambda: part(*piece), lambda: start)",
        "tests/planning/test_lowering.py -k multimodal_step",
    ),
    Mutation(
        "logits of the pieces without any that are wanted alone",
        OBJECTIVE,
        "(lambda: start, lambda: part(*piece))",
        "(lambda: part(*piece), lambda: start)",
        TEST_OBJECTIVE,
    ),
    Mutation(
        "adapters that are left out of what is read",
        ADAPTERS,
        "kernel = a @ b",
        "kernel = 0 * (a @ b)",
        "tests/multimodal/test_adapters.py -k narrow",
    ),
    Mutation(
        "norms that are trained beside adapters",
        ADAPTERS,
        'leaves = ("kernel", "scale", ',
        'leaves = ("kernel", ',
        "tests/multimodal/test_adapters.py -k alone_are_trained",
    ),
    Mutation(
        "a projection that sees the tokens behind",
        MODEL,
        "causal=self.causal,",
        "causal=False,",
        f"{PARITY} -k test_codes_to_vectors",
    ),
    Mutation(
        "codebooks that are trained",
        MODEL,
        "jax.lax.stop_gradient(self.quantizer.lookup(codes))",
        "self.quantizer.lookup(codes)",
        f"{TEST_OBJECTIVE} -k test_codebooks",
    ),
    Mutation(
        "samples of a row that see each other",
        TRANSFORMER,
        "jnp.tri(t, dtype=bool) & (segments[:, :, None] == segments[:, None])",
        "jnp.tri(t, dtype=bool) & (segments[:, :, None] > 0)",
        f"{TEST_OBJECTIVE} -k test_packed",
    ),
    Mutation(
        "a first id that is predicted from the sample before",
        OBJECTIVE,
        "wanted & (segments[:, 1:] == segments[:, :-1])",
        "wanted",
        f"{TEST_OBJECTIVE} -k test_packed",
    ),
    Mutation(
        "codes that are predicted from their own place",
        OBJECTIVE,
        "jnp.maximum(place - 1, 0)",
        "jnp.maximum(place, 0)",
        f"{PARITY} -k test_losses",
    ),
    Mutation(
        "images that are read and labels all the same",
        OBJECTIVE,
        "wanted = jnp.repeat(drawn, tokens, axis=1)",
        "wanted = jnp.repeat(drawn | True, tokens, axis=1)",
        f"{TEST_OBJECTIVE} -k test_codes_that_are_read",
    ),
    Mutation(
        "weighted ids that are divided by their number",
        OBJECTIVE,
        "return self.text * ids + codes",
        "return ids + codes",
        f"{TEST_OBJECTIVE} -k may_weigh_more",
    ),
    Mutation(
        "gradients of codes that weigh as ids",
        "unitok_jax/multimodal/step.py",
        "sums.total(self.weights) / jnp.where(",
        "sums.total(self.weights._replace(text=1.0)) / jnp.where(",
        "tests/multimodal/test_multimodal_training.py -k weighted_ids",
    ),
    Mutation(
        "a visual token that weighs as much as an id",
        OBJECTIVE,
        "return len(self.codes) * self.image_tokens",
        "return self.image_tokens",
        f"{TEST_OBJECTIVE} -k test_every_id",
    ),
    Mutation(
        "no label, no number",
        OBJECTIVE,
        "found.total(weights) / jnp.where(count > 0, count, 1)",
        "found.total(weights) / count",
        f"{TEST_OBJECTIVE} -k test_nothing",
    ),
    Mutation(
        "padding that is seen",
        SAMPLING,
        "seen=start.seen",
        "seen=None",
        f"{TEST_SAMPLING} -k test_an_answer",
    ),
    Mutation(
        "drawing the released way",
        SAMPLING,
        "        if released:",
        "        if True:",
        f"{TEST_SAMPLING} -k test_guided",
    ),
    Mutation(
        "answers that go on behind their end",
        SAMPLING,
        "jnp.where(done, 0, choose(",
        "jnp.where(done & False, 0, choose(",
        f"{TEST_SAMPLING} -k test_answers_end",
    ),
    Mutation(
        "frequencies that are scaled the wrong way around",
        TRANSFORMER,
        "kept + (1 - kept) / scaling.factor",
        "1 - kept + kept / scaling.factor",
        f"{PARITY} -k test_language_models",
    ),
    Mutation(
        "keys in the place of values",
        LAYOUT,
        '(("q", queries), ("k", keys), ("v", keys))',
        '(("q", queries), ("v", keys), ("k", keys))',
        f"{PARITY} -k test_language_models",
    ),
    Mutation(
        "answers that draw by their place in a batch",
        API,
        "index = np.array(numbers, np.uint32)",
        "index = np.arange(len(numbers), dtype=np.uint32)",
        f"{TEST_API} -k test_an_answer",
    ),
    Mutation(
        "a drawing without the null prompts of its guidance",
        ASKING,
        "return self._drawing(UNCONDITIONAL, tokens",
        "return self._drawing('picture', tokens",
        f"{TEST_API} -k test_drawings_and_edits",
    ),
    Mutation(
        "pictures at the edge of their padding",
        PADDING,
        "(whole[0] - picture.width) // 2, (whole[1] - picture.height) // 2",
        "0, 0",
        f"{TEST_API} -k test_a_square",
    ),
    Mutation(
        "a tokenizer that a run names, whatever it is by now",
        LOADING,
        'load.read_maker(named, made_by, "the run")',
        "load.read(named)",
        f"{TEST_API} -k that_a_run_names",
    ),
    Mutation(
        "a tokenizer that a run names is read twice",
        "unitok_jax/commands/arguments.py",
        "if self.read is None or heads:",
        "if True:",
        "tests/commands/test_generate_multimodal.py -k read_and_hashed_once",
    ),
    Mutation(
        "a tokenizer that a run names is hashed twice",
        "unitok_jax/commands/arguments.py",
        "        tokenizer.hash = self.read.hash  # hashing all weights takes seconds\n",
        "",
        "tests/commands/test_generate_multimodal.py -k read_and_hashed_once",
    ),
    Mutation(
        "training on text alone forgets the tokenizer of images",
        "unitok_jax/multimodal/run.py",
        "self._codes.tokenizer or self._tokenizer",
        "self._codes.tokenizer or None",
        "tests/multimodal/test_multimodal_training.py -k text_alone_keeps",
    ),
    Mutation(
        "a run that resumes forgets what it does not know",
        "unitok_jax/training/loop.py",
        'facts = differences.completed(facts, checkpoints.meta(start)["data"])',
        "pass",
        "tests/multimodal/test_multimodal_training.py -k text_alone_keeps",
    ),
    Mutation(
        "held-out rows that a host counts by their places in its own part",
        RUN,
        "begin + np.array(rows) < most",
        "begin + np.arange(len(rows)) < most",
        f"{TEST_TRAINING} -k nothing_to_predict",
    ),
    Mutation(
        "held-out rows past the number that was asked for",
        RUN,
        "yield _blanked(next(opened), ~counts)",
        "yield next(opened)",
        f"{TEST_TRAINING} -k HeldOutRows",
    ),
    Mutation(
        "held-out rows of whole batches alone",
        RUN,
        "range(0, most, settings.batch_size)",
        "range(0, most // settings.batch_size * settings.batch_size or 1, settings.batch_size)",
        f"{TEST_TRAINING} -k HeldOutRows",
    ),
]
