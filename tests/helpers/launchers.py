"""A copy of the launchers that can reach nothing but stand-ins of the cloud's tools."""

import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]
BASICS = (
    "bash cat chmod cp date dirname env gzip kill ls mkdir mv nohup ps rm sleep tail tar touch wc"
)

# Writes its call down; answers as replies.json says, [[pattern, [[exit code, stdout], ...]], ...]:
# the first pattern found in the call counts, its answers go by turn, the last repeats.
STAND_IN = """#!{python} -IS
import json, os, pathlib, re, sys
here = pathlib.Path({here!r})
call = [os.path.basename(sys.argv[0]), *sys.argv[1:]]
before = [json.loads(line) for line in (here / "calls.jsonl").read_text().splitlines()]
with open(here / "calls.jsonl", "a") as file:
    file.write(json.dumps(call) + "\\n")
for pattern, answers in json.loads((here / "replies.json").read_text()):
    fits = lambda call: re.search(pattern, " ".join(call), re.S) is not None
    if fits(call):
        code, text = answers[min(sum(map(fits, before)), len(answers) - 1)]
        print(text, end="")
        sys.exit(code)
if call[0] == "srun":
    command = [i for i, word in enumerate(call) if i and not word.startswith("-")][0]
    os.execvp(call[command], call[command:])
"""


class Launchers:
    """The launchers in a repository of their own, and a PATH without gcloud, kubectl and the like.

    Attributes:
      root: the repository; its launch/ is a copy.
      bin: the only folder on PATH.
    """

    def __init__(self, folder: pathlib.Path):
        self.root, self.bin = folder / "repository", folder / "bin"
        shutil.copytree(ROOT / "launch", self.root / "launch")
        self.bin.mkdir()
        for name in BASICS.split():
            (self.bin / name).symlink_to(shutil.which(name))
        (self.bin / "replies.json").write_text("[]")
        (self.bin / "calls.jsonl").touch()
        self.environment = {"PATH": str(self.bin), "HOME": str(folder)}

    def tool(self, *names: str) -> None:
        """Puts stand-ins on PATH."""
        for name in names:
            (self.bin / name).write_text(STAND_IN.format(python=sys.executable, here=str(self.bin)))
            (self.bin / name).chmod(0o755)

    def script(self, name: str, body: str) -> str:
        """Puts a bash script on PATH; returns its path."""
        path = self.bin / name
        path.write_text(f"#!{self.bin}/bash\n{body}\n")
        path.chmod(0o755)
        return str(path)

    def replies(self, *entries: tuple[str, list[tuple[int, str]]]) -> None:
        """What the stand-ins answer: (regular expression, [(exit code, stdout) by turn])."""
        (self.bin / "replies.json").write_text(json.dumps(entries))

    def calls(self) -> list[list[str]]:
        """The calls of the stand-ins so far, name first."""
        lines = (self.bin / "calls.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines]

    def forget(self) -> None:
        """No calls so far."""
        (self.bin / "calls.jsonl").write_text("")

    def run(self, *command: str, **settings: str) -> subprocess.CompletedProcess:
        """Runs a command of the repository to its end, with settings in its environment."""
        return subprocess.run(
            command,
            cwd=self.root,
            env=self.environment | settings,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def start(self, *command: str, cwd=None, **settings: str) -> subprocess.Popen:
        """Starts a command of the repository; stderr goes with stdout."""
        return subprocess.Popen(
            command,
            cwd=cwd or self.root,
            env=self.environment | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def bash(self, line: str, cwd: pathlib.Path) -> subprocess.CompletedProcess:
        """What a remote shell would make of the line."""
        return subprocess.run(
            [str(self.bin / "bash"), "-c", line],
            cwd=cwd,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=60,
        )


def cloud(folder: pathlib.Path) -> Launchers:
    """Launchers with every stand-in and all that a launcher needs set."""
    made = Launchers(folder)
    made.tool("gcloud", "kubectl", "docker", "srun", "scontrol")
    made.environment |= {
        "NAME": "run-1",
        "CONFIG": "configs/b16.py",
        "WORKDIR": "gs://bucket/b16",
        "ZONE": "us-west4-a",
        "ACCELERATOR": "v5litepod-256",
        "VERSION": "v2-alpha-tpuv5-lite",
        "IMAGE": "registry.example/unitok:1",
        "POLL": "1",
    }
    return made


# Flags that a shell, or YAML, would take for something else.
NASTY = [
    "--config.a=(1, 2)",
    "it's",
    '"q"',
    "; exit 9",
    "$(touch evil)",
    "${NAME}",
    "a\\b",
    "&",
    "",
]


def parsed(text: str) -> list[list[str]]:
    """The commands that a dry run printed, read as a shell would."""
    return [shlex.split(line) for line in text.splitlines()]


def wait_for(path: pathlib.Path) -> str:
    """The text of a file, once there is one."""
    deadline = time.monotonic() + 30
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.01)
    return path.read_text()


def kill(pid: int) -> None:
    """SIGKILL, if the process is still there."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
