"""Faults of a generator's training: batches, prompts, what is dropped, what is kept."""

from . import Mutation

DATA, PROMPTS = "unitok_jax/generate/data.py", "unitok_jax/generate/prompts.py"
STEP, MODEL = "unitok_jax/generate/step.py", "unitok_jax/generate/model.py"
COMPANION, RUN = "unitok_jax/generate/companion.py", "unitok_jax/generate/run.py"
TEST_DATA, TRAIN = "tests/generate/test_data.py", "tests/generate/test_generator_training.py"
OBJECTIVE = "tests/generate/test_generator_objective.py"
BESIDE = "tests/generate/test_with_a_tokenizer.py"

MUTATIONS = [
    Mutation(
        "always the same view",
        DATA,
        'view = record["codes"][rng.integers(len(record["codes"]))]',
        'view = record["codes"][0]',
        f"{TEST_DATA} -k each_view",
    ),
    Mutation(
        "views that the last is never of",
        DATA,
        'rng.integers(len(record["codes"]))',
        'rng.integers(len(record["codes"]) - 1)',
        f"{TEST_DATA} -k each_view",
    ),
    Mutation(
        "views that do not depend on the seed",
        DATA,
        "rng = order.generator(self._seed, position)",
        "rng = np.random.default_rng()",
        f"{TEST_DATA} -k function_of_seed",
    ),
    Mutation(
        "a corner is evaluated",
        "unitok_jax/data/codes/views.py",
        "10: 4}",
        "10: 3}",
        f"{TEST_DATA} -k centre",
    ),
    Mutation(
        "rows past the end count",
        DATA,
        "np.bool_(position <= last)",
        "np.bool_(True)",
        f"{TEST_DATA} -k centre",
    ),
    Mutation(
        "always the first caption",
        PROMPTS,
        "captions[0 if rng is None else rng.integers(len(captions))]",
        "captions[0]",
        f"{TEST_DATA} -k several_captions",
    ),
    Mutation(
        "features at the beginning",
        PROMPTS,
        "features[first:], valid[first:] = found, True",
        "features[: len(found)], valid[: len(found)] = found, True",
        f"{TEST_DATA} -k features",
    ),
    Mutation(
        "labels are dropped half as often",
        STEP,
        "bernoulli(key, self.drop_prompt, dropped",
        "bernoulli(key, self.drop_prompt / 2, dropped",
        f"{TRAIN} -k tenth_of_the_labels",
    ),
    Mutation(
        "a dropped label becomes another class",
        STEP,
        'jnp.where(dropped, self.model["classes"], batch["labels"])',
        'jnp.where(dropped, 0, batch["labels"])',
        f"{TRAIN} -k tenth_of_the_labels",
    ),
    Mutation(
        "no input is dropped",
        MODEL,
        "return drop(x, self.rate, key)",
        "return x",
        f"{TRAIN} -k values_of_the_input",
    ),
    Mutation(
        "logits that wait for the backward pass",
        "unitok_jax/generate/objective.py",
        "    @jax.checkpoint\n",
        "",
        f"{OBJECTIVE} -k of_a_chunk",
    ),
    Mutation(
        "blocks of which all is kept for the backward pass",
        "unitok_jax/models/recomputation.py",
        "return lax.scan(recomputing(step, remat), carry",
        "return lax.scan(step, carry",
        f"{OBJECTIVE} -k computed_again",
    ),
    Mutation(
        "a head that drops nothing",
        MODEL,
        "dropout=Dropout(0.0 if drop_path else dropout),",
        "dropout=Dropout(),",
        f"{TRAIN} -k drawn_at_random",
    ),
    Mutation(
        "values and images that are dropped both",
        MODEL,
        "dropout=Dropout(0.0 if drop_path else dropout, drop_path),",
        "dropout=Dropout(dropout, 0.0),",
        f"{TRAIN} -k drawn_at_random",
    ),
    Mutation(
        "all blocks are left out as often",
        "unitok_jax/models/transformer.py",
        "rates = jnp.linspace(0.0, self.dropout.path, self.sizes.depth)",
        "rates = jnp.full(self.sizes.depth, self.dropout.path)",
        f"{TRAIN} -k leave_out",
    ),
    Mutation(
        "texts that are never dropped",
        STEP,
        'model.prompt(batch["features"], dropped | batch["null"])',
        'model.prompt(batch["features"], batch["null"])',
        f"{TRAIN} -k tenth_of_the_texts",
    ),
    Mutation(
        "a null text that is not trained",
        MODEL,
        "jnp.where(dropped[:, None, None], self.null[...], features)",
        "jnp.where(dropped[:, None, None], jax.lax.stop_gradient(self.null[...]), features)",
        f"{TRAIN} -k tenth_of_the_texts",
    ),
    Mutation(
        "a step that is not finite is applied",
        "unitok_jax/training/optim.py",
        "new = jax.tree.map(lambda new, old: jnp.where(finite, new, old), new, old)",
        "new = new",
        f"{TRAIN} -k not_finite",
    ),
    Mutation(
        "an average of the old weights",
        STEP,
        "optim.ema(state.ema, generator.params",
        "optim.ema(state.ema, params",
        f"{TRAIN} -k not_finite",
    ),
    Mutation(
        "codes of another tokenizer on resuming",
        RUN,
        "            TOKENIZER: self.records.tokenizer_hash,\n",
        "",
        f"{TRAIN} -k other_codes_are_refused",
    ),
    Mutation(
        "other codes on resuming",
        RUN,
        '            "digest of the codes": f"{digest:08x}",\n',
        "",
        f"{TRAIN} -k other_codes_are_refused",
    ),
    Mutation(
        "another tokenizer's text tower",
        "unitok_jax/weights/load.py",
        "if wanted and found != wanted:",
        "if False:",
        f"{BESIDE} -k AnotherTokenizer",
    ),
    Mutation(
        "the states of padding are seen",
        COMPANION,
        "valid = place >= 0",
        "valid = place >= -99",
        f"{BESIDE} -k projected_from",
    ),
    Mutation(
        "an empty text is a prompt",
        COMPANION,
        '"null": last[:, 0] < 2',
        '"null": last[:, 0] < 0',
        f"{BESIDE} -k projected_from",
    ),
    Mutation(
        "a process reads the rows of all that it evaluates",
        RUN,
        "own = [begin + row for row in sharding.local_rows(self.mesh, size)]",
        "own = [begin + row for row in range(size)]",
        f"{TRAIN} -k own_rows",
    ),
    Mutation(
        "features of the first record alone on resuming",
        PROMPTS,
        "for number in range(min(count, _DIGESTED)):",
        "for number in range(1):",
        f"{TEST_DATA} -k made_anew",
    ),
    Mutation(
        "all pictures are drawn by the same numbers",
        STEP,
        'self._key("sample")))(numbers)',
        'self._key("sample")))(0 * numbers)',
        f"{BESIDE} -k function_of_its_number",
    ),
    Mutation(
        "last images by a program of their own",
        RUN,
        "numbers = range(begin, begin + size)",
        "numbers = range(begin, min(begin + size, count))",
        f"{BESIDE} -k gfid_is",
    ),
]
