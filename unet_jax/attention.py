"""What the gates of an Attention U-Net let through of an image: maps for images of any size, and their picture."""

import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Shaped

from unet_jax import zoom
from unet_jax.blending import predict_probabilities
from unet_jax.figures import DPI, FAINT, INK, save_figure
from unet_jax.models import AttentionUNet
from unet_jax.models.attention_unet import attention_maps
from unet_jax.pictures import for_display
from unet_jax.prediction import Predictor
from unet_jax.training import to_unit

PANEL = 2.6  # inches
_DRAWING = threading.Lock()  # matplotlib's fonts serve one thread at a time


class AttentionMaps:
    """`maps(image)` gives (*S, L) in (0, 1) for an image (*S, C) or (*S): gate by gate, the finest level first.

    1 lets a pixel's features pass from encoder to decoder, 0 shuts them out. Tiles as in prediction, without views.
    Raises ValueError for a model without gates, and for several models.
    """

    def __init__(self, predictor: Predictor):
        """Nothing is computed yet."""
        module = predictor.model
        if not isinstance(module, AttentionUNet) or predictor.others:
            what = f"{1 + len(predictor.others)} models" if predictor.others else f"a {type(module).__name__}"
            raise ValueError(f"attention maps of {what}: name one model, trained with --model AttentionUNet")
        self.predictor, variables = predictor, jax.device_put(dict(predictor.variables))

        @jax.jit
        def apply(image: Array) -> Array:
            return jnp.stack(attention_maps(module, variables, to_unit(image)), axis=-1)

        self._apply = apply

    def __call__(self, image: Shaped[np.ndarray, "..."]) -> Float32[np.ndarray, "*s l"]:
        """The maps of one image of any size, its numbers as they are in the file."""
        of = self.predictor
        options = {"patch": of.output_size, "overlap": of.overlap, "batch": of.batch}
        rows = of.prepare(image)
        maps = predict_probabilities(self._apply, zoom.zoomed(rows, of.zoom), **options)
        return zoom.values_at(maps, rows.shape[:-1])


def draw_attention(
    image: Shaped[np.ndarray, "*s c"], maps: Float32[np.ndarray, "*s l"], path: str | Path, *, title: str = ""
) -> None:
    """Draw the image, and each gate's map with its own scale, as PNG; of volumes the middle plane of the first axis."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    if image.ndim == 4:
        title = f"{title}, plane {len(image) // 2 + 1} of {len(image)}".lstrip(", ")
        image, maps = (array[len(array) // 2] for array in (image, maps))
    names = ["image", *(f"level {level + 1}" for level in range(maps.shape[-1]))]
    tall = float(np.clip(image.shape[0] / image.shape[1], 0.3, 3.0))
    words = "attention, the finest level first: 0 shuts a pixel's features out of the skip, 1 lets them pass"
    size = (PANEL * len(names), PANEL * tall + 1.15)
    with _DRAWING:
        figure = Figure(figsize=size, dpi=DPI, layout="constrained")
        panels, bars = figure.subplots(2, len(names), squeeze=False, height_ratios=(1, 0.04 / tall))
        for level, (axes, below, name) in enumerate(zip(panels, bars, names, strict=True)):
            axes.set_axis_off()
            axes.set_title(name, loc="left", fontsize=9.5, fontweight="bold", color=INK)
            if level == 0:
                axes.imshow(for_display(image), interpolation="nearest")
                below.set_axis_off()
                continue
            shown = axes.imshow(maps[..., level - 1], cmap="magma", interpolation="nearest")
            figure.colorbar(shown, cax=below, orientation="horizontal", ticks=MaxNLocator(4)).outline.set_visible(False)
            below.tick_params(labelsize=7.5, color=FAINT, labelcolor=INK)
        figure.suptitle(
            "\n".join(filter(None, (title, words))), x=0.01, ha="left", fontsize=9, color=INK, parse_math=False
        )
        save_figure(figure, path)
