"""The record of what a file gave."""

import dataclasses

from unitok_jax.weights.report import Report, Used, collapse, subtrees

REPORT = Report(
    path="file.pt",
    kind="a network",
    used={"blocks.0.w": Used("a.w", 0, 10), "blocks.1.w": Used("a.w", 1, 10)},
    unused={"head.w": "too large", "head.b": "too large"},
    sizes={"a.w": 30, "c.x": 20_000, "c.y": 1},
    fresh={"a.w": 1, "c.x": None, "c.y": None},
    notes=("a note",),
)


def test_blocks_are_one_line():
    names = [f"encoder.blocks.{i}.w0" for i in range(14)] + ["b.0", "b.2", "c.1.x", "d"]
    assert collapse(names) == ["encoder.blocks.{0..13}.w0", "b.{0,2}", "c.1.x", "d"]


def test_only_the_last_number_is_a_set():
    names = ["stages.0.0.w", "stages.0.1.w", "stages.1.0.w"]
    assert collapse(names) == ["stages.0.{0..1}.w", "stages.1.0.w"]


def test_whole_subtrees_are_one_name():
    every = ["a.x", "a.y.0", "a.y.1", "b", "c.d"]
    assert subtrees(["a.y.0", "a.y.1", "b"], every) == ["a.y.*", "b"]
    assert subtrees(every, every) == ["*"]
    assert subtrees([], every) == []


def test_text():
    assert str(REPORT).splitlines() == [
        "file.pt: a network",
        "takes 20 of 0.02 M parameters:",
        "  a               20 of 30",
        "  c               0 of 0.02 M",
        "used:",
        "  blocks.{0..1}.w -> a.w",
        "in the file, not used:",
        "  head.*: too large",
        "fresh:",
        "  c.*",
        "  a.w, 1 of its blocks",
        "notes:",
        "  a note",
    ]


def test_what_is_lacking_comes_with_the_notes():
    missing = "1 of its arrays are missing, such as c.x"
    assert REPORT.lacks(["c.x"]) == f"{missing}; a note"
    without = dataclasses.replace(REPORT, fresh={}, notes=())
    assert without.lacks(["c.x"]) == ""
    deeper = dataclasses.replace(
        REPORT, fresh={}, unused={"blocks.2.w": "no counterpart: the model has no a.2.w"}
    )
    told = "it is deeper: 1 of its arrays are left out, such as blocks.2.w"
    assert deeper.lacks(["a.w"]) == f"{told}; a note"
    assert deeper.lacks(["c.x"]) == ""
