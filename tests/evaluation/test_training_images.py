"""Whether a card measures the images of training."""

import pytest
from ml_collections import ConfigDict

from unitok_jax.evaluation.card import training_images


def data(source, path="", mixture=()):
    return ConfigDict({"source": source, "path": path, "captions": "", "mixture": mixture})


MIXED = data("mixture", mixture=((1.0, "tar", "/data/{00..99}.tar"), (2.0, "folder", "/mine", "c")))


@pytest.mark.parametrize(
    "trained, measured, expected",
    [
        (data("photos"), data("photos"), True),
        (data("photos"), data("shapes"), False),
        (data("shapes"), data("shapes", "train"), True),
        (data("shapes"), data("shapes", "held_out"), False),
        (data("emoji"), data("emoji", "/a.ttf@train@background=1"), True),
        (data("emoji", "all"), data("emoji", "held_out"), True),
        (data("emoji", "/a.ttf"), data("emoji", "/a.ttf@held_out"), False),
        (data("folder", "/data/train"), data("labelled", "/data/train/"), True),
        (data("folder", "/data"), data("folder", "/data/train"), True),
        (data("folder", "/data/train"), data("folder", "/data"), False),
        (data("folder", "/data/train"), data("folder", "/data/train2"), False),
        (data("folder", "~/train"), data("folder", "/h/train"), True),
        (data("tfds", "food101"), data("tfds", "food101"), True),
        (data("tar", "gs://a/{0..9}.tar"), data("tar", "gs://a/{0..9}.tar"), True),
        (MIXED, data("labelled", "/mine"), True),
        (MIXED, data("tar", "/data/{00..99}.tar"), True),
        (MIXED, data("tar", "/data/val.tar"), False),
        (ConfigDict({"image_size": (64, 64)}), data("photos"), None),
    ],
)
def test_same(trained, measured, expected, monkeypatch):
    monkeypatch.setenv("HOME", "/h")
    assert training_images.same(trained, measured) is expected


def test_links_are_followed(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "there")
    one, other = (data("folder", str(tmp_path / name)) for name in ("there", "link"))
    assert training_images.same(one, other) is True


def test_in_words():
    describe = training_images.describe
    assert describe(data("photos"), data("photos")) == "yes: it was trained on photos"
    assert describe(MIXED, data("photos")) == (
        "no, by their path: it was trained on tar:/data/{00..99}.tar, folder:/mine"
    )
    assert describe(ConfigDict({}), data("photos")).startswith("not known: the checkpoint")
