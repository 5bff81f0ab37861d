"""Faults of examinations on drawn shapes: what is asked, compared, and shown."""

from . import Mutation

EXAM, SCORES, EDITS, MEASURE = (
    f"unitok_jax/evaluation/shapes/{name}.py" for name in ("exam", "scores", "edits", "measure")
)
QUALITY = "unitok_jax/multimodal/quality.py"
TEST, TEST_QUALITY = (
    "tests/evaluation/test_shape_scores.py",
    "tests/multimodal/test_shape_quality.py",
)

MUTATIONS = [
    Mutation(
        "an examination on the first pictures, which are trained on",
        EXAM,
        "range(LENGTH - count, LENGTH)",
        "range(count)",
        f"{TEST} -k last_of_their_split",
    ),
    Mutation(
        "a blind baseline that answers unknown words by another kind's commonest answer",
        EXAM,
        "alike = [question for question in known if question.kind == kind]",
        "alike = known",
        f"{TEST} -k blind_is_worth_nothing",
    ),
    Mutation(
        "texts that ask for pairs of training alone",
        EXAM,
        "_drawing(split.pairs, number)",
        "_drawing(TrainingShapes.pairs, number)",
        f"{TEST} -k texts_are_captions",
    ),
    Mutation(
        "shuffled pictures that are the own ones",
        SCORES,
        "shown[order] = np.roll(order, 1)",
        "pass",
        f"{TEST} -k model_that_sees",
    ),
    Mutation(
        "shuffled pictures that are the next ones, which share a colour",
        SCORES,
        "np.random.default_rng(0).permutation(len(codes))",
        "np.arange(len(codes))",
        f"{TEST} -k never_its_own",
    ),
    Mutation(
        "a place that any shape may have",
        SCORES,
        'found["place"] = first is not None and first.cell == wanted.cell',
        'found["place"] = first is not None',
        f"{TEST} -k of_a_picture",
    ),
    Mutation(
        "a released way that is the exact one",
        MEASURE,
        "released=True",
        "released=False",
        f"{TEST} -k released_way",
    ),
    Mutation(
        "texts drawn the released way with another temperature",
        MEASURE,
        "how = scales[-1], temperature, key",
        "how = scales[-1], 1.0, key",
        f"{TEST} -k a_temperature",
    ),
    Mutation(
        "edits with another temperature",
        EDITS,
        "key=key, scale=scale, temperature=temperature)",
        "key=key, scale=scale, temperature=1.0)",
        f"{TEST} -k a_temperature",
    ),
    Mutation(
        "drawings without the tokenizer's own zero-shot",
        MEASURE,
        "blind, scales, temperature, key, read)",
        "blind, scales, temperature, key)",
        f"{TEST} -k own_zero_shot",
    ),
    Mutation(
        "an edit that may leave the shape as it was beside the new one",
        EDITS,
        "new in seen and old not in seen",
        "new in seen",
        f"{TEST} -k of_a_picture",
    ),
    Mutation(
        "edits of textures, which are not read",
        EDITS,
        "if _pairs(before) != _pairs(after):",
        "if True:",
        f"{TEST} -k change_a_colour_or_a_form",
    ),
    Mutation(
        "drawings of training by the first evaluation's weights",
        QUALITY,
        "self._model = self._model.with_params(params)",
        "pass",
        f"{TEST_QUALITY} -k state_is_examined",
    ),
]
