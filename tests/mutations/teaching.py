"""Faults of teachers: what is read of their files, what is learned, and from which images."""

from . import Mutation

LOSSES, OBJECTIVE = "unitok_jax/tokenizer/losses.py", "unitok_jax/tokenizer/objective.py"
TEACHING, STEP = "unitok_jax/tokenizer/teaching.py", "unitok_jax/tokenizer/step.py"
TEACHERS, FILES = "unitok_jax/models/pretrained/teachers.py", "unitok_jax/weights/teachers.py"
VIT, RUN = "unitok_jax/models/pretrained/vit.py", "unitok_jax/tokenizer/run.py"
DIFFERENCES = "unitok_jax/checkpoints/differences.py"
STORED, CHECKS = "unitok_jax/data/teacher_features.py", "unitok_jax/tokenizer/config_checks.py"
PIPELINE = "unitok_jax/data/pipeline.py"
TEST_STORED, TEST_STORED_RUNS = (
    "tests/data/test_teacher_features.py",
    "tests/tokenizer/test_stored_teacher.py",
)
TEST_TEACHING, TEST_OBJECTIVE = (
    "tests/tokenizer/test_teaching.py",
    "tests/tokenizer/test_objective.py",
)
TEST_FILES, TEST_RUNS = "tests/weights/test_teachers.py", "tests/training/test_teacher.py"

MUTATIONS = [
    Mutation(
        "a divergence of the teacher from the student",
        LOSSES,
        "jnp.sum(jnp.exp(log_teacher) * gap, axis)",
        "jnp.sum(jnp.exp(log_teacher - gap) * -gap, axis)",
        f"{TEST_TEACHING} -k of_relations",
    ),
    Mutation(
        "relations of the images alone",
        LOSSES,
        "return (divergence(1) + divergence(0)) / 2",
        "return divergence(1)",
        f"{TEST_TEACHING} -k of_relations",
    ),
    Mutation(
        "a temperature of the student alone",
        LOSSES,
        "teacher = teacher_image @ teacher_text.T / temperature",
        "teacher = teacher_image @ teacher_text.T",
        f"{TEST_TEACHING} -k of_relations",
    ),
    Mutation(
        "targets of micro-batches in another order",
        OBJECTIVE,
        "targets = [_join(batches[target]) for target in term.targets]",
        "targets = [batches[t].reshape(-1, batches[t].shape[-1]) for t in term.targets]",
        f"{TEST_OBJECTIVE} -k teachers_tokens",
    ),
    Mutation(
        "heads that read the register tokens",
        TEACHING,
        "x[:, -batch",
        "x[:, : batch",
        f"{TEST_TEACHING} -k left_out",
    ),
    Mutation(
        "heads that learn in a step that is not finite",
        STEP,
        "new = new.replace(teacher_heads=taught)",
        "new, state = (s.replace(teacher_heads=taught) for s in (new, state))",
        f"{TEST_TEACHING} -k not_finite",
    ),
    Mutation(
        "shallow tokens of the block behind",
        TEACHERS,
        "outputs[shallow - 1]",
        "outputs[shallow]",
        f"{TEST_FILES} -k parity",
    ),
    Mutation(
        "a teacher's logits without their scale",
        TEACHERS,
        "return jnp.exp(self.logit_scale[...]) * image",
        "return image",
        f"{TEST_FILES} -k parity",
    ),
    Mutation(
        "queries, keys and values of transformers in another order",
        FILES,
        'np.concatenate([three[part] for part in "qkv"])',
        'np.concatenate([three[part] for part in "kqv"])',
        f"{TEST_FILES} -k parity",
    ),
    Mutation(
        "projections of transformers that are not transposed",
        FILES,
        'array.T if part == "T" else array',
        "array",
        f"{TEST_FILES} -k parity",
    ),
    Mutation(
        "position tables that alias",
        VIT,
        '"cubic", antialias=True',
        '"cubic", antialias=False',
        f"{TEST_FILES} -k position_table",
    ),
    Mutation(
        "heads that go on with another teacher",
        RUN,
        '{"dinov2"} | ({"teacher"} if self.config.loss.teacher_token else set())',
        '{"dinov2"}',
        f"{TEST_RUNS} -k another_file",
    ),
    Mutation(
        "heads that come and go on resuming",
        DIFFERENCES,
        '"gan.weight", "loss.teacher_token", ',
        '"gan.weight", ',
        f"{TEST_RUNS} -k heads",
    ),
    Mutation(
        "heads that go on with the teacher of another GELU",
        DIFFERENCES,
        '"teacher.kind": "loss.teacher_token", ',
        "",
        f"{TEST_RUNS} -k the_kind_and",
    ),
    Mutation(
        "a shallow block that binds where there are no heads",
        DIFFERENCES,
        ', "teacher.shallow": "loss.teacher_token"',
        "",
        f"{TEST_RUNS} -k without_heads",
    ),
    Mutation(
        "heads that learn alone, behind what is frozen",
        TEACHING,
        "if not trainable.keys() & set(parts):",
        "if not trainable:",
        f"{TEST_TEACHING} -k learn_alone",
    ),
    Mutation(
        "features of images that are not compared",
        STORED,
        "if seen != image_digest(image):",
        "if False:",
        f"{TEST_STORED} -k another_image",
    ),
    Mutation(
        "features of captions that are not compared with the teacher's",
        STORED,
        "not np.array_equal(read, digests(captions))",
        "False",
        f"{TEST_STORED} -k another_caption",
    ),
    Mutation(
        "features of any file of a teacher",
        STORED,
        "if theirs[part] != teacher[part]:",
        "if False:",
        f"{TEST_STORED} -k another_teacher",
    ),
    Mutation(
        "a teacher's features of the first caption",
        PIPELINE,
        "x[caption] if k in OF_CAPTIONS",
        "x[0] if k in OF_CAPTIONS",
        f"{TEST_STORED} -k says_of_it",
    ),
    Mutation(
        "stored features of crops",
        CHECKS,
        "if tuple(config.data[key]) != (1, 1):",
        "if False:",
        f"{TEST_STORED_RUNS} -k by_a_run_and",
    ),
    Mutation(
        "a teacher in the step beside its features",
        TEACHING,
        "if self.stored:",
        "if False:",
        f"{TEST_STORED_RUNS} -k computes_no_teacher",
    ),
    Mutation(
        "heads of a teacher that nobody knows",
        RUN,
        'return found, found.settings["teacher"]',
        "return found, {}",
        f"{TEST_STORED_RUNS} -k resumes_exactly",
    ),
    Mutation(
        "register tokens in front of the class token",
        VIT,
        "before.append(self.register_tokens[...])",
        "before.insert(0, self.register_tokens[...])",
        f"{TEST_FILES} -k parity",
    ),
    Mutation(
        "rotary positions of rows and columns swapped",
        VIT,
        'np.meshgrid(*sides, indexing="ij"), -1)',
        'np.meshgrid(*sides, indexing="ij")[::-1], -1)',
        f"{TEST_FILES} -k parity",
    ),
    Mutation(
        "class and register tokens that turn",
        VIT,
        "angles = np.concatenate([np.zeros((before, width // 2)), angles])",
        "angles = np.concatenate([np.ones((before, width // 2)), angles])",
        f"{TEST_FILES} -k parity",
    ),
    Mutation(
        "an exact GELU in a text tower of quick ones",
        TEACHERS,
        "return Kind(shape, text._replace(gelu=gelu), files)",
        "return Kind(shape, text, files)",
        f"{TEST_FILES} -k both_towers",
    ),
]
