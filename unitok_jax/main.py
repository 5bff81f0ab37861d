"""Trains a model: `unitok train --config=configs/b16.py --workdir=DIR`."""

import gc
import logging as standard_logging
import signal
import sys
import time

from absl import app, flags, logging
from ml_collections import config_flags

from unitok_jax.commands.config_flags import parse_or_exit
from unitok_jax.system import console, passing

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "A file with get_config(), such as configs/b16.py; --config.a.b=... sets a key."
)
_BEGAN = time.time()
WORKDIR = flags.DEFINE_string(
    "workdir", "", "Folder of checkpoints and metrics; the same again resumes."
)
CLUSTER = flags.DEFINE_string(
    "cluster",
    "auto",
    "How the processes of a job find each other: auto, none, tpu, slurm, openmpi, kubernetes.",
)
COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0; by default $JAX_COORDINATOR_ADDRESS."
)
PROCESSES = flags.DEFINE_integer(
    "processes", None, "How many processes the job has; by default $JAX_NUM_PROCESSES."
)
PROCESS = flags.DEFINE_integer(
    "process", None, "Which of them this is, from 0; by default $JAX_PROCESS_ID."
)
CONNECT_TIMEOUT = flags.DEFINE_integer(
    "connect_timeout",
    300,
    "Seconds that the processes of a job wait for each other.",
    lower_bound=1,
)
MODE = flags.DEFINE_enum(
    "mode",
    "train",
    ["train", "compile"],
    "compile: only tells what the run costs and whether its step fits --topology.",
)
TOPOLOGY = flags.DEFINE_string(
    "topology",
    "",
    "What --mode=compile compiles for: v5e:16x16, h100:8, host:8; a wrong name lists all; none: "
    "only the cost of the run on several machines.",
)
EFFICIENCY = flags.DEFINE_float(
    "efficiency",
    0.5,
    "Part of the roofline's speed that --mode=compile assumes.",
    lower_bound=0.01,
    upper_bound=1.0,
)
PRICE = flags.DEFINE_float(
    "price", None, "US dollars an hour of one chip of --topology: what the run costs then."
)


def main(_: list[str]) -> None:
    """Trains a model, or only compiles its step.

    Exit codes: 0 finished; 2 the configuration or its input is wrong, with a message of one line;
    75 received SIGTERM, all progress is saved and the same command continues the run; 130 the same
    for Ctrl-C, so that a supervisor does not restart the run. After any other end, too, the same
    command continues the run, from the newest checkpoint.
    """
    if logging.get_verbosity() < logging.INFO:
        logging.set_verbosity(logging.INFO)
    for noisy in ("orbax", "jax", "absl"):
        standard_logging.getLogger(noisy).setLevel(standard_logging.WARNING)
    # Tracing makes a million objects that stay: looking for garbage among them took a quarter of
    # the time until a step is compiled.
    gc.set_threshold(100_000, *gc.get_threshold()[1:])
    # After the flags: --help must not wait for JAX.
    from unitok_jax.runtime import compiling, processes

    # What `Preempted` tells, it tells all.
    joint = 0, processes.EXIT_PREEMPTED, processes.EXIT_INTERRUPTED
    with processes.ExitTogether(joint):
        try:
            # Not absl's logger, which is quiet.
            with compiling.notices(standard_logging.getLogger(__name__).info):
                _compile() if MODE.value == "compile" else _train()
        except (*processes.REFUSALS, ArithmeticError) as error:
            logging.debug("traceback", exc_info=True)
            console.refuse(f"{error}\n(--v=1 shows where)", 1 if passing.may_pass(error) else 2)


def _compile() -> None:
    from unitok_jax.planning import fit, price_list

    price_list.check_price(PRICE.value, TOPOLOGY.value)
    plan = _product().plan
    if TOPOLOGY.value:
        fit.fit(plan, CONFIG.value, TOPOLOGY.value, EFFICIENCY.value, PRICE.value)
    else:
        price_list.show(plan, CONFIG.value)


def _tokenizer():
    from unitok_jax.tokenizer.run import Run

    return Run


def _generator():
    from unitok_jax.generate.run import Run

    return Run


def _multimodal():
    from unitok_jax.multimodal.run import Run

    return Run


# Products that can be trained: name -> function that imports a `training.run.Run`.
PRODUCTS = {"tokenizer": _tokenizer, "generator": _generator, "multimodal": _multimodal}


def _product():
    name = CONFIG.value.get("product")
    if name not in PRODUCTS:
        raise ValueError(
            f"product={name!r} of the configuration is none of {', '.join(PRODUCTS)}; "
            "start from get_config() of configs/default.py, generate.py or multimodal.py"
        )
    return PRODUCTS[name]()


def _train() -> None:
    from unitok_jax.runtime import compilation_cache, processes
    from unitok_jax.training import loop

    make_run = _product()
    compilation_cache.enable()
    processes.connect(
        *(CLUSTER.value, COORDINATOR.value, PROCESSES.value, PROCESS.value),
        CONNECT_TIMEOUT.value,
        notices=True,
    )
    if not processes.is_lead():
        logging.set_verbosity(logging.WARNING)
    try:
        loop.train(make_run, CONFIG.value, WORKDIR.value, _BEGAN)
    except loop.Preempted as notice:
        logging.warning("%s", notice)
        sys.exit(processes.EXIT_INTERRUPTED if notice.interrupted else processes.EXIT_PREEMPTED)


if __name__ == "__main__":
    # Until there is progress to save, Ctrl-C ends the process at once, inside a library too.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    app.run(main, flags_parser=lambda argv: parse_or_exit(argv, example="configs/tiny.py"))
