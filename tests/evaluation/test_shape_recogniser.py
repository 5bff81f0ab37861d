"""Recogniser of drawn shapes: what it reads is what was drawn."""

import cv2
import numpy as np
import pytest

from unitok_jax.data.formats.drawing import COLOURS, SHAPES, draw
from unitok_jax.data.formats.shapes import SingleShapes, TrainingShapes
from unitok_jax.evaluation.metrics.shape_recogniser import recognise, share_read


def picture(scene, side=64):
    return cv2.resize(draw(scene), (side, side), interpolation=cv2.INTER_AREA)


@pytest.fixture(scope="module")
def singles():
    """192 scenes of one shape, of all pairs in turn, and their pictures at 64 px."""
    source = SingleShapes()
    scenes = [source.scene(1000 + number) for number in range(192)]
    return [scene.shapes[0] for scene in scenes], np.stack([picture(s) for s in scenes])


def test_originals_are_read(singles):
    shapes, pictures = singles
    found = share_read(pictures, [s.colour for s in shapes], [s.shape for s in shapes])
    assert min(found.values()) >= 0.99


def test_places_are_read(singles):
    shapes, pictures = (of[:64] for of in singles)
    assert [[each.cell for each in recognise(p)] for p in pictures] == [[s.cell] for s in shapes]


@pytest.mark.parametrize("side", [64, 72])
def test_several_objects_are_counted_and_read(side):
    source, right = TrainingShapes(), []
    for number in range(48):
        scene = source.scene(number)
        seen = recognise(picture(scene, side))
        found = [
            sorted((each.colour, each.shape, each.cell) for each in objects)
            for objects in (seen, scene.shapes)
        ]
        right.append(found[0] == found[1])
        assert len(seen) == len(scene.shapes)
    assert np.mean(right) >= 0.95


def test_the_largest_comes_first():
    areas = [each.area for each in recognise(picture(TrainingShapes().scene(5)))]
    assert areas == sorted(areas, reverse=True)


def test_other_answers_are_wrong(singles):
    shapes, pictures = (of[:64] for of in singles)
    colours, forms = (list(words) for words in (COLOURS, SHAPES))
    asked = [colours[(colours.index(s.colour) + 1) % 8] for s in shapes]
    found = share_read(pictures, asked, [s.shape for s in shapes])
    assert found["colour"] == found["both"] == 0 and found["form"] >= 0.99
    asked = [forms[(forms.index(s.shape) + 1) % 8] for s in shapes]
    found = share_read(pictures, [s.colour for s in shapes], asked)
    assert found["form"] == 0 and found["colour"] >= 0.99


def test_a_background_alone_has_no_object():
    steps = np.linspace(40, 160, 64)[:, None, None]
    gradient = np.broadcast_to(steps, (64, 64, 3)).astype(np.uint8)
    assert recognise(gradient) == ()
    assert recognise(np.zeros((64, 64, 3), np.uint8)) == ()
    assert share_read([gradient], ["red"], ["circle"]) == {"colour": 0, "form": 0, "both": 0}


def test_noise_and_a_flat_colour_do_not_stop_it():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    recognise(noise)
    recognise(np.broadcast_to(np.uint8([222, 40, 40]), (64, 64, 3)))


@pytest.mark.parametrize("wrong", [np.zeros((64, 64), np.uint8), np.zeros((64, 64, 3))])
def test_what_is_no_picture_is_refused(wrong):
    with pytest.raises(ValueError, match="not uint8"):
        recognise(wrong)


def test_words_for_every_picture(singles):
    with pytest.raises(ValueError):
        share_read(singles[1][:2], ["red"], ["circle"])
    with pytest.raises(ValueError, match="no pictures"):
        share_read([], [], [])
