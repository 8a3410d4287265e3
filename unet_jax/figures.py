"""What all figures of the library share: ink and colours, the dress of an axis, saving.

matplotlib is used through its Figure alone, so the caller's pyplot state and backend stay as they are.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from unet_jax.logs import replacing

DPI = 150
INK, FAINT = "#222222", "#6b6b6b"
BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#00805f", "#9b4f80"  # after Okabe and Ito


def dress(axes: Any, *, title: str, x: str, y: str = "") -> None:
    """Give axes their title at the left, names, faint grid and no frame above and at the right."""
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    axes.set_xlabel(x, fontsize=9, color=INK)
    axes.set_ylabel(y, fontsize=9, color=INK)
    axes.grid(color="#e3e3e3", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8.5, color=FAINT, labelcolor=INK)


def save_figure(figure: Any, path: str | Path) -> None:
    """Write a matplotlib Figure as an RGB PNG of `DPI`; the file appears whole or not at all."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    with warnings.catch_warnings():  # a name in letters that the font lacks is shown as boxes
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        canvas.draw()
    picture = Image.fromarray(np.array(canvas.buffer_rgba())).convert("RGB")
    # RGB by Pillow: a tenth smaller than savefig's RGBA
    with replacing(path) as scratch:
        picture.save(scratch, format="PNG", optimize=True, dpi=(DPI, DPI))
