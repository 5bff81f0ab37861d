"""What the pages say is what the code says: links, tables, generated pages, the notebook."""

import pathlib
import re
import runpy
import tomllib

import pytest

from configs import default

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
REFERENCE = runpy.run_path(str(DOCS / "reference" / "generate.py"))["PAGES"]


def cells(page):
    """The cells of each row of a page's tables, without their heads."""
    rows = re.findall(r"^\| (.*) \|$", page, re.M)
    return [row.split(" | ") for row in rows if row.startswith("`")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


@pytest.fixture(scope="module")
def told():
    """(library, its extras, or '' of what is always installed) of each row."""
    page = (DOCS / "libraries.md").read_text()
    core, extras = page.split("\n## Extras\n")
    told = [(row[0].strip("`"), "") for row in cells(core)]
    for library, names, *_ in cells(extras):
        told += [(library.strip("`"), name) for name in re.findall(r"`([\w-]+)`", names)]
    return told


class TestLibraries:
    def test_rows_are_the_dependencies(self, told):
        extras = {"": PROJECT["project"]["dependencies"]}
        extras |= PROJECT["project"]["optional-dependencies"]
        wanted = [
            (re.match(r"[\w-]+(\[[\w-]+\])?", requirement)[0], extra)
            for extra, requirements in extras.items()
            for requirement in requirements
        ]
        assert sorted(told) == sorted(wanted)

    def test_each_says_why(self):
        rows = cells((DOCS / "libraries.md").read_text())
        assert [row for row in rows if len(row) < 3 or not all(map(str.strip, row))] == []


class TestReference:
    @pytest.mark.parametrize("name", REFERENCE)
    def test_pages_are_up_to_date(self, name):
        text = (DOCS / "reference" / name).read_text()
        assert text == REFERENCE[name](), "run: python docs/reference/generate.py"

    def test_each_key_has_its_row_and_its_default(self):
        def flat(config, prefix=""):
            for key, value in config.items():
                if hasattr(value, "items"):
                    yield from flat(value, f"{prefix}{key}.")
                else:
                    yield prefix + key, value

        rows = cells(REFERENCE["config.md"]())
        told = {key.strip("`"): eval(value.strip("`")) for key, value, *_ in rows}
        assert len(rows) == len(told) and told == dict(flat(default.get_config()))
