"""launch/supervise.sh and launch/local.sh with real processes and real signals."""

import contextlib
import os
import re
import signal
import subprocess

import pytest

from helpers import launchers

pytestmark = [pytest.mark.slow, pytest.mark.processes]

SUPERVISE, LOCAL = "launch/supervise.sh", "launch/local.sh"
# A training: says that it is there, and on SIGTERM saves and exits with 75.
TRAINING = """
printf '%s\\n' "$@" >arguments
trap 'echo saved >>saved; {saving}; exit 75' TERM
echo $$ >ready
while :; do sleep 0.02; done
"""


@pytest.fixture
def host(tmp_path):
    return launchers.Launchers(tmp_path)


def codes(host, *values):
    """A command that ends with the next of the exit codes at each run; 'kill' is SIGKILL."""
    cases = " ".join(
        f"{i}) {'kill -KILL $$' if value == 'kill' else f'exit {value}'} ;;"
        for i, value in enumerate(values, 1)
    )
    return host.script("codes", f"echo run >>runs.txt; case $(wc -l <runs.txt) in {cases} esac")


def runs(host):
    return len((host.root / "runs.txt").read_text().splitlines())


@pytest.mark.parametrize(
    "values, limit, code",
    [
        ([0], 3, 0),
        ([2, 0], 3, 2),
        ([130, 0], 3, 130),
        ([75, 0], 3, 0),
        (["kill", 1, 0], 3, 0),
        ([7, 7, 7, 0], 3, 7),
        (["kill", "kill", 0], 2, 137),
        # being preempted is no crash, and what was saved is progress
        ([75, 75, 1, 75, 1, 75, 0], 2, 0),
    ],
)
def test_what_is_run_again(host, values, limit, code):
    ended = host.run(SUPERVISE, codes(host, *values), MAX_CRASHES=str(limit), PAUSE="0")
    assert ended.returncode == code, ended.stderr
    expected = len(values) if values[-1] == code else len(values) - 1
    assert runs(host) == expected
    assert len(re.findall("again in 0 s", ended.stderr)) == expected - 1
    assert ("giving up" in ended.stderr) == (code not in (0, 2, 130))


def test_a_long_run_starts_the_count_again(host):
    command = codes(host, 1, 1, 1, 0)
    slow = host.script("slow", f"sleep 1.1; exec {command}")
    ended = host.run(SUPERVISE, slow, MAX_CRASHES="2", PAUSE="0", PROGRESS_SECONDS="1")
    assert (ended.returncode, runs(host)) == (0, 4)


def test_arguments_arrive_as_they_are(host):
    values = ["a b", "it's", '"', "$(touch evil)", "; exit 1", "*", "", "--config.x=(1, 2)"]
    command = host.script("show", 'printf "%s\\n" "$@"')
    assert host.run(SUPERVISE, command, *values).stdout.splitlines() == values
    assert launchers.parsed(host.run(SUPERVISE, "--dry-run", command, *values).stdout) == [
        [command, *values]
    ]


def supervised(host, body, **settings):
    """A started supervisor whose command is at work."""
    process = host.start(SUPERVISE, host.script("training", body), **settings)
    launchers.wait_for(host.root / "ready")
    return process


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_signal_reaches_the_training_and_ends_the_loop(host, name):
    process = supervised(host, TRAINING.format(saving=":"))
    process.send_signal(getattr(signal, name))
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 75, output
    assert (host.root / "saved").read_text() == "saved\n"
    assert "again" not in output


def test_more_signals_during_the_save_change_nothing(host):
    process = supervised(host, TRAINING.format(saving="echo >saving; sleep 0.5; echo >complete"))
    process.terminate()
    launchers.wait_for(host.root / "saved")
    process.terminate()
    process.terminate()
    process.communicate(timeout=30)
    assert process.returncode == 75
    assert (host.root / "complete").exists()


@pytest.fixture
def terminal(host):
    """A started supervisor and its command in a group of their own, as a terminal starts them."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    groups = []

    def start(body):
        command = host.script("training", body)
        process = subprocess.Popen(
            [SUPERVISE, command],
            cwd=host.root,
            env=host.environment,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        groups.append(process.pid)
        launchers.wait_for(host.root / "ready")
        return process

    yield start
    signal.signal(signal.SIGINT, before)
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


def test_one_ctrl_c_saves_and_nothing_is_started_again(host, terminal):
    process = terminal(TRAINING.format(saving="echo run >>runs.txt"))
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 75
    assert (host.root / "saved").read_text() == "saved\n" and runs(host) == 1


def test_the_second_ctrl_c_waits_for_no_save(host, terminal):
    process = terminal(TRAINING.format(saving="sleep 60; echo >complete"))
    os.killpg(process.pid, signal.SIGINT)
    launchers.wait_for(host.root / "saved")
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(30) == 137
    assert not (host.root / "complete").exists()


@pytest.mark.parametrize(
    "body, code",
    [
        ("echo >ready; exec sleep 60", 75),  # no handler yet: nothing is lost
        ("trap 'exit 0' TERM; echo >ready; while :; do sleep 0.02; done", 0),
        ("trap 'exit 9' TERM; echo >ready; while :; do sleep 0.02; done", 9),
    ],
)
def test_after_a_signal_the_code_is_the_trainings(host, body, code):
    process = supervised(host, body)
    process.terminate()
    output, _ = process.communicate(timeout=30)
    assert process.returncode == code, output


def test_a_signal_in_the_pause_starts_nothing(host):
    process = supervised(host, "echo >ready; echo run >>runs.txt; exit 1", PAUSE="60")
    while "again in 60 s" not in process.stdout.readline():
        pass
    process.terminate()
    process.communicate(timeout=30)
    assert (process.returncode, runs(host)) == (75, 1)


@pytest.mark.parametrize(
    "command, settings, word",
    [
        ([], {}, "no command"),
        (["no-such-program"], {}, "no-such-program"),
        (["ls"], {"MAX_CRASHES": "many"}, "MAX_CRASHES=many"),
        (["ls"], {"MAX_CRASHES": "0"}, "MAX_CRASHES=0"),
        (["ls"], {"PAUSE": "-1"}, "PAUSE=-1"),
    ],
)
def test_wrong_settings_are_not_tried_again(host, command, settings, word):
    ended = host.run(SUPERVISE, *command, **settings)
    assert ended.returncode == 2 and word in ended.stderr and len(ended.stderr.splitlines()) == 1


@pytest.fixture
def box(host):
    """A machine on which a training can be started; what is left of it is killed."""
    host.environment |= {
        "CONFIG": "configs/b 16.py",
        "WORKDIR": "/data/it's",
        "PYTHON": host.script("python", TRAINING.format(saving="sleep 0.3; echo >complete")),
    }
    yield host
    for file in ("runs/unitok.pid", "ready"):
        if (host.root / file).exists():
            launchers.kill(int((host.root / file).read_text().split()[0]))


def test_one_box_from_start_to_stop(box):
    printed = box.run(LOCAL, "start", "--dry-run", "--", "--config.x=(1, 2)").stdout
    assert not (box.root / "runs").exists()
    started = box.run(LOCAL, "start", "--", "--config.x=(1, 2)")
    assert started.returncode == 0 and "runs/unitok.log" in started.stderr
    launchers.wait_for(box.root / "ready")
    arguments = (box.root / "arguments").read_text().splitlines()
    assert arguments == [
        *("-m", "unitok_jax.main", "--config=configs/b 16.py", "--workdir=/data/it's"),
        *("--cluster=none", "--config.x=(1, 2)"),
    ]
    python = box.environment["PYTHON"]
    assert launchers.parsed(printed) == [
        ["nohup", SUPERVISE, python, *arguments, ">>runs/unitok.log", "2>&1", "</dev/null", "&"]
    ]
    assert box.run(LOCAL, "status").returncode == 0
    again = box.run(LOCAL, "start")
    assert again.returncode == 2 and "already runs" in again.stderr
    assert box.run(LOCAL, "stop").returncode == 0
    assert (box.root / "complete").exists(), "stop did not wait for the save"
    assert "ended with exit 75" in (box.root / "runs/unitok.log").read_text()
    assert box.run(LOCAL, "status").returncode == 3
    assert box.run(LOCAL, "stop").returncode == 0


def test_a_killed_training_is_started_again(box):
    box.run(LOCAL, "start", PAUSE="0")
    first = launchers.wait_for(box.root / "ready")
    (box.root / "ready").unlink()
    launchers.kill(int(first))
    assert launchers.wait_for(box.root / "ready") != first
    assert "exit 137" in (box.root / "runs/unitok.log").read_text()
    assert box.run(LOCAL, "stop").returncode == 0


def test_a_process_id_that_another_process_has_is_left_alone(box):
    """Also another run's supervisor: containers give the same small ids at every start."""
    assert box.run(LOCAL, "start", NAME="other").returncode == 0
    launchers.wait_for(box.root / "ready")
    pid, started = (box.root / "runs/other.pid").read_text().splitlines()
    for before in ("", "\nThu Jan  1 00:00:00 2026"):
        (box.root / "runs/unitok.pid").write_text(f"{pid}{before}\n")
        assert box.run(LOCAL, "status").returncode == 3
        assert "does not run" in box.run(LOCAL, "stop").stderr
        assert box.run(LOCAL, "status", NAME="other").returncode == 0
    (box.root / "runs/unitok.pid").write_text(f"{pid}\n{started}\n")
    assert box.run(LOCAL, "stop").returncode == 0
    assert box.run(LOCAL, "status", NAME="other").returncode == 3


def test_stop_says_when_the_save_takes_too_long(box):
    box.script("python", TRAINING.format(saving="sleep 60"))
    box.run(LOCAL, "start")
    launchers.wait_for(box.root / "ready")
    ended = box.run(LOCAL, "stop", STOP_TIMEOUT="1")
    assert ended.returncode == 2 and "still saves" in ended.stderr


@pytest.mark.parametrize(
    "arguments, settings, word",
    [
        (["start"], {"CONFIG": ""}, "CONFIG is not set; for example: export CONFIG=configs/"),
        (["start"], {"WORKDIR": ""}, "WORKDIR is not set"),
        (["start"], {"PYTHON": "no-python"}, "no-python is not on PATH"),
        (["start"], {"NAME": "../x"}, "NAME=../x"),
        (["start", "stop"], {}, "one action"),
        (["start", "--config=x"], {}, "behind --"),
        (["begin"], {}, "unknown action begin"),
        ([], {}, "no action"),
    ],
)
def test_wrong_input_on_one_box(box, arguments, settings, word):
    ended = box.run(LOCAL, *arguments, **settings)
    assert ended.returncode == 2 and word in ended.stderr
    assert not (box.root / "runs").exists()
