"""Faults of what users ask: conversations, files of prompts, and what a command refuses."""

from . import Mutation

MUTATIONS = [
    Mutation(
        "an answer that undoes that its conversation was begun anew",
        "unitok_jax/demo/chatting.py",
        "said[:] = chat.ask(list(said), path, question)",
        "self.said = chat.ask(list(said), path, question)",
        "tests/demo/test_chat_tab.py -k begun_anew",
    ),
]
