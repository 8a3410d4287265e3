"""Models: `module.apply(variables, image, train=...) -> logits`, one file an architecture.

A module's fields are plain data, so that `to_spec` writes it to JSON and `from_spec` builds it again.
"""

import dataclasses

from flax import linen as nn

from unet_jax.models.unet import UNet

MODELS: tuple[type[nn.Module], ...] = (UNet,)


def to_spec(module: nn.Module) -> dict[str, object]:
    """JSON-ready description of a module: its class name under "name", and its fields."""
    fields = {f.name: getattr(module, f.name) for f in dataclasses.fields(module) if f.name not in ("parent", "name")}
    return {"name": type(module).__name__, **{k: list(v) if isinstance(v, tuple) else v for k, v in fields.items()}}


def from_spec(spec: dict[str, object]) -> nn.Module:
    """Build the module that `to_spec` described; a ValueError names an unknown model or field."""
    known = {model.__name__: model for model in MODELS}
    options = dict(spec)
    name = options.pop("name", None)
    if name not in known:
        raise ValueError(f"unknown model {name!r}: this version has {', '.join(known)}")
    model = known[name]
    unknown = set(options) - {f.name for f in dataclasses.fields(model)}
    if unknown:
        raise ValueError(f"{name} has no field {', '.join(sorted(unknown))}: the spec was made by another version")
    return model(**{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()})
