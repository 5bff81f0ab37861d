"""How far a command is, told without a terminal and on one."""

import sys

from unitok_jax.system.progress import Progress


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def test_a_line_a_minute_where_no_terminal_is(capsys):
    clock = Clock()
    with Progress(100, "image", there=10, what="measuring", clock=clock) as progress:
        for _ in range(9):  # 45 images in 135 s
            clock.now += 15
            progress.update(5)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "measuring: 30 of 100 images, 0.333 images/s, 0:03:30 left",
        "measuring: 50 of 100 images, 0.333 images/s, 0:02:30 left",
    ]


def test_nothing_is_told_of_what_takes_less(capsys):
    clock = Clock()
    with Progress(3, "sample", clock=clock) as progress:
        clock.now += 59.9
        progress.update(3)
    assert capsys.readouterr().err == ""


def test_nothing_done_yet_has_no_end(capsys):
    clock = Clock()
    with Progress(3, "sample", clock=clock) as progress:
        clock.now += 60
        progress.update(0)
    assert capsys.readouterr().err == "0 of 3 samples, 0 samples/s, ? left\n"


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress(30, "sample", there=12, what="codes") as progress:
        progress.update(18)
    error = capsys.readouterr().err
    assert "codes: 100%" in error and "30.0/30.0" in error and "sample/s]" in error
