"""Experiment on models that read and draw: what is compared, what is kept, tables and plots."""

import collections
import sys

import pytest

from experiments import report, unified_cells, unified_report
from experiments.unified import Experiment, main, run_all
from experiments.unified_cells import CELLS, HEADS, TOKENIZERS
from helpers import sequences
from unitok_jax.data import order
from unitok_jax.data.formats.shape_questions import KINDS
from unitok_jax.evaluation.shapes.exam import PAIRS
from unitok_jax.multimodal import config_checks, limits
from unitok_jax.multimodal.data import open_data
from unitok_jax.multimodal.words import shape_tokenizer
from unitok_jax.runtime import compilation_cache
from unitok_jax.tokenizer.config_checks import check as check_tokenizer

BUDGET = unified_cells.Budget()


class TestCells:
    @pytest.mark.parametrize("name", TOKENIZERS)
    def test_tokenizers_have_as_many_entries(self, name):
        config = unified_cells.tokenizer_config(name, BUDGET)
        check_tokenizer(config)
        model = config.model
        assert model.vocab_size == 2048 and model.latent_width == 8 * model.num_codebooks
        assert (model.num_codebooks == 1) == (name == "books1")
        assert (config.loss.contrastive == 0) == (name == "rebuild")

    @pytest.mark.parametrize("name", CELLS)
    def test_models_fit_the_codes_of_their_tokenizer(self, name, tmp_path):
        config = unified_cells.model_config(name, tmp_path, BUDGET)
        config_checks.check(config)
        limits.check(config.model.to_dict())
        theirs = unified_cells.tokenizer_config(CELLS[name].tokenizer, BUDGET)
        for key in ("num_codebooks", "vocab_size", "latent_width"):
            assert config.model[key] == theirs.model[key]
        assert config.model.grid == (4, 4) and config.eval.shapes == 0
        assert {path for _, _, path in config.data.mixture} == {f"{tmp_path}/codes/train"}
        assert config.data.tokenizer == f"{tmp_path}/tokenizer"

    def test_apart_takes_as_many_samples_of_each_kind_as_together(self, tmp_path):
        steps = {
            name: unified_cells.model_config(name, tmp_path, BUDGET).steps
            for name in ("unified", "reads", "draws")
        }
        assert steps == {"unified": 3000, "reads": 1650, "draws": 1350}
        kinds = [set(CELLS[name].kinds) for name in steps]
        assert kinds[1] | kinds[2] == kinds[0] and not kinds[1] & kinds[2]

    @pytest.mark.parametrize("name", ["unified", "reads", "draws"])
    def test_all_samples_of_a_step_find_room(self, name, tmp_path):
        """Else a step of long samples would learn from fewer, and steps would not be comparable."""
        config = unified_cells.model_config(name, tmp_path, BUDGET)
        codes = sequences.CODES._replace(grid=config.model.grid)
        sizes = {"grid": list(codes.grid), "tokens": codes.shape[1]}
        folder = str(sequences.shapes(tmp_path / "codes", 512, **sizes))
        config.data.mixture = tuple((*part[:2], folder) for part in config.data.mixture)
        packed = open_data(config.data, shape_tokenizer(), codes)
        counts = collections.Counter()
        positions = order.order(packed.mixture, 0, 1)
        for group in range(12):
            counts.update(packed.group(group, positions, 0)[1].counts)
        placed = sum(count for key, count in counts.items() if key.startswith("part/"))
        assert placed + counts["left_out/no_room"] == 12 * config.data.group_samples
        assert placed >= 0.98 * 12 * config.data.group_samples

    def test_heads_differ_in_their_depth_alone(self, tmp_path):
        configs = [unified_cells.model_config(name, tmp_path, BUDGET) for name in HEADS.values()]
        assert [config.model.head_depth for config in configs] == sorted(HEADS) == [0, 1, 2, 3]
        for config in configs:
            config.model.head_depth = 1
        assert len({config.to_json() for config in configs}) == 1

    def test_sizes_that_do_not_fit(self):
        with pytest.raises(ValueError, match="--examined=0 must be at least 1"):
            unified_cells.Budget(examined=0)


class TestRuns:
    @pytest.fixture
    def experiment(self, tmp_path):
        """An experiment whose runs only tell their names."""

        class Named(Experiment):
            def tokenizer(self, name, seed):
                return self._run(f"tokenizer {name} {seed}")

            def model(self, name, seed):
                return self._run(f"{name} {seed}")

            def _run(self, name):
                ran.append(name)
                return {"name": name}

        ran = []
        made = Named(tmp_path / "all", BUDGET)
        made.ran = ran
        return made

    def test_a_tokenizer_comes_once_before_its_models(self, experiment):
        run_all(experiment, [3], ["unified", "one codebook", "reads"])
        names = [
            "tokenizer books8 3",
            "unified 3",
            "tokenizer books1 3",
            "one codebook 3",
            "reads 3",
        ]
        assert experiment.ran == names

    def test_what_is_there_is_not_run_again(self, experiment):
        run_all(experiment, [0], ["unified"])
        experiment.ran.clear()
        run_all(experiment, [0, 1], ["unified", "draws"])
        assert experiment.ran == ["draws 0", "tokenizer books8 1", "unified 1", "draws 1"]
        assert len(report.read(experiment.folder)) == 6

    def test_a_folder_of_another_budget_is_refused(self, experiment):
        with pytest.raises(ValueError, match="model_steps"):
            Experiment(experiment.folder, unified_cells.Budget(model_steps=7))


@pytest.mark.parametrize(
    "flag, message", [("--report", "holds no results"), ("--pictures=0", "at least 1")]
)
def test_the_command_line_tells_what_is_wrong(flag, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["unified", f"--output={tmp_path}", flag])
    monkeypatch.setattr(compilation_cache, "enable", lambda: None)
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2 and message in capsys.readouterr().err


def model(cell, seed, right):
    def of(pairs):
        kinds = [kind for kind in KINDS if (pairs, kind) != ("held_out", "relation")]
        score = {"asked": 9, "right": right, "blind": 0.25, "shuffled": 0.125}
        read = dict.fromkeys(unified_report._READ, right / 2)
        worse = {"both": right / 4}
        found = {"answers": {k: score for k in kinds}, "drawn": {"1": worse, "2": read, "4": read}}
        return found | {"released": {"4": {"both": 0.75}}, "rebuilt": {"both": 1.0}}

    examined = {pairs: of(pairs) for pairs in PAIRS}
    losses = {"text_loss": 2 * right, "image_loss": 4 * right}
    return {"kind": "model", "cell": cell, "seed": seed, "examined": examined} | losses


@pytest.fixture
def results():
    read = {"psnr": 20.0, "colour": 1.0, "form": 0.75, "both": 0.75}
    probe = {"seen": {"colour": 0.5, "form": 0.25}}
    tokenizer = {"kind": "tokenizer", "tokenizer": "books8", "seed": 0, "probe": probe}
    tokenizer |= {"rebuilt": dict.fromkeys(PAIRS, read)}
    cells = [("unified", 0, 0.5), ("unified", 1, 0.75), ("reads", 0, 1.0), ("draws", 0, 0.25)]
    return [tokenizer, *(model(*cell) for cell in cells)]


class TestReport:
    def test_tables(self, results):
        tokenizers, seen, held_out, drawn, _, rest = (
            table.splitlines()[2:] for table in unified_report.tables(results).split("\n\n")
        )
        columns = "1.00 | 0.75 | 0.75 | 0.50 | 0.25 | 1.00 | 0.75 | 0.75 | – | –"
        assert tokenizers == [f"| `books8` | 1 | 20.0 | {columns} |"]
        # The one that only draws answers nothing, and the one that only reads draws nothing.
        assert [row.split(" | ")[0] for row in seen] == [
            *("| unified", "| reads", "| blind", "| shuffled")
        ]
        assert seen[0].startswith("| unified | 2 | 0.62 ± 0.18 |")
        assert seen[2].startswith("| blind | 2 | 0.25 ± 0.00 |")
        assert held_out[0].endswith("| – |") and not seen[0].endswith("| – |")
        assert [row.split(" | ")[0] for row in drawn] == ["| unified", "| draws", "| rebuilt"]
        assert drawn[1].startswith("| draws | 1 | 0.12 |")
        assert drawn[2] == "| rebuilt | 2 | – | – | 1.00 ± 0.00 | – | – | – |"
        assert rest[1:] == [
            f"| reads | 1 | 2.00 | –{' | –' * 8} |",
            f"| draws | 1 | – | 1.00{' | 0.06 | 0.12 | 0.12 | 0.75' * 2} |",
        ]
        assert rest[0].startswith(
            "| unified | 2 | 1.25 ± 0.35 | 2.50 ± 0.71 | 0.16 ± 0.04 | 0.31 ±"
        )

    def test_no_results_make_empty_tables(self):
        tables = unified_report.tables([]).split("\n\n")
        assert [len(table.splitlines()) for table in tables] == [2] * 6

    def test_plots_are_small_files(self, results, tmp_path):
        pytest.importorskip("matplotlib")
        unified_report.plot(results, tmp_path)
        sizes = [(tmp_path / name).stat().st_size for name in unified_report.PLOTS]
        assert min(sizes) > 5_000 and max(sizes) < 100_000
