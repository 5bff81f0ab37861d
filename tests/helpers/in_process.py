"""Commands run inside the tests' own process, with its devices and what it has compiled."""

import sys


def run(module, capsys, monkeypatch, *arguments):
    """(exit code, printed, error) of a command, as `module.main` of the package."""
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    try:
        module.main()
        code = 0
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()
