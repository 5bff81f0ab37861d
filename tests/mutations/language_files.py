"""Faults of a language model's files: ids, conversations, configurations, weights in folders."""

from . import Mutation

TEXT, PROMPT = "unitok_jax/data/language_tokenizer.py", "unitok_jax/multimodal/prompt.py"
OPTIONS, SHARDS = "unitok_jax/weights/llama_options.py", "unitok_jax/weights/shards.py"
TRUNK, LOADING = "unitok_jax/multimodal/trunk.py", "unitok_jax/multimodal/loading.py"
RELEASE = "unitok_jax/multimodal/release.py"
TEST_TEXT, TEST_PROMPT = "tests/data/test_language_tokenizer.py", "tests/multimodal/test_prompt.py"
TEST_OPTIONS = "tests/weights/test_llama_options.py"
TEST_SHARDS = "tests/weights/test_weight_shards.py"
TEST_TRUNK, TEST_FOLDERS = "tests/multimodal/test_trunk.py", "tests/multimodal/test_folders.py"

MUTATIONS = [
    Mutation(
        "text that spells out a special token is one",
        TEXT,
        "tokenizer.encode_special_tokens = True",
        "tokenizer.encode_special_tokens = False",
        f"{TEST_PROMPT} -k cannot_end_a_turn",
    ),
    Mutation(
        "a NUL in text begins an image",
        TEXT,
        "for number, span in pairs if number not in self._special]",
        "for number, span in pairs]",
        f"{TEST_TEXT} -k never_has_special_ids",
    ),
    Mutation(
        "an image begins and ends with the same id",
        TEXT,
        "            taken[number] = key\n",
        "",
        f"{TEST_TEXT} -k in_use",
    ),
    Mutation(
        "a word begins an image",
        TEXT,
        "use = None if is_special else",
        "use = None if True else",
        f"{TEST_TEXT} -k in_use",
    ),
    Mutation(
        "rows for the ids of images are not added",
        TEXT,
        "self.rows = max(rows, self.special.boi + 1, self.special.eoi + 1)",
        "self.rows = rows",
        f"{TEST_TEXT} -k taken_or_added",
    ),
    Mutation(
        "a vocabulary larger than the embeddings",
        TEXT,
        "rows is not None and self.size > rows",
        "rows is not None and self.size > rows + 1",
        f"{TEST_TEXT} -k larger_than_the_embeddings",
    ),
    Mutation(
        "code of a tokenizer's folder",
        TEXT,
        'if "auto_map" in content',
        'if "auto_maps" in content',
        f"{TEST_TEXT} -k code_of_a_folder",
    ),
    Mutation(
        "an id is of an answer only if it begins there",
        PROMPT,
        "any(a < last and first < b for a, b in answers)",
        "any(a < first and first < b for a, b in answers)",
        f"{TEST_PROMPT} -k Labels",
    ),
    Mutation(
        "the end of an answer is not learned",
        PROMPT,
        "Piece(end, is_answer=True, is_token=True)]",
        "Piece(end, is_token=True)]",
        f"{TEST_PROMPT} -k exactly_the_answers",
    ),
    Mutation(
        "the space before an answer is of the prompt",
        PROMPT,
        'Piece(" ASSISTANT:")]',
        'Piece(" ASSISTANT: ")]',
        f"{TEST_PROMPT} -k vicuna",
    ),
    Mutation(
        "white space around what is said to Llama 3",
        PROMPT,
        "*_said(question.strip(), False)",
        "*_said(question, False)",
        f"{TEST_PROMPT} -k test_llama3",
    ),
    Mutation(
        "answers do not end in a line of ChatML",
        PROMPT,
        "        if answer is not None:\n            pieces.append",
        "        if answer is None:\n            pieces.append",
        f"{TEST_PROMPT} -k test_chatml",
    ),
    Mutation(
        "Qwen's own instruction is not known",
        PROMPT,
        "for text in _CHATML_SYSTEMS if text in tokenizer.chat_template",
        "for text in _CHATML_SYSTEMS[:0] if text in tokenizer.chat_template",
        f"{TEST_PROMPT} -k qwens_own",
    ),
    Mutation(
        "the spelling since transformers 5 is not read",
        OPTIONS,
        'key = "rope_parameters" if config.get("rope_parameters") is not None',
        'key = "rope_parameters" if config.get("rope_parameter") is not None',
        f"{TEST_OPTIONS} -k both_spellings",
    ),
    Mutation(
        "heads of Qwen3 are as wide as others",
        OPTIONS,
        'Architecture("qwen3", qk_norm=True, head_width=128)',
        'Architecture("qwen3", qk_norm=True)',
        f"{TEST_OPTIONS} -k 128_wide",
    ),
    Mutation(
        "code of a model's folder",
        OPTIONS,
        'if "auto_map" in config',
        'if "auto_maps" in config',
        f"{TEST_OPTIONS} -k code_of_the_folder",
    ),
    Mutation(
        "an index that leads out of the folder",
        SHARDS,
        'and not {"/", "\\\\"} & set(file)',
        "",
        f"{TEST_SHARDS} -k files_of_the_folder_alone",
    ),
    Mutation(
        "arrays that the index does not tell",
        SHARDS,
        "places[name] is not None and found != places[name]",
        "places[name] is not None and not found >= places[name]",
        f"{TEST_SHARDS} -k unlike_the_index",
    ),
    Mutation(
        "rows that are added are zero",
        TRUNK,
        "np.repeat(mean.astype(np.float32), missing, axis)",
        "np.repeat(0 * mean.astype(np.float32), missing, axis)",
        f"{TEST_TRUNK} -k are_the_mean",
    ),
    Mutation(
        "a copy of a tied head is in the way",
        TRUNK,
        '            state.pop("lm_head.weight", None)\n',
        "            pass\n",
        f"{TEST_TRUNK} -k copy_of_a_tied_head",
    ),
    Mutation(
        "another language model than the configuration's",
        TRUNK,
        "    if wrong:\n",
        "    if not wrong:\n",
        f"{TEST_TRUNK} -k told_by_its_keys",
    ),
    Mutation(
        "codebooks are compared by their size alone",
        LOADING,
        "return bool(np.abs(l2_normalize(theirs)",
        "return bool(0 * np.abs(l2_normalize(theirs)",
        f"{TEST_FOLDERS} -k others_are_refused",
    ),
    Mutation(
        "all models are for the release's code",
        RELEASE,
        'and model["rope_scaling"]["factor"] == 1',
        "",
        f"{TEST_FOLDERS} -k release_cannot_build",
    ),
]
