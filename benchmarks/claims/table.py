"""The table of docs/claims.md: rows of claims that were measured take the place of their old ones, all else stays as it stands."""

from collections.abc import Sequence
from typing import Any

_BEGIN, _END = "<!-- rows: written by python -m benchmarks.claims -->\n", "<!-- end of rows -->\n"
_TITLES = "| | claim | paper | ours | seeds | margin | holds |\n|---|---|---|---|---|---|---|\n"
NEW = f"# Claims of the papers, measured\n\n{_BEGIN}{_TITLES}{_END}"
"""A page without rows."""


def updated(page: str, rows: Sequence[dict[str, Any]], order: Sequence[str]) -> str:
    """The page with these rows in place of all that it has of the same claims, in the order of the claims' identifiers.

    Raises ValueError where the page has no place for rows.
    """
    head, begun, rest = page.partition(_BEGIN + _TITLES)
    old, ended, foot = rest.partition(_END)
    if not begun or not ended:
        raise ValueError(f"the page has no table between {_BEGIN.strip()!r} and {_END.strip()!r}")
    measured = {row["id"] for row in rows}
    lines = [(_claim(text), text) for text in old.splitlines() if _claim(text) not in measured] + [(row["id"], line(row)) for row in rows]
    lines.sort(key=lambda item: order.index(item[0]) if item[0] in order else len(order))
    return head + begun + "".join(f"{text}\n" for _, text in lines) + ended + foot


def line(row: dict[str, Any]) -> str:
    """One row as Markdown."""
    sign = {"<=": "≤", ">=": "≥"}[row["comparison"]]
    ours = f"{_text(row['ours'])} ± {_text(row['spread'])}"
    holds = "yes" if row["passed"] else "**no**"
    claim = row["claim"].replace("|", "\\|")
    return f"| {row['id']} | {claim} | {row['paper']} | {ours} | {row['seeds']} | {sign} {row['margin']:g} | {holds} |"


def _claim(line: str) -> str:
    return line.split("|")[1].strip()


def _text(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"
