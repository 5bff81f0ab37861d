"""Experiment on recipes: what is compared, equal time, what is kept, tables and plots."""

import sys

import pytest

from configs import recipes
from experiments import recipe_cells, recipe_report, report
from experiments.recipe_cells import (
    BASE,
    CELLS,
    DATA,
    Budget,
    base_config,
    cell_config,
    steps_at_equal_time,
)
from experiments.recipes import Experiment, main, run_all
from unitok_jax.runtime import compilation_cache
from unitok_jax.tokenizer.config_checks import check
from unitok_jax.tokenizer.step import TokenizerSteps

BUDGET = Budget()


class TestCells:
    @pytest.mark.parametrize("data", DATA)
    @pytest.mark.parametrize("name", CELLS)
    def test_steps_can_be_built(self, name, data):
        config = cell_config(name, data, BUDGET)
        check(config)
        TokenizerSteps(config)

    @pytest.mark.parametrize("name", CELLS)
    def test_cells_differ_in_what_they_say(self, name):
        ours = dict(base_config("shapes", BUDGET).items())
        flat = cell_config(name, "shapes", BUDGET)
        changed = {
            f"{room}.{key}"
            for room, keys in ours.items()
            if hasattr(keys, "items")
            for key, value in keys.items()
            if value != flat[room][key]
        }
        changed -= {"model.contrastive_kind"}  # loss.contrastive_kind under another name
        assert ("init.path" in changed) == bool(CELLS[name].start)
        changed -= {"init.path"}
        assert changed <= set(CELLS[name].changes)
        assert changed or name == BASE or CELLS[name].start

    def test_recipes_are_those_of_the_presets(self):
        """Cells named as a preset change its keys, and no others but for the size."""
        for name in recipes.VARIANTS.keys() & CELLS.keys():
            preset = set(recipes.VARIANTS[name]) - {"init.include"}
            assert preset <= {*CELLS[name].changes, "loss.entropy"}, name

    def test_the_pair_on_shapes_asks_what_two_cells_ask(self):
        """Of the same base but for the budget, with the same parts of the same "CLIP"."""
        clip, one, other = (recipes.get_config(name) for name in recipes.ON_SHAPES)
        assert CELLS["clip"].start == "contrastive"
        assert {glob.removesuffix(".*") for glob in one.init.include} == {*CELLS["clip"].parts}
        budget = Budget(steps=other.steps, examined=other.eval.max_images)
        for cell, config in ((BASE, other), ("contrastive", clip)):
            ours = cell_config(cell, "shapes", budget)
            ours.data.num_threads = config.data.num_threads
            assert ours.to_json() == config.to_json()

    def test_what_others_begin_from_has_the_parts(self):
        for name, cell in CELLS.items():
            if cell.start:
                theirs = TokenizerSteps(cell_config(cell.start, "shapes", BUDGET)).abstract_params
                mine = TokenizerSteps(cell_config(name, "shapes", BUDGET)).abstract_params
                for part in cell.parts:
                    assert str(theirs[part]) == str(mine[part])

    def test_sizes_that_do_not_fit(self):
        with pytest.raises(ValueError, match="--timed=0 must be at least 1"):
            Budget(timed=0)


@pytest.mark.parametrize("seconds, steps", [(2.0, 1000), (1.02, 2000), (0.98, 2000), (0.5, 4000)])
def test_steps_at_equal_time(seconds, steps):
    assert steps_at_equal_time({"seconds": seconds, "base": 1.0}, 2000) == steps


class TestRuns:
    @pytest.fixture
    def experiment(self, tmp_path):
        """An experiment whose runs only tell what they are; a linear projection is fast."""

        class Named(Experiment):
            def price(self, data, name):
                ran.append(f"price {name}")
                seconds = 0.5 if name == "linear" else 1.0
                return {
                    "kind": "price",
                    "data": data,
                    "cell": name,
                    "seconds": seconds,
                    "base": 1.0,
                }

            def recipe(self, data, name, seed, at, steps):
                ran.append(f"{name} {seed} {at} {steps}")
                return {"kind": "recipe"}

        ran = []
        made = Named(tmp_path / "all", BUDGET)
        made.ran = ran
        return made

    def test_only_what_takes_another_time_is_trained_again(self, experiment):
        run_all(experiment, [3], ["base", "linear"], ["shapes"])
        assert experiment.ran == [
            "price base",
            "price linear",
            "base 3 pictures 1000",
            "linear 3 pictures 1000",
            "linear 3 time 2000",
        ]

    def test_what_a_cell_begins_from_comes_before(self, experiment):
        run_all(experiment, [0], ["clip"], ["shapes"])
        assert experiment.ran[1:] == ["contrastive 0 pictures 1000", "clip 0 pictures 1000"]

    def test_what_is_there_is_not_run_again(self, experiment):
        run_all(experiment, [0], ["base", "16 x 256"], ["emoji"])
        experiment.ran.clear()
        run_all(experiment, [0, 1], ["base", "16 x 256"], ["emoji"])
        assert experiment.ran == ["base 1 pictures 1000", "16 x 256 1 pictures 1000"]


@pytest.mark.slow
@pytest.mark.thorough
def test_a_recipe_is_trained_and_measured(tmp_path, monkeypatch):
    """Two steps of the smallest: a CLIP's parts are taken, all figures are there."""
    small = Budget(steps=2, timed=1, examined=32)
    made = Experiment(tmp_path / "all", small)
    run_all(made, [0], ["base", "clip"], ["shapes"])
    results = report.read(made.folder)
    kinds = sorted(each["kind"] for each in results)
    assert kinds[:2] == ["price", "price"] and set(kinds[2:]) == {"recipe"}
    [base] = report.select(results, cell="base", kind="recipe", at="pictures")
    assert set(recipe_report.FIGURES) <= set(base["figures"])
    for result in report.select(results, kind="recipe"):
        assert all(0 <= result["figures"][key] <= 1 for key in ("usage_mean", "probe_form"))
    assert "`clip`" in recipe_report.tables(results)


@pytest.mark.parametrize(
    "flag, message", [("--report", "holds no results"), ("--timed=0", "at least 1")]
)
def test_the_command_line_tells_what_is_wrong(flag, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["recipes", f"--output={tmp_path}", flag])
    monkeypatch.setattr(compilation_cache, "enable", lambda: None)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def recipe(cell, seed, psnr, at="pictures"):
    figures = {"psnr": psnr, "zero_shot_top1": psnr / 100}
    about = {"kind": "recipe", "data": "shapes", "cell": cell, "seed": seed, "at": at}
    return about | {"steps": 7, "figures": figures}


@pytest.fixture
def results():
    prices = [
        {"kind": "price", "data": "shapes", "cell": cell, "seconds": seconds, "base": 2.0}
        for cell, seconds in (("base", 2.0), ("linear", 1.0), ("residual", 2.01))
    ]
    trained = [
        *(recipe("base", 0, 20.0), recipe("base", 1, 22.0)),
        *(recipe("linear", 0, 21.0), recipe("linear", 1, 21.0)),
        *(recipe("linear", 0, 25.0, "time"), recipe("linear", 1, 28.0, "time")),
        recipe("residual", 1, 19.0),
    ]
    return prices + trained


class TestReport:
    def test_tables(self, results):
        pictures, difference, time, longer = (
            table.splitlines() for table in recipe_report.tables(results).split("\n\n")
        )
        assert pictures[0].startswith("| shapes, equal pictures | seeds | time of a step | PSNR")
        assert pictures[2].startswith("| `base` | 2 | 1.00 | 21.00 ± 1.41 | 0.21 ± 0.01 | – |")
        assert pictures[3].startswith("| `linear` | 2 | 0.50 | 21.00 ± 0.00 |")
        # Of the same seed: +1 and -1.
        assert difference[2].startswith("| `linear` | +0.00 ± 1.41 |")
        assert difference[3].startswith("| `residual` | -3.00 | -0.03 |")
        # What is as fast as the base is there with its only result.
        assert [row.split(" | ")[0] for row in time[2:]] == [
            "| `base`",
            "| `linear`",
            "| `residual`",
        ]
        assert longer[2].startswith("| `linear` | +5.50 ± 0.71 |")

    def test_no_results_make_no_tables(self):
        assert recipe_report.tables([]) == ""

    def test_plots_are_small_files(self, results, tmp_path):
        pytest.importorskip("matplotlib")
        recipe_report.plot(results, tmp_path)
        [name] = recipe_report.PLOTS
        assert 5_000 < (tmp_path / name).stat().st_size < 100_000


def test_more_than_the_spread_of_the_seeds_is_a_difference(results):
    found = recipe_report.values(results, "shapes", "time")
    assert recipe_report.differences(found, "linear", "psnr") == [5.0, 6.0]
    assert recipe_report.differences(found, "residual", "psnr") == [-3.0]
    assert recipe_cells.SAME_TIME < 0.05
