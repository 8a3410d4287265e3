"""Losses: `(logits (B, *S, K), label (B, *S), mask (B, *S), *, options) -> (B,)`, one float32 an image.

One logit (K = 1) stands for a sigmoid and labels 0 and 1, K >= 2 for a softmax and labels 0..K-1. A pixel whose mask is
False has no part in the value nor in the gradient, whatever its logits and label hold. An image without a valid pixel
has loss 0. Options are bound with `functools.partial(dice, background=False)`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Float32, Int32

Logits = Float[Array, "b *s k"]
Label = Int32[Array, "b *s"]
Mask = Bool[Array, "b *s"]
PerImage = Float32[Array, "b"]
Loss = Callable[..., PerImage]


def dice(
    logits: Logits,
    label: Label,
    mask: Mask,
    *,
    background: bool = True,
    smooth: float = 1.0,
    present_only: bool = False,
) -> PerImage:
    """Soft Dice loss of each image, the mean over its classes.

    1 - (2 I + smooth) / (P + T + smooth), where over the valid pixels of one image and class I sums probability ×
    truth, P the probability and T the truth. A class neither present nor predicted has loss 0; one that is absent but
    predicted has P / (P + smooth), so `smooth` is the size of false alarm that costs a half.

    Args:
        logits: (B, *S, K).
        label: (B, *S) classes.
        mask: (B, *S), True where the pixel counts.
        background: False leaves class 0 out when K >= 2 (with K = 1 it never takes part).
        smooth: in pixels, above 0.
        present_only: the mean over the classes that the image's label holds; with many classes most are absent from
            an image, and their false alarms are another loss's business.

    Returns:
        (B,) in [0, 1].

    Source: Milletari et al. 2016, equation 3, without the squares.
    """
    inter, predicted, truth = _overlap(logits, label, mask, background)
    return _class_mean(1 - (2 * inter + smooth) / (predicted + truth + smooth), truth, present_only)


def tversky(
    logits: Logits,
    label: Label,
    mask: Mask,
    *,
    alpha: float = 0.3,
    beta: float = 0.7,
    background: bool = True,
    smooth: float = 1.0,
    present_only: bool = False,
) -> PerImage:
    """Tversky loss of each image, the mean over its classes: Dice with a price for each kind of error.

    1 - (I + smooth) / (I + alpha FP + beta FN + smooth), FP = P - I, FN = T - I, with I, P and T as in `dice`, which it
    equals for alpha = beta = 0.5 and half the smoothing. A class neither present nor predicted has loss 0.

    Args:
        logits: (B, *S, K).
        label: (B, *S) classes.
        mask: (B, *S), True where the pixel counts.
        alpha: price of a false positive pixel.
        beta: price of a false negative pixel; above alpha it finds more of a small structure.
        background: False leaves class 0 out when K >= 2.
        smooth: in pixels, above 0.
        present_only: the mean over the classes that the image's label holds, as in `dice`.

    Returns:
        (B,) in [0, 1].

    Source: Salehi et al. 2017, equation 2 (best at alpha 0.3, beta 0.7).
    """
    inter, predicted, truth = _overlap(logits, label, mask, background)
    errors = alpha * (predicted - inter) + beta * (truth - inter)
    return _class_mean(1 - (inter + smooth) / (inter + errors + smooth), truth, present_only)


def cross_entropy(
    logits: Logits,
    label: Label,
    mask: Mask,
    *,
    weight: Float[Array, "b *s"] | None = None,
    class_weights: tuple[float, ...] | None = None,
) -> PerImage:
    """Cross-entropy of each image, binary for K = 1: the mean over its valid pixels.

    sum(w × -log p_label) / n with n valid pixels. The weights do not enter n: doubling them doubles the loss.

    Args:
        logits: (B, *S, K).
        label: (B, *S) classes.
        mask: (B, *S), True where the pixel counts.
        weight: (B, *S) weight map, such as the border weights of the 2015 paper; None is 1 everywhere.
        class_weights: one weight a class, background first (two of them for K = 1).

    Returns:
        (B,) in nats.

    Raises:
        ValueError: when `class_weights` is not one a class.

    Source: Ronneberger et al. 2015, equation 1.
    """
    logits, label = _clean(logits, label, mask)
    if logits.shape[-1] == 1:
        pixel = optax.sigmoid_binary_cross_entropy(logits[..., 0], label.astype(jnp.float32))
    else:
        pixel = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    if class_weights is not None:
        classes = max(logits.shape[-1], 2)
        if len(class_weights) != classes:
            raise ValueError(f"class_weights has {len(class_weights)} values for {classes} classes: give one a class")
        pixel = pixel * jnp.asarray(class_weights, jnp.float32)[label]
    if weight is not None:
        pixel = pixel * jnp.where(mask, weight, 0)
    return _pixel_mean(pixel, mask)


def focal(logits: Logits, label: Label, mask: Mask, *, gamma: float = 2.0, alpha: float | None = 0.25) -> PerImage:
    """Focal loss of each image: cross-entropy with the pixels that are already right turned down.

    Mean over the valid pixels of -a (1 - p)^gamma log p, with p the probability of the pixel's label; a is alpha for
    every foreground class and 1 - alpha for class 0.

    Args:
        logits: (B, *S, K).
        label: (B, *S) classes.
        mask: (B, *S), True where the pixel counts.
        gamma: at least 0; 0 leaves the (balanced) cross-entropy.
        alpha: weight of the foreground in (0, 1); None for 1 everywhere.

    Returns:
        (B,) in nats.

    Source: Lin et al. 2017, equation 5 (divided by the valid pixels here, by the matched anchors there).
    """
    logits, label = _clean(logits, label, mask)
    margin = _margin(logits, label)
    # log(1 - p) = log_sigmoid(-margin); as an exponential the power has a finite gradient at p = 1 for every gamma
    pixel = -jnp.exp(gamma * jax.nn.log_sigmoid(-margin)) * jax.nn.log_sigmoid(margin)
    if alpha is not None:
        pixel = pixel * jnp.where(label > 0, alpha, 1 - alpha)
    return _pixel_mean(pixel, mask)


def weighted_sum(*terms: tuple[float, Loss]) -> Loss:
    """The loss `sum(w × loss)`, with the signature of a loss: `weighted_sum((1.0, dice), (0.5, cross_entropy))`.

    Args:
        *terms: pairs of a weight and a loss.

    Returns:
        A loss `(logits, label, mask) -> (B,)`.

    Raises:
        ValueError: without a term.
    """
    if not terms:
        raise ValueError("weighted_sum needs at least one (weight, loss) pair")

    def total(logits: Logits, label: Label, mask: Mask) -> PerImage:
        return sum(weight * loss(logits, label, mask) for weight, loss in terms)

    return total


def _clean(logits, label, mask):
    """Float32 logits and labels, zero at the masked pixels before any non-linearity, so that no NaN gets through."""
    return jnp.where(mask[..., None], logits.astype(jnp.float32), 0), jnp.where(mask, label, 0)


def _overlap(logits, label, mask, background):
    """Sums over the valid pixels of probability × truth, of probability and of truth, each (B, K)."""
    logits, label = _clean(logits, label, mask)
    if logits.shape[-1] == 1:
        probability, truth = jax.nn.sigmoid(logits), label[..., None].astype(jnp.float32)
    else:
        probability, truth = jax.nn.softmax(logits), jax.nn.one_hot(label, logits.shape[-1], dtype=jnp.float32)
        if not background:
            probability, truth = probability[..., 1:], truth[..., 1:]
    axes, valid = tuple(range(1, logits.ndim - 1)), mask[..., None]
    return tuple(jnp.sum(jnp.where(valid, x, 0), axes) for x in (probability * truth, probability, truth))


def _class_mean(loss, truth, present_only):
    """Mean of (B, K) over the classes, or over those of which the truth holds a pixel; 0 where it holds none."""
    counted = truth > 0 if present_only else jnp.ones_like(truth, bool)
    return jnp.sum(jnp.where(counted, loss, 0), axis=-1) / jnp.maximum(jnp.sum(counted, axis=-1), 1)


def _margin(logits, label):
    """The logit of the label against all other classes, (B, *S): sigmoid(margin) is the probability of the label."""
    if logits.shape[-1] == 1:
        return jnp.where(label == 1, logits[..., 0], -logits[..., 0])
    own = jax.nn.one_hot(label, logits.shape[-1], dtype=bool)
    others = jax.nn.logsumexp(jnp.where(own, -jnp.inf, logits), axis=-1)
    return jnp.sum(jnp.where(own, logits, 0), axis=-1) - others


def _pixel_mean(pixel, mask):
    """Mean over the valid pixels of each image, 0 where there is none."""
    axes = tuple(range(1, mask.ndim))
    return jnp.sum(jnp.where(mask, pixel, 0), axes) / jnp.maximum(jnp.sum(mask, axes), 1)
