"""What the pages say is what the code says: links, tables, generated pages, the notebook."""

import pathlib
import re
import runpy

import pytest

from configs import default

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
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
