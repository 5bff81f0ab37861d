"""What teachers add to a step, in operations: `python -m benchmarks.teacher`.

Nothing is computed or compiled, only traced and counted as by `unitok fit`: the step of `l16`
without micro-batches, per image, before the adversary acts. With micro-batches, or with the
adversary, a step does more and the teacher as much.
"""

import functools

import jax

from configs import l16
from unitok_jax.models.pretrained.teachers import KINDS
from unitok_jax.planning import flops
from unitok_jax.tokenizer.plan import batch_shapes
from unitok_jax.tokenizer.step import TokenizerSteps

BATCH = 8


def operations(**keys) -> float:
    """Counts the operations of a step for one image; `room__key` changes a key."""
    config = l16.get_config()
    config.optim.accumulation = 1
    for key, value in keys.items():
        room, leaf = key.split("__")
        config[room][leaf] = value
    config.data.batch_size = BATCH
    steps = TokenizerSteps(config)
    batch = batch_shapes(config, config.data.image_size, steps.teaching)
    step = functools.partial(steps.train_step, adversarial=False, gather=lambda params: params)
    state = jax.eval_shape(steps.init)
    return flops.count(step, state, steps.abstract_networks(), batch, platform="tpu") / BATCH


def main() -> None:
    """Prints a row for every teacher and loss, and of stored features for one of each loss."""
    alone = operations()
    print(f"{'without a teacher':32}{alone / 1e9:8.1f} GFLOP an image")
    for kind, row in KINDS.items():
        for loss in ("teacher_token", *["teacher_relation"] * (row.text is not None)):
            more = operations(**{"teacher__kind": kind, f"loss__{loss}": 1.0}) - alone
            print(f"{kind:16}{loss:16}{more / 1e9:+8.1f} GFLOP {more / alone:8.2%}", flush=True)
    for kind, loss in (("siglip2_b16", "teacher_token"), ("clip_b16", "teacher_relation")):
        keys = {"teacher__kind": kind, f"loss__{loss}": 1.0, "teacher__features": "stored"}
        more = operations(**keys) - alone
        print(f"{kind:16}{loss:16}{more / 1e9:+8.1f} GFLOP {more / alone:8.2%} stored", flush=True)


if __name__ == "__main__":
    main()
