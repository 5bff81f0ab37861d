"""Faults of what experiments compare, and of what they say of it."""

from . import Mutation

MUTATIONS = [
    Mutation(
        "recipes that cost more get more steps for it",
        "experiments/recipe_cells.py",
        "round(steps / ratio)",
        "round(steps * ratio)",
        "tests/experiments/test_recipes.py -k equal_time",
    ),
]
