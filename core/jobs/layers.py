"""What a spec says about layers, held against what the inspection of the model found: which patterns name none, and which layers cannot give.

After a step of another kind the layers may be others; steps are looked at as long as those before them keep the layers that there are.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from core.database.tables import Model
from core.errors import FieldError
from engine.contract.method import MethodParams
from engine.contract.patterns import matches
from engine.contract.sentences import suggestion
from engine.contract.spec import Spec

Layer = Mapping[str, Any]
_KEEPING = frozenset({"pruning", "distillation", "learning"})
"""Families whose steps leave every layer its name."""


def layer_errors(spec: Spec, model: Model) -> Iterator[FieldError]:
    """`include` patterns that name no layer, and networks (or chosen layers) of which no channel can be removed.

    Regular expressions of strangers are left to the job.
    """
    layers = layers_of(model)
    for index, step in _looked_at(spec, layers):
        for position, pattern in enumerate(_included(step)):
            if not pattern.startswith("re:") and not _named(pattern, layers):
                yield FieldError(
                    f"/steps/{index}/include/{position}",
                    "layer_not_found",
                    f"{pattern[:80]!r} names no layer of {model.id}",
                    f"{suggestion(pattern, [each['name'] for each in layers[:1000]], kind='layers')}; "
                    f"GET /v1/models/{model.id}/layers lists them",
                )
        if (reason := _nothing_removable(step, layers)) is not None:
            yield FieldError(
                f"/steps/{index}",
                "pruning_impossible",
                f"steps[{index}] ({step.wire_name()}) removes channels, and no chosen layer of {model.id} has any that can go: {reason}",
                f"GET /v1/models/{model.id}/layers says why of each layer; magnitude_pruning keeps shapes",
            )


def layer_warnings(spec: Spec, model: Model) -> Iterator[tuple[str, str, int]]:
    """Code, message and step of what a job would tell only when it runs."""
    layers = layers_of(model)
    for index, step in _looked_at(spec, layers):
        ignored: Sequence[str] = getattr(step, "ignore", ())
        for pattern in ignored:
            if not pattern.startswith("re:") and not _named(pattern, layers):
                yield "pattern_names_nothing", f"steps[{index}].ignore: {pattern[:80]!r} names no layer of {model.id}", index
        if _removes_channels(step):
            for layer in _chosen(step, layers):
                if layer.get("channels_prunable") is False and _included(step):
                    message = f"steps[{index}].include names {layer['name']}, which keeps all of its channels: {layer['channels_reason']}"
                    yield "layers_not_removable", message, index
        sparsity = getattr(step, "sparsity", None)
        if sparsity is not None and getattr(step, "scope", "layer") == "layer":
            empty = [
                layer["name"]
                for layer in _chosen(step, layers)
                if layer["quantizable"] and (layer["params_count"] or 0) * (1 - sparsity) < 1
            ]
            if empty:
                yield "layers_would_be_empty", f"steps[{index}] leaves no weight of {', '.join(empty[:10])}", index


def layers_of(model: Model) -> Sequence[Layer]:
    """What the inspection found; nothing before it has ended."""
    return (model.inspection or {}).get("layers") or ()


def _looked_at(spec: Spec, layers: Sequence[Layer]) -> Iterator[tuple[int, MethodParams]]:
    for index, step in enumerate(spec.steps) if layers else ():
        yield index, step
        if step.family() not in _KEEPING:
            return


def _named(pattern: str, layers: Sequence[Layer]) -> bool:
    return any(matches(pattern, each["name"], (each["type"],)) for each in layers)


def _chosen(step: MethodParams, layers: Sequence[Layer]) -> list[Layer]:
    """Layers that the step's patterns leave, regular expressions counting as naming all."""
    include: Sequence[str] = _included(step)
    ignore: Sequence[str] = getattr(step, "ignore", ())
    plain = [pattern for pattern in ignore if not pattern.startswith("re:")]
    wide = not include or any(pattern.startswith("re:") for pattern in include)
    return [
        each
        for each in layers
        if (wide or any(matches(pattern, each["name"], (each["type"],)) for pattern in include))
        and not any(matches(pattern, each["name"], (each["type"],)) for pattern in plain)
    ]


def _included(step: MethodParams) -> Sequence[str]:
    found: Sequence[str] = getattr(step, "include", ())
    return found


def _removes_channels(step: MethodParams) -> bool:
    return step.family() == "pruning" and step.effect.file_size == "smaller"


def _nothing_removable(step: MethodParams, layers: Sequence[Layer]) -> str | None:
    """Why no channel of any chosen layer can go; None where some can, or it is not known."""
    known = [each for each in layers if each.get("channels_prunable") is not None]
    if not _removes_channels(step) or not known:
        return None
    names = {each["name"] for each in _chosen(step, layers)}
    chosen = [each for each in known if each["name"] in names]
    if any(each["channels_prunable"] for each in chosen):
        return None
    reasons = dict.fromkeys(each["channels_reason"] for each in chosen)
    return " ".join(reasons) if reasons else "include and ignore leave none"
