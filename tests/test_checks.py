"""Values that do not fit are refused before anything is built, with the key and what to set."""

import pytest

from configs import default, tiny_full
from unitok_jax.checks import check


def test_the_configurations_that_come_with_it_pass():
    check(default.get_config())
    check(tiny_full.get_config())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"loss.l1": -0.1}, r"loss\.l1=-0\.1 must not be negative"),
        ({"loss.perceptual": -1.0}, r"loss\.perceptual=-1\.0 must not be negative"),
        ({"gan.weight": -0.4}, r"gan\.weight=-0\.4 must not be negative"),
        ({"gan.consistency": -4.0}, r"gan\.consistency=-4\.0 must not be negative"),
        ({"gan.start_fraction": 1.0}, r"gan\.start_fraction=1\.0 of steps=200 leaves .* no step"),
        ({"gan.start_fraction": 1.5}, r"gan\.start_fraction=1\.5 .*gan\.weight=0"),
        ({"gan.start_fraction": -0.1}, r"gan\.start_fraction=-0\.1"),
        ({"gan.loss": "hing"}, r"gan\.loss='hing' is not one of hinge, softplus, linear"),
        ({"gan.betas": (0.5,)}, r"gan\.betas=\(0\.5,\) must hold two values"),
        ({"gan.adaptive_limits": (2.0, 1.0)}, r"gan\.adaptive_limits=\(2\.0, 1\.0\)"),
        ({"gan.augment_probability": 1.1}, r"gan\.augment_probability=1\.1 must lie between"),
        (
            {"loss.l1": 0.0, "loss.l2": 0.0, "loss.perceptual": 0.0},
            r"gan\.weight=0\.4 is relative to .*loss\.l1, loss\.l2, loss\.perceptual are all 0",
        ),
        ({"data.image_size": (32, 64)}, r"loss\.perceptual=1\.0 needs images of at least 48 px"),
        ({"data.batch_size": 1}, r"data\.batch_size=1 leaves loss\.contrastive=1\.0 no other pair"),
        ({"optim.accumulation": 3}, r"optim\.accumulation=3 does not divide data\.batch_size=16"),
        ({"optim.accumulation": 0}, r"optim\.accumulation=0 must be at least 1"),
        ({"optim.schedule": "cosin"}, r"optim\.schedule='cosin' is not one of cosine"),
        (
            {"optim.schedule": "exponential", "optim.final_fraction": 0.0},
            r"optim\.schedule=exponential never reaches optim\.final_fraction=0",
        ),
        ({"optim.ema_decay": 1.0}, r"optim\.ema_decay=1\.0 must be at least 0 and below 1"),
        ({"optim.learning_rate": -1.0}, r"optim\.learning_rate=-1\.0 must not be negative"),
        ({"optim.learning_rate": float("nan")}, r"optim\.learning_rate=nan is not a finite"),
        ({"optim.clip_norm": -1.0}, r"optim\.clip_norm=-1\.0 must be above 0"),
        ({"gan.eps": 0.0}, r"gan\.eps=0\.0 must be above 0"),
        ({"optim.betas": (0.9, 1.0)}, r"optim\.betas=\(0\.9, 1\.0\) must be at least 0 and below"),
        ({"model.commitment_weight": -0.2}, r"model\.commitment_weight=-0\.2 must be at least 0"),
        ({"model.drop_path": 1.0}, r"model\.drop_path=1\.0 must be at least 0 and below 1"),
        (
            {"model.num_codebooks": 10**7},
            r"model\.num_codebooks=10000000 must be an integer from 1",
        ),
        ({"data.image_size": (16 * 10**9, 64)}, r"data\.image_size=.*16000000000 is over 8192"),
        (
            {"model.quantizer": "fsq", "loss.entropy": 0.1},
            r"loss\.entropy=0\.1 has no meaning for model\.quantizer=fsq",
        ),
        ({"optim.max_skipped": 0}, r"optim\.max_skipped=0 must be at least 1"),
        ({"log.profile_count": 0}, r"log\.profile_count=0 must be at least 1"),
        ({"log.profile_steps": (0,)}, r"log\.profile_steps=\(0,\): 0 is no step from 1 to steps"),
        ({"log.profile_steps": (9, 201)}, r"log\.profile_steps=\(9, 201\): 201 is no .*steps=200"),
        ({"log.profile_steps": (2.5,)}, r"log\.profile_steps=\(2\.5,\): 2\.5 is no step"),
        (
            {"log.profile_steps": (9, 7)},
            r"log\.profile_steps=\(9, 7\): .*profile_count=3 steps from 7 on is not over at 9",
        ),
        ({"init.training": True}, r"init\.training=True needs init\.path"),
        (
            {"init.training": True, "init.path": "a", "init.include": ("encoder.*",)},
            r"init\.training=True takes all of init\.path",
        ),
        ({"optim.frozen": ("encoder.*",)}, r"optim\.frozen=.*would keep random weights"),
    ],
)
def test_bad_values(changes, message):
    config = tiny_full.get_config()
    for key, value in changes.items():
        room, leaf = key.split(".")
        config[room][leaf] = value
    with pytest.raises(ValueError, match=message):
        check(config)


def test_nothing_to_learn():
    config = tiny_full.get_config()
    config.gan.weight = 0.0
    for key in ("l1", "l2", "perceptual", "contrastive"):
        config.loss[key] = 0.0
    with pytest.raises(ValueError, match="are all 0: nothing to learn"):
        check(config)


def test_a_depth_of_millions_is_the_line_that_weights_of_others_get():
    config = tiny_full.get_config()
    config.model.text.layers = 10**7
    with pytest.raises(ValueError, match=r"^model\.text\.layers=10000000 must be .* 1 to 1024$"):
        check(config)
