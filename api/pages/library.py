"""Models and datasets: what is there, and what was found in it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError

from api.deps import DatasetId, ModelId, ReadsDatasets, ReadsModels, WritesDatasets, WritesModels
from api.http.routing import ClosedRoute
from api.pages.change import change
from api.pages.forms import Sent
from api.pages.jobs import row
from api.pages.pictures import png_uri
from api.pages.rendering import Content, View, show
from api.schemas.common import After
from core import jobs
from core.access.keys import Scope
from core.database.listing import Listing
from core.database.tables import Model
from core.library import datasets, models
from engine.contract.inspection import ExamplePreview

router = APIRouter(route_class=ClosedRoute, include_in_schema=False)
PAGE_ROWS = 50
MOST_LAYERS = 300
MOST_OPERATORS = 60
PICTURES = 8
MOST_CLASSES = 100
JOBS = 10


@dataclass(frozen=True)
class Shown:
    """One example: a picture where it is one, else its range."""

    picture: str
    label: str
    text: str


@router.get("/models")
async def models_page(request: Request, principal: ReadsModels, after: After = None) -> Response:
    """The models, newest first."""

    def make(view: View) -> Content:
        found = models.search(view.session, view.project_id, Listing(limit=PAGE_ROWS, after=after))
        rows = [models.body(item) for item in found.data]
        return view.page(
            "models.html", "Models", "models", rows=rows, made=_times(found.data), older=found.next_cursor, first=after is None
        )

    return await show(request, principal, make)


@router.get("/models/{model_id}")
async def model_page(request: Request, principal: ReadsModels, model_id: ModelId) -> Response:
    """One model, with what its inspection found."""
    return await show(request, principal, partial(_model, model_id=model_id))


def _model(view: View, *, model_id: str) -> Content:
    model = models.get(view.session, view.project_id, model_id)
    body = models.body(model)
    layers = (model.inspection or {}).get("layers") or ()
    lineage = body["lineage"]
    return view.page(
        "model.html",
        model.name,
        "models",
        model=model,
        body=body,
        layers=layers[:MOST_LAYERS],
        left=max(0, len(layers) - MOST_LAYERS),
        operators=sorted((body["operators"] or {}).items(), key=lambda item: -item[1])[:MOST_OPERATORS],
        parents=view.names(Model, (lineage["model_id"],)),
        lineage=lineage,
        rows=_jobs_with(view, model_id),
    )


def _jobs_with(view: View, model_id: str) -> list[Any]:
    """The latest jobs of a model."""
    if not view.may(Scope.JOBS_READ):
        return []
    found = jobs.search(view.session, view.project_id, model_id=model_id, limit=JOBS)
    return [row(job, {}) for job in found.data]


@router.get("/datasets")
async def datasets_page(request: Request, principal: ReadsDatasets, after: After = None) -> Response:
    """The datasets, newest first."""

    def make(view: View) -> Content:
        found = datasets.search(view.session, view.project_id, Listing(limit=PAGE_ROWS, after=after))
        rows = [datasets.body(item) for item in found.data]
        times = _times(found.data)
        return view.page("datasets.html", "Datasets", "datasets", rows=rows, made=times, older=found.next_cursor, first=after is None)

    return await show(request, principal, make)


@router.get("/datasets/{dataset_id}")
async def dataset_page(request: Request, principal: ReadsDatasets, dataset_id: DatasetId) -> Response:
    """One dataset, with the first examples of each split."""
    return await show(request, principal, partial(_dataset, dataset_id=dataset_id))


def _dataset(view: View, *, dataset_id: str) -> Content:
    dataset = datasets.get(view.session, view.project_id, dataset_id)
    body = datasets.body(dataset)
    found = (dataset.inspection or {}).get("preview") or {}
    classes = body["classes"] or ()
    splits = {name: [_shown(item, dataset.declared, classes) for item in examples[:PICTURES]] for name, examples in found.items()}
    return view.page(
        "dataset.html",
        dataset.name,
        "datasets",
        dataset=dataset,
        body=body,
        splits=splits,
        classes=classes[:MOST_CLASSES],
        more=max(0, len(classes) - MOST_CLASSES),
    )


def _shown(item: Mapping[str, Any], declared: Mapping[str, Any], classes: Any) -> Shown:
    try:
        example = ExamplePreview.model_validate(item)
    except ValidationError:  # inspected by another version
        return Shown("", "", "")
    label = "" if example.label is None else str(classes[example.label] if example.label < len(classes) else example.label)
    texts = []
    for name, array in example.inputs.items():
        picture = png_uri(array, _layout(declared, name)) if len(example.inputs) == 1 else ""
        if picture:
            return Shown(picture, label, "")
        if array.minimum is not None and array.maximum is not None and array.mean is not None:
            texts.append(f"{name}: {array.minimum:.4g} … {array.maximum:.4g}, mean {array.mean:.4g}")
    return Shown("", label, "; ".join(texts)[:300])


def _layout(declared: Mapping[str, Any], name: str) -> str:
    stated = declared.get("preprocessing") or {}
    found = stated.get("layout") or (stated[name].get("layout") if isinstance(stated.get(name), dict) else None)
    return str(found or "")


def _times(rows: Any) -> dict[str, Any]:
    return {item.id: item.created_at for item in rows}


@router.post("/models/{model_id}/delete")
async def delete_model(request: Request, principal: WritesModels, form: Sent, model_id: ModelId) -> Response:
    """Remove a model that no unfinished job reads."""
    return await _deleted(request, lambda session: models.delete(session, principal.project_id, model_id), "/models")


@router.post("/datasets/{dataset_id}/delete")
async def delete_dataset(request: Request, principal: WritesDatasets, form: Sent, dataset_id: DatasetId) -> Response:
    """Remove a dataset that no unfinished job reads."""
    return await _deleted(request, lambda session: datasets.delete(session, principal.project_id, dataset_id), "/datasets")


async def _deleted(request: Request, delete: Callable[[Any], None], onward: str) -> Response:
    await change(request, delete)
    return RedirectResponse(onward, 303)
