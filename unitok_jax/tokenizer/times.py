"""Lengths of a run's schedules in steps."""

from typing import NamedTuple

from ml_collections import ConfigDict


class Times(NamedTuple):
    """Lengths of the schedules in steps; a configuration has them as fractions of all steps."""

    total: int  # steps of the run
    warmup: int  # warm-up of the generator's learning rate
    gan_start: int  # steps before the adversarial phase
    gan_warmup: int  # warm-up of the discriminator's learning rate, from gan_start on
    gan_ramp: int  # ramp of the adversarial weight, from gan_start on
    gan_blur: int  # fading of the blur, from gan_start on

    @classmethod
    def from_fractions(cls, steps: int, optim: ConfigDict, gan: ConfigDict) -> "Times":
        """Converts the fractions in `config.optim` and `config.gan` to steps, for a run of `steps`.

        Fractions must be finite.
        """
        fractions = (
            optim.warmup_fraction,
            gan.start_fraction,
            gan.warmup_fraction,
            gan.ramp_fraction,
            gan.blur_fraction,
        )
        return cls(steps, *(round(steps * fraction) for fraction in fractions))
