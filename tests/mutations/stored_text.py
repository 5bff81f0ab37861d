"""Faults of stored text features: of which captions, data and tower they are."""

from . import Mutation

STORED, RECORDS = "unitok_jax/data/text_features.py", "unitok_jax/data/features.py"
FACTS = "unitok_jax/data/writing/facts.py"
PIPELINE, STEP = "unitok_jax/data/pipeline.py", "unitok_jax/tokenizer/step.py"
RUN = "unitok_jax/tokenizer/run.py"
TESTS, OF_RUNS = "tests/data/test_text_features.py", "tests/tokenizer/test_stored_text.py"

MUTATIONS = [
    Mutation(
        "features of captions that are not compared",
        STORED,
        "if not np.array_equal(found, digests(captions)):",
        "if False:",
        f"{TESTS} -k another_caption",
    ),
    Mutation(
        "features of any number of samples",
        RECORDS,
        "if len(self) != len(source):",
        "if False:",
        f"{TESTS} -k another_number",
    ),
    Mutation(
        "features of any text tower",
        STORED,
        "if theirs != tower:",
        "if False:",
        f"{TESTS} -k another_tower",
    ),
    Mutation(
        "bfloat16 that is cut and not rounded",
        STORED,
        "(bits + 0x7FFF + (bits >> 16 & 1)) >> 16",
        "bits >> 16",
        f"{TESTS} -k even_one",
    ),
    Mutation(
        "shards of another tower that are kept",
        FACTS,
        "return facts if whole and same else None",
        "return facts if whole else None",
        f"{TESTS} -k shards_of_another",
    ),
    Mutation(
        "always the first caption of a sample",
        PIPELINE,
        "caption = rng.integers(len(texts))",
        "caption = 0 * rng.integers(len(texts))",
        f"{TESTS} -k caption_drawn",
    ),
    Mutation(
        "random weights that a run keeps as they are",
        RUN,
        "    if lacks := report",
        "    if False and report",
        f"{OF_RUNS} -k what_is_frozen",
    ),
    Mutation(
        "a frozen tower that is cut off",
        "unitok_jax/weights/report.py",
        "        elif deeper:",
        "        elif False:",
        "tests/weights/test_initialize.py -k more_blocks",
    ),
    Mutation(
        "stored features of a tower that is trained",
        STEP,
        "if config.data.text_features:",
        "if False:",
        f"{OF_RUNS} -k that_is_trained",
    ),
    Mutation(
        "a run that resumes on features of another tower",
        RUN,
        "state = self._with_its_tower(TrainState.from_items(items))",
        "state = TrainState.from_items(items)",
        f"{OF_RUNS} -k test_another_tower",
    ),
    Mutation(
        "a run that begins on features of another tower",
        RUN,
        "return self._with_its_tower(self._initial_state())",
        "return self._initial_state()",
        f"{OF_RUNS} -k test_another_tower",
    ),
]
