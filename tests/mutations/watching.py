"""Faults of what tells how a run goes: notices of compilations, the benchmark of GPUs."""

from . import Mutation

COMPILING, TEST_COMPILING = "unitok_jax/runtime/compiling.py", "tests/runtime/test_compiling.py"
GPU, TEST_GPU = "benchmarks/gpu", "tests/benchmark/test_gpu.py"

MUTATIONS = [
    Mutation(
        "a notice of every program",
        COMPILING,
        "now, now + self._first]",
        "now, now]",
        f"{TEST_COMPILING} -k short",
    ),
    Mutation(
        "one notice of a compilation",
        COMPILING,
        "entry[2] = now + self._every",
        "entry[2] = now + 1e9",
        f"{TEST_COMPILING} -k at_once",
    ),
    Mutation(
        "compilations of two threads as one",
        COMPILING,
        "self._running[threading.get_ident()]",
        "self._running[0]",
        f"{TEST_COMPILING} -k each_thread",
    ),
    Mutation(
        "listeners that stay",
        COMPILING,
        "        jax.monitoring.unregister_event_duration_listener(watch.end)\n",
        "",
        f"{TEST_COMPILING} -k nothing_is_left",
    ),
    Mutation(
        "a thread that keeps the process",
        COMPILING,
        "        watch.close()\n        thread.join()",
        "        thread.join()",
        f"{TEST_COMPILING} -k ends_at_once",
    ),
    Mutation(
        "notices of training to a logger that is quiet",
        "unitok_jax/main.py",
        "compiling.notices(standard_logging.getLogger(__name__).info)",
        "compiling.notices(logging.info)",
        f"{TEST_COMPILING} -k training_tells",
    ),
    Mutation(
        "a GPU that tunes anew at every start",
        "unitok_jax/runtime/compilation_cache.py",
        '    jax.config.update("jax_compilation_cache_dir", str(folder))\n',
        '    jax.config.update("jax_compilation_cache_dir", str(folder))\n'
        '    jax.config.update("jax_persistent_cache_enable_xla_caches", "")\n',
        "tests/runtime/test_compilation_cache.py -k results_of_autotuning",
    ),
    Mutation(
        "settings that are too large for the compiler, whose error is all that is told",
        "unitok_jax/training/out_of_memory.py",
        "        return math.inf\n",
        "        raise\n",
        "tests/training/test_out_of_memory.py -k compiler_refuses",
    ),
    Mutation(
        "kernels of a GPU that are taken for loops which hold others",
        f"{GPU}/kernels.py",
        "if devices or (operation and not _HOLDS_OTHERS.match(operation)):",
        "if (devices or operation) and not _HOLDS_OTHERS.match(operation):",
        f"{TEST_GPU} -k events_of_a_trace",
    ),
    Mutation(
        "figures of a GPU with a recomputation that there is not",
        f"{GPU}/__main__.py",
        "        recomputation.find(remat, recomputation.TOKENIZER)",
        "        recomputation.of_blocks(remat)",
        f"{TEST_GPU} -k wrong_argument",
    ),
    Mutation(
        "a figure that is measured twice",
        f"{GPU}/lines.py",
        "            if name not in self.rows or",
        "            if True or",
        f"{TEST_GPU} -k known_is_not",
    ),
    Mutation(
        "an error that is measured again unasked",
        f"{GPU}/lines.py",
        "(again and ",
        "(",
        f"{TEST_GPU} -k cut_short",
    ),
    Mutation(
        "a killed process that takes the rest along",
        f"{GPU}/__main__.py",
        "return [name for name in left if name != current]",
        "return []",
        f"{TEST_GPU} -k ends_the_process",
    ),
    Mutation(
        "a figure out of time as a failure",
        f"{GPU}/__main__.py",
        "if not left or time.monotonic() >= until:",
        "if not left:",
        f"{TEST_GPU} -k time_is_up",
    ),
    Mutation(
        "a worker that outlives its parent",
        f"{GPU}/worker.py",
        "    os._exit(1)",
        "    return",
        f"{TEST_GPU} -k ends_with_its_parent",
    ),
    Mutation(
        "wait without the steps that wait for nothing",
        f"{GPU}/fed.py",
        '"wait_share": seconds["input"] / stepping',
        '"wait_share": seconds["input"] / total',
        f"{TEST_GPU} -k shares",
    ),
    Mutation(
        "float32 products as others",
        f"{GPU}/kernels.py",
        '"simt|sgemm|ffma"',
        '"simt"',
        f"{TEST_GPU} -k kinds",
    ),
]
