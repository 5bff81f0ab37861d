"""The tab that answers and is begun anew, in a real server with a stand-in for the model."""

import threading
import types

import pytest

from unitok_jax.demo import chat_tab, chatting


class Slow:
    """Stands for a `Chat`: answers once it may."""

    def __init__(self):
        self.model = types.SimpleNamespace(codebook_shape=(2, 8))
        self.asked, self.may_answer = threading.Event(), threading.Event()

    def ask(self, said, path, question):
        self.asked.set()
        assert self.may_answer.wait(60)
        return [*said, chatting.Said(question, f"answer {len(said) + 1}", None)]


@pytest.fixture
def chat():
    return Slow()


@pytest.fixture
def address(chat):
    """Where a page of this tab alone is served."""
    gradio = pytest.importorskip("gradio")
    with gradio.Blocks(analytics_enabled=False) as page:
        chat_tab.add(gradio.Textbox(), chat)
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, share=False, ssr_mode=False)
    try:
        yield address
    finally:
        chat.may_answer.set()
        page.close(verbose=False)


def test_an_answer_to_a_conversation_that_was_begun_anew_is_dropped(chat, address):
    client = pytest.importorskip("gradio_client").Client(address, verbose=False)

    def said(messages):
        return [part["text"] for message in messages for part in message["content"]]

    def ask(question):
        return client.submit(None, question, api_name="/ask")

    chat.may_answer.set()
    assert said(ask("first").result()) == ["first", "answer 1"]
    chat.asked.clear()
    chat.may_answer.clear()
    dropped = ask("second")
    assert chat.asked.wait(60)
    assert client.predict(api_name="/begin") == []
    chat.may_answer.set()
    assert dropped.result() == []
    assert said(ask("third").result()) == ["third", "answer 1"]
    assert said(ask("fourth").result()) == ["third", "answer 1", "fourth", "answer 2"]
