"""The list of docs/guides/what_it_costs.md is what the code says."""

import re

import pytest

from benchmarks import price_list
from unitok_jax.planning import costs
from unitok_jax.system import markdown

PAGE = price_list.PAGE.read_text()
README = (price_list.ROOT / "README.md").read_text()


def listed():
    """The rows of the page's list."""
    rows = re.findall(r"^\| (.*) \|$", PAGE.split(price_list.HEADING)[1], re.M)
    cells = [row.split(" | ") for row in rows]
    return [row for row in cells if len(row) == len(price_list.HEAD)][2:]


def hours(cell):
    return float(cell.removeprefix(">= ").replace(",", ""))


def test_commands_and_timed_steps_are_those_of_the_code():
    assert price_list.section(listed()) in PAGE, "run: python -m benchmarks.price_list --write"


def test_each_run_has_its_machines():
    wanted = [
        [run.name, machine.name, str(number)]
        for number, run in enumerate(price_list.RUNS, 1)
        for machine in costs.MACHINES
        if machine.name in run.machines
    ]
    assert [[row[0], row[1], row[-1]] for row in listed()] == wanted


def test_each_figure_says_what_it_is():
    for *_, figure, _ in listed():
        assert figure.partition(" ")[0] in costs.KINDS
    for _, _, samples, *times, figure, _ in listed():
        assert samples.startswith("<= ") == (figure == "bound")
        assert all(time.startswith(">= ") == (figure == "bound") for time in times)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("run", price_list.RUNS, ids=lambda run: run.config)
def test_rows_are_what_the_steps_say(run):
    """A step that got more to compute costs more: the page must say so."""
    told = [row for row in listed() if row[-1] == str(price_list.RUNS.index(run) + 1)]
    assert told == price_list.rows(run), "run: python -m benchmarks.price_list --write"


def test_the_readme_tells_one_line_of_it():
    """Its days and GPU-hours are those of UniTok-L on eight H100."""
    (row,) = [row for row in listed() if row[:2] == ["UniTok-L", "h100:8"]]
    (line,) = [line for line in README.splitlines() if "GPU-hours" in line]
    assert row[-2].startswith("scaled") and "scaled" in line
    assert f"{hours(row[3]) / 24:.0f} days, {row[4]} GPU-hours" in line
    (run,) = [r for r in price_list.RUNS if "h100:8" in r.machines and r.name == "UniTok-L"]
    assert f"`{run.command}`" in line


def test_a_page_is_written_under_its_heading(tmp_path, monkeypatch):
    page = tmp_path / "page.md"
    page.write_text(f"# A\n{price_list.HEADING}\nold\n\n## After\n\nthe end\n")
    monkeypatch.setattr(price_list, "PAGE", page)
    price_list.write(markdown.table(["a"], [["1"]]))
    new = "| a |\n| --- |\n| 1 |"
    assert page.read_text() == f"# A\n{price_list.HEADING}\n{new}\n\n## After\n\nthe end\n"
