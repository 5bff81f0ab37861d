"""Cache of compiled programs on disk, which later processes read instead of compiling."""

import contextlib
import errno
import hashlib
import logging
import os
import platform
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax

log = logging.getLogger(__name__)

LIMIT = 4 * 2**30  # bytes, of all machines and versions of JAX together
VERSIONS = "jax-"  # name prefix of a folder of programs
ENTRY = "-cache"  # JAX's name suffix of a program
MIN_SECONDS = 0.1  # shortest compilation whose program is kept


def enable() -> Path | None:
    """Enables the persistent compilation cache, shared by processes of this user.

    For commands, before their first computation: importing the library keeps JAX's settings. The
    folder is `unitok_jax/programs/jax-VERSION-MACHINE` in `$XDG_CACHE_HOME`, by default `~/.cache`.
    JAX's own settings take precedence: `JAX_COMPILATION_CACHE_DIR` is used as it is, and if it is
    empty, or `JAX_ENABLE_COMPILATION_CACHE` is false, nothing is kept.

    Returns:
      The folder; None if JAX's settings hold, or, with a warning, if the folder cannot be written,
      is a link, or others can write to it: a program that they left would run as this user's.
    """
    given = jax.config.jax_compilation_cache_dir
    if given == "":
        # JAX would use the working folder where XLA stores its GPU autotuning results.
        jax.config.update("jax_compilation_cache_dir", None)
    if given is not None or not jax.config.jax_enable_compilation_cache:
        return None
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        programs = Path(home).absolute() / "unitok_jax" / "programs"
        folder = programs / f"{VERSIONS}{jax.__version__}-{_machine()}"
        for own in (programs, folder):
            _claim(own)
        tempfile.TemporaryFile(dir=folder).close()
        prune(programs, LIMIT)
    except (OSError, RuntimeError) as error:  # Path.home() of a user without one
        log.warning("every start compiles anew, set JAX_COMPILATION_CACHE_DIR: %s", error)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_SECONDS)
    return folder


def prune(programs: Path, limit: int) -> None:
    """Deletes the least recently used programs, until at most `limit` bytes remain.

    Only JAX's files count and are deleted: `*-cache` directly in a folder `jax-*`. No link is
    followed, even if files change during the call.

    JAX's own limit is not used: it locks the folder for every program, and an entry whose writer
    was killed in between stops it for good (jax 0.10.2).

    Args:
      programs: the folder of the folders `jax-*`.
      limit: bytes.
    """
    found = []
    with contextlib.ExitStack() as stack:
        top = stack.enter_context(_opened(programs))
        for version in os.listdir(top):
            if not version.startswith(VERSIONS):
                continue
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # gone, or no folder
                folder = stack.enter_context(_opened(version, top))
                found += [(*facts, folder, name) for name, facts in _entries(folder)]
        total = sum(size for _, size, _, _ in found)
        for _, size, folder, name in sorted(found):
            if total <= limit:
                break
            with contextlib.suppress(FileNotFoundError):  # another process prunes too
                os.unlink(name, dir_fd=folder)
            total -= size


def _entries(folder: int) -> Iterator[tuple[str, tuple[float, int]]]:
    """Yields (name, (last use, bytes)) of the programs in an open folder."""
    for name in os.listdir(folder):
        if name.endswith(ENTRY):
            with contextlib.suppress(FileNotFoundError):
                facts = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if stat.S_ISREG(facts.st_mode):
                    yield name, (max(facts.st_atime, facts.st_mtime), facts.st_size)


@contextlib.contextmanager
def _opened(folder: str | Path, parent: int | None = None) -> Iterator[int]:
    """Opens a folder and yields its descriptor; paths relative to it stay in the folder.

    Raises:
      NotADirectoryError: the path is a link, or not a folder.
    """
    try:
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        if error.errno == errno.ELOOP:  # how some systems tell a link
            raise NotADirectoryError(error.errno, error.strerror, str(folder)) from error
        raise
    try:
        yield number
    finally:
        os.close(number)


def _claim(folder: Path) -> None:
    """Makes a folder that only this user can write to, in a parent of any mode.

    Other caches lie beside `programs`, and many users' groups may write there by default: who puts
    another folder in its place owns that one.

    Raises:
      PermissionError: it is there already, and is not such a one, or is a link to one.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.is_symlink():
        raise PermissionError(
            f"{folder} is a link, and what it points to may be others' files: delete it"
        )
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = folder.lstat()
    if facts.st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to user {facts.st_uid}, whose programs would run")
    if facts.st_mode & 0o022:
        raise PermissionError(
            f"{folder} can be written by others, whose programs would run: delete it, or chmod "
            "go-w if you trust what is in it"
        )


def _machine() -> str:
    """Identifies the CPUs: a program uses all their instructions, and is built for their number.

    JAX's keys tell neither, and homes are shared between machines.
    """
    told = [platform.processor(), str(os.cpu_count()), os.environ.get("NPROC", "")]
    if hasattr(os, "sched_getaffinity"):
        told.append(str(len(os.sched_getaffinity(0))))
    with contextlib.suppress(FileNotFoundError):  # elsewhere than on Linux
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
        told += [line for line in first if line.startswith(("model name", "flags", "Features"))]
    digest = hashlib.sha256("\n".join(told).encode()).hexdigest()
    return f"{platform.machine()}-{digest[:8]}"
