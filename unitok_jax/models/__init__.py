"""The networks: arrays in, arrays out. They know nothing of meshes, configs, losses or files."""

from unitok_jax.models.unitok import UniTok

__all__ = ["UniTok"]
