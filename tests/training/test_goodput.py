"""Goodput of records written by hand, known to the digit, and the command that tells it."""

import json
import subprocess
import sys

import pytest

from unitok_jax.training import clock
from unitok_jax.training.goodput import goodput, measure


def begin(start, time, step, starting, goal=100):
    """The record of a start."""
    seconds = {"starting": starting}
    return {"start": start, "time": time, "step": step, "seconds": seconds, "goal": goal}


def record(start, time, step, **seconds):
    return {"start": start, "time": time, "step": step, "seconds": seconds}


# Killed after step 40, of which 30 are saved; from 140 to 160 it is down.
FIRST = [
    begin(1, 110.0, 0, 10.0),
    record(1, 115.0, 1, starting=5.0),
    record(1, 125.0, 30, training=8.0, input=2.0),
    record(1, 130.0, 30, evaluation=4.0, saving=1.0),
    record(1, 140.0, 40, training=7.0, input=1.0, evaluation=2.0),
]
SECOND = [
    begin(2, 164.0, 30, 4.0),
    record(2, 170.0, 31, starting=6.0),
    record(2, 195.0, 100, training=20.0, input=1.0, saving=3.0, profiling=1.0),
]


def test_a_run_without_restarts():
    found = goodput(FIRST)
    assert found.seconds == {
        "training": 15,
        "repeated": 0,
        "starting": 15,
        "input": 3,
        "evaluation": 6,
        "saving": 1,
        "profiling": 0,
        "down": 0,
    }
    assert found.share == 15 / 40
    assert (found.starts, found.step, found.goal, found.last) == (1, 40, 100, 140)


def test_steps_after_the_checkpoint_are_repeated():
    found = goodput(FIRST + SECOND)
    assert found.seconds == {
        "training": 28,
        "repeated": 8,
        "starting": 25,
        "input": 3,
        "evaluation": 6,
        "saving": 4,
        "profiling": 1,
        "down": 20,
    }
    assert sum(found.seconds.values()) == 195 - 100
    assert found.share == 28 / 95
    assert found.line() == (
        "goodput 0.295, starts: 2; training 29.5%, repeated 8.4%, starting 26.3%, input 3.2%, "
        "evaluation 6.3%, saving 4.2%, profiling 1.1%, down 21.1%"
    )


def test_a_later_start_that_goes_further_back_repeats_what_both_did():
    """The checkpoint of step 30 was damaged: the third start begins from step 10."""
    found = goodput(FIRST + SECOND + [begin(3, 196.0, 10, 1.0), record(3, 200.0, 60, training=4.0)])
    # of the first start's steps 2..30, 20 of 29 are beyond step 10; its steps 31..40 all are
    assert found.seconds["repeated"] == pytest.approx(10 * 20 / 29 + 8 + 21)
    assert found.seconds["training"] == pytest.approx(8 * 9 / 29 + 4)
    assert sum(found.seconds.values()) == pytest.approx(100)


def test_what_followed_the_last_record_of_a_crash_is_repeated():
    """A process that ends with an error books its last steps, which no record of metrics has."""
    crash = record(1, 143.0, 43, training=3.0)
    assert goodput([*FIRST, crash, *SECOND]).seconds["repeated"] == 11
    assert goodput([*FIRST, crash, *SECOND]).seconds["down"] == 17


def test_a_start_that_died_before_its_first_step():
    found = goodput([*FIRST, begin(2, 150.0, 30, 6.0), begin(3, 160.0, 30, 2.0)])
    assert found.seconds["down"] == 4 + 8 and found.seconds["starting"] == 15 + 8
    assert found.seconds["repeated"] == 8 and found.starts == 3


def test_a_clock_that_was_set_back():
    """The second process begins, by its clock, 30 s before the first one's last record."""
    found = goodput(FIRST + [r | {"time": r["time"] - 50} for r in SECOND])
    assert found.seconds["down"] == 0 and found.set_back == 30
    assert found.share == 28 / 75
    assert "set back by 30.0 s" in found.table()


def command(workdir):
    return subprocess.run(
        [sys.executable, "-m", "unitok_jax", "goodput", str(workdir)],
        capture_output=True,
        text=True,
    )


def write(folder, records, torn=""):
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / clock.FILE).write_text(lines + torn)


def test_the_command_prints_a_table_and_one_number(tmp_path):
    write(tmp_path, FIRST + SECOND, torn='{"start": 2, "ti')
    result = command(tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("step 100 of 100, starts: 2, last record ")
    assert [line.split() for line in lines[1:3]] == [
        ["training", "28.0", "s", "29.5%"],
        ["repeated", "8.0", "s", "8.4%"],
    ]
    assert lines[-1] == "goodput 0.295"


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "does not exist"),
        ("", "no record of a start yet"),
        ('{"start": 1, "ti', "no record of a start yet"),
        ('{"step": 3, "loss": 1.0}\n', "line 1 is no record of timings"),
        ("17\n", "line 1 is no record of timings"),
    ],
)
def test_what_holds_no_timings_is_one_line_and_exit_code_2(tmp_path, content, words):
    if content is not None:
        (tmp_path / clock.FILE).write_text(content)
    result = command(tmp_path)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("error: ") and len(result.stderr.splitlines()) == 1
    assert words in result.stderr and str(tmp_path / clock.FILE) in result.stderr


def test_a_line_cut_short_between_two_starts(tmp_path):
    write(tmp_path, FIRST, torn='{"start": 1, "time": 14\n')
    with (tmp_path / clock.FILE).open("a") as file:
        file.writelines(json.dumps(record) + "\n" for record in SECOND)
    assert measure(tmp_path) == goodput(FIRST + SECOND)
