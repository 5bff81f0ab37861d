"""Faults in how codebooks learn beside their losses."""

from . import Mutation

BASE, TEST_LEARNING = "unitok_jax/models/quantizers/base.py", "tests/models/test_learning.py"

MUTATIONS = [
    Mutation(
        "a rotation of gradients that reflects once",
        BASE,
        "unit - 2 * middle * dot(middle) + 2 * target * dot(start)",
        "unit - 2 * middle * dot(middle)",
        f"{TEST_LEARNING} -k gradient_is_the_papers",
    ),
    Mutation(
        "a rotation of gradients without the length of the row",
        BASE,
        "turned = length * (unit",
        "turned = (unit",
        f"{TEST_LEARNING} -k gradient_is_the_papers",
    ),
]
