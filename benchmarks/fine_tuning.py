"""What a few images of one's own teach, from a packaged model and from nothing: `train_cells --init nuclei`.

python -m benchmarks.fine_tuning --data FOLDER --workdir DIR [--images 8 16 32] [--minutes-each 2]

Trains on images of the test split, which the packaged model never saw, and scores on others of it. Prints a Markdown
table and writes fine_tuning.json and fine_tuning.png. The same command again trains only what is missing.
"""

from unet_jax import startup

if __name__ == "__main__":
    startup.prepare()

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments import compare_cells, train_cells
from unet_jax import parallel
from unet_jax.checkpoint import provenance
from unet_jax.data.named import open_named
from unet_jax.data.pairs import find_pairs
from unet_jax.data.source import Source, Subset, place_of, split, split_of
from unet_jax.evaluating import score_source
from unet_jax.figures import BLUE, DPI, VERMILLION, dress, save_figure
from unet_jax.logs import write_json
from unet_jax.predicted import FromModel
from unet_jax.prediction import Predictor
from unet_jax.scoring import summarise

NAME = "own-"  # before an image's name, which deals the images anew
CROPS = 200  # an epoch
COLUMNS = {"ap50": "AP@.5", "ap75": "AP@.75", "apart": "pairs apart", "iou": "IoU"}


@dataclasses.dataclass(frozen=True)
class Config:
    """How many images, and for how long."""

    data: str
    """A folder of images/ and labels/ on whose training split the packaged model was trained, or none of whose images
    it saw."""
    workdir: Path
    """Folder of the runs and figures."""
    init: str = "nuclei"
    """The model to start from."""
    images: tuple[int, ...] = (8, 16, 32)
    """Numbers of training images."""
    minutes_each: float = 2.0
    """Minutes of each training."""
    validation: int = 8
    """Images on which each run chooses its checkpoint and how to separate objects."""


def main(config: Config) -> int:
    """Train what is missing, score, write."""
    startup.check_least(config, minutes_each=0.01, validation=1)
    source = open_named(config.data)
    own, held = deal(split(source)["test"].ids, max(config.images), config.validation)
    folder = link(Path(config.data), own, config.workdir / "own")
    apart = Subset(source, [source.ids.index(name) for name in held])
    print(f"{len(own)} images to learn from, {len(apart)} others to score on, none of which {config.init} saw")
    rows = [{"images": 0, "from": config.init} | score(Predictor.load(config.init), apart)]
    for count in config.images:
        for init in (config.init, None):
            run = config.workdir / "runs" / f"{count}-from-{Path(init or 'nothing').name}"
            options = {"init": init, "train_images": count, "crops": CROPS, "tta": False}
            options |= {"data": str(folder), "max_minutes": config.minutes_each}
            if code := compare_cells.train(train_cells.Config(workdir=run, **options)):
                return code
            rows.append({"images": count, "from": init or "nothing"} | score(Predictor.load(run), apart))
    about = {"config": config, "scored_on": len(apart), "device": parallel.device_name(), **provenance()}
    write_json(config.workdir / "fine_tuning.json", about | {"rows": rows})
    draw(rows, config.init, config.workdir / "fine_tuning.png")
    print("\n".join(table(rows)))
    return 0


def deal(ids: Iterable[str], most: int, validation: int) -> tuple[list[str], list[str]]:
    """Ids to learn from (`most` fall into the training split under their new names), and the others.

    Raises ValueError when there are too few.
    """
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    for name in sorted(ids, key=lambda name: place_of(NAME + name)):
        parts[split_of(NAME + name)].append(name)
    wanted = {"train": most, "val": validation, "test": 1}  # train_cells asks for one to test on
    own = [name for part, count in wanted.items() for name in parts[part][:count]]
    held = [name for part, count in wanted.items() for name in parts[part][count:]]
    if len(own) < sum(wanted.values()) or not held:
        counts = ", ".join(f"{part} {len(names)}" for part, names in parts.items())
        raise ValueError(f"the images never seen fall into {counts}: too few for {wanted}; ask for fewer --images")
    return own, held


def link(data: Path, names: Sequence[str], folder: Path) -> Path:
    """A folder of links to the images and labels of `names`, under names of their own."""
    for room in ("images", "labels"):
        (folder / room).mkdir(parents=True, exist_ok=True)
    for pair in find_pairs(data):
        for room, path in (("images", pair.image), ("labels", pair.label)):
            here = folder / room / f"{NAME}{pair.id}{path.suffix}"
            if pair.id in names and not here.is_symlink():
                here.symlink_to(path.resolve())
    return folder


def score(predictor: Predictor, source: Source) -> dict[str, float | None]:
    """Pooled scores of the images of a source; None for pairs where nothing touches."""
    found = summarise(score_source(source, FromModel(predictor, num_classes=2))[1])
    ap = found["objects"]["ap_pooled"]
    return {
        "ap50": ap["0.50"], "ap75": ap["0.75"], "apart": found["cases"]["pairs_apart"]["rate"],
        "iou": found["pixels"]["iou_pooled"],
    }  # fmt: skip


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows as Markdown."""
    head = ["training images", "from", *COLUMNS.values()]
    body = []
    for row in rows:
        scores = ("–" if row[key] is None else f"{row[key]:.3f}" for key in COLUMNS)
        body.append([str(row["images"]), Path(row["from"]).name, *scores])
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body)]


def draw(rows: Sequence[dict[str, Any]], init: str, path: Path) -> None:
    """AP by number of training images, from the model and from nothing."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.4), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    dress(axes, title="Learning from a few images", x="training images", y="AP at IoU 0.5, pooled")
    for start, colour in ((init, BLUE), ("nothing", VERMILLION)):
        part = [row for row in rows if row["from"] == start]
        x, y = ([row[key] for row in part] for key in ("images", "ap50"))
        axes.plot(x, y, "-o", color=colour, label=f"from {start}")
    axes.set_ylim(0, 1)
    axes.legend(frameon=False, fontsize=8)
    save_figure(figure, path)


if __name__ == "__main__":
    startup.run(main, Config, description=__doc__)
