"""What benchmarks compute, not how fast."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks import ablation, startup
from unitok_jax.planning import flops

pytestmark = pytest.mark.slow


def test_operations_of_products_convolutions_and_scans():
    x, w = jnp.ones((4, 8)), jnp.ones((8, 16))
    assert flops.count(lambda x, w: x @ w, x, w) == 2 * 4 * 8 * 16
    image, kernel = jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5))

    def conv(image, kernel):
        return jax.lax.conv_general_dilated(
            image, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    assert flops.count(conv, image, kernel) == 2 * (3 * 3 * 3) * (2 * 4 * 4 * 5)

    def scanned(x):
        return jax.lax.scan(lambda x, _: (x @ jnp.ones((8, 8)), None), x, None, length=7)

    assert flops.count(scanned, x) == 7 * 2 * 4 * 8 * 8
    square = jnp.ones((8, 8))
    gradient = jax.grad(jax.checkpoint(lambda w: jnp.sum((x @ w) @ square)))
    assert flops.count(gradient, square) == 4 * (2 * 4 * 8 * 8)  # two again, two back


def test_the_table_of_the_ablation():
    records = [
        {"variant": "books8", "eval/psnr": 20.0, "usage_min": 0.5},
        {"variant": "books8", "eval/psnr": 22.0, "usage_min": 0.5},
        {"variant": "contrastive", "eval/psnr": None, "eval/zero_shot_top1": 0.0},
    ]
    table = ablation.report(records).splitlines()
    assert table[2].startswith("| `books8` | 2 | 21.000 \u00b1 1.414 | \u2013 ")
    assert table[3].startswith("| `contrastive` | 1 | \u2013 | \u2013 | 0.000 |")


def test_the_table_of_the_start():
    numbers = {
        "load": 1.234,
        "load, CPU": 0.5,
        "first encode, cold": 20,
        "first encode, cold, CPU": 4,
    }
    rows = startup.table(numbers).splitlines()
    assert rows[2:] == ["| load | 1.23 | 0.50 |", "| first encode, cold | 20.00 | 4.00 |"]


@pytest.mark.parametrize("variant", ablation.VARIANTS)
def test_every_variant_of_the_ablation_builds(variant):
    from unitok_jax.tokenizer.config_checks import check
    from unitok_jax.tokenizer.step import TokenizerSteps

    config = ablation.configuration(variant, steps=10, batch=4)
    check(config)
    pure = TokenizerSteps(config)
    assert pure.entries * config.model.num_codebooks == ablation.ENTRIES


def test_operations_of_the_platforms_own_form():
    def by_platform(x):
        return jax.lax.platform_dependent(x, cpu=lambda x: x @ x, default=lambda x: x @ x @ x)

    x, product = jnp.ones((8, 8)), 2 * 8**3
    assert flops.count(by_platform, x, platform="cpu") == product
    assert flops.count(by_platform, x, platform="tpu") == flops.count(by_platform, x) == 2 * product
