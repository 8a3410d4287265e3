"""Data sets that can be fetched, as TensorFlow-free builders of tensorflow-datasets; each module is one.

`unet_jax.datasets.dsb2018.build_dsb2018()` gives a source. Only the builders' modules import tensorflow-datasets.
"""

from unet_jax.datasets.stage1 import is_stage1_train

__all__ = ["is_stage1_train"]
