"""U-Net and its family in JAX."""

__version__ = "0.1.0"
