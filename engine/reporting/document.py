"""Reading a stored report: of this version, or of a version before, which is completed."""

from engine.contract.report import Report, StepReport, read_report
from engine.reporting.earlier import shown_before
from engine.reporting.html import to_html
from engine.reporting.markdown import to_markdown

__all__ = ["read", "to_html", "to_markdown"]


def read(content: bytes | str) -> Report:
    """A stored report, ready to be drawn. Raises UnreadableReport where it has another version or is none.

    Reports of before there were settings get the one that they had; those of before steps chose what they show, what was shown then.
    """
    report = read_report(content)
    if report.settings:
        return report
    return report.model_copy(update={"settings": report.as_result().settings, "steps": tuple(map(_completed, report.steps))})


def _completed(step: StepReport) -> StepReport:
    return step.model_copy(update={"shown": shown_before(step)}) if not step.shown else step
