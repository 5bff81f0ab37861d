"""Operations that are counted in a traced function."""

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive

from unitok_jax.models.quantizers.wrong_codes import Wrong, replace_codes
from unitok_jax.planning import flops


def test_a_choice_of_the_top_k_compares_every_element():
    assert flops.count(lambda x: jax.lax.top_k(x, 4), jnp.zeros((3, 100))) == 300


def test_attention_by_cudnn_counts_as_the_form_of_other_platforms():
    """It is one call, which only a machine with cuDNN traces; a form without products is none."""
    kernel = Primitive("dot_product_attention_fwd_wrapper")
    kernel.def_abstract_eval(lambda x: x)
    forms = {"default": lambda x: x @ x, "tpu": jnp.sin, "cuda": jax.jit(kernel.bind)}
    x = jnp.zeros((8, 8))
    found = {
        platform: flops.count(
            lambda x: jax.lax.platform_dependent(x, **forms), x, platform=platform
        )
        for platform in ("cpu", "tpu", "cuda")
    }
    assert found == {"cpu": 2 * 8**3, "tpu": 0, "cuda": 2 * 8**3}


def test_wrong_codes_cost_the_distances_of_all_rows_and_the_choice_of_the_nearest():
    """Although they are sought only in the steps that have wrong codes."""
    books, entries, width = 2, 64, 8
    rows, codes = jnp.zeros((books, entries, width)), jnp.zeros((1, books, 4), jnp.int32)

    def replace(share):
        return replace_codes(codes, rows, Wrong(jax.random.key(0), share, 5))

    assert flops.count(replace, jnp.float32(0.1)) == books * entries**2 * (2 * width + 1)
