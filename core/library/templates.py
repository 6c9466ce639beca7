"""Templates: specs, or parts of one, that jobs are made of."""

from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from core import ids
from core.database.clock import timestamp
from core.database.paging import Cut, Page, page
from core.database.tables import Template
from core.errors import FieldError, NotFound, QuotaExceeded, SpecInvalid
from engine.contract.spec import parse

MOST_TEMPLATES = 1000
"""Of one project."""
_STAND_INS = {"model": "mdl_template", "dataset": "ds_template"}
"""A template may leave out what each job names."""


def check(spec: dict[str, Any]) -> None:
    """Whether jobs can be made of it. Raises `spec_invalid` with every problem; costs processor time."""
    _, problems = parse(_STAND_INS | spec)
    if problems:
        errors = [FieldError(f"/spec{problem.pointer}", problem.code, problem.detail, problem.hint) for problem in problems]
        raise SpecInvalid(f"no job can be made of it: {'; '.join(error.detail for error in errors)}"[:2000], errors=errors)


def create(session: Session, project_id: str, *, name: str, spec: dict[str, Any], description: str | None = None) -> Template:
    """Keep a template that was checked. Raises `quota_exceeded`."""
    if (session.scalar(select(func.count()).where(Template.project_id == project_id)) or 0) >= MOST_TEMPLATES:
        raise QuotaExceeded(f"a project has at most {MOST_TEMPLATES} templates", hint="DELETE those that are not needed")
    template = Template(id=ids.new("tpl"), project_id=project_id, name=name, description=description, spec=spec)
    session.add(template)
    session.flush()
    session.refresh(template)
    return template


def get(session: Session, project_id: str, template_id: str) -> Template:
    """One template of the project. Raises `not_found`."""
    row = session.scalars(select(Template).where(Template.id == template_id, Template.project_id == project_id)).one_or_none()
    if row is None:
        raise NotFound(f"there is no template {template_id!r} in this project")
    return row


def search(session: Session, project_id: str, *, name: str | None, limit: int, after: str | None) -> Page[Template]:
    """Templates of the project, newest first."""
    statement = select(Template).where(Template.project_id == project_id)
    if name is not None:
        statement = statement.where(Template.name == name)
    return page(session, statement, Template.id, Cut(limit, after, [Template.spec]))


def delete(session: Session, project_id: str, template_id: str) -> None:
    """Forget a template; jobs that were made of it stay. Raises `not_found`."""
    session.delete(get(session, project_id, template_id))


def body(template: Template) -> dict[str, Any]:
    """The template object of the public contract."""
    path = f"/v1/templates/{template.id}"
    return {
        "object": "template",
        "id": template.id,
        "name": template.name,
        "description": template.description,
        "spec": template.spec,
        "created_at": timestamp(template.created_at),
        "urls": {"self": path, "jobs": f"{path}/jobs"},
    }
