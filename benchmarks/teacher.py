"""What teachers add to a step, in operations: `python -m benchmarks.teacher`.

Nothing is computed or compiled, only traced and counted as by `unitok fit`: the step of `l16`
without micro-batches, per image, before the adversary acts. With micro-batches, or with the
adversary, a step does more and the teacher as much.
"""

import functools

import jax
import jax.numpy as jnp

from configs import l16
from unitok_jax.models.pretrained.teachers import KINDS
from unitok_jax.planning import flops
from unitok_jax.tokenizer.step import TokenizerSteps

BATCH = 8


def operations(**keys) -> float:
    """Counts the operations of a step for one image; `room__key` changes a key."""
    config = l16.get_config()
    config.optim.accumulation = 1
    for key, value in keys.items():
        room, leaf = key.split("__")
        config[room][leaf] = value
    steps, (height, width) = TokenizerSteps(config), config.data.image_size
    batch = {
        "image": jax.ShapeDtypeStruct((BATCH, height, width, 3), jnp.uint8),
        "text": jax.ShapeDtypeStruct((BATCH, config.data.context_length), jnp.int32),
    }
    step = functools.partial(steps.train_step, adversarial=False, gather=lambda params: params)
    state = jax.eval_shape(steps.init)
    return flops.count(step, state, steps.abstract_networks(), batch, platform="tpu") / BATCH


def main() -> None:
    """Prints a row for every teacher and loss."""
    alone = operations()
    print(f"{'without a teacher':32}{alone / 1e9:8.1f} GFLOP an image")
    for kind, row in KINDS.items():
        for loss in ("teacher_token", *["teacher_relation"] * (row.text is not None)):
            more = operations(**{"teacher__kind": kind, f"loss__{loss}": 1.0}) - alone
            print(f"{kind:16}{loss:16}{more / 1e9:+8.1f} GFLOP {more / alone:8.2%}", flush=True)


if __name__ == "__main__":
    main()
