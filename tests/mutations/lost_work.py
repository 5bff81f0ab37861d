"""Faults by which work is lost: checkpoints, data workers, weights and inputs that are not told."""

from . import Mutation

MUTATIONS = [
    Mutation(
        "best checkpoints that are dropped while they are few",
        "unitok_jax/checkpoints/retention.py",
        "max(len(best) - self._settings.keep_best, 0)",
        "len(best) - self._settings.keep_best",
        "tests/checkpoints/test_checkpoint.py -k several_best",
    ),
    Mutation(
        "an evaluation after a stop that no choice of the best knows",
        "unitok_jax/training/loop.py",
        "checkpoints.add_evaluation(start, _evaluate(run, state, start, tools))",
        "_evaluate(run, state, start, tools)",
        "tests/training/test_resume.py -k made_up",
    ),
    Mutation(
        "a worker that ends with SIGTERM to the whole job",
        "unitok_jax/data/workers.py",
        ".si_pid != parent:",
        ".si_pid is None:",
        "tests/data/test_workers.py -k sigterm",
    ),
    Mutation(
        "a worker that ignores its parent's SIGTERM",
        "unitok_jax/data/workers.py",
        ".si_pid != parent:",
        ".si_pid is not None:",
        "tests/data/test_workers.py -k sigterm",
    ),
    Mutation(
        "weights that are not finite",
        "unitok_jax/weights/torch_layout.py",
        "if not np.isfinite(array).all():",
        "if np.isnan(array).all():",
        "tests/weights/test_convert.py -k not_finite",
    ),
    Mutation(
        "big-endian pixels that are clipped",
        "unitok_jax/data/images/pillow_images.py",
        'if image.mode.startswith("I;16") and image.mode not in _PNG:',
        "if False:",
        "tests/multimodal/test_asking_and_drawing.py -k pillow_image",
    ),
    Mutation(
        "an URL that becomes a folder",
        "unitok_jax/system/paths.py",
        "if is_remote(text):",
        "if False:",
        "tests/system/test_paths.py",
    ),
    Mutation(
        "a kernel that counts as no work",
        "unitok_jax/planning/flops.py",
        "if not _is_opaque(branch):",
        "if True:",
        "tests/planning/test_flops.py -k cudnn",
    ),
    Mutation(
        "weights of ours that are not finite",
        "unitok_jax/weights/hub.py",
        "torch_layout.finite(name, state[name])",
        "np.asarray(state[name], np.float32)",
        "tests/weights/test_hub.py -k not_finite",
    ),
    Mutation(
        "pictures that become images of the next run",
        "unitok_jax/data/sources.py",
        "inside = real.is_relative_to(folder) and folder.is_dir()",
        "inside = real == folder",
        "tests/data/test_data_sources.py -k OutputsAmongImages",
    ),
]
