"""Compiled programs are kept on disk: the next process reads them instead of compiling."""

import contextlib
import hashlib
import logging
import os
import platform
import tempfile
from pathlib import Path

import jax

log = logging.getLogger(__name__)

LIMIT = 4 * 2**30  # bytes, of all machines and versions of JAX together
MIN_SECONDS = 0.1  # of compilation, from which a program is kept


def enable() -> Path | None:
    """Keeps what this process compiles, and reads what others of this user kept.

    For commands, before their first computation: who imports the library keeps JAX's settings. The
    folder is `unitok_jax/programs/jax-VERSION-MACHINE` in `$XDG_CACHE_HOME`, by default `~/.cache`.
    JAX's own settings go before it: a `JAX_COMPILATION_CACHE_DIR` is used as it is, and if that is
    empty, or `JAX_ENABLE_COMPILATION_CACHE` is false, nothing is kept.

    Returns:
      The folder; None if JAX's settings hold, or, with a warning, if the folder cannot be written
      or others can write to it: a program that they left would run as this user's.
    """
    given = jax.config.jax_compilation_cache_dir
    if given == "":
        # JAX takes it for the working folder where XLA keeps what it learnt about a GPU.
        jax.config.update("jax_compilation_cache_dir", None)
    if given is not None or not jax.config.jax_enable_compilation_cache:
        return None
    try:
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        programs = Path(home).absolute() / "unitok_jax" / "programs"
        folder = programs / f"jax-{jax.__version__}-{_machine()}"
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


def prune(folder: Path, limit: int) -> None:
    """Deletes the files below a folder that were not used for longest, until `limit` bytes stay.

    JAX's own limit is not used: it locks the folder for every program, and an entry whose writer
    was killed in between stops it for good (jax 0.10.2).
    """
    files = []
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # another process prunes too
            stat = path.stat()
            if path.is_file():
                files.append((max(stat.st_atime, stat.st_mtime), stat.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= limit:
            break
        path.unlink(missing_ok=True)
        total -= size


def _claim(folder: Path) -> None:
    """Makes a folder that only this user can write to, in one of any mode.

    Other caches lie beside `programs`, and many users' groups may write there by default: who puts
    another folder in its place owns that one.

    Raises:
      PermissionError: it is there already, and is not such a one.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(mode=0o700, exist_ok=True)
    stat = folder.stat()
    if stat.st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to user {stat.st_uid}, whose programs would run")
    if stat.st_mode & 0o022:
        raise PermissionError(
            f"{folder} can be written by others, whose programs would run: delete it, or chmod "
            "go-w if you trust what is in it"
        )


def _machine() -> str:
    """The CPUs: a program for them uses all their instructions, and is cut for their number.

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
