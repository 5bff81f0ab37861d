"""Faults of what a run is said to cost."""

from . import Mutation

COSTS, LIST = "unitok_jax/planning/costs.py", "unitok_jax/planning/price_list.py"
FIT, TESTS = "unitok_jax/planning/fit.py", "tests/planning/test_costs.py"
PROGRAMS = "unitok_jax/planning/programs.py"

MUTATIONS = [
    Mutation(
        "a step of several chips is measured by that of one",
        COSTS,
        "if machine.chips == 1 and _is_the_same(",
        "if _is_the_same(",
        f"{TESTS} -k another_machine",
    ),
    Mutation(
        "a step of other operations is measured",
        COSTS,
        "and math.isclose(step.operations, work.operations, rel_tol=_TOLERANCE)",
        "and True",
        f"{TESTS} -k other_operations",
    ),
    Mutation(
        "any phase tells of any other",
        COSTS,
        "(s.product, s.phase) == (config.product, work.phase)",
        "s.product == config.product",
        f"{TESTS} -k phases_and_products",
    ),
    Mutation(
        "large models tell how fast small ones are",
        COSTS,
        "_REACH = 8",
        "_REACH = 8000",
        f"{TESTS} -k near_sizes",
    ),
    Mutation(
        "another chip is as slow as its peak alone",
        COSTS,
        "max(timed.flops / machine.chip.flops, timed.bandwidth / machine.chip.bandwidth)",
        "timed.flops / machine.chip.flops",
        f"{TESTS} -k another_chip",
    ),
    Mutation(
        "a scaled step undercuts its bound",
        COSTS,
        "if not seconds < work.least:",
        "if True:",
        f"{TESTS} -k never_faster",
    ),
    Mutation(
        "phases count alike in a run",
        COSTS,
        "sum(w.share * estimate.seconds for",
        "sum(estimate.seconds / len(work) for",
        f"{TESTS} -k both_phases",
    ),
    Mutation(
        "a run is as sure as its surest phase",
        COSTS,
        "max((estimate.kind for",
        "min((estimate.kind for",
        f"{TESTS} -k least_sure",
    ),
    Mutation(
        "operations of one platform for all",
        COSTS,
        "[phase.operations[machine.platform]]",
        '[phase.operations["cpu"]]',
        f"{TESTS} -k forms_of_each_chip",
    ),
    Mutation(
        "chip-hours of one chip",
        LIST,
        "chips = hours * machine.chips",
        "chips = hours",
        f"{TESTS} -k hours_of_all",
    ),
    Mutation(
        "a bound looks like a figure",
        LIST,
        'if estimate.kind == "bound" else',
        'if estimate.kind == "none" else',
        f"{TESTS} -k told_as_one",
    ),
    Mutation(
        "the share of one chip counts as all operations",
        FIT,
        "cost.flops * plan.mesh.size",
        "cost.flops",
        f"{TESTS} -k cost_of_a_plan",
    ),
    Mutation(
        "steps that differ in how codebooks learn are the same",
        PROGRAMS,
        '*("codebook.ema_decay", "codebook.wrong_fraction"),',
        '"codebook.*",',
        f"{TESTS} -k another_step",
    ),
    Mutation(
        "keys that came after a timed step are not compared",
        PROGRAMS,
        "return _program(added | dict(recorded)) == now",
        "return _program(recorded).items() <= now.items()",
        f"{TESTS} -k came_later",
    ),
    Mutation(
        "a choice of the top k that costs nothing",
        "unitok_jax/planning/flops.py",
        'if name == "top_k":',
        'if name == "none":',
        "tests/planning/test_flops.py -k top_k",
    ),
]
