"""What a model says of an image: probabilities, and the classes that follow from them."""

import dataclasses

import numpy as np
from jaxtyping import Float32, UInt8


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Probabilities of one image: (*S, K), K = 1 (of the object class) or one a class, the background first.

    `values` (*T, V) is what the model's head tells of objects (see `heads`): for a model of plain classes the same; of
    the size at which the network saw the image (see `zoom`).

    `spread` (*S) is the standard deviation over what was averaged, the eight views of test-time augmentation or several
    models, or both; that of the class in which it is largest. None where nothing was.
    """

    probabilities: Float32[np.ndarray, "*s k"]
    classes: tuple[str, ...]
    spread: Float32[np.ndarray, "*s"] | None = None
    values: Float32[np.ndarray, "*t v"] | None = None

    @property
    def foreground(self) -> Float32[np.ndarray, "*s"]:
        """Probability that a pixel is not background."""
        return foreground(self.probabilities)


def foreground(probabilities: Float32[np.ndarray, "*s k"]) -> Float32[np.ndarray, "*s"]:
    """Probability that a pixel is not background: class 0 is background unless there is one class only."""
    return probabilities[..., 0] if probabilities.shape[-1] == 1 else 1 - probabilities[..., 0]


def class_map(probabilities: Float32[np.ndarray, "*s k"], threshold: float) -> UInt8[np.ndarray, "*s"]:
    """Class of every pixel: the likeliest of three or more, else 1 where the foreground reaches the threshold."""
    if probabilities.shape[-1] > 2:
        return probabilities.argmax(axis=-1).astype(np.uint8)
    return (foreground(probabilities) >= threshold).astype(np.uint8)
