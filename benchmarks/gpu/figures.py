"""Figures of a GPU, most important first: what each is called and how it is measured."""

import argparse
import concurrent.futures
import functools
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from benchmarks import generate, inference, multimodal, stages, timing, train_step
from benchmarks.gpu import kernels, parity, release
from unitok_jax.generate.step import abstract_model as abstract_generator
from unitok_jax.multimodal.model import abstract_model as abstract_multimodal

SECTIONS = (
    "peaks", "parity", "encode", "decode", "train", "kernels", "compile", "data", "sampler",
    "multimodal", "stages", "release", "cold",
)  # fmt: skip


class Figure(NamedTuple):
    """Figure: the section that it belongs to, and a call that returns its row."""

    section: str
    measure: Callable[[], dict]
    alone: bool = False  # measured in a process of its own, which finds the device empty


class Settings(NamedTuple):
    """Settings of a run, as the command line gives them."""

    config: str
    dtype: str | None
    batches: tuple[int, ...]
    remat: tuple[str, ...]
    inference_batches: tuple[int, ...]
    quick: bool

    @property
    def rounds(self) -> int:
        """Rounds of a measurement."""
        return 2 if self.quick else 7

    def configuration(self, remat: str | None = None):
        """Returns the configuration for one device, with `model.remat` if given."""
        dtype = self.dtype or ("float32" if jax.default_backend() == "cpu" else None)
        config = timing.configuration(self.config, dtype)
        config.optim.accumulation = 1
        config.model.remat = remat or config.model.remat
        return config


def figures(settings: Settings, peaks: Callable[[], dict]) -> dict[str, Figure]:
    """Returns name -> figure, in the order of their importance; touches no device.

    Args:
      settings: what to measure.
      peaks: returns the row of the figure 'peaks', or measures it.
    """
    s, found = settings, {}

    def add(name, section, function, *args, alone=False):
        found[name] = Figure(section, functools.partial(function, *args), alone)

    def train(phase, batch, remat):
        add(f"train {phase}, batch {batch}, remat {remat}", "train", _train, s, peaks, phase,
            batch, remat)  # fmt: skip

    adversary = timing.configuration(s.config).gan.weight != 0
    phases = [phase for phase, acts in train_step.PHASES.items() if adversary or not acts]
    first, largest = (s.batches[0], s.remat[0]), s.inference_batches[-1]
    add("peaks", "peaks", timing.peaks, 0.2 if s.quick else 1.0)
    for dtype in ("float32", "bfloat16"):
        add(f"parity tiny, {dtype}", "parity", parity.measure, "tiny", dtype)
    for method in ("encode", "decode"):
        add(f"{method}, batch {largest}", method, _infer, s, peaks, method, largest)
    for phase in phases:
        train(phase, *first)
        add(f"kernels {phase}, batch {first[0]}, remat {first[1]}", "kernels", _kernels, s, phase,
            *first)  # fmt: skip
    add(f"data, batch {first[0]}, remat {first[1]}", "data", _fed, s, *first, alone=True)
    add("compile again", "compile", _compile_again, s, *first)
    for batch in s.batches:
        for remat in s.remat:
            for phase in phases:
                if (batch, remat) != first:
                    train(phase, batch, remat)
    if not s.quick:
        for dtype in ("float32", "bfloat16"):
            add(f"parity base, {dtype}", "parity", parity.measure, "base", dtype)
    for batch in s.inference_batches[:-1]:
        for method in ("encode", "decode"):
            add(f"{method}, batch {batch}", method, _infer, s, peaks, method, batch)
    for size, batch, scale in [("tiny", 2, 1.5)] if s.quick else [("l", 64, 1.5), ("l", 1, 1.5)]:
        add(f"sampler {size}, batch {batch}, scale {scale}", "sampler", _sample, s, peaks, size,
            batch, scale)  # fmt: skip
    size, batch = ("shapes", 2) if s.quick else ("qwen_0p5b", 16)
    add(f"answers {size}, batch {batch}", "multimodal", _answer, s, size, batch)
    add(f"multimodal train {size}, batch {batch}", "multimodal", _train_multimodal, s, peaks, size,
        batch)  # fmt: skip
    if os.environ.get(release.VARIABLE):
        for method in ("encode", "decode"):
            add(f"release {method}, batch {largest}", "release", _release, s, method, largest,
                alone=True)  # fmt: skip
    if not s.quick:
        add(f"stages, batch {first[0]}", "stages", _stages, s, peaks, first[0])
        for at_once in (1, 2):
            way = "side by side" if at_once == 2 else "one after the other"
            add(f"cold, both phases {way}", "cold", _cold, s, *first, at_once, alone=True)
    return found


def _train(s, peaks, phase, batch, remat):
    config = s.configuration(remat)
    found = train_step.measure(config, batch, s.rounds, phases=(phase,))[phase]
    row = found | {"remat": remat, "decode_fraction": config.data.decode_fraction}
    return _speed(row, peaks())


def _infer(s, peaks, method, batch):
    config = s.configuration()
    return _speed(inference.measure(config, batch, s.rounds, peaks(), [method])[method], peaks())


def _speed(row, peaks):
    """Adds images a second, the share of the peak, and the most memory that was in use."""
    row["images_per_second"] = row["batch"] / row["seconds"]
    row["of_peak"] = row["model_flops"] / row["seconds"] / peaks[row["dtype"]]
    told = jax.local_devices()[0].memory_stats() or {}
    # Of the process so far, the only figure that a device tells.
    return row | {"peak_bytes_so_far": told.get("peak_bytes_in_use")}


def _kernels(s, phase, batch, remat):
    config = s.configuration(remat)
    (job,) = train_step.jobs(config, batch, (phase,)).values()
    program = jax.jit(job.function, donate_argnums=job.donate).lower(*job.args).compile()
    state, *arguments = train_step.arrays(config, job)

    def step():
        nonlocal state
        state, metrics = program(state, *arguments)
        return metrics

    return kernels.measure(step, s.rounds) | {"batch": batch}


def _fed(s, batch, remat):
    from benchmarks.gpu import fed  # its logging and data are for this figure alone

    dtype = s.configuration().model.dtype
    return fed.measure(s.config, dtype, batch, 6 if s.quick else 300, remat, s.quick)


def _compile_again(s, batch, remat):
    """Times what a later start of the same training waits for, from the programs on the disk."""
    rows = {}
    for phase, job in train_step.jobs(s.configuration(remat), batch).items():
        compiled = functools.partial(_timed_compilation, job)
        rows[phase] = compiled()
        if not rows[phase]["from_cache"]:  # this was the cold one
            jax.clear_caches()
            rows[f"{phase}, again"] = compiled()
    return rows


def _timed_compilation(job):
    hits = []

    def hit(event, **_):
        hits.append(event.endswith("/cache_hits"))

    jax.monitoring.register_event_listener(hit)
    try:
        marks = [time.perf_counter()]
        traced = jax.jit(job.function, donate_argnums=job.donate).trace(*job.args)
        marks.append(time.perf_counter())
        lowered = traced.lower()
        marks.append(time.perf_counter())
        lowered.compile()
        marks.append(time.perf_counter())
    finally:
        jax.monitoring.unregister_event_listener(hit)
    names = ("trace_seconds", "lower_seconds", "compile_seconds")
    seconds = {n: b - a for n, (a, b) in zip(names, itertools.pairwise(marks), strict=True)}
    return seconds | {"from_cache": any(hits)}


def _cold(s, batch, remat, at_once):
    """Times the compilation of both phases with nothing on the disk; tracing is left out."""
    jobs = train_step.jobs(s.configuration(remat), batch)
    traced = [jax.jit(j.function, donate_argnums=j.donate).trace(*j.args) for j in jobs.values()]

    def compile_one(traced):
        begun = time.perf_counter()
        traced.lower().compile()
        return time.perf_counter() - begun

    with tempfile.TemporaryDirectory() as folder:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax_cache.reset_cache()  # which keeps the folder of its first use
        begun = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
            seconds = dict(zip(jobs, pool.map(compile_one, traced), strict=True))
        return seconds | {"seconds_of_all": time.perf_counter() - begun}


def _dtype(s):
    return s.configuration().model.dtype


def _sample(s, peaks, size, batch, scale):
    model = generate.model_of(size, _dtype(s), 16 if s.quick else 256)
    params = generate.fill(abstract_generator(model)[1])
    setting = batch, scale
    made = generate.compile_all([setting], model, 1)
    return generate.sampling_row(made, params, model, setting, peaks()["bytes"], s.rounds, 0)


def _answer(s, size, batch):
    model = timing.configuration(f"multimodal_{size}", _dtype(s)).model.to_dict()
    params = generate.fill(abstract_multimodal(model)[1])
    given = dict(question=8 if s.quick else 32, limit=4 if s.quick else 16, scale=7.0)
    args = argparse.Namespace(**given, torch=False, rounds=s.rounds)
    return multimodal.use_row(size, model, params, _dtype(s), batch, args)


def _train_multimodal(s, peaks, size, batch):
    dtype, remat = _dtype(s), "none" if s.quick else "blocks"
    return multimodal.train_row(size, dtype, batch, remat, s.rounds, peaks()[dtype])


def _stages(s, peaks, batch):
    return stages.measure(s.configuration(), batch, s.rounds, peaks(), {})


def _release(s, method, batch):
    return release.measure(s.configuration(), method, batch, s.rounds)
