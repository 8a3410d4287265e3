"""`unet-jax evaluate`: the scores of a model, or of label images from anywhere, on images with labels."""

import dataclasses
from pathlib import Path
from typing import Literal

from unet_jax.startup import flags


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Publishable scores of a model, or of label images that any program made, on images with labels.

    OUTPUT/results.json holds the scores with their rules, per_image.csv a row an image, report.html everything on one
    page, with charts and pictures of what was missed; the pictures lie in OUTPUT/report too.
    """

    data: str
    """Folder with images/ and labels/ (or masks/), a BBBC038 stage1_train.zip, or dsb2018."""
    output: Path
    """Folder of the results."""
    model: Path | None = None
    """Folder of a training (its --workdir), or of an exported model."""
    predictions: Path | None = None
    """In place of a model: folder of label images named as the images, such as the --output of unet-jax predict."""
    split: Literal["all", "train", "val", "test"] = "all"
    """Part of the images, by the hash of their names, as training splits them."""
    robustness: bool = False
    """Score also images spoiled by noise, blur, low contrast, JPEG blocks and uneven light; 26 times the work."""
    tta: bool = False
    """Average over eight flips and turns of every image."""
    zoom: float = 1.0
    """Enlarge images so many times for the network: see unet-jax predict."""
    threshold: float | None = None
    """Probability from which a pixel belongs to an object; the model's own, else 0.5."""
    label_kind: Literal["instances", "binary", "classes"] | None = None
    """What the numbers in the labels mean, where the labels of all images do not tell; not needed with a model of
    classes, which knows what its masks held."""
    ignore: str | None = None
    """Value of label pixels that do not count, a number or a colour (R,G,B or #RRGGBB)."""
    seed: int = 0
    """Decides the noise and the direction of the light of --robustness."""
    overwrite: bool = False
    """Replace results that are in OUTPUT."""


def evaluate(config: Evaluate) -> int:
    """Run `unet-jax evaluate`."""
    from tqdm import tqdm

    from unet_jax.data.legend import how_to_read, legend_in
    from unet_jax.data.named import open_named
    from unet_jax.data.palette import parse_ignore
    from unet_jax.evaluating import Options, evaluate_source, model_or_folder, part_of
    from unet_jax.prediction import Predictor

    check(config)
    predictor = Predictor.load(config.model, tta=config.tta, zoom=config.zoom) if config.model else None
    label_kind, ignore, legend = config.label_kind, parse_ignore(config.ignore), None
    if predictor is not None and label_kind is None and (known := legend_in(predictor.card)) is not None:
        label_kind, ignore, legend = how_to_read(known, ignore)
    source = open_named(config.data, label_kind=label_kind, ignore=ignore, legend=legend)
    part = part_of(source, config.split)
    predicted = model_or_folder(
        source, part, predictor=predictor, predictions=config.predictions, threshold=config.threshold,
        background=0 if legend is None else legend.background,
    )  # fmt: skip
    options = Options(config.data, config.split, config.robustness, config.seed, config.model, command(config))
    with tqdm(total=len(part) * (26 if config.robustness else 1), unit="image", disable=None) as bar:
        results = evaluate_source(part, predicted, config.output, options, tick=bar.update)
    say(results, config.output)
    return 0


def check(config: Evaluate) -> None:
    """ValueError, with the mend, for options that do not go together."""
    if (config.model is None) == (config.predictions is None):
        both = "both --model and --predictions are" if config.model else "neither --model nor --predictions is"
        raise ValueError(f"{both} given: name the folder of a model, or that of label images to score")
    if config.predictions and (config.robustness or config.tta or config.zoom != 1 or config.threshold is not None):
        raise ValueError("--robustness, --tta, --zoom and --threshold need a model that can predict: give --model")
    if config.threshold is not None and not 0 < config.threshold < 1:
        raise ValueError(f"--threshold {config.threshold}: choose a probability between 0 and 1")
    if (config.output / "results.json").exists() and not config.overwrite:
        raise ValueError(f"{config.output} holds results already: name another --output, or add --overwrite")


def command(config: Evaluate) -> str:
    """The command line that gives these options."""
    import shlex

    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    return shlex.join(["unet-jax", "evaluate", *flags(dataclasses.asdict(config), defaults)])


def say(results: dict, output: Path) -> None:
    """Print what one looks for first."""
    from unet_jax import class_scores

    objects, pixels, cases = results["objects"], results["pixels"], results["cases"]
    rates = {name: row["rate"] for name, row in cases.items() if name != "by_kind"}

    def share(name: str) -> str:
        return "none there" if rates[name] is None else f"{rates[name]:.1%}"

    for note in results["about"]["notes"]:
        print(f"note: {note}")
    for name, part in [*objects["by_kind"].items(), ("all", objects)]:
        ap = part["ap_pooled"]
        print(
            f"{name}: {part['images']} images, {part['objects']:,} objects, {part['predicted']:,} predicted; AP "
            f"{ap['0.50']:.3f} at IoU 0.5, {ap['0.75']:.3f} at 0.75 (pooled); PQ {part['pq_pooled']:.3f}"
        )
    if len(pixels["by_class"]) > 2:
        print(*class_scores.table(pixels["by_class"]), *class_scores.warnings_of(pixels["by_class"]), sep="\n")
    print(f"pixels: IoU {pixels['iou_pooled']:.3f} pooled, {pixels['iou_mean']:.3f} mean over images")
    print(
        f"touching pairs: {share('pairs_apart')} came out as two, of {share('touching_pairs')} both are found; "
        f"found: clear {share('clear')}, touching {share('touching')}, in low contrast {share('low_contrast')}"
    )
    print(f"report: {output / 'report.html'}, {output / 'results.json'}, {output / 'per_image.csv'}")
