"""Models that an MLflow server holds: the file behind `mlflow:models:/name/version` and `mlflow:runs:/run/path`."""

import re
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from core.database.tables import Webhook
from core.egress import EgressRefused, Policy
from core.errors import NotFound
from core.mlflow.rest import SERVED, Answered, Rest, Server, artifact_path
from engine.contract import file_format

SCHEME = "mlflow:"
_SECONDS = 60.0
_MODEL = re.compile(r"models:/(?P<name>[^/@]+)(?:/(?P<version>[0-9]+)|@(?P<alias>[^/@]+))(?:/(?P<path>.+))?")
_RUN = re.compile(r"runs:/(?P<run_id>[0-9a-f]{1,64})(?:/(?P<path>.+))?")
_MOST_NAMED = 10


@dataclass(frozen=True)
class Located:
    """Where a file is fetched, and what goes with the request."""

    url: str
    headers: dict[str, str]


class _Where(Answered):
    artifact_uri: str


class _Version(Answered):
    version: str


class _Aliased(Answered):
    model_version: _Version


class _Info(Answered):
    info: _Where


class _Run(Answered):
    run: _Info


class _File(Answered):
    path: str
    is_dir: bool = False


class _Files(Answered):
    files: tuple[_File, ...] = ()


def server_of(session: Session, project_id: str) -> Server:
    """The project's MLflow server, the first of several. Raises `not_found`."""
    enabled = select(Webhook).where(Webhook.project_id == project_id, Webhook.disabled_at.is_(None), Webhook.mlflow.is_not(None))
    row = session.scalars(enabled.order_by(Webhook.id).limit(1)).one_or_none()
    if row is None:
        raise NotFound("the project has no MLflow server", hint='POST /v1/webhooks {"url": "https://…", "mlflow": {}} names one')
    return Server(row.url, row.credentials)


def located(server: Server, policy: Policy, uri: str) -> Located:
    """The file that a URI means; a folder means the one file in it that may be a model.

    Raises `egress_refused` where there is none, or more than one, and what `Rest` raises.
    """
    rest = Rest(server, policy, seconds=_SECONDS)
    artifact_uri, path = _artifacts(rest, uri.removeprefix(SCHEME))
    if not artifact_uri.startswith(SERVED):
        raise EgressRefused(
            "the MLflow server does not serve that file itself", hint="start it with --serve-artifacts, or name the file by its own URI"
        )
    folder = "/".join(part for part in (artifact_path(artifact_uri), path.strip("/")) if part)
    return Located(server.file_url(folder if _is_model(folder) else _only_model(rest, folder)), server.headers)


def _artifacts(rest: Rest, uri: str) -> tuple[str, str]:
    """The artifact URI and the path in it."""
    if run := _RUN.fullmatch(uri):
        return rest.get(_Run, "runs/get", run_id=run["run_id"]).run.info.artifact_uri, run["path"] or ""
    model = _MODEL.fullmatch(uri)
    if model is None:
        raise EgressRefused(
            "that is no URI of MLflow", hint="mlflow:models:/name/version, mlflow:models:/name@alias or mlflow:runs:/run_id/path"
        )
    version = (
        model["version"] or rest.get(_Aliased, "registered-models/alias", name=model["name"], alias=model["alias"]).model_version.version
    )
    return rest.get(_Where, "model-versions/get-download-uri", name=model["name"], version=version).artifact_uri, model["path"] or ""


def _is_model(path: str) -> bool:
    return any(
        path.lower().endswith(format.endings)
        for format in file_format.catalogue().values()
        if format.holds == "model" and format.has_weights
    )


def _only_model(rest: Rest, folder: str) -> str:
    found = [file.path for file in rest.files(_Files, folder).files if not file.is_dir and _is_model(file.path)]
    if len(found) == 1:
        return f"{folder}/{found[0]}"
    if not found:
        raise EgressRefused("there is no file there whose name ends like that of a model", hint="add the file's path to the URI")
    raise EgressRefused(
        f"several files there may be the model: {', '.join(found[:_MOST_NAMED])}"[:500], hint="add the file's path to the URI"
    )
