"""Faults of a multimodal model's data: what is learnt, what stands where, and what is left out."""

from . import Mutation

ROWS = "unitok_jax/multimodal/rows.py"
PACKING = "unitok_jax/multimodal/packing.py"
SOURCES = "unitok_jax/multimodal/sources.py"
DATA = "unitok_jax/multimodal/data.py"
QUESTIONS = "unitok_jax/data/formats/shape_questions.py"
CONVERSATIONS = "unitok_jax/data/formats/conversations.py"
REPLACEMENT = "unitok_jax/data/replacement.py"
TEST_ROWS = "tests/multimodal/test_rows.py"
TEST_PACKING = "tests/multimodal/test_packing.py"
TEST_KINDS = "tests/multimodal/test_mixture_of_kinds.py"
TEST_BATCHES = "tests/multimodal/test_packed_batches.py"
TEST_QUESTIONS = "tests/data/test_shape_questions.py"
TEST_CONVERSATIONS = "tests/data/test_conversations.py"

MUTATIONS = [
    Mutation(
        "labels at the visual tokens",
        ROWS,
        "np.repeat(marks, counts) & ~inside",
        "np.repeat(marks, counts)",
        f"{TEST_ROWS} -k test_labels",
    ),
    Mutation(
        "an edit that learns the image before",
        ROWS,
        "asked = [*named.start, named.boi, IMAGE, named.eoi, *self._cut(instruction)]\n"
        "        return self._drawing(asked, [before, after]",
        "asked = [*named.start, named.boi, IMAGE, named.eoi, *self._cut(instruction)]\n"
        "        return self._drawing(asked, [after, before]",
        f"{TEST_ROWS} -k test_an_edit",
    ),
    Mutation(
        "a caption that is cut with its instruction",
        ROWS,
        "return ids[: self.caption_ids] + (self.tokenizer.encode(behind) if behind else [])",
        "return ids[: self.caption_ids]",
        f"{TEST_ROWS} -k test_a_caption_is_cut",
    ),
    Mutation(
        "the shorter of two captions is taken more often",
        ROWS,
        "rng.random() < 0.8",
        "rng.random() < 0.2",
        f"{TEST_ROWS} -k test_the_longer",
    ),
    Mutation(
        "a row of one place too many",
        ROWS,
        "if length > self.length or",
        "if length > self.length + 1 or",
        f"{TEST_ROWS} -k test_what_is_too_long",
    ),
    Mutation(
        "boi and eoi around images although bare",
        ROWS,
        "[IMAGE] if self.bare_images else",
        "[IMAGE] if not self.bare_images else",
        f"{TEST_KINDS} -k test_bare",
    ),
    Mutation(
        "images of a second sample that are the first's",
        PACKING,
        "image * image_shape[1])",
        "0)",
        f"{TEST_PACKING} -k test_a_row",
    ),
    Mutation(
        "a first id that is learnt behind another sample",
        PACKING,
        'row["labels"][start] = NO_LABEL',
        "pass",
        f"{TEST_PACKING} -k test_a_row",
    ),
    Mutation(
        "positions that count on over samples",
        PACKING,
        "number, np.arange(len(sample.ids))",
        "number, np.arange(here.start, here.stop)",
        f"{TEST_PACKING} -k test_a_row",
    ),
    Mutation(
        "images of a row that are not counted",
        PACKING,
        "fits = (room >= sizes[number]) & (places >= counts[number])",
        "fits = room >= sizes[number]",
        f"{TEST_PACKING} -k test_images_count",
    ),
    Mutation(
        "a group that begins with samples of the one before",
        DATA,
        "first = number * self._group_samples",
        "first = number * (self._group_samples - 1)",
        f"{TEST_BATCHES} -k test_each_picture",
    ),
    Mutation(
        "a group that is counted by every thread",
        DATA,
        "if not place:",
        "if True:",
        f"{TEST_BATCHES} -k test_counts_of_all",
    ),
    Mutation(
        "samples that are the same at every reading",
        DATA,
        "functools.partial(order.generator, seed, position)",
        "functools.partial(order.generator, seed, 0)",
        f"{TEST_BATCHES} -k test_no_two_readings",
    ),
    Mutation(
        "a view in which left is right",
        SOURCES,
        'record["codes"][CENTRE[len(record["codes"])]]',
        'record["codes"][-1]',
        f"{TEST_KINDS} -k test_the_view",
    ),
    Mutation(
        "images that are all drawn without their captions",
        SOURCES,
        "rng.random() >= self._unconditional and",
        "rng.random() < self._unconditional and",
        f"{TEST_KINDS} -k test_some_have",
    ),
    Mutation(
        "codes of another tokenizer",
        SOURCES,
        "if ours and ours != theirs:",
        'if ours and ours != theirs and name != "tokenizer":',
        f"{TEST_KINDS} -k test_codes_of_two",
    ),
    Mutation(
        "questions whose answers were said before",
        QUESTIONS,
        'if more.kind != "pair" and more not in found and not said & _names(more.answer):',
        'if more.kind != "pair" and more not in found:',
        f"{TEST_QUESTIONS} -k none_tells",
    ),
    Mutation(
        "later questions of a pair that is rather absent",
        QUESTIONS,
        'if more.kind != "pair" and more not in found and not said & _names(more.answer):',
        'if more not in found and not said & _names(more.question + " " + more.answer):',
        f"{TEST_QUESTIONS} -k none_tells",
    ),
    Mutation(
        "one question where several are wanted",
        SOURCES,
        "ask_several(split.scene(number), rng, self._most, split.pairs)",
        "ask_several(split.scene(number), rng, 1, split.pairs)",
        f"{TEST_KINDS} -k several_in_turn",
    ),
    Mutation(
        "questions of training about pairs that are held out",
        QUESTIONS,
        "absent = [pair for pair in pairs if pair not in there]",
        "absent = [(c, f) for c, _ in pairs for _, f in pairs if (c, f) not in there]",
        f"{TEST_QUESTIONS} -k test_yes_and_no",
    ),
    Mutation(
        "a place that is asked of several shapes",
        QUESTIONS,
        "return sum(getattr(s, field) == getattr(shape, field) for s in shapes) == 1",
        "return True",
        f"{TEST_QUESTIONS} -k test_only",
    ),
    Mutation(
        "yes more often than no",
        QUESTIONS,
        "rng.random() < 0.5",
        "rng.random() < 0.6",
        f"{TEST_QUESTIONS} -k test_yes_and_no",
    ),
    Mutation(
        "places without images",
        CONVERSATIONS,
        "if places != len(images):",
        "if places < len(images):",
        f"{TEST_CONVERSATIONS} -k test_what_cannot",
    ),
    Mutation(
        "long samples that are bad ones",
        REPLACEMENT,
        "if isinstance(error, TooLong):",
        "if False:",
        f"{TEST_BATCHES} -k test_a_long_one",
    ),
    Mutation(
        "row groups that a run may change",
        DATA,
        '[order_facts(part)["blocks"] for part in self.mixture.parts]',
        "[None for part in self.mixture.parts]",
        f"{TEST_BATCHES} -k change_with_the_texts",
    ),
    Mutation(
        "images in answers are trained where none can be drawn",
        ROWS,
        "if not self.draws and (",
        "if False and (",
        f"{TEST_ROWS} -k model_that_draws_none",
    ),
    Mutation(
        "a model that draws nothing takes images in answers",
        "unitok_jax/multimodal/run.py",
        'draws = model.projection != "full"',
        "draws = True",
        "tests/multimodal/test_multimodal_training.py -k a_probe_begins",
    ),
]
