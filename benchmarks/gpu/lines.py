"""File of figures: a JSON object a line, the machine and settings first, then a figure each."""

import json
import pathlib
from collections.abc import Mapping

FIXED = ("device", "devices", "jax")  # facts of the machine that all figures of a file share


class Lines:
    """Figures of one machine with one configuration, in a file that only grows."""

    def __init__(self, path: pathlib.Path):
        """Reads the file, if there is one; a last line cut short by a kill is left out.

        Raises:
          ValueError: it holds something else.
        """
        self.path, self.head, self.rows = path, None, {}
        if not path.exists():
            return
        whole = path.read_text()
        whole = whole[: whole.rfind("\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                row = json.loads(line)
                if number == 1:
                    self.head = {"machine": row["machine"], "settings": row["settings"]}
                else:
                    self.rows[row["figure"]] = row
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"--output={path}: line {number} is no figure of this benchmark: {line[:60]}"
                ) from error
        path.write_text(whole)

    def begin(self, machine: Mapping, settings: Mapping) -> None:
        """Writes the first line, or compares it with this run.

        Raises:
          ValueError: the file's figures are of another device, version or configuration.
        """
        if self.head is None:
            self.head = {"machine": dict(machine), "settings": dict(settings)}
            self._write(self.head)
            return
        here = {key: machine[key] for key in FIXED} | dict(settings)
        there = {key: self.head["machine"].get(key) for key in FIXED} | self.head["settings"]
        differ = [key for key in here if here[key] != there.get(key)]
        if differ:
            told = ", ".join(f"{key} {there.get(key)} there and {here[key]} here" for key in differ)
            raise ValueError(f"--output={self.path} holds figures of another kind: {told}")

    def add(self, figure: str, row: Mapping) -> None:
        """Appends one figure; the newest of a name counts."""
        self.rows[figure] = {"figure": figure} | dict(row)
        self._write(self.rows[figure])

    def missing(self, names, again: bool = False) -> list[str]:
        """Returns the names that have no figure, or, if `again`, only an error."""
        return [
            name
            for name in names
            if name not in self.rows or (again and "error" in self.rows[name])
        ]

    def _write(self, row):
        line = json.dumps(row)
        with self.path.open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)
