"""A whole checkup: every file read once, a few at a time, then judged as a set."""

import os
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unet_jax.data.pairs import Pair
from unet_jax.doctor.findings import Case, Finding, gather, table
from unet_jax.doctor.judge import judge, kind_of
from unet_jax.doctor.listing import Survey, first_bytes, namer, survey
from unet_jax.doctor.look import Look, look
from unet_jax.doctor.volumes import ignored_value
from unet_jax.hard_cases import LOW_CONTRAST
from unet_jax.logs import write_json


@dataclass(frozen=True)
class Report:
    """Findings, errors first, and what was seen of every pair (nothing in a quick check), `ignore` left out."""

    folder: Path
    findings: tuple[Finding, ...]
    looks: tuple[Look, ...]
    kind: str | None
    pairs: tuple[Pair, ...]
    parts: Mapping[str, str]
    ignore: int | None = None

    @property
    def ok(self) -> bool:
        """Whether a training can begin: there are images, and no error."""
        return bool(self.pairs) and not any(finding.rule.level == "error" for finding in self.findings)

    def count(self, level: str) -> int:
        """Number of cases of a level."""
        return sum(len(finding.cases) for finding in self.findings if finding.rule.level == level)

    def facts(self) -> dict[str, Any]:
        """Sizes, channels, types, kind, classes, objects and splits of what could be read."""
        return _facts(self)

    def text(self) -> str:
        """Facts and findings for the terminal."""
        lines = [f"{name:<14}{value}" for name, value in _words(self.facts()).items()] if self.looks else []
        counts = ", ".join(f"{self.count(level)} {level}s" for level in ("error", "warning", "note"))
        wrong = "mend the errors before a training" if self.pairs else "there is nothing to train on"
        verdict = "a training can begin" if self.ok else wrong
        return "\n".join([*lines, "", *filter(None, [table(self.findings)]), "", f"{counts}: {verdict}"]).lstrip("\n")

    def write(self, path: Path) -> None:
        """Write everything as JSON: facts, findings with all files, and a row an image with its mask's histogram."""
        write_json(path, {
            "folder": str(self.folder), "ok": self.ok, "label_kind": self.kind, "facts": self.facts(),
            "findings": [
                {"code": finding.code, **finding.rule._asdict(), "cases": [case._asdict() for case in finding.cases]}
                for finding in self.findings
            ],
            "images": [_row(seen, self.parts[seen.pair.id]) for seen in self.looks],
        })  # fmt: skip


def check_folder(
    folder: str | Path, *, label_kind: str | None = None, ignore: int | None = None, classes: int | None = None,
    depth: int = 4, patch: int = 256, tick: Callable[[], object] = lambda: None,
) -> Report:  # fmt: skip
    """Check a folder of images/ and labels/ (or masks/), or of NIfTI volumes in imagesTr/ and labelsTr/.

    Every file is read once and a few numbers of it are kept, so the memory needed is that of the few files being read
    at a time. Nothing is written.

    Args:
        folder: the data.
        label_kind: "instances", "binary", "classes"; None decides it as a training does.
        ignore: mask value that does not count; of volumes, by default, the one that dataset.json calls "ignore".
        classes: K, for label_kind "classes"; None takes up to 32, or up to 256 where no number from 0 on is left out.
        depth: down-samplings of the network that is to be trained.
        patch: side of its training crop in pixels.
        tick: called after every pair.

    Raises:
        FileNotFoundError, ValueError: the folder is not there, or has no two rooms of images and masks.
    """
    folder = Path(folder)
    known = survey(folder)
    volumes = bool(known.declared) or known.matched.rooms[0].name == "imagesTr"
    if volumes:
        label_kind = label_kind or "classes"
        ignore = ignored_value(known.declared) if ignore is None else ignore

    def seen_of(pair: Pair) -> Look:
        seen = look(pair, ignore=ignore)
        tick()
        return seen

    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1), thread_name_prefix="unet-jax-check")
    try:
        looks = tuple(pool.map(seen_of, known.pairs))
    finally:
        pool.shutdown(cancel_futures=True)
    kind, open_kind = kind_of(looks, label_kind)
    found = list(known.found)
    if open_kind is not None:
        code, detail = open_kind
        found.append((code, Case((f"{known.matched.rooms[1].name}/",), detail)))
    if classes is None and kind == "classes":
        numbers = set().union(*(seen.values.values for seen in looks))
        classes = len(numbers) if numbers == set(range(min(len(numbers), 256))) else None
    found += judge(looks, kind, known.parts, namer(folder), depth=depth, patch=patch, classes=classes)
    found += _undeclared(looks, known, namer(folder))
    return Report(folder, tuple(gather(found)), looks, kind, tuple(known.pairs), known.parts, ignore)


def quick(folder: str | Path) -> Report:
    """The part of milliseconds a file: names, pairs, index.csv, splits, first bytes, files equal byte for byte."""
    folder = Path(folder)
    known = survey(folder)
    found = known.found + first_bytes(known.pairs, known.parts, namer(folder))
    return Report(folder, tuple(gather(found)), (), None, tuple(known.pairs), known.parts)


def _undeclared(looks: tuple[Look, ...], known: Survey, name: Callable[[Path], str]) -> list[tuple[str, Case]]:
    if not known.declared:
        return []
    return [
        ("undeclared-label", Case((name(seen.pair.label),), ", ".join(map(str, strange))))
        for seen in looks
        if (strange := sorted(set(seen.values.values) - set(known.declared)))
    ]


def _facts(report: Report) -> dict[str, Any]:
    whole = [seen for seen in report.looks if seen.fault is None]
    counted = {
        name: Counter(str(getattr(seen, name)) for seen in whole) for name in ("channels", "dtype", "label_dtype")
    }
    facts: dict[str, Any] = {
        "pairs": len(report.pairs),
        "readable": len(whole),
        "splits": dict(Counter(report.parts[pair.id] for pair in report.pairs)),
        "sizes": dict(Counter("×".join(map(str, seen.shape)) for seen in whole).most_common()),
        **{name: dict(times.most_common()) for name, times in counted.items()},
        "label_kind": report.kind,
    }
    pixels = sum(sum(seen.values.counts) for seen in whole)
    if report.kind == "classes":
        share: Counter[int] = Counter()
        for seen in whole:
            share.update(dict(zip(seen.values.values, seen.values.counts, strict=True)))
        facts["classes"] = {str(value): share[value] / max(pixels, 1) for value in sorted(share)}
    elif whole:
        objects = sum(seen.objects for seen in whole)
        facts |= {
            "objects": objects,
            "objects_an_image": float(np.median([seen.objects for seen in whole])),
            "touching_the_border": sum(seen.border for seen in whole),
            "touching_pairs": sum(seen.touching for seen in whole),
        }
    shares = sum(seen.foreground * sum(seen.values.counts) for seen in whole) / max(pixels, 1)
    faint = sum(seen.separability < LOW_CONTRAST for seen in whole)
    return facts | {"foreground": shares, "empty_masks": sum(not any(s.values.values) for s in whole), "faint": faint}


def _words(facts: dict[str, Any]) -> dict[str, str]:
    """The facts as lines of text."""
    readable = "" if facts["readable"] == facts["pairs"] else f", {facts['readable']} of them readable and matching"
    lines = {"pairs": f"{facts['pairs']} images with masks{readable}", "splits": _counts(facts["splits"])}
    lines |= {
        "sizes": _counts(facts["sizes"]),
        "channels": _counts(facts["channels"]),
        "numbers": _counts(facts["dtype"]),
    }
    guessed = facts["label_kind"] or "not certain"
    lines["masks"] = f"{guessed}; stored as {_counts(facts['label_dtype'])}; {facts['empty_masks']} empty"
    if "classes" in facts:
        lines["classes"] = ", ".join(f"{value}: {share:.2%}" for value, share in facts["classes"].items())
    elif "objects" in facts:
        lines["objects"] = (
            f"{facts['objects']:,}, {facts['objects_an_image']:g} in the median image; "
            f"{facts['touching_the_border']:,} touch the border; {facts['touching_pairs']:,} pairs touch each other"
        )
    lines["foreground"] = f"{facts['foreground']:.2%} of the pixels"
    lines["low contrast"] = f"{facts['faint']} images (objects against surroundings, separability below {LOW_CONTRAST})"
    return lines


def _counts(counts: dict[str, int]) -> str:
    parts = [f"{value} ({times})" for value, times in list(counts.items())[:6]]
    return ", ".join(parts) + (f" and {len(counts) - 6} more" if len(counts) > 6 else "") if parts else "none"


def _row(seen: Look, part: str) -> dict[str, Any]:
    names = (
        "shape",
        "channels",
        "dtype",
        "alpha",
        "low",
        "high",
        "at_top",
        "separability",
        "objects",
        "border",
        "touching",
    )
    row: dict[str, Any] = {"id": seen.pair.id, "image": seen.pair.image, "label": seen.pair.label}
    row |= {"split": part, "fault": seen.fault, **{name: getattr(seen, name) for name in names}}
    pixels = dict(zip(seen.values.values, seen.values.counts, strict=True))
    return row | {"label_dtype": seen.label_dtype, "foreground": seen.foreground, "label_histogram": pixels}


def announce(folder: Path, say: Callable[[str], object] = print) -> None:
    """The quick part, as a training begins: warnings are said, errors raised together as one ValueError."""
    report = quick(folder)
    errors = [finding for finding in report.findings if finding.rule.level == "error"]
    more = f"look closer with: unet-jax check --data {folder}"
    if errors:
        raise ValueError(f"{folder} cannot be trained on:\n{table(errors)}\n{more}")
    if report.findings:
        say(f"{table(report.findings)}\n{more}")
