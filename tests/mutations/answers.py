"""Faults of how answers about images are read, joined with those of people, stored and scored."""

from . import Mutation

VQA, FILES = "unitok_jax/evaluation/metrics/vqa.py", "unitok_jax/data/formats/question_files.py"
ANSWERS = "unitok_jax/evaluation/answers.py"
EVALUATE = "unitok_jax/commands/evaluate.py"
TEST_VQA, TEST_FILES = "tests/evaluation/test_vqa.py", "tests/data/test_question_files.py"
TEST_ANSWERS = "tests/evaluation/test_answers.py"

MUTATIONS = [
    Mutation(
        "a normaliser that takes out every period",
        VQA,
        "text, count=PERIODS)",
        "text)",
        f"{TEST_VQA} -k 32_periods",
    ),
    Mutation(
        "periods that stay behind a digit",
        VQA,
        r'r"\.(?!\d)"',
        r'r"(?<!\d)\.(?!\d)"',
        f"{TEST_VQA} -k normalized",
    ),
    Mutation(
        "marks beside a space, looked for after others have gone",
        VQA,
        'f" {mark}" in before',
        'f" {mark}" in text',
        f"{TEST_VQA} -k normalized",
    ),
    Mutation(
        "marks that become a space before a space only",
        VQA,
        'f"{mark} " in before or ',
        "",
        f"{TEST_VQA} -k normalized",
    ),
    Mutation(
        "contractions without any of their apostrophes",
        VQA,
        "words[word[: mark.start()] + word[mark.end() :]] = word",
        'words[word.replace("\'", "")] = word',
        f"{TEST_VQA} -k normalized",
    ),
    Mutation(
        "a VQA accuracy that leaves nobody out",
        VQA,
        "(sum(agree) - own) / 3",
        "sum(agree) / 3",
        f"{TEST_VQA} -k leaves_each_person_out",
    ),
    Mutation(
        "people whose answers are not normalised",
        VQA,
        "normalize(each) == given for each",
        "each == given for each",
        f"{TEST_VQA} -k leaves_each_person_out",
    ),
    Mutation(
        "a POPE that reads all sentences",
        VQA,
        'answer.partition(".")[0]',
        "answer",
        f"{TEST_VQA} -k first_sentence",
    ),
    Mutation(
        "precision for recall",
        VQA,
        "_ratio(right, said), _ratio(right, true)",
        "_ratio(right, true), _ratio(right, said)",
        f"{TEST_VQA} -k figures",
    ),
    Mutation(
        "an MME that reads whole answers",
        VQA,
        "answer.lower()[:4]",
        "answer.lower()",
        f"{TEST_VQA} -k four_letters",
    ),
    Mutation(
        "an image of MME that is right with one answer",
        VQA,
        "all(each) for each",
        "any(each) for each",
        f"{TEST_VQA} -k points",
    ),
    Mutation(
        "images of MME that are one in all tasks",
        VQA,
        "_by(tasks, zip(images, right, strict=True))",
        '_by(["count"] * len(right), zip(images, right, strict=True))',
        f"{TEST_VQA} -k points",
    ),
    Mutation(
        "parts of POPE that share their labels",
        FILES,
        "(each.part, each.image, bare(each.text))",
        "(each.image, bare(each.text))",
        f"{TEST_FILES} -k part_of_pope",
    ),
    Mutation(
        "questions of LLaVA with another line below",
        FILES,
        "if not is_llava:",
        "if True:",
        f"{TEST_FILES} -k word_for_word",
    ),
    Mutation(
        "questions that are asked a batch at a time, most of it padding",
        ANSWERS,
        "WINDOW = 16",
        "WINDOW = 1",
        f"{TEST_ANSWERS} -k several_batches",
    ),
    Mutation(
        "answers of people that make other questions",
        ANSWERS,
        "json.dumps(asked)",
        "json.dumps(questions)",
        f"{TEST_ANSWERS} -k come_later",
    ),
    Mutation(
        "two processes that ask into one folder",
        ANSWERS,
        "            locks.lock(file)",
        "            pass",
        f"{TEST_ANSWERS} -k second_process",
    ),
    Mutation(
        "a torn line that is kept",
        ANSWERS,
        "os.truncate(path, end)",
        "pass",
        f"{TEST_ANSWERS} -k continues_after_a_kill",
    ),
    Mutation(
        "answers of other questions that are taken",
        ANSWERS,
        "or record != _line(question, answer)",
        "",
        f"{TEST_ANSWERS} -k other_questions",
    ),
    Mutation(
        "answers that VQAv2's server gets as they were said",
        ANSWERS,
        "vqa.normalize(said)",
        "said",
        f"{TEST_ANSWERS} -k server",
    ),
    Mutation(
        "batches of questions that are no multiple of the devices",
        EVALUATE,
        "sharding.rounded_up(args.batch_size, jax.local_device_count())",
        "args.batch_size",
        f"{TEST_ANSWERS} -k rounded_up_to_the_devices",
    ),
    Mutation(
        "a model that is asked in batches of another size than it was loaded for",
        EVALUATE,
        "args.output, model.batch_size)",
        "args.output, args.batch_size)",
        f"{TEST_ANSWERS} -k rounded_up_to_the_devices",
    ),
    Mutation(
        "answers of another form of questions that are mixed",
        EVALUATE,
        "        **model.question_facts,\n",
        "",
        f"{TEST_ANSWERS} -k beside_the_weights",
    ),
    Mutation(
        "answers of another platform that are mixed",
        EVALUATE,
        '        "platform": jax.default_backend(),\n',
        "",
        f"{TEST_ANSWERS} -k beside_the_weights",
    ),
    Mutation(
        "answers in batches of another size that are mixed",
        EVALUATE,
        '        "questions per device": model.batch_size // jax.local_device_count(),\n',
        "",
        f"{TEST_ANSWERS} -k batches_of_another_size",
    ),
    Mutation(
        "batches of fewer devices whose answers are refused",
        EVALUATE,
        "model.batch_size // jax.local_device_count(),",
        "model.batch_size,",
        f"{TEST_ANSWERS} -k batches_of_another_size",
    ),
]
