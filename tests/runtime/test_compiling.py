"""Notices of long compilations: when they come, and that nothing is left of them."""

import re
import signal
import subprocess
import sys
import threading
import time

import jax
import pytest

from helpers.runs import ENVIRONMENT, SETTINGS
from unitok_jax.runtime import compiling

EVENT = "/jax/core/compile/backend_compile_duration"


def compilation(seconds, program="jit(step)"):
    """What JAX reports of one."""
    jax.monitoring.record_scalar(EVENT, time.time(), fun_name=program)
    time.sleep(seconds)
    jax.monitoring.record_event_duration_secs(EVENT, seconds, fun_name=program)


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "compiling"]


def test_a_long_one_is_told_of_at_once_then_again_and_at_its_end():
    lines = []
    with compiling.notices(lines.append, first=0.1, every=0.4):
        compilation(1.2)
    assert lines[0] == "compiling jit(step), 0 s so far ..."
    assert lines[-1] == "compiled jit(step) in 1 s"
    assert 3 <= len(lines) <= 5  # at 0.1, 0.5 and 0.9 s, unless the machine is busy


def test_a_short_one_is_not_told_of():
    lines = []
    with compiling.notices(lines.append, first=30):
        compilation(0.0)
        jax.jit(lambda x: x * 3 + 1)(1.0)
        jax.monitoring.record_scalar("/jax/core/compile/another", 1.0, fun_name="f")
    assert lines == []


def test_each_thread_has_its_own():
    lines = []
    with compiling.notices(lines.append, first=0.05, every=30):
        pair = [
            threading.Thread(target=compilation, args=(seconds, name))
            for seconds, name in ((0.4, "one"), (0.8, "two"))
        ]
        for thread in pair:
            thread.start()
        for thread in pair:
            thread.join()
    assert sorted(lines[:2]) == ["compiling one, 0 s so far ...", "compiling two, 0 s so far ..."]
    assert lines[2:] == ["compiled one in 0 s", "compiled two in 1 s"]


def test_nothing_is_left_after_an_error():
    lines = []
    with pytest.raises(KeyError), compiling.notices(lines.append, first=0.0, every=0.01):
        assert threads()
        jax.monitoring.record_scalar(EVENT, time.time(), fun_name="f")
        while not lines:
            time.sleep(0.01)
        raise KeyError
    assert not threads()
    told = len(lines)
    compilation(0.1)
    assert len(lines) == told


# Compiles for long by a notice that is due at once; the parent knows of it by a line.
HANGS = """
import sys, time, jax
from unitok_jax.runtime import compiling
def tell(line): print(line, flush=True)
with compiling.notices(tell, first=0.0, every=0.1):
    jax.monitoring.record_scalar("/jax/core/compile/backend_compile_duration", 0.0, fun_name="f")
    if "raises" in sys.argv:
        raise SystemExit(3)
    time.sleep(600)
"""


@pytest.mark.parametrize("way", [signal.SIGTERM, signal.SIGKILL, "raises"], ids=str)
def test_a_process_ends_at_once(way):
    command = [sys.executable, "-c", HANGS, str(way)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            if way != "raises":
                assert "compiling f" in process.stdout.readline()
                process.send_signal(way)
            assert process.wait(60) == (3 if way == "raises" else -way)
        finally:
            process.kill()


@pytest.mark.long
@pytest.mark.slow
def test_training_tells_of_its_step(tmp_path):
    """The command itself, whose first line about a program comes at once."""
    code = (
        "import runpy\n"
        "from unitok_jax.runtime import compiling\n"
        "compiling.notices.__wrapped__.__defaults__ = (0.0, 30.0)\n"
        "runpy.run_module('unitok_jax.main', run_name='__main__', alter_sys=True)\n"
    )
    command = [sys.executable, "-c", code, f"--workdir={tmp_path}", *SETTINGS]
    command += ["--config.model.size=nano", "--config.model.quant_heads=2"]
    log = ""
    with subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr:
            log += line
            if "compiling jit(train_step)" in line:
                break
        process.kill()
    assert re.search(r"compiling jit\(train_step\), \d s so far", log), log
    assert re.search(r"compiled jit\(\w+\) in \d+ s\n", log), log  # one before it
