"""What the demo page answers and draws with a multimodal model, and its tab."""

import re

import jax
import numpy as np
import pytest

from configs import tiny
from helpers import browsing, in_process, multimodals, pages
from helpers.jobs import free_port
from unitok_jax.commands import demo
from unitok_jax.demo import actions, chatting, drawing, page
from unitok_jax.multimodal.api import load_multimodal
from unitok_jax.tokenizer.api import load as load_tokenizer
from unitok_jax.tokenizer.step import init_params
from unitok_jax.weights import load

pytestmark = [pytest.mark.slow, pytest.mark.long]

QUESTION, SECOND = "what colour is the circle ?", "how many shapes are there ?"
PLAIN = drawing.Settings(scale=2, temperature=1.0, top_k="all", seed=3)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A nano tokenizer with fresh weights."""
    config = tiny.get_config()
    config.model.size = "nano"
    path = tmp_path_factory.mktemp("chatting") / "nano"
    load.write(path, config, init_params(config.model.to_dict(), jax.random.key(0)))
    return str(path)


@pytest.fixture(scope="module")
def folder(checkpoint, tmp_path_factory):
    path = tmp_path_factory.mktemp("mm") / "run"
    multimodals.saved(path, load_tokenizer(checkpoint))
    return path


@pytest.fixture(scope="module")
def chat(folder, checkpoint):
    tokenizer, devices = load_tokenizer(checkpoint), jax.devices()[:1]
    return chatting.Chat(load_multimodal(folder, tokenizer, drawing.PICTURES, devices=devices))


@pytest.fixture(scope="module", autouse=True)
def short():
    """Answers of a few ids, as a fresh model knows no end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chatting, "LIMIT", 4)
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Paths of two pictures."""
    return [str(path) for path in multimodals.two_pictures(tmp_path_factory.mktemp("pictures"))]


def test_an_answer_that_spells_out_a_place_ends_nothing():
    chat = chatting.Chat(multimodals.Spelling())
    said = chat.ask(chat.ask([], None, QUESTION), None, SECOND)
    assert [turn.answer for turn in said] == ["write image there"] * 2


def test_a_conversation_goes_on(chat, pictures):
    """As the model answers all messages with all pictures; one is shown once."""
    said = chat.ask([], pictures[0], QUESTION)
    said = chat.ask(said, pictures[0], SECOND)
    said = chat.ask(said, pictures[1], QUESTION)
    said = chat.ask(said, None, SECOND)
    assert [turn.picture for turn in said] == [pictures[0], None, pictures[1], None]
    messages, shown = [], []
    for turn, question in zip(said, (QUESTION, SECOND) * 2, strict=True):
        shown += [turn.picture] if turn.picture else []
        messages.append({"role": "user", "content": "<image>\n" * bool(turn.picture) + question})
        expected = chat.model.answer(list(shown), messages, limit=4) or chatting.SILENCE
        assert turn.answer == expected
        messages.append({"role": "assistant", "content": expected})
    assert chatting.messages_of(said) == messages


def test_an_answer_without_a_word_does_not_end_it(chat, monkeypatch):
    monkeypatch.setattr(chat.model, "answer", lambda *args, **more: "")
    said = chat.ask([], None, QUESTION)
    monkeypatch.undo()
    assert said[0].answer == "..." and len(chat.ask(said, None, SECOND)) == 2


def test_pictures_of_words(chat):
    pictures, facts = chat.draw("a red circle", PLAIN)
    codes = chat.model.draw(["a red circle"] * 4, key=3, scale=2)
    expected = drawing.show(chat.model.tokenizer, codes)
    for (ours, name), (theirs, number) in zip(pictures, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert name == number
    assert len({picture.tobytes() for picture, _ in pictures}) == 4
    assert facts == "6 tokens of 4 codes drawn for each picture, seed 3."


@pytest.mark.parametrize(
    "text, words",
    [
        (None, "question: give 1 to 1000 characters"),
        (" \n", "question: give 1 to 1000 characters"),
        ("a" * 1001, "question: give 1 to 1000 characters"),
        ("what is <image> ?", "the question has 1 places <image> for 0 images"),
    ],
)
def test_bad_questions(chat, text, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        chat.ask([], None, text)


def test_other_bad_inputs(chat, tmp_path):
    said = [chatting.Said(QUESTION, "red", None)] * chatting.MAX_TURNS
    with pytest.raises(ValueError, match="16 questions were asked: begin a new conversation"):
        chat.ask(said, None, QUESTION)
    (tmp_path / "text.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"^text\.png: not an image"):  # no path of the server
        chat.ask([], str(tmp_path / "text.png"), QUESTION)
    with pytest.raises(ValueError, match="text: give 1 to 1000 characters"):
        chat.draw("", PLAIN)
    with pytest.raises(ValueError, match="give a seed"):
        chat.draw("a", PLAIN._replace(seed=None))


def test_the_tab_is_there_with_a_model(chat, checkpoint):
    """One that answers at a time, with those that draw."""
    pytest.importorskip("gradio")
    models = actions.Models(load_tokenizer)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page.examples, "write", lambda folder: [])
        without, built = (page.build(models, [checkpoint], None, each) for each in (None, chat))
    names = [
        {part["props"].get("label") for part in each.get_config_file()["components"]}
        for each in (without, built)
    ]
    assert "Conversation" not in names[0] and {"Conversation", "Words"} <= names[1]
    limits = {fn.api_name: (fn.concurrency_id, fn.concurrency_limit) for fn in built.fns.values()}
    assert limits["ask"] == limits["draw_words"] == ("draw", 1)


def test_in_turns_with_gradio(chat, checkpoint, pictures, tmp_path, monkeypatch):
    """Each visitor has a conversation, which goes on and is begun anew; a refusal leaves it."""
    pytest.importorskip("gradio")
    gradio_client = pytest.importorskip("gradio_client")
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    models = actions.Models(load_tokenizer)
    built = page.build(models, [checkpoint], None, chat)
    _, address, _ = built.launch(prevent_thread_lock=True, quiet=True, share=False, ssr_mode=False)
    try:
        one, other = (gradio_client.Client(address, verbose=False) for _ in range(2))
        file = gradio_client.handle_file(pictures[0])

        def said(client, *values):
            return [part["role"] for part in client.predict(*values, api_name="/ask")]

        turn = ["user", "assistant"]
        assert said(one, file, QUESTION) == turn and said(one, file, SECOND) == 2 * turn
        assert said(other, None, QUESTION) == turn
        with pytest.raises(gradio_client.exceptions.AppError, match="question: give 1 to"):
            said(one, file, "")
        assert said(one, None, SECOND) == 3 * turn
        assert one.predict(api_name="/begin") == [] and said(one, None, QUESTION) == turn
        shown, facts = one.predict("a red circle", 2, 1.0, "all", 3, api_name="/draw_words")
        assert len(shown) == 4 and facts.endswith("seed 3.")
    finally:
        built.close(verbose=False)


def test_in_a_browser(folder, checkpoint, chat, pictures, tmp_path, monkeypatch):
    """Asked twice about a picture, refused, begun anew, and drawn by words."""
    monkeypatch.setattr(chatting, "LIMIT", 128)  # as the page's own process has it
    once = chat.ask([], pictures[0], QUESTION)
    twice = chat.ask(once, pictures[0], SECOND)
    with (
        pages.serve([checkpoint], tmp_path, multimodal=folder) as page,
        browsing.browse(page.address) as browser,
    ):

        def answers():
            return [bubble.text for bubble in browser.find("#said [data-testid=bot]")]

        browser.upload("first", pictures[0])
        browser.tab("Chat")
        browser.write("words", QUESTION)
        browser.click("ask")
        browser.until(lambda: answers() == [once[0].answer])
        assert QUESTION in browser.text("said")
        browser.write("words", SECOND)
        browser.click("ask")
        browser.until(lambda: answers() == [turn.answer for turn in twice])
        browser.write("words", "what is <image> ?")
        browser.click("ask")
        browser.until(lambda: browser.shows("places &lt;image&gt; for"))
        assert len(answers()) == 2
        browser.click("chat_anew")
        browser.until(lambda: not answers())
        browser.write("words", "a red circle")
        browser.click("chat_draw")
        browser.until(lambda: "6 tokens of 4 codes drawn" in browser.text("chat_facts"))
        assert len(browser.find("#chat_drawn img")) >= 4
        assert browser.asked() == {page.address.rstrip("/")}  # nothing beyond this machine


def test_a_model_of_other_codes_is_refused(checkpoint, tmp_path, capsys, monkeypatch):
    """At the start, as is another product in its place."""
    multimodals.saved(tmp_path / "other")
    for path, words in (
        (
            tmp_path / "other",
            f"--multimodal={tmp_path / 'other'}: the multimodal model reads and draws codes",
        ),
        (checkpoint, "tokenizer"),
        ("nothing", "nothing"),
    ):
        given = f"--checkpoint={checkpoint}", f"--multimodal={path}", f"--port={free_port()}"
        code, _, error = in_process.run(demo, capsys, monkeypatch, *given)
        assert code == 2 and words in error and len(error.strip().splitlines()) == 1
