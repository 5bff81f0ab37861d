"""The chat command: one question, several turns and images, interrupts, bad input."""

import io
import os
import signal
import subprocess
import sys

import jax
import pytest

import unitok_jax
from helpers import in_process, multimodals
from unitok_jax.commands import chat
from unitok_jax.multimodal.api import load_multimodal

pytestmark = pytest.mark.slow

QUESTION, SECOND = "what colour is the circle ?", "how many shapes are there ?"
DRAWN = ("--limit=5", "--temperature=1", "--key=3")
SETTINGS = {"limit": 5, "temperature": 1.0, "key": 3}


@pytest.fixture(scope="module")
def tokenizer(weights):
    return unitok_jax.load(weights)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("mm") / "run"
    multimodals.saved(path, tokenizer)
    return path


@pytest.fixture(scope="module")
def model(folder, tokenizer):
    return load_multimodal(folder, tokenizer, 1, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Paths of two pictures."""
    return multimodals.two_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture
def here(folder, weights, model, capsys, monkeypatch):
    """Runs the command in this process with what is loaded: (exit code, printed, error)."""
    monkeypatch.setattr(chat, "load_model", lambda args, found: model)

    def call(*more, lines=None, tokenizer=True):
        given = [f"--checkpoint={folder}", *more]
        if tokenizer:
            given.append(f"--tokenizer={weights}")
        if isinstance(lines, bytes):
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines), "utf-8"))
        elif lines is not None:
            monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{each}\n" for each in lines)))
        return in_process.run(chat, capsys, monkeypatch, *given)

    return call


def test_one_question(here, model, pictures):
    expected = model.answer(pictures[0], QUESTION, **SETTINGS)
    found = here(f"--image={pictures[0]}", QUESTION, *DRAWN)
    assert found == (0, f"{expected}\n", "")
    assert here(QUESTION, *DRAWN)[1] != found[1]


def test_several_turns_and_images(here, model, pictures):
    lines = [QUESTION, f"/image {pictures[1]}", "", SECOND, "/new", SECOND]
    code, printed, error = here(f"--image={pictures[0]}", *DRAWN, lines=lines)
    first = model.answer(pictures[0], QUESTION, **SETTINGS)
    messages = [
        {"role": "user", "content": f"<image>\n{QUESTION}"},
        {"role": "assistant", "content": first},
        {"role": "user", "content": f"<image>\n{SECOND}"},
    ]
    second = model.answer(pictures, messages, **SETTINGS)
    alone = model.answer(None, SECOND, **SETTINGS)
    assert (code, printed, error) == (0, f"{first}\n{second}\n{alone}\n", "")


def test_a_line_that_is_refused_ends_nothing(here, model, pictures):
    lines = ["/image nowhere.png", "what is <image> ?", QUESTION, "/image"]
    code, printed, error = here(*DRAWN, lines=lines)
    told = printed.splitlines()
    assert (code, error) == (0, "") and len(told) == 4
    assert "nowhere.png" in told[0] and "1 places <image> for 0 images" in told[1]
    assert told[2] == model.answer(None, QUESTION, **SETTINGS) and told[3].startswith("(")


def test_a_line_that_is_no_utf_8_ends_nothing(here, model):
    """It is asked with U+FFFD, and an image's path may have any bytes."""
    lines = b"%s\ncaf\xe9 ?\n/image caf\xe9.png\n/new\n%s" % (QUESTION.encode(), SECOND.encode())
    code, printed, error = here(*DRAWN, lines=lines)
    told = printed.splitlines()
    assert (code, error) == (0, "") and len(told) == 4 and "No such file" in told[2]
    first = model.answer(None, QUESTION, **SETTINGS)
    messages = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": first},
        {"role": "user", "content": "caf\ufffd ?"},
    ]
    assert told[:2] == [first, model.answer(None, messages, **SETTINGS)]
    assert told[3] == model.answer(None, SECOND, **SETTINGS)


def test_no_input_at_all(here, monkeypatch):
    """As a shell gives by <&-."""
    monkeypatch.setattr(sys, "stdin", None)
    assert here(*DRAWN) == (0, "", "")


@pytest.mark.parametrize(
    "given, words",
    [
        (("",), "the question is empty"),
        (("x" * 200_000,), "has 200000 characters, over 64 for each"),
        (("what ? " * 1500,), "ids and visual tokens, and with 128 that follow"),
        (("what is <image> ?",), "1 places <image> for 0 images"),
        (("--limit=0", "what ?"), "limit=0"),
        (("--image=nowhere.png", "what ?"), "nowhere.png"),
    ],
)
def test_bad_input(here, given, words):
    code, printed, error = here(*given)
    assert (code, printed) == (2, "") and words in error and error.count("\n") == 1


def test_head_counts_of_a_bare_tokenizer(folder, weights, capsys, monkeypatch):
    """They are given where a file does not tell them, and compared where it does."""
    given = f"--checkpoint={folder}", f"--tokenizer={weights}", "--text_heads=3", QUESTION
    code, _, error = in_process.run(chat, capsys, monkeypatch, *given)
    assert code == 2 and "text_heads=3" in error


def test_an_image_without_a_tokenizer(here, pictures):
    code, _, error = here(f"--image={pictures[0]}", QUESTION, tokenizer=False)
    assert code == 2 and "--image needs --tokenizer" in error


def test_the_tokenizer_of_the_run(
    tokenizer, weights, model, pictures, capsys, monkeypatch, tmp_path
):
    """It is taken where images may be shown, and told."""
    multimodals.saved(tmp_path / "run", tokenizer, named=weights)
    taken = []
    monkeypatch.setattr(
        chat, "load_model", lambda args, found: taken.append(found and found.path) or model
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    told = f"--tokenizer={weights}, as the run names it\n"
    for given, expected in (
        ([f"--image={pictures[0]}", QUESTION], told),
        ([], told),
        ([QUESTION], ""),
    ):
        given = [f"--checkpoint={tmp_path / 'run'}", *given, *DRAWN]
        code, _, error = in_process.run(chat, capsys, monkeypatch, *given)
        assert (code, error) == (0, expected)
    assert taken == [str(weights)] * 2 + [None]


def test_an_answer_that_spells_out_a_place_ends_nothing():
    talked = chat.talk(chat.Conversation(multimodals.Spelling(), {}), [QUESTION, SECOND])
    assert list(talked) == ["write <image> there"] * 2


def test_a_line_with_an_image_without_a_tokenizer(folder):
    """The flag is named, which the conversation lacks."""
    model = load_multimodal(folder, None, 1, devices=jax.devices()[:1])
    talked = chat.talk(chat.Conversation(model, SETTINGS), ["/image a.png"])
    assert list(talked) == ["(a.png needs --tokenizer, that of the model's codes)"]


def test_a_process_that_is_interrupted(folder):
    """It has answered, and waits for a line."""
    command = [sys.executable, "-m", "unitok_jax", "chat", f"--checkpoint={folder}", "--limit=2"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
    process.stdin.write("/image nowhere.png\n")
    process.stdin.flush()
    assert process.stdout.readline().startswith("(")
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    assert process.stderr.read().splitlines()[-1] == "interrupted"
