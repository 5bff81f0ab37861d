"""Small and read-only disks for tests, where the system lets them be mounted."""

import contextlib
import pathlib
import subprocess

import pytest


@contextlib.contextmanager
def tmpfs(folder: pathlib.Path, options: str):
    """A file system in memory at `folder`, with options such as size=4m; skips without the right.

    Yields:
      The folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no right to mount a file system: {error}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def make_read_only(folder: pathlib.Path) -> None:
    """Turns a `tmpfs` read-only, for root too."""
    remount(folder, "ro")


def remount(folder: pathlib.Path, options: str) -> None:
    """Gives a `tmpfs` other options."""
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)
