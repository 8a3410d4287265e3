"""Strict surroundings: four CPU devices, checked annotations, no silent rank promotion; warnings are errors."""

import os
import tempfile
from pathlib import Path

os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["UNET_JAX_CACHE"] = tempfile.mkdtemp(prefix="unet_jax_tests_")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401 - the hook looks it up by name

install_import_hook("unet_jax", "tests.typecheck.check")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
# Experiments that are started several times with the same shapes compile once.
jax.config.update("jax_compilation_cache_dir", os.environ["UNET_JAX_CACHE"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real images; UNET_JAX_DATA names another."""
    folder = Path(os.environ.get("UNET_JAX_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real images at {folder}: set UNET_JAX_DATA to a folder that holds dsb2018/, isbi2012/ ...")
    return folder


@pytest.fixture(scope="module")
def plain_layers():
    """The layers in their plain form, which compiles sooner; test_primitives.py holds the fast ones equal to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.lax, "platform_dependent", lambda *arrays, default, **_: default(*arrays))
        yield
