"""Findings: the cases of a rule, sorted and as text."""

from collections.abc import Iterable
from typing import NamedTuple

from unet_jax.doctor.rules import LEVELS, RULES, Rule


class Case(NamedTuple):
    """The files of one case, below the folder, and what is particular to it."""

    files: tuple[str, ...]
    detail: str = ""


class Finding(NamedTuple):
    """All cases of one rule."""

    code: str
    cases: tuple[Case, ...]

    @property
    def rule(self) -> Rule:
        """Its level, message and mend."""
        return RULES[self.code]


def gather(found: Iterable[tuple[str, Case]]) -> list[Finding]:
    """Cases by their rule, errors first, in the order of RULES."""
    groups: dict[str, list[Case]] = {}
    for code, case in found:
        groups.setdefault(code, []).append(case)
    return [
        Finding(code, tuple(groups[code])) for level in LEVELS for code in RULES
        if RULES[code].level == level and code in groups
    ]  # fmt: skip


def table(findings: Iterable[Finding], *, cases: int = 3) -> str:
    """Findings as text: level, rule, number; the first cases with their files; the mend."""
    lines = []
    for finding in findings:
        rule = finding.rule
        lines.append(f"{rule.level:<8}{finding.code} ({len(finding.cases)}): {rule.message}")
        for case in finding.cases[:cases]:
            lines.append(f"          {_named(case)}{f': {case.detail}' if case.detail else ''}")
        if len(finding.cases) > cases:
            lines.append(f"          ... and {len(finding.cases) - cases} more, all in check.json")
        lines.append(f"          mend: {rule.mend}")
    return "\n".join(lines)


def _named(case: Case) -> str:
    more = f" and {len(case.files) - 4} more" if len(case.files) > 4 else ""
    return " + ".join(case.files[:4]) + more if case.files else "the whole folder"
