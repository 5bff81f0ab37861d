"""Where a process finds its place: the environments of the clusters, and what is missing."""

import errno
import signal

import jax
import pytest

from helpers.jobs import free_port
from unitok_jax.runtime import discovery, processes
from unitok_jax.runtime.discovery import ClusterError, Member

SLURM = {
    "SLURM_JOB_ID": "70001",
    "SLURM_STEP_NODELIST": "gpu[012-014,020]",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
}
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
}
KUBERNETES = {
    "JOB_COMPLETION_INDEX": "3",
    "JAX_COORDINATOR_ADDRESS": "train-0.train:8476",
    "JAX_NUM_PROCESSES": "4",
}


def test_one_process_needs_nothing():
    assert discovery.find("auto", {}) is None
    assert discovery.find("none", SLURM | OPEN_MPI) is None


def test_explicitly():
    said = {"coordinator": "a:1", "processes": 2, "process": 1}
    assert discovery.find("auto", {}, **said) == Member("a:1", 2, 1)
    environ = {
        "JAX_COORDINATOR_ADDRESS": "b:2",
        "JAX_NUM_PROCESSES": "8",
        "JAX_PROCESS_ID": "5",
    }
    assert discovery.find("auto", environ) == Member("b:2", 8, 5)
    assert discovery.find("none", environ, process=6) == Member("b:2", 8, 6)


class TestSlurm:
    port = 61_440 + 70_001 % 4_096

    def test_one_task_a_node_has_all_its_devices(self):
        assert discovery.find("auto", SLURM) == Member(f"gpu012:{self.port}", 4, 2)

    def test_several_tasks_a_node_have_one_each(self):
        environ = SLURM | {"SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_LOCALID": "1"}
        assert discovery.find("slurm", environ).devices == [1]

    @pytest.mark.parametrize(
        "nodes, host", [("n7", "n7"), ("a1,b2", "a1"), ("n[3,9]", "n3"), ("n[08-11],m1", "n08")]
    )
    def test_first_host(self, nodes, host):
        found = discovery.find("slurm", SLURM | {"SLURM_STEP_NODELIST": nodes})
        assert found.coordinator == f"{host}:{self.port}"

    def test_an_allocation_without_srun_is_one_process(self):
        batch = {"SLURM_JOB_ID": "70001", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"}
        assert discovery.find("auto", batch) is None
        with pytest.raises(ClusterError, match="slurm, but SLURM_STEP_NODELIST is not in"):
            discovery.find("slurm", batch)


class TestOpenMpi:
    def test_version_4_tells_the_address(self):
        port = 61_440 + 1531576320 // 4_096 % 4_096
        assert discovery.find("auto", OPEN_MPI) == Member(f"10.96.0.1:{port}", 2, 1)

    def test_version_5_does_not(self):
        environ = {key: value for key, value in OPEN_MPI.items() if "orte" not in key}
        with pytest.raises(ClusterError, match="--coordinator .or JAX_COORDINATOR_ADDRESS. not"):
            discovery.find("auto", environ)
        assert discovery.find("auto", environ, coordinator="h:9") == Member("h:9", 2, 1)

    def test_several_processes_a_host_have_a_device_each(self):
        environ = OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
        assert discovery.find("openmpi", environ).devices == [1]


def test_kubernetes():
    assert discovery.find("auto", KUBERNETES) == Member("train-0.train:8476", 4, 3)


def test_tpu(monkeypatch):
    """JAX asks the metadata itself."""
    assert discovery.find("auto", {"TPU_WORKER_HOSTNAMES": "t0,t1"}) == Member(None, None, None)
    assert discovery.find("auto", {"TPU_WORKER_HOSTNAMES": "localhost"}) is None
    monkeypatch.setattr(discovery, "_on_tpu_vm", lambda: True)
    assert discovery.find("auto", {}) == Member(None, None, None)


@pytest.mark.parametrize(
    "said, words",
    [
        ({"coordinator": "a:1"}, "--processes .or JAX_NUM_PROCESSES. and --process"),
        ({"processes": 2, "process": 0}, "--coordinator .or JAX_COORDINATOR_ADDRESS. not given"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, "--process=2 is not one of the 2"),
        ({"coordinator": "a", "processes": 2, "process": 0}, "--coordinator=a is not HOST:PORT"),
        ({"coordinator": "a:99999", "processes": 2, "process": 0}, "a port from 1 to 65535"),
        ({"processes": "many"}, "--processes=many is not a number"),
    ],
)
def test_what_makes_no_sense(said, words):
    with pytest.raises(ClusterError, match=words):
        discovery.find("auto", {}, **said)


def test_a_variable_that_is_empty_is_named():
    with pytest.raises(ClusterError, match="JAX_NUM_PROCESSES= is not a number"):
        discovery.find("auto", {"JAX_NUM_PROCESSES": ""})


def test_unknown_cluster():
    with pytest.raises(ClusterError, match="--cluster=slrum is not one of auto, none, tpu, slurm"):
        discovery.find("slrum", {})


class TestPreemption:
    def test_a_notice_and_a_second_one(self):
        before = signal.getsignal(signal.SIGTERM)
        preemption = processes.Preemption()
        assert not preemption.requested()
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
            assert preemption.requested()
        assert not preemption.interrupted()
        preemption.close()
        assert signal.getsignal(signal.SIGTERM) is before

    def test_ctrl_c(self):
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        preemption = processes.Preemption()
        signal.raise_signal(signal.SIGINT)
        assert preemption.requested() and preemption.interrupted()
        preemption.close()
        assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def test_one_process_agrees_with_itself():
    processes.agree({"a": 1})
    assert processes.everyone(True) and not processes.everyone(False)
    assert processes.is_lead()


@pytest.mark.parametrize(
    "error, passes",
    [
        (ConnectionResetError(104, "reset"), True),
        (OSError(errno.ESTALE, "stale"), True),
        (processes.Unreachable("late"), True),
        (OSError(errno.ENOSPC, "full"), False),
        (FileNotFoundError(2, "none"), False),
        (ValueError("wrong"), False),
    ],
)
def test_what_may_pass_is_worth_another_try(error, passes):
    assert processes.may_pass(error) is passes


@pytest.mark.parametrize("notices", [False, True])
def test_how_a_job_is_joined(monkeypatch, notices):
    """At their end the others wait for process 0, however long it measures and writes; and SIGTERM
    is taken from a process by a training alone, which asks whether it came."""
    joined, updated = {}, {}
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **named: joined.update(named))
    monkeypatch.setattr(jax.config, "update", updated.__setitem__)
    processes.connect("none", f"127.0.0.1:{free_port()}", 1, 0, 60, notices)
    assert joined["shutdown_timeout_seconds"] >= 3600 > joined["heartbeat_timeout_seconds"]
    assert updated == {"jax_enable_preemption_service": notices}


def test_one_process_fails_by_its_own_error():
    with pytest.raises(FileNotFoundError, match="none"), processes.fail_together():
        raise FileNotFoundError("none")
    with pytest.raises(ImportError, match="skimage"), processes.fail_together():
        raise ImportError("skimage")
    with processes.fail_together():
        value = processes.from_lead([1, "a"])
    assert value == [1, "a"]
