"""Lengths of the schedules."""

from configs import tiny
from unitok_jax.tokenizer.times import Times


def test_times_are_rounded_once():
    config = tiny.get_config()
    times = Times.from_fractions(99, config.optim, config.gan)
    assert times == (99, round(0.99), round(37.125), round(2.97), round(2.97), round(5.94))
