"""Experiments: what is compared, what is kept, and what the page's tables and plots are made of."""

import json
import math
import sys

import jax
import numpy as np
import pytest

from experiments import cells, report
from experiments.features import features
from experiments.generators import Experiment, main, run_all
from experiments.pictures import simple
from unitok_jax.data.formats.shapes import SingleShapes
from unitok_jax.generate.config_checks import check as check_generator
from unitok_jax.runtime import compilation_cache
from unitok_jax.tokenizer.config_checks import check as check_tokenizer
from unitok_jax.tokenizer.step import abstract_model

BUDGET = cells.Budget()


class TestCells:
    def test_a_token_has_equal_bits_in_all(self):
        assert {codes.entries**codes.books for codes in cells.CODES.values()} == {6561}
        assert all(math.isclose(codes.bits, math.log2(6561)) for codes in cells.CODES.values())

    @pytest.mark.parametrize("name", cells.CODES)
    def test_configurations_fit(self, name, tmp_path):
        tokenizer = cells.tokenizer_config(name, tmp_path, BUDGET)
        check_tokenizer(tokenizer)
        for head in cells.HEADS[name]:
            config = cells.generator_config(name, head, tmp_path, BUDGET)
            check_generator(config)
            for key in ("num_codebooks", "vocab_size"):
                assert config.model[key] == tokenizer.model[key]
            assert config.model.head_depth == head

    def test_tokenizers_fit_the_base_that_they_start_from(self, tmp_path):
        base = cells.base_config(tmp_path, BUDGET)
        check_tokenizer(base)
        _, shapes = abstract_model(base.model.to_dict())
        for name in cells.CODES:
            config = cells.tokenizer_config(name, tmp_path, BUDGET)
            _, other = abstract_model(config.model.to_dict())
            for part in cells.SHARED:
                assert jax.tree.map(lambda a: a.shape, shapes[part]) == jax.tree.map(
                    lambda a: a.shape, other[part]
                )

    def test_runs_differ_in_what_is_compared_alone(self, tmp_path):
        def model(name, head):
            return cells.generator_config(name, head, tmp_path, BUDGET).to_dict()

        one, other = model("mcq4", 0), model("mcq4", 2)
        one["model"]["head_depth"] = 2
        assert one == other == model("rq4", 2)

    @pytest.mark.parametrize(
        "sizes, message",
        [
            ({"pictures": 100}, "--pictures=100 must be a positive multiple of 64"),
            ({"generator_steps": 0}, "--generator_steps=0 must be positive"),
            ({"drawn": 2048}, "--held_out=1024 are there"),
        ],
    )
    def test_sizes_that_do_not_fit(self, sizes, message):
        with pytest.raises(ValueError, match=message):
            cells.Budget(**sizes)


class TestRuns:
    @pytest.fixture
    def experiment(self, tmp_path):
        """An experiment whose runs only tell their names."""

        class Named(Experiment):
            ran = []

            def originals(self):
                return self._run("originals")

            def base(self):
                return self._run("base")

            def tokenizer(self, name, seed):
                return self._run(f"tokenizer {name} {seed}")

            def generator(self, name, head, seed):
                return self._run(f"generator {name} {head} {seed}")

            def _run(self, name):
                self.ran.append(name)
                return {"name": name}

        Named.ran = []
        return Named(tmp_path / "all", BUDGET)

    def test_a_tokenizer_comes_before_its_generators(self, experiment):
        run_all(experiment, [3], ["mcq1", "rq4"])
        generators = [f"generator rq4 {head} 3" for head in (0, 1, 2)]
        before = ["originals", "base", "tokenizer mcq1 3", "generator mcq1 0 3", "tokenizer rq4 3"]
        assert experiment.ran == [*before, *generators]

    def test_what_is_there_is_not_run_again(self, experiment):
        run_all(experiment, [0], ["mcq1"])
        experiment.ran.clear()
        run_all(experiment, [0, 1], ["mcq1"])
        assert experiment.ran == ["tokenizer mcq1 1", "generator mcq1 0 1"]
        assert len(report.read(experiment.folder)) == 6

    def test_a_run_that_failed_is_run_again(self, experiment):
        def failing():
            raise RuntimeError("killed")

        with pytest.raises(RuntimeError):
            experiment.once("tokenizer-mcq1-0", failing)
        assert report.read(experiment.folder) == []
        run_all(experiment, [0], ["mcq1"])
        assert "tokenizer mcq1 0" in experiment.ran

    def test_a_folder_of_another_budget_is_refused(self, experiment):
        with pytest.raises(ValueError, match="tokenizer_steps"):
            Experiment(experiment.folder, cells.Budget(tokenizer_steps=7))


def test_pictures_are_simple_and_their_labels_in_turn():
    source = SingleShapes()
    numbers = simple(source, 192)
    shapes = [source.scene(number).shapes[0] for number in numbers]
    assert [source.label(number) for number in numbers] == [*range(64)] * 3
    assert {(s.texture, s.size) for s in shapes} == {("plain", "large")}
    assert len(set(numbers)) == 192 and simple(source, 64) == numbers[:64]


@pytest.mark.parametrize(
    "flag, message", [("--report", "holds no results"), ("--pictures=5", "multiple of 64")]
)
def test_the_command_line_tells_what_is_wrong(flag, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["generators", f"--output={tmp_path}", flag])
    monkeypatch.setattr(compilation_cache, "enable", lambda: None)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def test_features_are_the_same_everywhere_and_tell_pictures_apart():
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    found = features(pictures)
    assert found.shape == (3, 128) and np.isfinite(found).all()
    np.testing.assert_allclose(features(pictures[1:2]), found[1:2], rtol=1e-5)
    np.testing.assert_allclose(features(np.repeat(pictures, 30, axis=0))[-1], found[2], rtol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 1e-2


def result(name, head, seed, fid, both=0.5):
    drawn = [
        {"scale": scale, "fid": fid * scale, "colour": 0.9, "form": 0.6, "both": both}
        for scale in cells.SCALES
    ]
    run = {"kind": "generator", "codes": name, "head": head, "seed": seed}
    return run | {"bits_per_image": 80.0 + seed, "drawn": drawn}


@pytest.fixture
def results():
    measured = {"fid": 1.5, "colour": 1.0, "form": 0.98, "both": 0.98}
    return [
        {"kind": "originals", "measured": {"as they are": measured, "blurred": measured}},
        {"kind": "tokenizer", "codes": "mcq4", "seed": 0, "psnr": 21.0, "bits_per_token": 9.0}
        | {"rebuilt": measured},
        result("mcq4", 0, 0, 10.0),
        result("mcq4", 0, 1, 14.0),
        result("rq4", 2, 0, 8.0, both=0.25),
    ]


class TestReport:
    def test_tables(self, results):
        tokenizers, generators, guidance = (
            table.splitlines() for table in report.tables(results).split("\n\n")
        )
        assert tokenizers[2] == "| originals, as they are | 1 | – | – | 1.50 | 1.00 | 0.98 | 0.98 |"
        assert tokenizers[4] == "| `mcq4` (4 × 9) | 1 | 21.0 | 9.0 | 1.50 | 1.00 | 0.98 | 0.98 |"
        assert generators[2].startswith(
            "| `mcq4` | 0 | 2 | 80.5 ± 0.7 | 12.00 ± 2.83 | 0.90 ± 0.00"
        )
        assert generators[3].startswith("| `rq4` | 2 | 1 | 80.0 | 8.00 | 0.90 |")
        assert guidance[3] == "| `rq4` | 2 | 8.00 | 16.00 | 32.00 | 0.25 | 0.25 | 0.25 |"
        rows = [*tokenizers, *generators, *guidance]
        assert len({row.count("|") for row in tokenizers}) == 1 and len(rows) == 13

    def test_points_of_the_plots(self, results):
        assert report.at_scale(results, "mcq4", 0, 2.0, "fid") == [20.0, 28.0]
        assert report.at_scale(results, "mcq4", 1, 2.0, "fid") == []
        assert report.cells(results) == [("mcq4", 0), ("rq4", 2)]

    def test_no_results_make_empty_tables(self):
        assert [len(table.splitlines()) for table in report.tables([]).split("\n\n")] == [2, 2, 2]

    def test_plots_are_small_files(self, results, tmp_path):
        pytest.importorskip("matplotlib")
        from PIL import Image

        sheets = tmp_path / report.SHEETS
        sheets.mkdir()
        for name in ("mcq4-0-0", "rq4-2-0"):
            Image.fromarray(np.full((64, 1024, 3), 90, np.uint8)).save(sheets / f"{name}.png")
        report.plot(results, tmp_path, tmp_path / "plots")
        assert Image.open(tmp_path / "plots" / report.PLOTS[1]).size == (1024, 128)
        assert all((tmp_path / "plots" / name).stat().st_size < 100_000 for name in report.PLOTS)

    def test_results_are_read_as_they_were_kept(self, tmp_path):
        (tmp_path / report.RESULTS).mkdir()
        (tmp_path / report.RESULTS / "a.json").write_text(json.dumps({"kind": "originals"}))
        assert report.read(tmp_path) == [{"kind": "originals"}]
