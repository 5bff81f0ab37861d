"""Time of a process before its first codes: import, compilation, and the first call.

    python -m benchmarks.first_call [--config tiny] [--batch 1] [--dtype float32]

No compilation cache is used.
"""

import argparse
import json
import os
import subprocess
import sys
import time


def measure(config: str, batch: int, dtype: str) -> dict[str, dict]:
    """Measures {'import', 'compile', 'first call'} -> {'seconds'} of encoding in a new process."""
    command = [sys.executable, "-m", "benchmarks.first_call", "--here", "--config", config]
    command += ["--batch", str(batch), "--dtype", dtype]
    environment = os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(
        command, check=True, env=environment, stdout=subprocess.PIPE, text=True
    ).stdout
    return json.loads(done.splitlines()[-1])


def _here(name, batch, dtype):
    begun = time.perf_counter()
    import unitok_jax.tokenizer.api  # noqa: F401

    imported = time.perf_counter()
    import jax

    from benchmarks import inference, timing
    from unitok_jax.models.unitok import abstract_model

    config = timing.configuration(name, dtype)
    params = timing.fill(abstract_model(config.model.to_dict())[1])
    job = inference.methods(config, params, batch)["encode"]
    ready = time.perf_counter()
    program = jax.jit(job.function).lower(*job.args).compile()
    compiled = time.perf_counter()
    timing.finish(program, *job.args)
    marks = {"import": imported - begun, "compile": compiled - ready}
    marks["first call"] = time.perf_counter() - compiled
    print(json.dumps({name: {"seconds": seconds} for name, seconds in marks.items()}))


def main() -> None:
    """Prints the seconds as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="tiny", help="a name in configs/")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        _here(args.config, args.batch, args.dtype)
    else:
        print(json.dumps(measure(args.config, args.batch, args.dtype), indent=1))


if __name__ == "__main__":
    main()
