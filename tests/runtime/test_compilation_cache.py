"""What is compiled once: kept, read, refused and thrown away, in processes of their own."""

import os
import pathlib
import re
import subprocess
import sys
import time

import pytest

from benchmarks.victim import compare
from helpers.jobs import Job
from unitok_jax.runtime import compilation_cache

pytestmark = [pytest.mark.slow, pytest.mark.long]

ROOT = pathlib.Path(__file__).parents[2]
# Prints the folder, how many programs were read from it, and a result to the last bit.
COMPUTES = """
import jax, jax.numpy as jnp
from unitok_jax.runtime import compilation_cache
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name.endswith("/cache_hits")))
folder = compilation_cache.enable()
result = jax.jit(lambda x: jnp.linalg.norm(jnp.sin(x @ x)))(jnp.arange(4096.0).reshape(64, 64))
print(folder, sum(hits), float(result).hex())
"""


@pytest.fixture
def environment(tmp_path):
    """Of a user without settings of JAX, whose caches are in tmp_path."""
    chosen = {k: v for k, v in os.environ.items() if "CACHE" not in k}
    return chosen | {
        "XDG_CACHE_HOME": str(tmp_path / "home"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def start(environment, code=COMPUTES):
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    """[folder, hits, result] and stderr of a process that must end well."""
    output, error = process.communicate(timeout=200)
    assert process.returncode == 0, error
    return output.split(), error


def computes(environment):
    return finish(start(environment))


def entries(folder):
    return sorted(p for p in pathlib.Path(folder).rglob("*-cache") if p.is_file())


def test_the_second_process_reads_what_the_first_compiled(environment, tmp_path):
    (folder, hits, result), _ = computes(environment)
    kept = entries(tmp_path / "home")
    assert kept and hits == "0"
    assert all(path.parent == pathlib.Path(folder) for path in kept)
    assert pathlib.Path(folder).parent == tmp_path / "home" / "unitok_jax" / "programs"
    assert computes(environment)[0] == [folder, str(len(kept)), result]
    assert entries(tmp_path / "home") == kept


@pytest.mark.parametrize(
    "setting",
    [
        {"JAX_COMPILATION_CACHE_DIR": "mine"},
        {"JAX_COMPILATION_CACHE_DIR": ""},
        {"JAX_ENABLE_COMPILATION_CACHE": "false"},
    ],
    ids=str,
)
def test_settings_of_jax_go_first(environment, tmp_path, setting):
    mine = setting.get("JAX_COMPILATION_CACHE_DIR") == "mine"
    setting = {name: str(tmp_path / "mine") if mine else value for name, value in setting.items()}
    for _ in range(2):
        (folder, hits, _), _ = computes(environment | setting)
        assert folder == "None"
    assert not (tmp_path / "home").exists()
    assert bool(int(hits)) == bool(entries(tmp_path)) == mine


# Prints the folder, and where XLA is asked to keep and read what it tunes on a GPU.
TUNES = """
from jax._src.compiler import get_compile_options
from unitok_jax.runtime import compilation_cache
folder = compilation_cache.enable()
options = get_compile_options(num_replicas=1, num_partitions=1)
build = options.executable_build_options
debug = build.debug_options
print(folder, debug.xla_gpu_per_fusion_autotune_cache_dir)
print(debug.xla_gpu_experimental_autotune_cache_mode.name)
"""


def test_results_of_autotuning_are_kept_beside_the_programs(environment):
    (folder, tuned, mode), _ = finish(start(environment, TUNES))
    assert tuned == f"{folder}/xla_gpu_per_fusion_autotune_cache_dir" and mode == "UPDATE"
    nothing = {"JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES": ""}
    assert finish(start(environment | nothing, TUNES))[0][:-1] == [folder]


def test_xla_has_the_flags_that_the_pages_name(environment):
    """A process ends where XLA_FLAGS has one that is not known."""
    pages = [path.read_text() for path in (ROOT / "docs").rglob("*.md")]
    names = {name for page in pages for name in re.findall(r"--(xla_\w+)", page)}
    assert {"xla_gpu_autotune_level", "xla_gpu_deterministic_ops"} <= names
    flags = {"XLA_FLAGS": " ".join(f"--{name}=1" for name in names)}
    finish(start(environment | flags, "import jax; jax.devices()"))


def test_a_folder_that_cannot_be_written_is_a_warning(environment, tmp_path):
    (tmp_path / "file").touch()
    (folder, _, result), error = computes(environment | {"XDG_CACHE_HOME": str(tmp_path / "file")})
    assert folder == "None"
    assert error.count("\n") == 1 and "JAX_COMPILATION_CACHE_DIR" in error and "file" in error
    below = str(tmp_path / "file" / "below")
    again, error = computes(environment | {"JAX_COMPILATION_CACHE_DIR": below})
    assert again == ["None", "0", result] and "file" in error


ENABLES = (
    "import os; os.umask(0); from unitok_jax.runtime import compilation_cache\n"
    "print(compilation_cache.enable())"
)
FOLDERS = ("home/unitok_jax/programs", "home/unitok_jax/programs/jax-*")


def test_the_folder_is_the_users_alone(environment, tmp_path):
    (folder,), error = finish(start(environment, ENABLES))
    assert pathlib.Path(folder).is_dir() and not error
    for pattern in FOLDERS:
        (path,) = tmp_path.glob(pattern)
        assert path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("pattern", FOLDERS)
@pytest.mark.parametrize(
    "others", [0o020, 0o002, pytest.param("owner", marks=pytest.mark.skipif("os.geteuid() != 0"))]
)
def test_a_folder_of_others_is_a_warning(environment, tmp_path, pattern, others):
    """What they leave there would run as this user's."""
    finish(start(environment, ENABLES))
    (path,) = tmp_path.glob(pattern)
    if others == "owner":
        os.chown(path, 65534, 65534)
    else:
        path.chmod(0o755 | others)
    (folder,), error = finish(start(environment, ENABLES))
    assert folder == "None"
    told = "belongs to user 65534" if others == "owner" else "can be written by others"
    assert error.count("\n") == 1 and f"{path} {told}" in error
    assert "JAX_COMPILATION_CACHE_DIR" in error


@pytest.mark.parametrize("pattern", FOLDERS)
def test_a_link_is_a_warning_and_nothing_behind_it_is_touched(environment, tmp_path, pattern):
    finish(start(environment, ENABLES))
    (path,) = tmp_path.glob(pattern)
    behind = tmp_path / "thesis" / "jax-notes"
    behind.mkdir(parents=True)
    for name in ("chapter.tex", "1-cache"):
        with (behind / name).open("wb") as file:
            file.truncate(5 << 30)  # over the limit, and nothing on the disk
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(behind.parent)
    (folder,), error = finish(start(environment, ENABLES))
    assert folder == "None" and error.count("\n") == 1
    assert f"{path} is a link" in error and "JAX_COMPILATION_CACHE_DIR" in error
    assert sorted(os.listdir(behind)) == ["1-cache", "chapter.tex"]


def test_only_what_jax_wrote_goes(tmp_path):
    """Neither other files, nor what lies deeper, beside or behind a link."""
    others = tmp_path / "others"
    programs = tmp_path / "programs"
    kept = [
        others / "1-cache",
        programs / "mine" / "2-cache",
        programs / "3-cache",
        programs / "jax-0" / "notes.txt",
        programs / "jax-0" / "deeper" / "4-cache",
        programs / "jax-0" / "5-cache" / "file",
        programs / "jax-file",
    ]
    gone = programs / "jax-0" / "6-cache"
    for path in [*kept, gone]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(100))
    (programs / "jax-1").symlink_to(others)
    (programs / "jax-0" / "7-cache").symlink_to(others / "1-cache")
    compilation_cache.prune(programs, 0)
    assert not gone.exists() and all(path.is_file() for path in kept)
    assert (programs / "jax-1").is_symlink() and (programs / "jax-0" / "7-cache").is_symlink()


def test_a_folder_that_becomes_a_link_while_it_is_pruned(tmp_path, monkeypatch):
    """What was found in the folder is deleted there, not where the link points to."""
    folder, others = tmp_path / "programs" / "jax-0", tmp_path / "others"
    for path in (folder, others):
        path.mkdir(parents=True)
        (path / "1-cache").write_bytes(bytes(100))
    entries = compilation_cache._entries

    def swapped(number):
        yield from list(entries(number))
        folder.rename(tmp_path / "moved")
        folder.symlink_to(others)

    monkeypatch.setattr(compilation_cache, "_entries", swapped)
    compilation_cache.prune(tmp_path / "programs", 0)
    assert (others / "1-cache").is_file() and not (tmp_path / "moved" / "1-cache").exists()


def test_other_caches_beside_it_may_be_the_groups(environment, tmp_path):
    """As they are where the umask is 002."""
    (tmp_path / "home" / "unitok_jax").mkdir(parents=True)
    (tmp_path / "home" / "unitok_jax").chmod(0o775)
    (folder,), error = finish(start(environment, ENABLES))
    assert pathlib.Path(folder).is_dir() and not error


@pytest.mark.parametrize("length", [0, 100])
def test_a_damaged_entry_is_compiled_again(environment, tmp_path, length):
    (folder, _, result), _ = computes(environment)
    for path in entries(tmp_path / "home"):
        path.write_bytes(path.read_bytes()[:length])
    again, error = computes(environment)
    assert again == [folder, "0", result]
    assert "Error reading persistent compilation cache entry" in error


def test_two_processes_fill_one_folder_at_once(environment):
    both = [start(environment), start(environment)]
    (first, _), (second, _) = finish(both[0]), finish(both[1])
    assert first[2] == second[2]
    (folder, hits, result), error = computes(environment)
    assert int(hits) == len(entries(folder)) > 0
    assert result == first[2] and not error


def test_what_was_not_used_for_longest_goes(tmp_path):
    for number, used in enumerate((3000, 1000, 4000, 2000)):
        path = tmp_path / f"jax-{number % 2}" / f"{number}-cache"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(100))
        os.utime(path, (used, 500))
    compilation_cache.prune(tmp_path, 400)
    assert len(entries(tmp_path)) == 4
    compilation_cache.prune(tmp_path, 250)
    assert [path.name for path in entries(tmp_path)] == ["0-cache", "2-cache"]


def test_the_library_leaves_jax_as_it_is(environment, weights, tmp_path):
    code = (
        "import jax, numpy as np, unitok_jax\n"
        f"tokenizer = unitok_jax.load({str(weights)!r})\n"
        "tokenizer.encode(np.zeros((1, 64, 64, 3), np.uint8))\n"
        "assert jax.config.jax_compilation_cache_dir is None\n"
    )
    finish(start(environment, code))
    assert not (tmp_path / "home").exists()


def test_a_command_reads_what_it_compiled_before(environment, weights, tmp_path):
    from PIL import Image

    Image.effect_mandelbrot((64, 64), (-2, -1, 1, 1), 20).convert("RGB").save(tmp_path / "a.png")
    kept = []
    for output in ("first", "second"):
        command = [sys.executable, "-m", "unitok_jax", "reconstruct", f"--checkpoint={weights}"]
        command += [f"--data={tmp_path / 'a.png'}", f"--output={tmp_path / output}"]
        subprocess.run(command, env=environment, cwd=ROOT, check=True)
        kept.append(entries(tmp_path / "home"))
    assert kept[0] and kept[1] == kept[0]
    pictures = [(tmp_path / output / "a.png").read_bytes() for output in ("first", "second")]
    assert pictures[0] == pictures[1]


@pytest.mark.thorough
def test_a_killed_run_goes_on_bit_for_bit_with_programs_from_the_disk(
    environment, tmp_path, monkeypatch
):
    monkeypatch.setattr(os, "environ", environment)
    plain = "--config.loss.perceptual=0.0", "--config.frozen.lpips="
    folder = tmp_path / "killed"
    killed = Job(tmp_path / "first", folder, 1, 1, *plain)
    while killed.processes[0].poll() is None and not (folder / "checkpoints" / "4").exists():
        time.sleep(0.002)  # it is saved in the background, while the next steps are done
    killed.kill()
    assert entries(tmp_path / "home") and not (folder / "checkpoints" / "8").exists()
    resumed = Job(tmp_path / "second", folder, 1, 1, *plain)
    assert resumed.wait() == [0], resumed.output()
    assert "at step 4" in resumed.output()
    environment["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    alone = Job(tmp_path / "third", tmp_path / "alone", 1, 1, *plain)
    assert alone.wait() == [0], alone.output()
    assert compare(tmp_path / "alone", folder, 8) == []
