"""The page of an evaluation: one HTML file with its pictures inside, no script, nothing fetched."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

STYLE = """
:root { --ink: #222; --faint: #6b6b6b; --line: #dcdcdc; --blue: #0072b2 }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 36px 28px 60px; max-width: 1160px; color: var(--ink); background: #fff;
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif }
h1 { font-size: 27px; line-height: 1.25; margin: 0 0 4px } h2 { font-size: 19px; margin: 44px 0 10px }
h3 { font-size: 15px; margin: 22px 0 6px } p { margin: 6px 0; max-width: 78ch }
.faint, figcaption, dd, caption { color: var(--faint) }
code { font: 13px/1.5 ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 12px; margin: 22px 0 }
.tile { border: 1px solid var(--line); border-radius: 6px; padding: 11px 14px }
.tile b { display: block; font-size: 26px; line-height: 1.2; font-weight: 600 }
.tile span { font-size: 13px; color: var(--faint); display: block; line-height: 1.35 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; margin: 8px 0 4px; font-variant-numeric: tabular-nums; font-size: 14px }
th, td { text-align: right; padding: 4px 0 4px 14px; border-bottom: 1px solid var(--line); white-space: nowrap }
th { font-weight: 600; vertical-align: bottom; line-height: 1.3 }
thead th { white-space: normal } th:first-child, td:first-child { text-align: left; padding-left: 0 }
thead th { border-bottom: 2px solid #999 } tr.all td { font-weight: 600 }
caption { caption-side: bottom; text-align: left; font-size: 13px; padding-top: 5px; line-height: 1.4 }
.charts { display: flex; flex-wrap: wrap; gap: 20px } .charts img { width: 520px; max-width: 100% }
figure { margin: 10px 0 } img { max-width: 100%; height: auto; display: block }
figcaption { font-size: 13px; line-height: 1.4 }
.example { display: grid; grid-template-columns: 170px 1fr; gap: 14px; margin: 0 0 14px; align-items: start }
.example b { color: var(--ink) } .heads { display: grid; grid-template-columns: repeat(3, 300px); gap: 10px;
  margin-left: 184px; font-size: 13px; color: var(--faint) }
.key { display: inline-block; width: 22px; height: 4px; border-radius: 2px; vertical-align: middle; margin: 0 5px 2px 0;
  outline: 1px solid #555 }
.note { border-left: 4px solid #d55e00; padding: 6px 14px; background: #fdf5ee; margin: 10px 0; max-width: 82ch }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 3px 18px; font-size: 13.5px; margin: 8px 0 }
dt { font-weight: 600 } dd { margin: 0; overflow-wrap: anywhere }
@media (max-width: 760px) { .example { grid-template-columns: 1fr } .heads { display: none } }
@media print { body { max-width: none; padding: 0 } h2 { break-after: avoid }
  figure, .example, tr { break-inside: avoid } }
"""


def page(title: str, body: Iterable[str]) -> str:
    """The whole document: `body` are pieces of HTML, in order."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def text(value: object) -> str:
    """Any value as text that HTML leaves as it is."""
    return html.escape(str(value))


def score(value: float | None) -> str:
    """A score from 0 to 1 with three decimals; a dash for None."""
    return "–" if value is None else f"{value:.3f}"


def share(value: float | None) -> str:
    """A share as a percentage with one decimal; a dash for None."""
    return "–" if value is None else f"{value:.1%}"


def tiles(facts: Sequence[tuple[str, str]]) -> str:
    """The numbers one looks for first: (number, what it is)."""
    inner = "".join(f'<div class="tile"><b>{text(value)}</b><span>{text(name)}</span></div>' for value, name in facts)
    return f'<div class="tiles">{inner}</div>'


def table(head: Sequence[str], rows: Iterable[Sequence[object]], *, caption: str = "", bold: Sequence[str] = ()) -> str:
    """A table whose first column is names; rows whose name is in `bold` stand out."""
    lines = []
    for row in rows:
        cells = "".join(f"<td>{text(cell)}</td>" for cell in row)
        lines.append(f'<tr class="all">{cells}</tr>' if row[0] in bold else f"<tr>{cells}</tr>")
    names = "".join(f"<th>{text(name)}</th>" for name in head)
    below = f"<caption>{text(caption)}</caption>" if caption else ""
    inner = f"<table>{below}<thead><tr>{names}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="scroll">{inner}</div>'


def picture(path: Path, alt: str, *, caption: str = "") -> str:
    """A PNG, inside the page, with words for those who cannot see it."""
    data = base64.b64encode(path.read_bytes()).decode()
    below = f"<figcaption>{text(caption)}</figcaption>" if caption else ""
    return f'<figure><img alt="{text(alt)}" src="data:image/png;base64,{data}">{below}</figure>'


def key(colour: tuple[int, int, int], words: str) -> str:
    """A short line of a colour and what it means."""
    line = f'<span class="key" style="background: rgb{colour}"></span>'
    return f'<span style="white-space: nowrap">{line}{text(words)}</span>'


def facts(pairs: Mapping[str, Any]) -> str:
    """Names and values in two columns; empty values are left out."""
    shown = {name: value for name, value in pairs.items() if value not in (None, "", [])}
    inner = "".join(f"<dt>{text(name.replace('_', ' '))}</dt><dd>{text(value)}</dd>" for name, value in shown.items())
    return f"<dl>{inner}</dl>"
