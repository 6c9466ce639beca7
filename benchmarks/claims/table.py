"""The table of docs/claims.md, from the rows that the benchmark measured."""

from collections.abc import Sequence
from typing import Any

_HEAD = """# Claims of the papers, measured

Written by `python -m benchmarks.claims`; do not edit. Every figure comes out of jobs that were run through the public spec.
`ours` is the mean over the seeds ± the standard deviation between them; a claim holds where it is on the right side of the margin,
which was set to about half of the effect before the measurement.

"""


def table(rows: Sequence[dict[str, Any]], *, full: bool, data: str, seconds: float) -> str:
    """The page as Markdown."""
    digits = (
        f"all digits of `{data}`"
        if full
        else f"4,000 training and 1,000 validation digits drawn from `{data}` with each seed, all test digits"
    )
    lines = [_HEAD + f"Mode: {'full' if full else 'quick'}, {digits}; {seconds / 60:.0f} minutes.\n"]
    lines += ["| | claim | paper | ours | seeds | margin | holds |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        sign = {"<=": "≤", ">=": "≥"}[row["comparison"]]
        ours = f"{_text(row['ours'])} ± {_text(row['spread'])}"
        holds = "yes" if row["passed"] else "**no**"
        lines.append(f"| {row['id']} | {row['claim']} | {row['paper']} | {ours} | {row['seeds']} | {sign} {row['margin']:g} | {holds} |")
    return "\n".join(lines) + "\n"


def _text(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"
