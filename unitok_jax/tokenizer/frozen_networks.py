"""Frozen networks of a training run, from the files of `config.frozen`."""

from ml_collections import ConfigDict

from unitok_jax.system import paths
from unitok_jax.tokenizer.step import TokenizerSteps
from unitok_jax.tokenizer.teaching import Teaching
from unitok_jax.weights import pretrained, teachers


def load(steps: TokenizerSteps, files: ConfigDict, dtype: str) -> dict[str, dict]:
    """Loads the frozen networks that steps take, and Inception if `files` name it.

    Args:
      steps: the steps.
      files: `config.frozen`.
      dtype: compute dtype of the networks.

    Returns:
      Nested dicts of float32 NumPy arrays by kind: 'lpips', 'dinov2', 'inception', 'teacher'.

    Raises:
      ValueError, OSError, ImportError: as `pretrained.load`.
    """
    keys = steps.networks.items()
    wanted = {kind: " and ".join(f"{key}=0" for key in losses) for kind, losses in keys}
    if files.inception:
        wanted["inception"] = "frozen.inception=''"
    found = {
        kind: pretrained.load(
            kind,
            _expanded(files[kind]),
            dtype,
            key=f"frozen.{kind}",
            turn_off=turn_off,
        )[1]
        for kind, turn_off in wanted.items()
    }
    if steps.takes_teacher:
        found["teacher"] = load_teacher(steps.teaching, files.teacher)
    return found


def load_teacher(teaching: Teaching, file: str) -> dict:
    """Loads the parameters of a teacher from `frozen.teacher`."""
    return teachers.load(
        teaching.kind,
        _expanded(file),
        relation=teaching.relation,
        key="frozen.teacher",
        turn_off="loss.teacher_token=0 and loss.teacher_relation=0",
    )


def digests(networks: dict[str, dict]) -> dict[str, int]:
    """Returns checksums by network, as `load` returns them; of a teacher by its parts."""
    found = {}
    for kind, params in networks.items():
        found |= (
            teachers.digests(params) if kind == "teacher" else {kind: pretrained.digest(params)}
        )
    return found


def _expanded(files: str) -> str:
    """Expands each `~` in one or several files, joined by commas."""
    return ",".join(str(paths.expand(file)) if file else "" for file in files.split(","))
