"""The launchers of clusters, against stand-ins for gcloud, srun, scontrol, kubectl and docker."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from helpers import launchers

pytestmark = pytest.mark.slow

SCRIPTS = sorted((launchers.ROOT / "launch").glob("*.sh"))
ACTIONS = {  # what a dry run needs
    "tpu_vm": ["create", "sync", "setup", "run", "logs", "status", "resume", "stop", "delete"],
    "kubernetes": ["image", "apply", "status", "logs", "restart", "delete"],
}
TPU = "launch/tpu_vm.sh"
# what resume asks every worker of a TPU that is there
STATUS = "cd unitok_jax/code && env NAME=run-1 LOG_DIR=../runs launch/local.sh status"


@pytest.fixture
def cloud(tmp_path):
    return launchers.cloud(tmp_path)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean(path):
    shellcheck = shutil.which("shellcheck", path=os.path.dirname(sys.executable))
    assert shellcheck, "the extra `test` brings shellcheck"
    for command in ([shellcheck, "-x", str(path)], ["bash", "-n", str(path)]):
        checked = subprocess.run(command, cwd=launchers.ROOT, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    if path.name != "commands.sh":
        assert os.access(path, os.X_OK) and "\nset -euo pipefail\n" in path.read_text()


@pytest.mark.parametrize("name", ["supervise", "local", "tpu_vm", "slurm", "kubernetes"])
def test_help(cloud, name):
    shown = cloud.run(f"launch/{name}.sh", "--help")
    assert shown.returncode == 0 and shown.stdout.startswith("usage: ")
    for action in ACTIONS.get(name, []):
        assert f"\n  {action} " in shown.stdout
    text = (launchers.ROOT / "launch" / f"{name}.sh").read_text()
    for setting in re.findall(r"need(?:_number|_name)? ([A-Z_]+)", text):
        assert f"  {setting}" in shown.stdout, f"--help does not tell of {setting}"


@pytest.mark.parametrize(
    "script, action", [(f"launch/{s}.sh", a) for s, names in ACTIONS.items() for a in names]
)
@pytest.mark.parametrize("variant", [{}, {"QUEUED": "1", "SPOT": "1", "KIND": "tpu"}])
def test_a_dry_run_prints_the_real_calls_and_makes_none(cloud, script, action, variant):
    settings = variant | {"TPU": "tpu-v5-lite-podslice", "TOPOLOGY": "4x4", "PROJECT": "my-project"}
    dry = cloud.run(script, action, "--dry-run", "--", *launchers.NASTY, **settings)
    assert dry.returncode == 0, dry.stderr
    assert cloud.calls() == [] and not (cloud.root / "runs").exists()
    cloud.replies(("queued-resources list", [(0, ""), (0, "ACTIVE\n")]))
    real = cloud.run(script, action, "--", *launchers.NASTY, **settings)
    assert real.returncode == 0, real.stderr
    printed = [call for call in launchers.parsed(dry.stdout) if call[0] not in ("mkdir", "tar")]
    assert printed == cloud.calls() != []


@pytest.mark.parametrize(
    "settings, flags, expected",
    [
        ({}, [], "tpu-vm create run-1 --accelerator-type=v5litepod-256 --version=R"),
        ({}, ["--spot"], "tpu-vm create run-1 --accelerator-type=v5litepod-256 --version=R --spot"),
        (
            {"PROJECT": "p"},
            ["--queued", "--spot"],
            "queued-resources create run-1 --node-id=run-1 --accelerator-type=v5litepod-256 "
            "--runtime-version=R --spot",
        ),
    ],
)
def test_tpu_create(cloud, settings, flags, expected):
    assert cloud.run(TPU, "create", *flags, **settings).returncode == 0
    project = ["--project=p"] if settings else []
    words = expected.replace("=R", "=v2-alpha-tpuv5-lite").split()
    assert cloud.calls() == [
        ["gcloud", "compute", "tpus", *words, "--zone=us-west4-a", *project, "--quiet"]
    ]


def remote(call):
    """The line that a gcloud ssh call gives to the workers' shell."""
    return next(word.removeprefix("--command=") for word in call if word.startswith("--command="))


def test_what_a_worker_runs_survives_two_shells(cloud, tmp_path):
    settings = {"WORKDIR": "gs://b/it's; $(touch evil)", "MAX_CRASHES": "3", "STOP_TIMEOUT": "9"}
    assert cloud.run(TPU, "run", "--", *launchers.NASTY, **settings).returncode == 0
    (call,) = cloud.calls()
    assert call[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "run-1"]
    assert "--worker=all" in call
    code = tmp_path / "worker/unitok_jax/code"
    (code / "launch").mkdir(parents=True)
    show = cloud.script("show", 'printf "%s\\n" "$@"; env')
    (code / "launch/local.sh").symlink_to(show)
    seen = cloud.bash(remote(call), cwd=tmp_path / "worker").stdout.splitlines()
    assert seen[: len(launchers.NASTY) + 2] == ["start", "--", *launchers.NASTY]
    assert {
        *("NAME=run-1", "LOG_DIR=../runs", "CLUSTER=tpu", "PYTHON=../venv/bin/python"),
        *("CONFIG=configs/b16.py", "WORKDIR=gs://b/it's; $(touch evil)"),
        *("MAX_CRASHES=3", "STOP_TIMEOUT=9"),
    } <= set(seen)
    assert not list(tmp_path.rglob("evil"))


def test_sync_brings_the_code_and_nothing_else(cloud, tmp_path):
    for name in (".git/x", ".venv/x", ".venv311/x", "runs/x", "demo/x", "a/__pycache__/x"):
        (cloud.root / name).parent.mkdir(parents=True, exist_ok=True)
        (cloud.root / name).touch()
    for name in ("weights.safetensors", "pyproject.toml", "configs/runs/x", ".gitignore"):
        (cloud.root / name).parent.mkdir(parents=True, exist_ok=True)
        (cloud.root / name).touch()
    assert cloud.run(TPU, "sync").returncode == 0
    scp, ssh = cloud.calls()
    assert scp[3:8] == ["tpu-vm", "scp", "runs/run-1.tgz", "run-1:unitok_jax.tgz", "--worker=all"]
    worker = tmp_path / "worker"
    (worker / "unitok_jax/code").mkdir(parents=True)
    (worker / "unitok_jax/code/removed.py").touch()
    shutil.copy(cloud.root / "runs/run-1.tgz", worker / "unitok_jax.tgz")
    unpacked = cloud.bash(remote(ssh), cwd=worker)
    assert unpacked.returncode == 0, unpacked.stderr
    code = worker / "unitok_jax/code"
    files = {str(path.relative_to(code)) for path in code.rglob("*") if path.is_file()}
    assert {"pyproject.toml", ".gitignore", "configs/runs/x", "launch/local.sh"} <= files
    assert not [file for file in files if re.search("venv|git/|^runs|demo|cache|weights|rem", file)]
    # a worker on which the training runs keeps its code
    (code / "launch/local.sh").write_text("#!/bin/bash\nexit 0\n")
    refused = cloud.bash(remote(ssh), cwd=worker)
    assert refused.returncode == 2 and "stop it before sync" in refused.stderr
    assert (code / "pyproject.toml").exists()


def verbs(cloud):
    """The calls of gcloud, short: what was done to the TPU, and to the workers."""
    out = []
    for call in cloud.calls():
        verb = call[4] if call[3] == "tpu-vm" else f"queued {call[4]}"
        if verb == "ssh":
            line = remote(call)
            verb = next(
                (v for v in ("uv venv", "local.sh start", "local.sh stop") if v in line), None
            ) or ("unpack" if "--extract" in line else "status")
        out.append(verb)
    return out


START = ["scp", "unpack", "uv venv", "local.sh start"]


@pytest.mark.parametrize(
    "state, healthy, expected",
    [
        ("", False, ["list", "create", *START]),
        ("PREEMPTED", False, ["list", "delete", "create", *START]),
        ("TERMINATED", False, ["list", "delete", "create", *START]),
        ("STOPPED", False, ["list", "start", *START]),
        ("READY", False, ["list", "status", "local.sh stop", *START]),
        ("READY", True, ["list", "status"]),
    ],
)
def test_resume_does_what_is_missing(cloud, state, healthy, expected):
    cloud.replies(
        ("list", [(0, state and f"{state}\n")]),
        (f"--command={STATUS} ", [(0 if healthy else 3, "")]),
    )
    resumed = cloud.run(TPU, "resume")
    assert resumed.returncode == 0, resumed.stderr
    assert verbs(cloud) == expected


@pytest.mark.parametrize(
    "queue, node, expected",
    [
        (["", "WAITING_FOR_RESOURCES", "ACTIVE"], "", ["queued create", "queued list"]),
        (["SUSPENDED", "ACTIVE"], "", ["queued delete", "queued create"]),
        (
            ["FAILED", "PROVISIONING", "ACTIVE"],
            "",
            ["queued delete", "queued create", "queued list"],
        ),
        (["ACTIVE"], "PREEMPTED", ["queued list", "list", "queued delete", "queued create"]),
    ],
)
def test_resume_waits_for_a_queued_tpu(cloud, queue, node, expected):
    cloud.replies(
        ("queued-resources list", [(0, f"{state}\n" if state else "") for state in queue]),
        ("tpu-vm list", [(0, f"{node}\n")]),
    )
    resumed = cloud.run(TPU, "resume", "--queued")
    assert resumed.returncode == 0, resumed.stderr
    assert verbs(cloud) == ["queued list", *expected, "queued list", *START]
    deleted = [call for call in cloud.calls() if call[4] == "delete"]
    assert all("--force" in call and "--quiet" in call for call in deleted)


@pytest.mark.parametrize("state", ["CREATING", "REPAIRING", "DELETING"])
def test_resume_leaves_a_tpu_in_change_alone(cloud, state):
    cloud.replies(("list", [(0, f"{state}\n")]))
    resumed = cloud.run(TPU, "resume")
    assert resumed.returncode == 2 and f"is {state}" in resumed.stderr
    assert verbs(cloud) == ["list"]


@pytest.mark.parametrize("state", ["SUSPENDING", "DELETING"])
def test_resume_leaves_a_request_in_change_alone(cloud, state):
    cloud.replies(("list", [(0, f"{state}\n")]))
    resumed = cloud.run(TPU, "resume", "--queued")
    assert resumed.returncode == 2 and f"the request is {state}" in resumed.stderr
    assert set(verbs(cloud)) == {"queued list"}


@pytest.mark.parametrize("state", ["PREEMPTED", "READY", "SUSPENDED"])
def test_no_step_follows_one_that_failed(cloud, state):
    flags = ["--queued"] if state == "SUSPENDED" else []
    answers = (" list ", [(0, f"{state}\n"), (0, "ACTIVE\n")]), (f"={STATUS} ", [(3, "")])
    cloud.replies(*answers)
    assert cloud.run(TPU, "resume", *flags).returncode == 0
    whole = cloud.calls()
    assert len(whole) >= 7
    for step, call in enumerate(whole):
        if call in whole[:step] or f"--command={STATUS}" in call:
            continue
        cloud.forget()
        cloud.replies((f"^{re.escape(' '.join(call))}$", [(41, "")]), *answers)
        failed = cloud.run(TPU, "resume", *flags)
        assert failed.returncode == 41, f"step {step}: {failed.stderr}"
        assert cloud.calls() == whole[: step + 1]


@pytest.mark.parametrize("action", ["create", "sync", "setup", "run", "logs", "stop", "delete"])
def test_the_exit_code_is_gclouds(cloud, action):
    cloud.replies(("gcloud", [(41, "")]))
    assert cloud.run(TPU, action).returncode == 41
    assert len(cloud.calls()) == 1


@pytest.mark.parametrize(
    "arguments, settings, word",
    [
        (["create"], {"ZONE": ""}, "ZONE is not set; for example: export ZONE=us-west4-a"),
        (["create"], {"NAME": ""}, "NAME is not set"),
        (["create"], {"NAME": "-x"}, "NAME=-x"),
        (["create"], {"NAME": "user@tpu"}, "NAME=user@tpu"),
        (["create"], {"ACCELERATOR": ""}, "export ACCELERATOR=v5litepod-256"),
        (["resume"], {"VERSION": ""}, "VERSION is not set"),
        (["resume"], {"WORKDIR": "runs/b16"}, "WORKDIR=runs/b16 lies on each worker alone"),
        (["run"], {"CONFIG": ""}, "CONFIG is not set"),
        (["resume"], {"POLL": "soon"}, "POLL=soon"),
        (["create"], {"SPOT": "0"}, "SPOT=0 is no switch: 1, or leave it out"),
        (["create"], {"QUEUED": "no"}, "QUEUED=no is no switch"),
        (["run", "--config=x"], {}, "behind --"),
        (["run", "stop"], {}, "one action"),
        (["launch"], {}, "unknown action launch"),
        ([], {}, "no action"),
    ],
)
def test_wrong_input(cloud, arguments, settings, word):
    ended = cloud.run(TPU, *arguments, **settings)
    assert ended.returncode == 2 and word in ended.stderr and len(ended.stderr.splitlines()) == 1
    assert cloud.calls() == []


def test_without_gcloud(cloud):
    (cloud.bin / "gcloud").unlink()
    ended = cloud.run(TPU, "status")
    assert ended.returncode == 2
    assert 'gcloud is not on PATH; to install it look up "Install the Google' in ended.stderr
    assert cloud.run(TPU, "status", "--dry-run").returncode == 0
