"""Augmentation on the device: `(key, image (B, *S, C), label (B, *S), mask (B, *S), *, options)` to the same three.

Images are float32 in [0, 1], S has two or three axes. Every step is pure and runs under `jit`; sharded over the batch
it communicates nothing. Sample i draws from `fold_in(key, i)`, so its result depends neither on the size nor on the
sharding of the batch (under `pmap` or `shard_map`, where i is local, fold the device's index into the key first). Each
sample is changed with `probability` and is otherwise returned bit for bit. Options are bound with `functools.partial`,
steps joined with `chain`. Rotations are in the plane of the last two spatial axes, the plane of a slice.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Int32, PRNGKeyArray

from unet_jax import fields

Image = Float32[Array, "b *s c"]
Label = Int32[Array, "b *s"]
Mask = Bool[Array, "b *s"]
Range = tuple[float, float]
Batch = tuple[Image, Label, Mask]
Augmentation = Callable[..., Batch]


def chain(*steps: Augmentation) -> Augmentation:
    """One augmentation out of several, applied in order, each with its own key; without any, the identity."""

    def chained(key: PRNGKeyArray, image: Image, label: Label, mask: Mask) -> Batch:
        for number, step in enumerate(steps):
            image, label, mask = _fenced(step, jax.random.fold_in(key, number), image, label, mask)
        return image, label, mask

    return chained


def flips(key: PRNGKeyArray, image: Image, label: Label, mask: Mask, *, probability: float = 0.5) -> Batch:
    """Mirrors each spatial axis with `probability`, independently; exact, pixels only change places."""
    batch, rank = (image, label, mask), image.ndim - 2
    flags = _per_sample(key, image, lambda k: jax.random.bernoulli(k, probability, (rank,)))
    for axis in range(rank):
        batch = _where(flags[:, axis], [jnp.flip(x, axis + 1) for x in batch], batch)
    return batch


def quarter_turns(key: PRNGKeyArray, image: Image, label: Label, mask: Mask) -> Batch:
    """Turns by 0, 90, 180 or 270 degrees, equally likely; by 0 or 180 where the plane is not square; exact."""
    batch, axes = (image, label, mask), (image.ndim - 3, image.ndim - 2)
    flags = _per_sample(key, image, lambda k: jax.random.bernoulli(k, 0.5, (2,)))
    batch = _where(flags[:, 0], [jnp.rot90(x, 2, axes) for x in batch], batch)
    if image.shape[axes[0]] != image.shape[axes[1]]:
        return batch
    return _where(flags[:, 1], [jnp.rot90(x, 1, axes) for x in batch], batch)


def warp(
    key: PRNGKeyArray,
    image: Image,
    label: Label,
    mask: Mask,
    *,
    rotation: float | tuple[float, float, float] = 0.0,
    scale: Range = (1.0, 1.0),
    elastic_sigma: float = 0.0,
    elastic_grid: int = 3,
    probability: float = 1.0,
    spacing: tuple[float, ...] | None = None,
) -> Batch:
    """Free rotation, scale and elastic deformation about the centre, through one coordinate field a sample.

    The field serves the image (linear interpolation) and label and mask (nearest), so they stay aligned. Beyond the
    edge the image is mirrored, so there are no empty corners, but nothing counts there: the mask is False and the label
    `tiles.UNSEEN`, for an object and its mirror image under one number would have its centre between the two.

    Options:
        rotation: largest angle in degrees, drawn from ± rotation; of a volume, three of them turn it about the first
            axis, then the second, then the third.
        scale: lowest and highest magnification of all spatial axes, drawn evenly in the logarithm; above 1 enlarges.
        elastic_sigma: standard deviation in pixels of the displacement at each point of a coarse grid, spread by cubic
            splines; at most a sixteenth of the shortest side is used, so that the field does not fold.
        elastic_grid: grid points an axis, at least 2, from edge to edge.
        probability: share of the samples warped.
        spacing: distance from voxel to voxel along each axis, where they differ and rotation is by three angles.

    Raises:
        ValueError: for a scale that is not 0 < low <= high, a grid of fewer than 2 points, or three angles in a plane.

    Source: Ronneberger et al. 2015, section 3.1 (3 × 3 grid, 10 pixels).
    """
    if not 0 < scale[0] <= scale[1]:
        raise ValueError(f"scale={scale}: give (low, high) with 0 < low <= high, such as (0.8, 1.25)")
    if elastic_grid < 2:
        raise ValueError(f"elastic_grid={elastic_grid}: give at least 2 points an axis")
    shape = image.shape[1:-1]
    if isinstance(rotation, tuple) and len(shape) != 3:
        raise ValueError(f"rotation={rotation} of an image with {len(shape)} axes: give one angle, or a volume")

    def displacement(k):
        apply, turn, zoom, bend = jax.random.split(k, 4)
        angle = fields.angles(turn, rotation)
        factor = jnp.exp(jax.random.uniform(zoom, minval=np.log(scale[0]), maxval=np.log(scale[1])))
        moved = fields.similarity(shape, angle, factor, spacing) + fields.elastic(
            bend, shape, elastic_sigma, elastic_grid
        )
        return jnp.where(jax.random.bernoulli(apply, probability), moved, 0)

    field = _per_sample(key, image, displacement) + fields.pixels(shape)[None]
    return jax.vmap(fields.resample)(image, label, mask, field)


def brightness(
    key: PRNGKeyArray, image: Image, label: Label, mask: Mask, *, amount: float = 0.2, probability: float = 0.5
) -> Batch:
    """Moved by u, uniform in ± amount (at most 1), of the way to white, or where u < 0 to black: nothing is clipped."""
    # image + u would cut at 0 what is faint: in dark-field micrographs whole nuclei that the label still names
    share = _draw(key, image, -amount, amount, probability)
    return image + share * jnp.where(share > 0, 1 - image, image), label, mask


def contrast(
    key: PRNGKeyArray, image: Image, label: Label, mask: Mask, *, amount: float = 0.3, probability: float = 0.5
) -> Batch:
    """Mean + (1 + u) (image - mean), u uniform in ± amount, mean of a channel's valid pixels; clipped to [0, 1]."""
    total = partial(jnp.sum, axis=tuple(range(1, image.ndim - 1)), keepdims=True)
    mean = total(image * mask[..., None]) / jnp.maximum(total(mask[..., None]), 1)
    gain = _draw(key, image, -amount, amount, probability)
    return jnp.clip(image + gain * (image - mean), 0, 1), label, mask


def gamma(
    key: PRNGKeyArray, image: Image, label: Label, mask: Mask, *, exponent: Range = (0.7, 1.4), probability: float = 0.3
) -> Batch:
    """Image ** g, g drawn evenly in the logarithm between the two exponents (both above 0)."""
    power = _draw(key, image, np.log(exponent[0]), np.log(exponent[1]), probability)
    # exp(g log x) is four times quicker on a CPU than the power, and gives 0 for x = 0 all the same
    return jnp.where(power == 0, image, jnp.exp(jnp.exp(power) * jnp.log(image))), label, mask


def noise(
    key: PRNGKeyArray, image: Image, label: Label, mask: Mask, *, amount: float = 0.05, probability: float = 0.3
) -> Batch:
    """Image + s n, s uniform in [0, amount], n of unit variance and all but normal; clipped to [0, 1]."""
    # n sums the four bytes of one random word: true normals take three times as long on a CPU
    level_key, noise_key = jax.random.split(key)
    words = _per_sample(noise_key, image, lambda k: jax.random.bits(k, (image[0].size,)))
    total = sum((words >> shift) & 255 for shift in (0, 8, 16, 24)).astype(jnp.float32)
    unit = (total - 510) / np.float32(np.sqrt(4 * (256**2 - 1) / 12))
    level = _draw(level_key, image, 0.0, amount, probability)
    return jnp.clip(image + level * unit.reshape(image.shape), 0, 1), label, mask


def blur(
    key: PRNGKeyArray, image: Image, label: Label, mask: Mask, *, sigma: Range = (0.5, 1.5), probability: float = 0.2
) -> Batch:
    """Gaussian blur along every spatial axis, sigma in pixels uniform between the two, cut at three of the largest."""
    radius = int(np.ceil(3 * sigma[1]))
    width = jnp.maximum(_draw(key, image, *sigma, probability), 0.01)  # at this width the neighbours weigh exactly 0
    taps = [jnp.exp(-0.5 * (t / width) ** 2) for t in range(-radius, radius + 1)]
    for axis in range(1, image.ndim - 1):
        pad = [(radius, radius) if a == axis else (0, 0) for a in range(image.ndim)]
        padded, n = jnp.pad(image, pad, mode="edge"), image.shape[axis]
        parts = (jax.lax.slice_in_dim(padded, start, start + n, axis=axis) for start in range(2 * radius + 1))
        image = sum(tap / sum(taps) * part for tap, part in zip(taps, parts, strict=True))
    return jnp.clip(image, 0, 1), label, mask


light: Augmentation = chain(flips, quarter_turns)
"""Flips and quarter turns: exact, and nearly free."""


def strong(
    *,
    rotation: float = 45.0,
    scale: Range = (0.7, 1.4),
    elastic_sigma: float = 10.0,
    probability: float = 0.3,
    intensity: float = 0.15,
) -> Augmentation:
    """Everything: flips, quarter turns, `warp` with these options, blur, brightness, contrast, gamma, then noise.

    Each of the last five changes a share `intensity` of the samples, so that four in ten keep their grey
    values and three in ten are no more than flipped and turned. With the quarter turns, 45 degrees of free rotation
    reach every angle.
    """
    bend = partial(warp, rotation=rotation, scale=scale, elastic_sigma=elastic_sigma, probability=probability)
    greys = (partial(step, probability=intensity) for step in (blur, brightness, contrast, gamma, noise))
    return chain(flips, quarter_turns, bend, *greys)


def volume(
    *,
    rotation: tuple[float, float, float] = (15.0, 15.0, 30.0),
    scale: Range = (0.8, 1.25),
    elastic_sigma: float = 4.0,
    probability: float = 0.5,
    spacing: tuple[float, ...] | None = None,
) -> Augmentation:
    """Everything for volumes: flips along three axes, `warp` with these options, blur, light, gamma, then noise."""
    options = {"rotation": rotation, "scale": scale, "elastic_sigma": elastic_sigma, "probability": probability}
    bend = partial(warp, spacing=spacing, **options)
    return chain(flips, bend, partial(blur, sigma=(0.4, 0.8), probability=0.1), brightness, contrast, gamma, noise)


def _fenced(step, key, *batch):
    """`step(key, *batch)`, on a CPU not fused with the next, which would compute it anew for every use of a pixel."""

    def apart(key, *batch):
        # XLA:CPU ignores `optimization_barrier` but fuses nothing across a conditional; one key in 2**64 skips the step
        return jax.lax.cond(jnp.any(jax.random.key_data(key) != 0), step, lambda _, *same: same, key, *batch)

    return jax.lax.platform_dependent(key, *batch, cpu=apart, default=step)


def _per_sample(key, image, draw):
    """`draw(key)` for every sample, stacked along a batch axis."""
    return jax.vmap(lambda i: draw(jax.random.fold_in(key, i)))(jnp.arange(image.shape[0]))


def _draw(key, image, low, high, probability):
    """A number in [low, high) for a share `probability` of the samples, else 0; (B, 1, ..., 1) to match the image."""

    def draw(k):
        apply, value = jax.random.split(k)
        return jax.random.bernoulli(apply, probability) * jax.random.uniform(value, minval=low, maxval=high)

    return _per_sample(key, image, draw).reshape((-1,) + (1,) * (image.ndim - 1))


def _where(flags, yes, no):
    """`yes` for the samples whose flag (B,) is set, else `no`, array by array."""
    return tuple(jnp.where(flags.reshape((-1,) + (1,) * (y.ndim - 1)), y, n) for y, n in zip(yes, no, strict=True))
