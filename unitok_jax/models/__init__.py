"""Networks as functions of arrays, independent of meshes, configs, losses and files."""

from unitok_jax.models.unitok import UniTok

__all__ = ["UniTok"]
