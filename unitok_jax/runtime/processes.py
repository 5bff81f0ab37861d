"""Processes of a running job: joining, agreement, and joint exit."""

import collections
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from unitok_jax.runtime import discovery
from unitok_jax.runtime.discovery import ClusterError
from unitok_jax.system import signals
from unitok_jax.system.passing import TryAgainError, may_pass

log = logging.getLogger(__name__)

EXIT_PREEMPTED = 75  # EX_TEMPFAIL: rerun the same command to continue
EXIT_INTERRUPTED = 130  # what shells make of SIGINT: a person ended it, nobody starts it again
HEARTBEAT_SECONDS = 30  # without a sign of life, after which the other processes give up
_LAST_WORDS_SECONDS = 5  # that process 0, with which all others end, leaves them to tell theirs
# The others wait at their end for process 0, which may still compute what it alone tells. One that
# dies is noticed by its heartbeat.
_SHUTDOWN_SECONDS = 24 * 3600

# Errors that a process raises for its input or its disk, including a package its input needs.
REFUSALS = (ValueError, OSError, ImportError, TryAgainError)


class Unreachable(TryAgainError):
    """Another process did not answer in time."""


def connect(
    cluster: str,
    coordinator: str | None,
    processes: int | None,
    process: int | None,
    timeout: int,
    notices: bool = False,
) -> None:
    """Joins the job, before any other use of JAX. Afterwards `jax.devices()` are all the job's.

    Args:
      cluster: one of `discovery.CLUSTERS`.
      coordinator: host:port of process 0.
      processes: how many the job has.
      process: which of them this is, from 0. Each of these three may be None, which takes the
        environment's: see `discovery.find`.
      timeout: seconds that the other processes may take to appear.
      notices: whether SIGTERM is a notice, which `Preemption` asks for; otherwise it ends the
        process.

    Raises:
      ClusterError: the job cannot be found, or the coordinator's port is taken.
      Unreachable: the coordinator does not appear.
    """
    member = discovery.find(
        cluster, os.environ, coordinator=coordinator, processes=processes, process=process
    )
    if member is None:
        return
    if member.coordinator is not None:
        _check_coordinator(member, timeout)
    # Its service takes SIGTERM from the process.
    jax.config.update("jax_enable_preemption_service", notices)
    # JAX aborts at its own timeout, with a stack trace in place of a message.
    alarm = threading.Timer(timeout, _give_up, (member, timeout))
    alarm.daemon = True
    alarm.start()
    jax.distributed.initialize(
        member.coordinator,
        member.processes,
        member.process,
        member.devices,
        cluster_detection_method=None if member.coordinator is None else "deactivate",
        initialization_timeout=timeout + 60,
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
    )
    alarm.cancel()
    if jax.process_count() > 1 and (
        # XLA keeps the collectives of a CPU program in one order, which all processes share, but
        # not those of a program that it reads from the cache: independent ones then run in any
        # order, and Gloo, which knows messages by their order alone, ends a process with
        # "op.preamble.length <= op.nbytes".
        jax.default_backend() == "cpu"
        # JAX writes on process 0 alone: where each host has a disk of its own, only that one would
        # read what the others compile, and some compilers divide their work among processes.
        or not os.environ.get("JAX_COMPILATION_CACHE_DIR")
    ):
        jax.config.update("jax_enable_compilation_cache", False)
    log.info(
        "process %d of %d, %d of %d devices",
        jax.process_index(),
        jax.process_count(),
        jax.local_device_count(),
        jax.device_count(),
    )


def is_lead() -> bool:
    """Returns True on process 0, which writes logs, metrics and pictures."""
    return jax.process_index() == 0


def everyone(ok: bool) -> bool:
    """Returns True on all processes if `ok` is true on all of them; all must call it."""
    if jax.process_count() == 1:
        return bool(ok)
    return bool(np.all(multihost_utils.process_allgather(np.asarray(bool(ok)))))


def from_all(value: Any) -> list[Any]:
    """Gathers a JSON value from every process, in their order; all must call it."""
    return [json.loads(text) for text in _gather(json.dumps(value))]


def from_lead(value: Any) -> Any:
    """Broadcasts a JSON value from process 0 to all processes; all must call it."""
    return from_all(value)[0]


def total(counts: Mapping[str, int]) -> dict[str, int]:
    """Sums counts over all processes, whose keys may differ; all must call it."""
    sums = collections.Counter()
    for each in from_all(counts):
        sums.update(each)
    return dict(sums)


@contextlib.contextmanager
def fail_together():
    """Fails the block on all processes if it fails on one; all must enter it.

    Raises:
      ValueError, OSError, ImportError, TryAgainError: the process's own error; or what another
        process said, as a ClusterError, or as a TryAgainError if that may pass.
    """
    own = None
    try:
        yield
    except REFUSALS as error:
        own = error
    said = None if own is None else {"text": str(own), "passing": may_pass(own)}
    everywhere = from_all(said)
    if own is not None:
        raise own
    problems = [f"process {i}: {said['text']}" for i, said in enumerate(everywhere) if said]
    if problems:
        passing = any(said["passing"] for said in everywhere if said)
        kind = TryAgainError if passing else ClusterError
        raise kind("other processes of this job cannot go on:\n  " + "\n  ".join(problems[:20]))


def agree(facts: Mapping[str, Any]) -> None:
    """Refuses to continue if the processes differ in any of `facts`; all must call it.

    Args:
      facts: name -> value, a text or number short enough to be shown.

    Raises:
      ClusterError: on every process, with what differs and how.
    """
    lead, *others = from_all({key: str(value) for key, value in facts.items()})
    problems = [
        f"{key}: {lead.get(key)} on process 0, {other.get(key)} on process {number}"
        for number, other in enumerate(others, 1)
        for key in {**lead, **other}
        if lead.get(key) != other.get(key)
    ]
    if problems:
        raise ClusterError(
            "the processes of this job differ; start the same code with the same command and a "
            "shared --workdir on every host:\n  " + "\n  ".join(problems[:20])
        )


class ExitTogether:
    """Context whose error ends all processes of a job: this one at once, and so the others.

    An ordinary exit would wait for them, and they for this one. Without its signs of life they end
    with an error of their own after HEARTBEAT_SECONDS.
    """

    def __init__(self, joint: Sequence[int] = (0,)):
        """Begins a command; `joint` are the exit codes with which all processes leave."""
        self._joint = joint

    def __enter__(self):
        return self

    def __exit__(self, kind, error, traceback):
        if kind is None or not jax.distributed.is_initialized():
            return
        code = 1
        if isinstance(error, SystemExit):
            code = error.code
        else:
            sys.excepthook(kind, error, traceback)
        if code not in self._joint:
            if is_lead():
                time.sleep(_LAST_WORDS_SECONDS)
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)


class Preemption:
    """Request to stop the run: SIGTERM of a machine being taken away, or Ctrl-C of a user.

    Either comes to any process. The second SIGINT ends the process at once, inside a compilation or
    another call that Python's own handlers wait for, too. If SIGINT was ignored when the
    process started, as shells arrange for background jobs, it stays ignored.
    """

    def __init__(self):
        """Starts listening for the signals."""
        self._requested, self._interrupted, self._asked = False, False, -1
        # JAX's own service, which tells all processes, listens to SIGTERM of a larger job.
        self._shared = jax.distributed.is_initialized()
        self._before = {}
        if not self._shared:
            self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._notice)
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._notice)
        self._presses = 0
        self._listener = signals.Listener(self._told)

    def _notice(self, number, _):
        self._requested = True
        self._interrupted |= number == signal.SIGINT

    def _told(self, number):
        if number != signal.SIGINT:
            return
        self._presses += 1
        if self._presses > 1:
            os.write(2, b"Ctrl-C again: ended at once, nothing more is saved\n")
            os._exit(EXIT_INTERRUPTED)
        os.write(2, b"Ctrl-C: this step is finished and saved; once more ends at once\n")
        self._requested = self._interrupted = True
        if self._shared:
            os.kill(os.getpid(), signal.SIGTERM)  # which JAX tells to all processes

    def requested(self) -> bool:
        """Returns True to stop now; equal on all processes, which must call it equally often."""
        self._asked += 1
        if self._shared:
            # JAX agrees on the question after the last that anyone asked, from 0 on: were they
            # numbered by steps, a notice before the first one of a resumed run would be lost.
            return multihost_utils.reached_preemption_sync_point(self._asked)
        return self._requested

    def interrupted(self) -> bool:
        """Returns True if any process received Ctrl-C; all must call it."""
        return any(from_all(self._interrupted))

    def close(self) -> None:
        """Restores the previous signal handlers."""
        self._listener.close()
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _check_coordinator(member, timeout) -> None:
    """Distinguishes a wrong address from a late process, unlike JAX's own message."""
    host, port = member.coordinator.rsplit(":", 1)
    if member.process == 0:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", int(port)))
            except OSError as error:
                raise ClusterError(
                    f"--coordinator={member.coordinator}: port {port} cannot be used: {error}"
                ) from error
        return
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise Unreachable(
                    f"--coordinator={member.coordinator} cannot be reached from process "
                    f"{member.process} for {timeout} s ({error}); is process 0 running there, and "
                    "is the port open?"
                ) from error
        time.sleep(0.5)


def _give_up(member, timeout) -> None:
    print(
        f"error: the {member.processes or ''} processes of the job did not meet at "
        f"{member.coordinator or 'the coordinator'} within {timeout} s; was the command started "
        "on every host?",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def _gather(text: str) -> list[str]:
    """Gathers the texts of all processes, in their order."""
    if jax.process_count() == 1:
        return [text]
    data = np.frombuffer(text.encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.asarray(data.size))
    padded = np.pad(data, (0, int(np.max(sizes)) - data.size))
    rows = multihost_utils.process_allgather(padded)
    return [bytes(row[:size]).decode() for row, size in zip(rows, np.ravel(sizes), strict=True)]
