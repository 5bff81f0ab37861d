"""Discovery of a process's place in a job, from explicit values or the cluster's environment."""

import importlib.util
import os
import re
from collections.abc import Mapping
from typing import NamedTuple

CLUSTERS = ("auto", "none", "tpu", "slurm", "openmpi", "kubernetes")


class ClusterError(ValueError):
    """Processes of a job cannot be found or do not match; the message says why."""


class Member(NamedTuple):
    """One process of a job."""

    coordinator: str | None  # host:port of process 0; None: JAX asks the TPU's metadata
    processes: int | None
    process: int | None
    devices: list[int] | None = None  # of the host, those of this process; None: all


def find(cluster: str, environ: Mapping[str, str], **given) -> Member | None:
    """Finds this process's place in its job.

    Args:
      cluster: one of CLUSTERS; `auto` takes the first whose environment is there.
      environ: the environment variables.
      **given: explicit `coordinator`, `processes`, `process`, or None. A value that is None
        comes from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, else the cluster.

    Returns:
      The place, or None for a job of one process that needs no coordinator.

    Raises:
      ClusterError: something is missing or makes no sense.
    """
    if cluster not in CLUSTERS:
        raise ClusterError(f"--cluster={cluster} is not one of {', '.join(CLUSTERS)}")
    names = {
        "coordinator": "JAX_COORDINATOR_ADDRESS",
        "processes": "JAX_NUM_PROCESSES",
        "process": "JAX_PROCESS_ID",
    }
    said = {
        key: environ.get(name) if given.get(key) is None else given[key]
        for key, name in names.items()
    }
    for key in ("processes", "process"):
        told = (
            f"--{key}={given[key]}" if given.get(key) is not None else f"{names[key]}={said[key]}"
        )
        said[key] = _integer(told, said[key])
    if cluster == "auto":
        cluster = _detect(environ, said)
    if cluster == "none" and not any(value is not None for value in said.values()):
        return None
    if cluster == "tpu":
        return Member(None, None, None)
    member = {"slurm": _slurm, "openmpi": _open_mpi, "kubernetes": _kubernetes}.get(cluster)
    found = member(environ)._asdict() if member else dict.fromkeys((*names, "devices"))
    found |= {key: value for key, value in said.items() if value is not None}
    missing = [f"--{key} (or {name})" for key, name in names.items() if found[key] is None]
    if missing:
        raise ClusterError(f"--cluster={cluster}: {' and '.join(missing)} not given")
    if not 0 <= found["process"] < found["processes"]:
        raise ClusterError(
            f"--process={found['process']} is not one of the {found['processes']} processes of "
            f"--processes={found['processes']}, which count from 0"
        )
    port = re.fullmatch(r".+:(\d{1,5})", found["coordinator"])
    if not port or not 0 < int(port[1]) < 2**16:
        raise ClusterError(
            f"--coordinator={found['coordinator']} is not HOST:PORT with a port from 1 to 65535"
        )
    return Member(**found)


def _detect(environ, said) -> str:
    if "JOB_COMPLETION_INDEX" in environ and said["coordinator"] is not None:
        return "kubernetes"
    if all(value is not None for value in said.values()):
        return "none"
    if int(environ.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        return "slurm"
    if int(environ.get("OMPI_COMM_WORLD_SIZE", 1)) > 1:
        return "openmpi"
    hosts = environ.get("TPU_WORKER_HOSTNAMES", "")
    if "," in hosts or "MEGASCALE_COORDINATOR_ADDRESS" in environ or _on_tpu_vm():
        return "tpu"
    return "none"


def _on_tpu_vm() -> bool:
    # A device file of vfio may be of any passed-through card.
    devices = any(os.path.exists(path) for path in ("/dev/accel0", "/dev/vfio/0"))
    return devices and importlib.util.find_spec("libtpu") is not None


def _slurm(environ) -> Member:
    _require("slurm", environ, "SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID")
    # node007, node[007-012,020] or a list of such; the first host runs the coordinator.
    match = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", environ["SLURM_STEP_NODELIST"])
    port = 61_440 + int(environ["SLURM_JOB_ID"]) % 4_096
    tasks = environ.get("SLURM_STEP_TASKS_PER_NODE", "1")
    # A single task on a node has all its devices; of several tasks each has one device.
    alone = re.fullmatch(r"1(\(x\d+\))?", tasks)
    return Member(
        f"{match[1]}{match[2] or ''}:{port}",
        int(environ.get("SLURM_STEP_NUM_TASKS") or environ["SLURM_NTASKS"]),
        int(environ["SLURM_PROCID"]),
        None if alone else [int(environ["SLURM_LOCALID"])],
    )


def _open_mpi(environ) -> Member:
    _require("openmpi", environ, "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK")
    # Open MPI 4 tells where mpirun runs, where rank 0 is not always; 5 does not tell.
    address = re.search(r"tcp://([^,:]+)", environ.get("OMPI_MCA_orte_hnp_uri", ""))
    job = re.match(r"\d+", environ.get("OMPI_MCA_orte_hnp_uri", ""))
    port = 61_440 + (int(job[0]) // 4_096 if job else 0) % 4_096
    alone = environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "1") == "1"
    return Member(
        f"{address[1]}:{port}" if address else None,
        int(environ["OMPI_COMM_WORLD_SIZE"]),
        int(environ["OMPI_COMM_WORLD_RANK"]),
        None if alone else [int(environ["OMPI_COMM_WORLD_LOCAL_RANK"])],
    )


def _kubernetes(environ) -> Member:
    _require("kubernetes", environ, "JOB_COMPLETION_INDEX")
    return Member(None, None, int(environ["JOB_COMPLETION_INDEX"]))


def _require(cluster, environ, *names):
    missing = [name for name in names if name not in environ]
    if missing:
        raise ClusterError(
            f"--cluster={cluster}, but {', '.join(missing)} is not in the environment; set "
            "--cluster=none, or --coordinator, --processes and --process"
        )


def _integer(told, value) -> int | None:
    try:
        return None if value is None else int(value)
    except ValueError as error:
        raise ClusterError(f"{told} is not a number") from error
