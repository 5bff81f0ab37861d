"""How a command ends: interrupts of real processes, readers that leave, narrow consoles."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from unitok_jax.system import console

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]


def start(code, **variables):
    return subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def interrupt(process, times=1):
    """Once the process has said that it is ready: (exit code, stdout, stderr)."""
    assert process.stdout.readline() == "ready\n"
    for _ in range(times):
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
    printed, error = process.communicate(timeout=60)
    return process.returncode, printed, error


def test_the_first_interrupt_is_one_line_after_what_must_be_done():
    code = (
        "import time; from unitok_jax.system import console\n"
        "with console.command(continues=True):\n"
        "    try:\n"
        "        print('ready', flush=True); time.sleep(60)\n"
        "    finally:\n"
        "        print('cleaned')\n"
    )
    expected = (130, "cleaned\n", "interrupted; the same command continues\n")
    assert interrupt(start(code)) == expected


def test_the_second_one_does_not_wait():
    """As a compiler does: the main thread is in C, where Python's handler does not run."""
    code = (
        "import hashlib; from unitok_jax.system import console\n"
        "with console.command():\n"
        "    print('ready', flush=True)\n"
        "    hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)\n"
    )
    assert interrupt(start(code), times=2) == (130, "", "interrupted\n")


def test_an_interrupt_that_python_loses_comes_again():
    """It ignores what is raised in the callbacks of its collector; JAX has one."""
    code = (
        "import gc, time; from unitok_jax.system import console\n"
        "def callback(phase, _):\n"
        "    if phase == 'start':\n"
        "        print('ready', flush=True); time.sleep(2)\n"
        "with console.command():\n"
        "    gc.callbacks.append(callback); gc.collect(); gc.callbacks.clear()\n"
        "    time.sleep(60)\n"
    )
    assert interrupt(start(code)) == (130, "", "interrupted\n")


# as pip writes it
SCRIPT = "import sys\nfrom unitok_jax.__main__ import main\nsys.exit(main())\n"


@pytest.mark.parametrize("door", ["script", "module"])
def test_imports_are_interrupted_quietly(tmp_path, door):
    """Also before a command has begun, which takes as long as JAX takes to be imported."""
    (tmp_path / "jax.py").write_text("import time; print('ready', flush=True); time.sleep(60)")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/unitok").write_text(SCRIPT)
    command = ["-m", "unitok_jax"] if door == "module" else [tmp_path / "bin/unitok"]
    process = subprocess.Popen(
        [sys.executable, *command, "reconstruct", "--help"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    code, printed, error = interrupt(process)
    assert (printed, error) == ("", "interrupted\n") and code == -signal.SIGINT


def test_who_imports_the_package_keeps_its_hooks():
    code = (
        "import signal, sys\n"
        "before = sys.excepthook, sys.unraisablehook, signal.getsignal(signal.SIGINT)\n"
        "import unitok_jax\n"
        "assert before == (sys.excepthook, sys.unraisablehook, signal.getsignal(signal.SIGINT))\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_reader_that_has_left_ends_it_without_a_word():
    code = (
        "from unitok_jax.system import console\n"
        "with console.command():\n"
        "    for _ in range(10**6): print('x' * 100)\n"
    )
    process = start(code)
    assert process.stdout.readline() == 100 * "x" + "\n"
    process.stdout.close()
    error = process.stderr.read()
    assert (process.wait(timeout=60), error) == (141, "")


def test_what_is_still_buffered_when_the_reader_leaves():
    code = (
        "import time; from unitok_jax.system import console\n"
        "with console.command():\n"
        "    print('a', flush=True); time.sleep(1); print('b')\n"
    )
    process = start(code)
    process.stdout.readline()
    process.stdout.close()
    assert (process.wait(timeout=60), process.stderr.read()) == (141, "")


def test_another_pipe_that_breaks_is_an_error():
    with pytest.raises(BrokenPipeError), console.command():
        raise BrokenPipeError


@pytest.mark.parametrize("encoding", ["ascii", "ascii:strict", "utf-8:strict", "latin-1"])
def test_names_that_the_console_cannot_print(encoding):
    code = (
        "from unitok_jax.system import console\n"
        "with console.command(): print('caf\\udce9 \\u4e2d')\n"
        "console.complain('caf\\udce9\\x1b[2J\\nand more')\n"
    )
    process = start(code, PYTHONIOENCODING=encoding)
    printed, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert printed.startswith("caf\\udce9 ")
    assert error == "error: caf\\xe9\\x1b[2J\nand more\n"


def test_a_process_without_stdout():
    code = "from unitok_jax.system import console\nwith console.command(): print('lost')\n"
    done = subprocess.run(
        ["sh", "-c", f'exec "{sys.executable}" -c "$0" >&-', code],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
