"""launch/slurm.sh as Slurm runs it, and what launch/kubernetes.sh gives to kubectl."""

import re
import shutil

import pytest
import yaml

from helpers import launchers

SLURM, KUBERNETES = "launch/slurm.sh", "launch/kubernetes.sh"
SRUN = ["srun", "--ntasks-per-node=1", "--kill-on-bad-exit=0", "--wait=600", "--cpu-bind=none"]
SHOW, REQUEUE = ["scontrol", "show", "job", "77"], ["scontrol", "requeue", "77"]
TPU = {"KIND": "tpu", "TPU": "tpu-v5-lite-podslice", "TOPOLOGY": "16x16"}


@pytest.fixture
def cloud(tmp_path):
    return launchers.cloud(tmp_path)


@pytest.fixture
def slurm(cloud, tmp_path):
    """Starts a job as Slurm does: a copy of the script, in its spool folder."""
    spool = tmp_path / "spool"
    spool.mkdir()
    shutil.copy(cloud.root / SLURM, spool / "slurm_script")
    cloud.environment |= {"SLURM_JOB_ID": "77", "SLURM_SUBMIT_DIR": str(cloud.root)}

    def start(training, *flags, state="RUNNING"):
        cloud.replies(("scontrol show", [(0, f"JobId=77\n   JobState={state} Reason=None\n")]))
        cloud.script("python", training)
        return cloud.start(str(spool / "slurm_script"), *flags, cwd=spool, PAUSE="0")

    return start


def ended(process):
    output, _ = process.communicate(timeout=30)
    return process.returncode, output


def test_slurm_directives():
    head = re.split(r"\n[^#\n]", (launchers.ROOT / SLURM).read_text())[0]
    assert set(re.findall("^#SBATCH (.*)", head, re.M)) == {
        *("--job-name=unitok", "--ntasks-per-node=1", "--exclusive", "--signal=B:TERM@120"),
        *("--requeue", "--open-mode=append", "--output=%x-%j.log"),
    }


@pytest.mark.parametrize("code", [0, 2])
def test_slurm_runs_one_supervised_task_a_node(cloud, slurm, code):
    flags = ["--config=configs/b16.py", "--workdir=/shared/b 16", *launchers.NASTY]
    training = f'printf "%s\\n" "$@" >arguments; exit {code}'
    assert ended(slurm(training, *flags))[0] == code
    task = ["./launch/supervise.sh", "python", "-m", "unitok_jax.main", *flags, "--cluster=slurm"]
    assert cloud.calls() == [[*SRUN, *task]]
    assert (cloud.root / "arguments").read_text().splitlines()[2:-1] == flags
    dry = cloud.run(SLURM, "--dry-run", *flags)
    assert launchers.parsed(dry.stdout) == cloud.calls()


def test_slurm_starts_a_crashed_task_again(cloud, slurm):
    process = slurm("echo >>runs.txt; [[ $(wc -l <runs.txt) == 2 ]] || kill -KILL $$", "--x")
    code, output = ended(process)
    assert code == 0 and "exit 137" in output and len(cloud.calls()) == 1


@pytest.mark.parametrize(
    "state, expected", [("RUNNING", [SHOW, REQUEUE]), ("COMPLETING", [SHOW]), ("CANCELLED", [SHOW])]
)
def test_slurm_saves_and_queues_again_at_the_time_limit(cloud, slurm, state, expected):
    training = "trap 'echo saved >saved; exit 75' TERM; echo >ready; while :; do sleep 0.02; done"
    process = slurm(training, "--x", state=state)
    launchers.wait_for(cloud.root / "ready")
    process.terminate()
    code, output = ended(process)
    assert code == 75, output
    assert (cloud.root / "saved").exists()
    assert cloud.calls()[1:] == expected


def test_slurm_gives_the_code_of_a_crash(cloud, slurm):
    cloud.environment["MAX_CRASHES"] = "2"
    process = slurm("exit 9", "--x")
    assert ended(process)[0] == 9 and len(cloud.calls()) == 1


@pytest.mark.parametrize("show, requeue", [(2, 2), (0, 5), (5, 0)])
def test_slurm_asks_a_busy_controller_again(cloud, slurm, show, requeue):
    """It may answer after some tries; what is left to do is told if it never does."""
    process = slurm("trap 'exit 75' TERM; echo >ready; while :; do sleep 0.02; done", "--x")
    running = (0, "JobState=RUNNING")
    cloud.replies(
        ("scontrol requeue", [(5, "")] * requeue + [(0, "")]),
        ("scontrol show", [(1, "")] * show + [running]),
    )
    launchers.wait_for(cloud.root / "ready")
    process.terminate()
    code, output = ended(process)
    told = "failed 5 times: preempted and saved, but not in the queue; scontrol requeue 77"
    assert code == 75 and (told in output) == (5 in (show, requeue)), output
    tries = {2: 3, 0: 1, 5: 5}
    expected = [SHOW] * tries[show] + [REQUEUE] * (tries[requeue] if show < 5 else 0)
    assert cloud.calls()[1:] == expected


@pytest.mark.parametrize(
    "flags, settings, word",
    [
        (["--x"], {}, "not inside a Slurm job; submit it: sbatch"),
        ([], {"SLURM_JOB_ID": "1"}, "no flags"),
        (["--x"], {"SLURM_SUBMIT_DIR": "/"}, "/ is not the repository"),
    ],
)
def test_slurm_wrong_input(cloud, flags, settings, word):
    run = cloud.run(SLURM, *flags, **settings)
    assert run.returncode == 2 and word in run.stderr and cloud.calls() == []


def rendered(cloud, *flags, **settings):
    run = cloud.run(KUBERNETES, "render", "--", *flags, **settings)
    assert run.returncode == 0, run.stderr
    assert not re.search(r"(?<!\$)\$\{", run.stdout), "a placeholder is left"
    return list(yaml.safe_load_all(run.stdout))


def arguments(container):
    """What the process gets: Kubernetes makes one $ of $$, and refuses nothing else here."""
    return [word.replace("$$", "$") for word in container["args"]]


def command(cluster):
    return [
        *("python", "-m", "unitok_jax.main", "--config=configs/b16.py"),
        *("--workdir=gs://bucket/b16", f"--cluster={cluster}", *launchers.NASTY),
    ]


@pytest.mark.parametrize("name", ["run-1", "on", "yes", "null"])
def test_kubernetes_gpu_job(cloud, name):
    service, job = rendered(cloud, *launchers.NASTY, HOSTS="4", NAME=name)
    assert service["kind"] == "Service" and service["metadata"]["name"] == name
    assert service["spec"]["clusterIP"] == "None" and service["spec"]["publishNotReadyAddresses"]
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 4, 4)
    assert service["spec"]["selector"] == spec["template"]["metadata"]["labels"]
    rules = spec["podFailurePolicy"]["rules"]
    assert [(rule["action"], rule.get("onExitCodes", {}).get("values")) for rule in rules] == [
        ("FailJob", [2]),
        ("Ignore", [75]),
        ("Ignore", None),
    ]
    assert rules[2]["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert spec["backoffLimit"] == 100
    assert pod["restartPolicy"] == "Never" and pod["subdomain"] == name
    assert pod["terminationGracePeriodSeconds"] == 300
    (container,) = pod["containers"]
    assert all(r["onExitCodes"]["containerName"] == container["name"] for r in rules[:2])
    assert container["image"] == "registry.example/unitok:1"
    assert container["command"] == ["/unitok_jax/launch/supervise.sh"]
    assert arguments(container) == command("kubernetes")
    assert {e["name"]: e["value"] for e in container["env"]} == {
        "JAX_COORDINATOR_ADDRESS": f"{name}-0.{name}:8476",
        "JAX_NUM_PROCESSES": "4",
    }
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}


def test_kubernetes_tpu_slices(cloud):
    (jobset,) = rendered(cloud, *launchers.NASTY, SLICES="2", RESTARTS="7", **TPU)
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert jobset["spec"]["failurePolicy"] == {
        "maxRestarts": 7,
        "rules": [{"action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
    }
    (slices,) = jobset["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    assert slices["replicas"] == 2
    assert (job["completions"], job["parallelism"], job["backoffLimit"]) == (64, 64, 0)
    assert [rule["action"] for rule in job["podFailurePolicy"]["rules"]] == ["FailJob"]
    pod = job["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "tpu-v5-lite-podslice",
        "cloud.google.com/gke-tpu-topology": "16x16",
    }
    (container,) = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert arguments(container) == command("tpu")


def test_the_image_holds_the_supervisor_where_the_pods_look_for_it():
    text = (launchers.ROOT / "launch/Dockerfile").read_text()
    assert "WORKDIR /unitok_jax\nCOPY . .\n" in text
    ignored = (launchers.ROOT / "launch/Dockerfile.dockerignore").read_text().split()
    assert not {"launch", "configs", "unitok_jax", "README.md", "pyproject.toml"} & set(ignored)


@pytest.mark.parametrize(
    "settings, word",
    [
        ({"NAME": "Run"}, "NAME=Run is no name"),
        ({"NAME": "x" * 41}, "40 at most"),
        ({"NAME": "a\nb: c"}, "is no name"),
        ({"NAMESPACE": "a b"}, "NAMESPACE=a b"),
        ({"IMAGE": 'x" y'}, 'IMAGE=x" y is no image'),
        ({"IMAGE": ""}, "IMAGE is not set"),
        ({"WORKDIR": "a\nb"}, "control character"),
        ({"HOSTS": "0"}, "HOSTS=0"),
        ({"GRACE": "1; x"}, "GRACE=1; x"),
        ({"KIND": "cpu"}, "KIND=cpu; gpu or tpu"),
        ({"KIND": "../x"}, "KIND=../x"),
        (TPU | {"TOPOLOGY": "16"}, "TOPOLOGY=16"),
        (TPU | {"TOPOLOGY": "3x5"}, "15 chips, no multiple of CHIPS=4"),
        (TPU | {"TPU": ""}, "TPU is not set; for example: export TPU=tpu-v5-lite-podslice"),
    ],
)
@pytest.mark.parametrize("action", ["render", "restart"])
def test_kubernetes_wrong_settings_reach_no_cluster(cloud, action, settings, word):
    run = cloud.run(KUBERNETES, action, **settings)
    assert run.returncode == 2 and word in run.stderr and run.stdout == ""
    assert cloud.calls() == [] and not (cloud.root / "runs").exists()


INSTANCE = "--selector=app.kubernetes.io/instance=run-1"
INDEX = f"{INSTANCE},batch.kubernetes.io/job-completion-index=0"
APPLY = ["apply", "--filename=runs/run-1.yaml"]
GONE = ["--ignore-not-found", "--cascade=foreground"]


@pytest.mark.parametrize(
    "action, settings, expected",
    [
        ("apply", {}, [APPLY]),
        ("delete", {}, [["delete", "service,job", "run-1", *GONE]]),
        ("delete", TPU, [["delete", "jobset", "run-1", *GONE]]),
        ("restart", {}, [["delete", "service,job", "run-1", *GONE], APPLY]),
        ("logs", {}, [["logs", INDEX, "--container=train", "--tail=100", "--follow"]]),
        (
            "logs",
            TPU,
            [
                [
                    *("logs", f"{INDEX},jobset.sigs.k8s.io/job-index=0"),
                    *("--container=train", "--tail=100", "--follow"),
                ]
            ],
        ),
        ("status", {}, [["get", "job", "run-1"], ["get", "pods", INSTANCE, "--output=wide"]]),
        (
            "status",
            TPU,
            [["get", "jobset,job", INSTANCE], ["get", "pods", INSTANCE, "--output=wide"]],
        ),
    ],
)
def test_kubernetes_calls(cloud, action, settings, expected):
    assert cloud.run(KUBERNETES, action, NAMESPACE="team", **settings).returncode == 0
    assert cloud.calls() == [["kubectl", "--namespace=team", *words] for words in expected]
    if APPLY in expected:
        shown = cloud.run(KUBERNETES, "render", **settings).stdout
        assert (cloud.root / "runs/run-1.yaml").read_text() == shown
    cloud.forget()
    cloud.replies(("kubectl", [(41, "")]))
    assert cloud.run(KUBERNETES, action, **settings).returncode == 41
    assert len(cloud.calls()) == 1


@pytest.mark.parametrize("settings, extra", [({}, "cuda"), (TPU, "tpu")])
def test_the_image_is_built_for_its_devices(cloud, settings, extra):
    tag = "registry.example/unitok:1"
    assert cloud.run(KUBERNETES, "image", **settings).returncode == 0
    build, push = cloud.calls()
    assert build == [
        *("docker", "build", "--file=launch/Dockerfile", f"--build-arg=EXTRA={extra}"),
        *(f"--tag={tag}", "."),
    ]
    assert push == ["docker", "push", tag]
    cloud.forget()
    cloud.replies(("docker build", [(41, "")]))
    assert cloud.run(KUBERNETES, "image").returncode == 41 and len(cloud.calls()) == 1


@pytest.mark.parametrize("tool, action", [("kubectl", "apply"), ("docker", "image")])
def test_a_missing_tool_is_named(cloud, tool, action):
    (cloud.bin / tool).unlink()
    run = cloud.run(KUBERNETES, action)
    assert run.returncode == 2 and f"{tool} is not on PATH" in run.stderr
    assert cloud.calls() == []
