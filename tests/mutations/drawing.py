"""Faults of drawing: what a sample depends on, guidance, completion, folders of samples."""

from . import Mutation

COMPILED, SAMPLING = "unitok_jax/generate/compiled.py", "unitok_jax/generate/sampling.py"
API, FOLDER = "unitok_jax/generate/api.py", "unitok_jax/generate/folder.py"
STEP, SETTINGS = "unitok_jax/generate/step.py", "unitok_jax/models/draw_settings.py"
TEST_API, TEST_SAMPLING = "tests/generate/test_api.py", "tests/generate/test_sampling.py"
DRAWS, TEST_DRAWS = "unitok_jax/models/sampling.py", "tests/models/test_draws.py"
TEST_COMMAND = "tests/commands/test_generate.py"
TRANSFORMER, INPUTS = "unitok_jax/models/transformer.py", "unitok_jax/generate/inputs.py"

MUTATIONS = [
    Mutation(
        "samples that all draw alike",
        DRAWS,
        "jax.random.fold_in(root, number))(index)",
        "root)(index)",
        f"{TEST_API} -k test_on_each_of_them",
    ),
    Mutation(
        "samples that depend on their place in the batch",
        COMPILED,
        'sample_keys(seed, rows["index"])',
        'sample_keys(seed, jnp.arange(len(rows["index"])))',
        f"{TEST_API} -k test_not_on_its_neighbours",
    ),
    Mutation(
        "codes of a token that draw with one number",
        DRAWS,
        "code = choose(logits, keys, number * books + book, filters)",
        "code = choose(logits, keys, number, filters)",
        f"{TEST_API} -k test_codes_of_a_token",
    ),
    Mutation(
        "draws of independent codes with one number",
        DRAWS,
        "lambda row, book: choose(row, keys, number * books + book, filters)",
        "lambda row, book: choose(row, keys, number, filters)",
        f"{TEST_API} -k test_frequencies",
    ),
    Mutation(
        "guidance of one scale for all tokens",
        SAMPLING,
        "scale[number], filters, guided",
        "scale[0], filters, guided",
        f"{TEST_SAMPLING} -k test_guidance",
    ),
    Mutation(
        "guidance from the prompt on",
        DRAWS,
        "return null + scale * (given - null)",
        "return given + scale * (given - null)",
        f"{TEST_SAMPLING} -k test_guidance",
    ),
    Mutation(
        "guidance by the prompt itself",
        STEP,
        "behind = jnp.full_like(labels, null)",
        "behind = labels",
        f"{TEST_API} -k test_scale_zero",
    ),
    Mutation(
        "a token more that is guided",
        SETTINGS,
        "table[guided_tokens:] = 1",
        "table[guided_tokens + 1 :] = 1",
        f"{TEST_API} -k test_first_tokens",
    ),
    Mutation(
        "given codes that are not kept",
        SAMPLING,
        "lax.cond(known[number], keep, draw)",
        "lax.cond(known[number], draw, keep)",
        f"{TEST_API} -k test_keeps",
    ),
    Mutation(
        "codes that are drawn for known tokens, and thrown away",
        SAMPLING,
        "lax.cond(known[number], keep, draw)",
        "jax.tree.map(lambda a, b: jnp.where(known[number], a, b), keep(), draw())",
        f"{TEST_SAMPLING} -k test_the_head_is_not_run",
    ),
    Mutation(
        "logits that are rounded to bfloat16",
        DRAWS,
        "jnp.matmul(out[:, 0], steps.kernel, preferred_element_type=jnp.float32)",
        "jnp.matmul(out[:, 0], steps.kernel)",
        f"{TEST_SAMPLING} -k bfloat16_model",
    ),
    Mutation(
        "the text tower's states for stored features of their shape",
        API,
        "if self.stored_features:",
        "if False:",
        f"{TEST_API} -k stored_features",
    ),
    Mutation(
        "null prompts behind the guided tokens",
        SAMPLING,
        "until = tokens if until is None or not guided else min(until, tokens)",
        "until = tokens",
        f"{TEST_SAMPLING} -k test_behind_the_guided_tokens",
    ),
    Mutation(
        "completions of another image",
        API,
        "given=np.repeat(codes, count, axis=0)",
        "given=np.tile(codes, (count, 1, 1))",
        f"{TEST_API} -k test_keeps",
    ),
    Mutation(
        "top-p that drops the entry which crosses it",
        DRAWS,
        "jnp.where(before > filters.top_p,",
        "jnp.where(before + jax.nn.softmax(ranked, axis=-1) > filters.top_p,",
        f"{TEST_DRAWS} -k test_frequencies",
    ),
    Mutation(
        "a temperature that multiplies",
        DRAWS,
        "logits = logits / jnp.maximum(filters.temperature, 1e-5)",
        "logits = logits * jnp.maximum(filters.temperature, 1e-5)",
        f"{TEST_DRAWS} -k test_frequencies",
    ),
    Mutation(
        "a folder whose batches begin anew",
        FOLDER,
        "index=np.array(chunk), **settings",
        "index=np.arange(len(chunk)), **settings",
        f"{TEST_COMMAND} -k test_codes_are_those",
    ),
    Mutation(
        "texts that are drawn a batch at a time, most of it padding",
        FOLDER,
        "size = prompts.window * sampler.batch_size",
        "size = sampler.batch_size",
        "tests/commands/test_generate_multimodal.py -k several_batches",
    ),
    Mutation(
        "a shard without pictures that counts as whole",
        FOLDER,
        'if "png" in self.kinds and not names <= pictures',
        'if "png" in self.kinds and not names & pictures',
        f"{TEST_COMMAND} -k test_what_is_missing",
    ),
    Mutation(
        "an archive of the first shard alone",
        FOLDER,
        "pixels = np.fromfile(folder.part(shard), np.uint8)",
        "pixels = np.fromfile(folder.part(0), np.uint8)",
        f"{TEST_COMMAND} -k test_the_archive",
    ),
    Mutation(
        "a grid as high as it is wide",
        TRANSFORMER,
        "np.divmod(np.arange(rows * columns), columns)",
        "np.divmod(np.arange(rows * columns), rows)",
        "tests/models/test_grid_rope.py",
    ),
    Mutation(
        "padding behind a text that is not noticed",
        INPUTS,
        "(valid[:, :-1] & ~valid[:, 1:])",
        "(valid[:, :-1] & ~valid[:, :-1])",
        f"{TEST_API} -k test_texts",
    ),
    Mutation(
        "partial files of another command are swept",
        FOLDER,
        "[each for each, kinds in _MADE.items() if not kinds & {*folder.kinds}]",
        "[]",
        f"{TEST_COMMAND} -k of_other_pictures_at_once",
    ),
    Mutation(
        "pixels that wait for another command's archive are removed",
        FOLDER,
        'if "npz" in folder.kinds:\n        # Before',
        "if True:\n        # Before",
        f"{TEST_COMMAND} -k of_other_pictures_at_once",
    ),
    Mutation(
        "programs that are kept whatever the number of their shapes",
        "unitok_jax/models/batched.py",
        "self._program(settings, len(rest), shapes)",
        "self._program(settings, len(rest), None)",
        "tests/models/test_batched.py -k long_unused",
    ),
]
