"""The console script `unet-jax`. What it needs is imported when a command runs, so that --help comes at once."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NoReturn

from unet_jax import startup
from unet_jax.commands.check import Check, check
from unet_jax.commands.evaluate import Evaluate, evaluate
from unet_jax.commands.models import Models, models
from unet_jax.commands.predict_volumes import PredictVolumes, predict_volumes


@dataclasses.dataclass(frozen=True)
class Predict:
    """Masks, objects and tables of your images, of any size, from a trained model.

    OUTPUT/labels/NAME.tif holds the number of its object at every pixel, objects.csv and objects/NAME.csv a row an
    object, polygons/NAME.geojson outlines for QuPath, summary.csv a row an image.
    """

    input: tuple[str, ...]
    """Image files, folders of them, or patterns such as "plate1/**/*.tif": PNG, JPEG, TIFF (8 or 16 bit, float, stacks,
    BigTIFF), NIfTI, zarr and OME-Zarr. Pages of a stack are images of their own: NAME_p001, NAME_z001 ..."""
    model: tuple[Path, ...] = (Path("nuclei"),)
    """A model that comes with the package (see `unet-jax models`), or the folder of a training or an exported model;
    several, such as DIR/fold*, give their mean."""
    output: Path = Path("predicted")
    """Folder of the results; what is in it already is kept."""
    tta: bool = False
    """Average over eight flips and turns of every image: a little better, eight times as slow."""
    tile: int | None = None
    """Side of the square that the network sees at a time, in pixels; that of the training when not given."""
    overlap: float = 0.25
    """Share of a tile that its neighbour covers too; 0.5 is slower, and hides seams even better."""
    batch: int = 8
    """Tiles at a time; fewer need less memory."""
    zoom: float = 1.0
    """Enlarge images so many times for the network, where their objects are smaller than those it was trained on;
    below 1 where they are larger. Results are of the images as they are."""
    threshold: float | None = None
    """Probability from which a pixel belongs to an object; the model's own, else 0.5."""
    instances: bool = True
    """Number the objects one by one; without, and from a model of several classes, labels are classes: no tables."""
    overlay: bool = False
    """Write overlays/NAME.png, the image with every outline; a tiled TIFF for images too large for the memory."""
    probabilities: bool = False
    """Write probabilities/NAME.tif, a page a class; with --tta or several models also spread/NAME.tif, how much they
    differ, pixel by pixel."""
    attention: bool = False
    """Draw attention/NAME.png, what the gates of an AttentionUNet let through; not for NIfTI and very large images."""
    format: Literal["tif", "png"] = "tif"
    """Of the label images; images too large for the memory always get a tiled TIFF, NIfTI volumes a NIfTI."""
    overwrite: bool = False
    """Make results again that are there."""


def predict(config: Predict) -> int:
    """Run `unet-jax predict`; the exit code is 1 when an image failed."""
    import jax
    from tqdm import tqdm

    from unet_jax.heads import tells_objects
    from unet_jax.inputs import find_inputs
    from unet_jax.predict_files import predict_files
    from unet_jax.prediction import Predictor
    from unet_jax.results import Wanted

    if config.threshold is not None and not 0 < config.threshold < 1:
        raise ValueError(f"--threshold {config.threshold}: choose a probability between 0 and 1")
    inputs = find_inputs(config.input)
    if warning := startup.unseen_accelerator(jax.default_backend()):
        print(warning, file=sys.stderr)
    seen = ("tile", "overlap", "batch", "tta", "zoom")
    predictor = Predictor.load(config.model, **{name: getattr(config, name) for name in seen})
    names = [field.name for field in dataclasses.fields(Wanted) if field.name not in ("spread", "instances")]
    wanted = Wanted(
        spread=config.probabilities and predictor.has_spread,
        instances=config.instances and tells_objects(predictor.card),
        **{name: getattr(config, name) for name in names},
    )  # fmt: skip
    threshold = config.threshold or predictor.threshold
    with tqdm(total=0, unit="image", disable=None) as images, tqdm(total=0, unit="tile", disable=None) as tiles:

        def count(bar: tqdm) -> Callable[[int, int], None]:  # disable=None: bars on a terminal only
            def tell(done: int, more: int) -> None:
                bar.total += more
                bar.update(done)

            return tell

        counts = {"images": count(images), "tiles": count(tiles)}
        report = predict_files(predictor, inputs, config.output, wanted, threshold=threshold, **counts)
    done = f"{len(report.done)} images done"
    if wanted.instances:
        done += f", {sum(int(str(row['objects'])) for row in report.done):,} objects"
    kept = f"; {len(report.kept)} were there already and kept (--overwrite makes them again)" if report.kept else ""
    print(f"{done}{kept}; results in {config.output}")
    if not wanted.instances:
        first = 0 if len(predictor.card["classes"]) > 1 else 1  # of a single class the background has no name
        print("labels:", ", ".join(f"{n} {name}" for n, name in enumerate(predictor.card["classes"], start=first)))
    if report.failed:
        all_images = len(report.done) + len(report.kept) + len(report.failed)
        print(f"{len(report.failed)} of {all_images} images failed:", file=sys.stderr)
        for path, reason in report.failed:
            print(f"  {reason if str(path) in reason else f'{path}: {reason}'}", file=sys.stderr)
    return 1 if report.failed else 0


COMMANDS = {
    "predict": (Predict, predict),
    "predict-volumes": (PredictVolumes, predict_volumes),
    "evaluate": (Evaluate, evaluate),
    "check": (Check, check),
    "models": (Models, models),
}


def main() -> NoReturn:
    """Entry point of the console script."""
    startup.prepare()

    def run(config: Any) -> int:
        return next(function(config) for kind, function in COMMANDS.values() if isinstance(config, kind))

    startup.run(run, {name: kind for name, (kind, _) in COMMANDS.items()}, description="U-Net and its family in JAX.")


if __name__ == "__main__":
    main()
