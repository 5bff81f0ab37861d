"""What the pages say is what the code says: links, tables, generated pages, the notebook."""

import ast
import json
import pathlib
import re
import runpy
import shlex
import tomllib

import jax
import numpy as np
import pytest
import yaml
from PIL import Image

import unitok_jax
from configs import default, generate, multimodal, photos
from helpers import generators
from test_architecture import LAYERS
from unitok_jax.checkpoints import differences
from unitok_jax.generate.api import Sampler
from unitok_jax.tokenizer.step import init_params
from unitok_jax.weights import load

ROOT = pathlib.Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
REFERENCE = runpy.run_path(str(DOCS / "reference" / "generate.py"))["PAGES"]
TOUR = DOCS / "start" / "tour.ipynb"


def cells(page):
    """The cells of each row of a page's tables, without their heads."""
    rows = re.findall(r"^\| (.*) \|$", page, re.M)
    return [row.split(" | ") for row in rows if row.startswith("`")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


def anchors(page):
    """What a link into a page may name after its #."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.DOTALL)
    heads = (head.lower() for head in re.findall(r"^#+ (.+)$", text, re.M))
    return {re.sub(r"[^\w -]", "", head).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_headings(page):
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#([^)]+)\)", page.read_text()):
        if "://" not in target:
            assert anchor in anchors(page.parent / target if target else page), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_line_is_too_long(page):
    lines = page.read_text().splitlines()
    assert [line for line in lines if len(line) > 110 and not line.startswith("|")] == []


def test_every_page_has_its_row_in_the_index():
    index = DOCS / "README.md"
    rows = re.findall(r"\]\((\w+/[^)]+)\) \|$", index.read_text(), re.M)
    pages = [page for page in PAGES if DOCS in page.parents and page != index]
    assert sorted(rows) == sorted(str(page.relative_to(DOCS)) for page in [*pages, TOUR])


def test_the_layers_of_the_readme():
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", (ROOT / "README.md").read_text(), re.M)
    assert [int(number) for number, _ in rows] == list(range(1, len(LAYERS) + 1))
    assert [set(re.findall(r"`(\w+)`", rooms)) for _, rooms in rows] == LAYERS


@pytest.fixture(scope="module")
def told():
    """(library, its extras, or '' of what is always installed) of each row."""
    page = (DOCS / "explanation" / "libraries.md").read_text()
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
        rows = cells((DOCS / "explanation" / "libraries.md").read_text())
        assert [row for row in rows if len(row) < 3 or not all(map(str.strip, row))] == []


class TestReference:
    @pytest.mark.parametrize("name", REFERENCE)
    def test_pages_are_up_to_date(self, name):
        text = (DOCS / "reference" / name).read_text()
        assert text == REFERENCE[name](), "run: python docs/reference/generate.py"

    @pytest.mark.parametrize(
        "page, defaults",
        [
            ("config.md", default),
            ("generator_config.md", generate),
            ("multimodal_config.md", multimodal),
        ],
    )
    def test_each_key_has_its_row_and_its_default(self, page, defaults):
        def flat(config, prefix=""):
            for key, value in config.items():
                if hasattr(value, "items"):
                    yield from flat(value, f"{prefix}{key}.")
                else:
                    yield prefix + key, value

        rows = cells(REFERENCE[page]())
        assert [row[0] for row in rows if not row[-1].strip()] == []  # each tells its meaning
        told = {key.strip("`"): eval(value.strip("`")) for key, value, *_ in rows}
        assert len(rows) == len(told) and told == dict(flat(defaults.get_config()))


def commands(page):
    """(name, arguments) of each command of `unitok` on a page."""
    blocks = re.findall(r"^```(?:bash|sh)?\n(.*?)^```$", page.read_text(), re.M | re.DOTALL)
    for line in "\n".join(blocks).replace("\\\n", " ").splitlines():
        if line.startswith("unitok "):
            words = shlex.split(line, comments=True)[1:]
            split = 2 if words[0] == "data" else 1
            yield " ".join(words[:split]), words[split:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_have_flags_and_keys_that_exist(page):
    reference = (DOCS / "reference" / "commands.md").read_text().replace("--[no]", "--")
    told = re.split(r"^## `unitok (.+)`$", reference, flags=re.M)[1:]
    flags = {
        name: set(re.findall(r"--\w+", text))
        for name, text in zip(told[::2], told[1::2], strict=True)
    }
    flags["fit"] = flags["train"]
    for name, arguments in commands(page):
        config = None
        for argument in arguments:
            flag, _, value = argument.partition("=")
            if flag == "--config" and value.startswith("configs/"):
                file, _, variant = value.partition(":")
                made = runpy.run_path(str(ROOT / file))["get_config"]
                config = made(*filter(None, [variant]))
            elif flag.startswith("--config."):
                key = flag.removeprefix("--config.")
                assert config is None or key in differences.flat(config.to_dict()), argument
            elif flag.startswith("--"):
                assert flag in flags[name], argument


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A model like that of `make demo`, with fresh weights."""
    config = photos.get_config()
    path = tmp_path_factory.mktemp("tour") / "fresh.safetensors"
    load.write(path, config, init_params(config.model.to_dict(), jax.random.key(0)))
    return path


class TestTour:
    def sources(self):
        """The code of each cell that has any."""
        notebook = json.loads(TOUR.read_text())
        return ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code"]

    def test_no_output_is_stored(self):
        notebook = json.loads(TOUR.read_text())
        assert notebook["nbformat"] == 4
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                assert cell["outputs"] == [] and cell["execution_count"] is None

    def test_its_checkpoint_is_that_of_the_demo(self):
        (assignment,) = ast.parse(self.sources()[0]).body
        assert assignment.targets[0].id == "CHECKPOINT"
        assert (TOUR.parent / assignment.value.value).resolve() == ROOT / "demo"
        assert "--workdir=demo\n" in (ROOT / "Makefile").read_text()

    def test_it_runs(self, checkpoint, capsys):
        pytest.importorskip("skimage")
        names, shown = {"CHECKPOINT": str(checkpoint)}, []
        for source in self.sources()[1:]:
            body = ast.parse(source).body
            last = body.pop() if isinstance(body[-1], ast.Expr) else None
            exec(compile(ast.Module(body, []), str(TOUR), "exec"), names)
            if last is not None:  # a notebook shows the value of a cell's last line
                shown.append(eval(compile(ast.Expression(last.value), str(TOUR), "eval"), names))
        assert isinstance(shown[0], unitok_jax.Tokenizer)
        pictures = [value for value in shown if isinstance(value, Image.Image)]
        assert [picture.size for picture in pictures] == [
            (192 * count + 8 * (count - 1), 192) for count in (2, 3, 5, 4)
        ]
        assert all(len(np.unique(np.asarray(picture))) > 8 for picture in pictures)
        assert names["codes"].shape == (2, 8, 16) and names["codes"].dtype == np.int32
        assert names["rebuilt"].shape == names["edited"].shape == (2, 64, 64, 3)
        assert (names["edited"] != names["rebuilt"]).any(axis=(1, 2, 3)).all()
        assert names["probabilities"].shape == (2, 3)
        np.testing.assert_allclose(names["probabilities"].sum(axis=1), 1, rtol=1e-5)
        printed = capsys.readouterr().out
        assert "codes.shape=(2, 8, 16), a grid of (4, 4) tokens, 256 rows a book" in printed
        assert re.search(r"chelsea\.png cat [\d.]+%  cup of coffee [\d.]+%  rocket", printed)


@pytest.mark.slow
def test_the_page_of_drawing_runs(monkeypatch):
    """Every block of Python in it, with small networks in the place of those that it names."""
    config = photos.get_config()
    config.model.update(size="nano", num_codebooks=2, vocab_size=32)
    config.model.text.update(width=16, heads=2, layers=1)
    params = init_params(config.model.to_dict(), jax.random.key(0))
    tokenizer = unitok_jax.Tokenizer(config, params)
    texts = dict(prompt="text", text_features=16, text_tokens=config.model.text.context_length)

    def small(**changes):
        size = dict(tokenizer_hash=tokenizer.hash, vocab_size=32, grid=(2, 2)) | changes
        return Sampler(generators.weights(classes=400, **size), 2, jax.devices()[:1])

    monkeypatch.setattr(unitok_jax, "load", lambda path: tokenizer)
    monkeypatch.setattr(unitok_jax, "load_generator", lambda path: small(), raising=False)
    page = (DOCS / "guides" / "draw.md").read_text()
    names = {}
    for block in re.findall(r"^```python\n(.*?)^```$", page, re.M | re.DOTALL):
        of_texts = "text_prompts" in block
        exec(block, names | {"gen": small(**texts)} if of_texts else names)
    assert names["images"].shape == (2, 32, 32, 3) and names["codes"].shape == (2, 2, 4)
    assert names["completed"].shape == (6, 2, 4)
    kept = np.repeat(np.asarray(names["codes"])[..., :2], 3, axis=0)
    np.testing.assert_array_equal(np.asarray(names["completed"])[..., :2], kept)


@pytest.fixture(scope="module")
def citation():
    return yaml.safe_load((ROOT / "CITATION.cff").read_text())


class TestCitation:
    def test_required_keys(self, citation):
        assert {"cff-version", "message", "title", "authors"} <= citation.keys()
        assert citation["cff-version"] == "1.2.0"
        for reference in citation["references"]:
            assert {"type", "title", "authors"} <= reference.keys()

    def test_it_is_this_package(self, citation):
        project = PROJECT["project"]
        assert citation["title"] == project["name"] and citation["license"] == project["license"]
        assert citation["version"] == project["version"] == unitok_jax.__version__
        assert "https://arxiv.org/abs/2502.20321" in [r["url"] for r in citation["references"]]


def test_the_newest_change_is_of_this_version():
    versions = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert versions[0] == PROJECT["project"]["version"]


def test_types_are_for_users():
    assert "py.typed" in PROJECT["tool"]["setuptools"]["package-data"]["unitok_jax"]
    assert (ROOT / "unitok_jax" / "py.typed").exists()
