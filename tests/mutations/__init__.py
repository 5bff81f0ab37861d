"""Faults put into a copy of the code on purpose, each with the tests that must notice it.

`python -m tests.mutations` applies them one at a time. A fault that no test notices is a rule
without a test. The list grows with every fault that was found otherwise.
"""

from typing import NamedTuple


class Mutation(NamedTuple):
    """One fault."""

    name: str  # what is wrong then
    file: str  # from the root of the checkout
    old: str  # occurs once in the file
    new: str
    tests: str  # pytest's arguments, blanks between them; the smallest that notice

    def apply(self, text: str) -> str:
        """The file's text with the fault.

        Raises:
          ValueError: the old text does not occur exactly once.
        """
        if (count := text.count(self.old)) != 1:
            raise ValueError(f"{self.file} holds {self.old!r} {count} times")
        return text.replace(self.old, self.new)
