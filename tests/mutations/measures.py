"""Faults of what drawn images are measured by: features, order, references."""

from . import Mutation

CARD, SAMPLES = "unitok_jax/evaluation/card/drawn.py", "unitok_jax/evaluation/samples.py"
MEASURES, METRICS = "unitok_jax/evaluation/drawn.py", "unitok_jax/evaluation/metrics"
TEST_CARD, TEST_MEASURES = "tests/evaluation/test_drawn_card.py", "tests/evaluation/test_drawn.py"

MUTATIONS = [
    Mutation(
        "an sFID of other channels",
        "unitok_jax/models/pretrained/inception.py",
        "x[..., :SPATIAL_CHANNELS]",
        "x[..., 1 : 1 + SPATIAL_CHANNELS]",
        "tests/models/test_inception.py -k spatial",
    ),
    Mutation(
        "an inception score of shuffled samples",
        MEASURES,
        "inception_score(drawn.logits, SPLITS)",
        "inception_score(drawn.logits, SPLITS, 2020)",
        f"{TEST_MEASURES} -k formulas",
    ),
    Mutation(
        "padding that counts as samples",
        MEASURES,
        "value[:count]",
        "value",
        f"{TEST_MEASURES} -k formulas",
    ),
    Mutation(
        "distances in full precision",
        f"{METRICS}/precision_recall.py",
        "if half else x",
        "if not half else x",
        "tests/evaluation/test_precision_recall.py -k half",
    ),
    Mutation(
        "samples in the order of letters",
        SAMPLES,
        "key=_by_number",
        "key=str",
        "tests/evaluation/test_samples.py -k numbers",
    ),
    Mutation(
        "a reference of images of another size",
        CARD,
        "given.images[1:] != size:",
        "given.images[1:] == (1, 1):",
        f"{TEST_CARD} -k references_that_do_not_fit",
    ),
    Mutation(
        "a reference of another Inception",
        CARD,
        "apart > _FOREIGN * expected",
        "apart < 0",
        f"{TEST_CARD} -k references_that_do_not_fit",
    ),
    Mutation(
        "precision and recall of the first classes of the data",
        CARD,
        "[i * count // kept for i in range(kept)]",
        "list(range(kept))",
        f"{TEST_CARD} -k evenly",
    ),
    Mutation(
        "captions that push a CLIP score below zero",
        f"{METRICS}/clip_score.py",
        "np.maximum(cosines, 0).mean()",
        "cosines.mean()",
        "tests/evaluation/test_clip_score.py -k below_zero",
    ),
]
