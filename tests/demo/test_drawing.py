"""What the demo page draws: by class, by text, and within a region."""

import jax
import numpy as np
import pytest
from PIL import Image

from configs import tiny
from helpers import generators
from unitok_jax.demo import actions, drawing, page
from unitok_jax.demo.editing import Region
from unitok_jax.generate.api import Sampler, load_generator
from unitok_jax.tokenizer.api import load as load_tokenizer
from unitok_jax.tokenizer.step import init_params
from unitok_jax.weights import load

pytestmark = [pytest.mark.slow, pytest.mark.long]

PLAIN = drawing.Settings(scale=1, temperature=1.0, top_k="all", seed=0)
LENGTH = 8  # tokens of a text


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A nano tokenizer of short texts, with fresh weights."""
    config = tiny.get_config()
    config.model.size, config.model.text.context_length = "nano", LENGTH
    path = tmp_path_factory.mktemp("drawing") / "nano"
    load.write(path, config, init_params(config.model.to_dict(), jax.random.key(0)))
    return str(path)


@pytest.fixture(scope="module")
def models(checkpoint):
    return actions.Models(load_tokenizer)


@pytest.fixture(scope="module")
def sampler_of(models, checkpoint, tmp_path_factory):
    """A function that makes a sampler of the tokenizer's codes, of 2 x 3 tokens."""

    def make(**changes):
        folder = tmp_path_factory.mktemp("generator") / "run"
        saved = generators.save_for(folder, models[checkpoint], **changes)
        return load_generator(saved, drawing.PICTURES, devices=jax.devices()[:1])

    return make


@pytest.fixture(scope="module")
def classes(sampler_of):
    return sampler_of()


@pytest.fixture(scope="module")
def texts(sampler_of, models, checkpoint):
    width = models[checkpoint].config.model.text.width
    return sampler_of(prompt="text", text_tokens=LENGTH, text_features=width)


def drawn(models, checkpoint, sampler, prompt, **changes):
    pictures, _ = drawing.draw(models, checkpoint, sampler, prompt, PLAIN._replace(**changes))
    assert [number for _, number in pictures] == ["1", "2", "3", "4"]
    return np.stack([picture for picture, _ in pictures])


@pytest.mark.parametrize("kind, prompts", [("classes", [0, None]), ("texts", ["a cat", "a dog"])])
def test_prompt_and_seed_decide(request, models, checkpoint, kind, prompts):
    sampler = request.getfixturevalue(kind)
    drawing.check(sampler, models[checkpoint])
    first = drawn(models, checkpoint, sampler, prompts[0])
    assert first.shape == (4, 32, 48, 3) and len(np.unique(first, axis=0)) == 4
    np.testing.assert_array_equal(first, drawn(models, checkpoint, sampler, prompts[0]))
    assert (first != drawn(models, checkpoint, sampler, prompts[1])).any()
    assert (first != drawn(models, checkpoint, sampler, prompts[0], seed=1)).any()


def test_settings_reach_the_sampler(models, checkpoint, classes):
    """Temperature 0 and top-k 1 take the largest logit: one picture for all numbers and seeds."""
    largest = drawn(models, checkpoint, classes, 1, temperature=0)
    assert len(np.unique(largest, axis=0)) == 1
    np.testing.assert_array_equal(largest, drawn(models, checkpoint, classes, 1, top_k="1", seed=3))
    other = drawn(models, checkpoint, classes, 1, top_k="1", scale=9)
    assert len(np.unique(other, axis=0)) == 1 and (other != largest).any()


def test_a_long_text_is_cut_and_that_is_said(models, checkpoint, texts):
    for text, said in (("a cat", False), ("a cat " * LENGTH, True)):
        facts = drawing.draw(models, checkpoint, texts, text, PLAIN)[1]
        assert ("over 8 tokens and lost its last words" in facts) == said


@pytest.mark.parametrize("text", [None, "", " \n", "a" * (drawing.MAX_TEXT + 1)])
def test_bad_texts(models, checkpoint, texts, text):
    with pytest.raises(ValueError, match="text: give 1 to 1000 characters"):
        drawing.draw(models, checkpoint, texts, text, PLAIN)


def test_a_region_is_drawn_of_a_text(models, checkpoint, texts, tmp_path):
    Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3)).save(tmp_path / "a.png")
    region = Region(1, 0, 1, 3)
    pictures, facts = drawing.complete(
        models, checkpoint, texts, str(tmp_path / "a.png"), region, "a cat", PLAIN
    )
    assert facts.startswith("3 of 6 tokens drawn") and len(pictures) == 4
    with pytest.raises(ValueError, match="outside the grid of 2 x 3"):
        drawing.complete(models, checkpoint, texts, "none.png", Region(1, 0, 2, 1), "a", PLAIN)


def test_without_a_null_class(models, checkpoint, sampler_of):
    """Neither guidance nor a picture of no class; the slider of guidance is not shown."""
    sampler = sampler_of(null_class=False)
    with pytest.raises(ValueError, match="a whole number from 0 to 2"):
        drawing.draw(models, checkpoint, sampler, None, PLAIN)
    with pytest.raises(ValueError, match="scale=2"):
        drawing.draw(models, checkpoint, sampler, 0, PLAIN._replace(scale=2))
    assert fields(models, checkpoint, sampler)["Scale of guidance"] == {
        "visible": False,
        "value": 1,
    }


def test_texts_of_other_features_are_refused(models, checkpoint, sampler_of):
    sampler = sampler_of(prompt="text", text_tokens=LENGTH, text_features=7)
    with pytest.raises(ValueError, match="this generator's prompts are"):
        drawing.check(sampler, models[checkpoint])


def fields(models, checkpoint, sampler: Sampler | None):
    """Label -> what is told of a field of the page."""
    pytest.importorskip("gradio")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page.examples, "write", lambda folder: [])
        built = page.build(models, [checkpoint], sampler)
    props = [part["props"] for part in built.get_config_file()["components"]]
    return {
        prop["label"]: {"visible": prop["visible"], "value": prop.get("value")}
        for prop in props
        if prop.get("label")
    }


def test_the_tab_is_there_with_a_generator(models, checkpoint, classes, texts):
    assert "Draw" not in fields(models, checkpoint, None)
    shown = fields(models, checkpoint, classes)
    assert "Draw" in shown and "Class" in shown and shown["Scale of guidance"]["visible"]
    assert "Text" in fields(models, checkpoint, texts)


def test_a_grid_of_one_token_has_sliders(models, checkpoint, sampler_of):
    assert fields(models, checkpoint, sampler_of(grid=(1, 1)))["Top"]["value"] == 0


@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (2, 3), (16, 16)])
def test_regions_lie_in_the_grid(grid):
    rows, columns = grid
    found = drawing.regions(grid)
    for region in found.values():
        drawing.editing.check_region(region, grid)
    assert found["Lower half"] == (rows // 2, 0, rows - rows // 2, columns)


def test_top_k_choices(classes):
    assert drawing.top_k_choices(classes) == ["all", "1", "4", "16"]  # of 64
