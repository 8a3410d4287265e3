"""Subcommands of `unet-jax` with a file of their own: options and a function each, light to import."""
