"""Faults in how codebooks learn beside their losses."""

from . import Mutation

STEP, CODEBOOKS = "unitok_jax/tokenizer/step.py", "unitok_jax/tokenizer/codebooks.py"
TEST_CODEBOOKS = "tests/tokenizer/test_codebooks.py"
WRONG_CODES = "unitok_jax/models/quantizers/wrong_codes.py"
TEST_WRONG_CODES = "tests/models/test_wrong_codes.py"
BASE, TEST_LEARNING = "unitok_jax/models/quantizers/base.py", "tests/models/test_learning.py"

MUTATIONS = [
    Mutation(
        "a rotation of gradients that reflects once",
        BASE,
        "unit - 2 * middle * dot(middle) + 2 * target * dot(start)",
        "unit - 2 * middle * dot(middle)",
        f"{TEST_LEARNING} -k angle_to_the_row",
    ),
    Mutation(
        "a rotation of gradients without the length of the row",
        BASE,
        "turned = length * (unit",
        "turned = (unit",
        f"{TEST_LEARNING} -k gradient_is_the_papers",
    ),
    Mutation(
        "moving means of rows that are not used, drawn to 0",
        CODEBOOKS,
        "(sums - counts[..., None] * rows)",
        "(sums - rows)",
        f"{TEST_CODEBOOKS} -k bit_by_bit",
    ),
    Mutation(
        "moving means whose usage does not decay",
        CODEBOOKS,
        "usage = self.decay * usage + part * counts",
        "usage = usage + part * counts",
        f"{TEST_CODEBOOKS} -k sums_over_counts",
    ),
    Mutation(
        "dead rows placed on vectors of the first book",
        CODEBOOKS,
        "inputs[place // n, jnp.arange(k)[:, None], place % n]",
        "inputs[place // n, 0, place % n]",
        f"{TEST_CODEBOOKS} -k own_book",
    ),
    Mutation(
        "moving means that the optimiser moves too",
        STEP,
        "codebooks.PARAMETERS if self.means else ()",
        "()",
        f"{TEST_CODEBOOKS} -k optimiser_knows_no_rows",
    ),
    Mutation(
        "rows placed anew by the same key in every step",
        STEP,
        'jax.random.fold_in(self._key("codebooks"), state.step)',
        'self._key("codebooks")',
        f"{TEST_CODEBOOKS} -k key_of_the_step",
    ),
    Mutation(
        "moving means with the loss of the rows too",
        "unitok_jax/models/quantizers/multi_codebook.py",
        "(0 if learning.means else codebook)",
        "codebook",
        f"{TEST_LEARNING} -k moving_means_have_no_loss",
    ),
    Mutation(
        "levels of FSQ that are told and not taken",
        "unitok_jax/models/quantizers/lookup_free.py",
        "tuple(levels) or choose_levels(self.entries, channels)",
        "choose_levels(self.entries, channels)",
        "tests/models/test_lookup_free.py -k levels_that_are_told",
    ),
    Mutation(
        "hashes of weights that change with a key that says what was",
        "unitok_jax/checkpoints/reader.py",
        "    model = differences.stated(model)\n",
        "",
        "tests/checkpoints/test_differences.py -k lacks_keys_of_the_model",
    ),
    Mutation(
        "wrong codes that may be the right ones",
        WRONG_CODES,
        "-distance.at[index].set(jnp.inf)",
        "-distance",
        f"{TEST_WRONG_CODES} -k brute_force",
    ),
    Mutation(
        "wrong codes of some books of a token alone",
        WRONG_CODES,
        "wrong.share, (b, 1, n))",
        "wrong.share, codes.shape)",
        f"{TEST_WRONG_CODES} -k share_of_the_tokens",
    ),
    Mutation(
        "wrong codes drawn from some of the near rows",
        WRONG_CODES,
        "codes.shape, 0, wrong.near)",
        "codes.shape, 0, (wrong.near + 1) // 2)",
        f"{TEST_WRONG_CODES} -k share_of_the_tokens",
    ),
    Mutation(
        "losses of wrong codes",
        "unitok_jax/models/quantizers/multi_codebook.py",
        "codes = self._nearest(chunks, rows)",
        "codes = replace_codes(self._nearest(chunks, rows), rows, learning.wrong)",
        f"{TEST_WRONG_CODES} -k only_the_output",
    ),
    Mutation(
        "near rows for a share of 0",
        WRONG_CODES,
        "wrong.share > 0,",
        "wrong.share >= 0,",
        f"{TEST_WRONG_CODES} -k without_a_share",
    ),
    Mutation(
        "wrong codes to the end of a run",
        CODEBOOKS,
        "(1 - ramp(step, 0, length))",
        "1.0",
        f"{TEST_CODEBOOKS} -k falls_to_0",
    ),
    Mutation(
        "wrong codes by the key of the encoder's stochastic depth",
        "unitok_jax/tokenizer/objective.py",
        "Wrong(jax.random.fold_in(key, 2)",
        "Wrong(encoder_key",
        "tests/tokenizer/test_objective.py -k key_of_their_own",
    ),
    Mutation(
        "wrong codes that another start of the run would draw otherwise",
        "unitok_jax/tokenizer/objective.py",
        "Wrong(jax.random.fold_in(key, 2)",
        "Wrong(jax.random.key(id(self) % 2**31)",
        "tests/training/test_recipe_runs.py -k changes_nothing[rotation",
    ),
    Mutation(
        "a causal projection that masks nothing",
        "unitok_jax/models/unitok.py",
        "quant_heads, causal=quant_causal, rngs=rngs",
        "quant_heads, rngs=rngs",
        "tests/multimodal/test_full_projection.py -k drawn_in_turn",
    ),
    Mutation(
        "a causal tokenizer in a file whose readers mask nothing",
        "unitok_jax/weights/torch_options.py",
        'if differences.value(config, "model.quant_causal")',
        "if False",
        "tests/weights/test_convert.py -k causal_projection_has_no_place",
    ),
]
