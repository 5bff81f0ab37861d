"""The jitted programs of a run over a mesh: all that needs neither data nor weights."""

import functools

import jax
from jax.sharding import Mesh

from unitok_jax import sharding
from unitok_jax.step import Trainer


class Programs:
    """`Trainer`'s functions, jitted with the shardings of one mesh."""

    def __init__(self, trainer: Trainer, mesh: Mesh):
        """trainer: whose functions they are; mesh: of devices, or of those of a topology."""
        abstract = jax.eval_shape(trainer.init)
        self.shardings = sharding.state_shardings(abstract, mesh)
        self.abstract = jax.tree.map(
            lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s),
            abstract,
            self.shardings,
        )
        self.init = jax.jit(trainer.init, out_shardings=self.shardings)
        self.start = jax.jit(trainer.start, out_shardings=self.shardings)
        whole, split = sharding.replicated(mesh), sharding.batch_sharding(mesh)
        # Left to itself XLA leaves the parameters split and gathers the activations: in every block
        # of every micro-batch, a hundred times the bytes.
        gather = functools.partial(jax.lax.with_sharding_constraint, shardings=whole)
        # {False: before the adversary acts, True: from then on}
        self.phases = {
            adversarial: jax.jit(
                functools.partial(trainer.train_step, adversarial=adversarial, whole=gather),
                in_shardings=(self.shardings, whole, split),
                out_shardings=(self.shardings, whole),
                donate_argnums=0,
            )
            for adversarial in (False, True)
        }
