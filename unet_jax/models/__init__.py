"""Models: `module.apply(variables, image, train=...) -> logits`, one file an architecture.

A module's fields are plain data, so that `to_spec` writes it to JSON and `from_spec` builds it again.
"""

import dataclasses

from flax import linen as nn

from unet_jax.models.attention_unet import AttentionUNet
from unet_jax.models.classifier import Classifier
from unet_jax.models.fcn import FCN
from unet_jax.models.resunet import ResUNet
from unet_jax.models.transunet import UNETR, TransUNet
from unet_jax.models.unet import UNet
from unet_jax.models.unetpp import UNetPP

MODELS: tuple[type[nn.Module], ...] = (Classifier, FCN, UNet, UNetPP, AttentionUNet, ResUNet, TransUNet, UNETR)


def to_spec(module: nn.Module) -> dict[str, object]:
    """JSON-ready description of a module: its class name under "name", and its fields."""
    fields = {f.name: getattr(module, f.name) for f in dataclasses.fields(module) if f.name not in ("parent", "name")}
    return {"name": type(module).__name__, **{k: _convert(v, list) for k, v in fields.items()}}


def named(name: object) -> type[nn.Module]:
    """The model of that class name; a ValueError lists those there are."""
    known = {model.__name__: model for model in MODELS}
    if name not in known:
        raise ValueError(f"unknown model {name!r}: this version has {', '.join(known)}")
    return known[name]


def from_spec(spec: dict[str, object]) -> nn.Module:
    """Build the module that `to_spec` described; a ValueError names an unknown model or field."""
    options = dict(spec)
    model = named(options.pop("name", None))
    unknown = set(options) - {f.name for f in dataclasses.fields(model)}
    if unknown:
        raise ValueError(
            f"{model.__name__} has no field {', '.join(sorted(unknown))}: the spec was made by another version"
        )
    return model(**{k: _convert(v, tuple) for k, v in options.items()})


def _convert(value: object, kind: type) -> object:
    """The value with every list or tuple in it, nested ones too, made a `kind`."""
    return kind(_convert(v, kind) for v in value) if isinstance(value, list | tuple) else value
