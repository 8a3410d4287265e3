"""Data on the host: sources of samples of any size, and batches of one shape made of them."""

from unet_jax.data.folder import FolderSource
from unet_jax.data.normalisation import Normalised, Percentiles, ZScore, to_uint8
from unet_jax.data.pipeline import eval_tiles, steps_per_epoch, train_batches, visits
from unet_jax.data.source import Source, Subset, count_kinds, describe_split, split, split_of

__all__ = [
    "FolderSource",
    "Normalised",
    "Percentiles",
    "Source",
    "Subset",
    "ZScore",
    "count_kinds",
    "describe_split",
    "eval_tiles",
    "split",
    "split_of",
    "steps_per_epoch",
    "to_uint8",
    "train_batches",
    "visits",
]
