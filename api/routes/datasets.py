"""Datasets: upload, look at, download, delete."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response

from api.deps import DatasetId, Reading, ReadsDatasets, TheService, WritesDatasets, Writing
from api.http import content, intake, problems
from api.http.errors import InvalidParameter
from api.http.fields import fields_of
from api.http.idempotency import IdempotencyKey
from api.http.inspection import found
from api.http.keeping import kept
from api.http.routing import ClosedRoute
from api.http.words import PRINTABLE
from api.schemas.common import Change, GivenLabels, OfLibrary, page_of
from core.errors import FieldError
from core.library import datasets
from engine.contract.file_format import ending_of
from engine.contract.sentences import suggestion
from modelpress.resources.common import Page
from modelpress.resources.library import Dataset, Preview

router = APIRouter(route_class=ClosedRoute, tags=["datasets"])


@router.post(
    "/v1/datasets",
    operation_id="create_dataset",
    status_code=201,
    response_model=Dataset,
    openapi_extra=intake.request_body(intake.DATASETS),
    responses=intake.REFUSALS,
)
async def create_dataset(
    *,
    request: Request,
    principal: WritesDatasets,
    declared: Annotated[intake.Declared, Depends(intake.declared_as(intake.DATASETS))],
    service: TheService,
    given: GivenLabels,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Upload examples: the file itself as the body, or JSON that names a finished upload.

    An npz file has `x_train y_train x_test y_test`, optionally `x_validation y_validation`; several inputs as `x_train.<input>`; sequences of
    different lengths with `x_train_lengths`. Zips of class folders hold pictures (`image_folder`) or WAV files (`audio_folder`), those of
    `images` and `masks` a segmentation (`image_masks`). Tables come as `csv` or `parquet`, texts as `jsonl`, alone or zipped with a
    `tokenizer.json`. `format` is found by the first bytes where it is left out; `metadata.images`, `masks`, `audio`, `text`, `sequences` and `table`
    say how each is read, and `metadata.preprocessing` brings stored values (say uint8 NHW) to the model's input. Labels are optional:
    without them the service measures fidelity to the original.
    """
    taken = await intake.take(request, service, principal.project_id, intake.DATASETS, declared.labelled(given))
    return await kept(service, principal.project_id, datasets, taken, idempotency_key)


@router.get("/v1/datasets", operation_id="list_datasets", response_model=Page[Dataset], responses=problems.responses(400, 422))
def list_datasets(request: Request, session: Reading, principal: ReadsDatasets, asked: OfLibrary) -> Response:
    """The project's datasets, newest first unless another order is asked for."""
    return page_of(request, datasets.search(session, principal.project_id, asked), datasets.body)


@router.get("/v1/datasets/{dataset_id}", operation_id="get_dataset", response_model=Dataset, responses=problems.responses(404))
def get_dataset(session: Reading, principal: ReadsDatasets, dataset_id: DatasetId) -> Response:
    """One dataset, with what its inspection found."""
    return JSONResponse(datasets.body(datasets.get(session, principal.project_id, dataset_id)))


@router.get(
    "/v1/datasets/{dataset_id}/content",
    operation_id="download_dataset",
    response_class=Response,
    openapi_extra=content.HEADERS,
    responses=content.RESPONSES,
)
def download_dataset(request: Request, session: Reading, principal: ReadsDatasets, service: TheService, dataset_id: DatasetId) -> Response:
    """The uploaded file, byte for byte."""
    dataset, blob = datasets.content(session, principal.project_id, dataset_id)
    return content.download(request, service, blob, dataset.name + ending_of(dataset.format))


@router.get(
    "/v1/datasets/{dataset_id}/preview",
    operation_id="preview_dataset",
    response_model=Preview,
    responses=problems.responses(404, 409, 422),
)
def preview_dataset(
    session: Reading,
    principal: ReadsDatasets,
    dataset_id: DatasetId,
    split: Annotated[
        str | None, Query(max_length=64, pattern=PRINTABLE, description="One split instead of all.", examples=["test"])
    ] = None,
    limit: Annotated[int, Query(ge=1, le=100, description="Most examples of a split.")] = 8,
) -> Response:
    """The first examples of each split."""
    splits = found(datasets.get(session, principal.project_id, dataset_id), "preview")
    if split is not None:
        if split not in splits:
            error = FieldError("/query/split", "unknown_split", f"the preview has no split {split!r}", suggestion(split, splits))
            raise InvalidParameter(error.detail, hint=error.hint, errors=[error])
        splits = {split: splits[split]}
    return JSONResponse(
        {"object": "preview", "dataset_id": dataset_id, "splits": {name: examples[:limit] for name, examples in splits.items()}}
    )


@router.patch(
    "/v1/datasets/{dataset_id}",
    operation_id="change_dataset",
    response_model=Dataset,
    responses=problems.responses(400, 404, 413, 415, 422),
)
def change_dataset(
    session: Writing, principal: WritesDatasets, dataset_id: DatasetId, wanted: Annotated[Change, Depends(fields_of(Change))]
) -> Response:
    """Give a dataset another name, and other labels."""
    return JSONResponse(datasets.body(datasets.change(session, principal.project_id, dataset_id, name=wanted.name, labels=wanted.labels)))


@router.delete("/v1/datasets/{dataset_id}", operation_id="delete_dataset", status_code=204, responses=problems.responses(404, 409))
def delete_dataset(session: Writing, principal: WritesDatasets, dataset_id: DatasetId) -> Response:
    """Remove a dataset that no unfinished job reads; past jobs stay."""
    datasets.delete(session, principal.project_id, dataset_id)
    return Response(status_code=204)
