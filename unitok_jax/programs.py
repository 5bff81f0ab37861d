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
        params = self.shardings.generator.params
        fetched = ["squared_error", "counts", "image_features"]
        fetched += ["lpips"] if trainer.perceptual else []
        self.eval_step = jax.jit(
            trainer.eval_step,
            in_shardings=(params, whole, split),
            out_shardings=dict.fromkeys(fetched, whole) | {"reconstruction": split},
        )
        # The first rows of arrays that are split, for every process.
        self.first_rows = jax.jit(
            lambda arrays, count: jax.tree.map(lambda x: x[:count], arrays),
            static_argnums=1,
            out_shardings=whole,
        )
        self.text_features = jax.jit(
            trainer.text_features, in_shardings=(params, split), out_shardings=whole
        )
