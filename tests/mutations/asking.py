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
    Mutation(
        "keys of JSON of which the last value stands for all",
        "unitok_jax/system/foreign_json.py",
        "len(found) < len(pairs)",
        "len(found) < 0",
        "tests/system/test_paths.py -k repeats_a_key",
    ),
    Mutation(
        "prompts of which the source of JSON is drawn as text",
        "unitok_jax/commands/generate.py",
        'file.suffix.lower() == ".json"',
        'file.suffix == ".json"',
        "tests/commands/test_generate.py -k by_id_whatever_the_case",
    ),
    Mutation(
        "records whose source is taken for texts, a line each",
        "unitok_jax/system/foreign_files.py",
        "suffix.lower() in _RECORDS",
        "suffix in _RECORDS[:0]",
        "tests/commands/test_generate.py -k of_other_records",
    ),
    Mutation(
        "a page at a port that cannot be, told once all is loaded",
        "unitok_jax/commands/demo.py",
        "0 < args.port < 2**16",
        "args",
        "tests/demo/test_demo.py -k bad_arguments",
    ),
    Mutation(
        "a line of other bytes that ends a conversation",
        "unitok_jax/commands/chat.py",
        'reconfigure(errors="surrogateescape")',
        'reconfigure(errors="strict")',
        "tests/commands/test_chat.py -k no_utf_8",
    ),
    Mutation(
        "answers to a question of which the last stands for all",
        "unitok_jax/data/formats/question_files.py",
        "known.add(str(id))",
        "known.add(id)",
        "tests/data/test_question_files.py -k comes_twice",
    ),
]
