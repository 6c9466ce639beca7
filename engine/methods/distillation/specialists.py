"""A generalist with specialists for classes that it confuses, as one network or distilled back into one."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from engine.contract.display import Table
from engine.contract.errors import EngineError
from engine.contract.heads import Head
from engine.methods.context import Context
from engine.methods.distillation.bias import corrected_head
from engine.methods.distillation.clusters import clusters_of, covariance
from engine.methods.distillation.combined import Combined, oversampling, reduced
from engine.methods.distillation.distillation import learn
from engine.methods.distillation.spec import Distillation
from engine.methods.distillation.spec_specialists import Specialists
from engine.methods.distillation.teachers import network_teacher
from engine.methods.distillation.transfer import labels_of, logits_of
from engine.networks import masks
from engine.networks.network import Network
from engine.outputs.losses import class_logits
from engine.training.batches import Batch, Chosen, Examples, Indices, Outputs, as_list
from engine.training.losses import Loss

_SPECIALISTS_SHARE = 0.6
"""Of the step's progress, where the ensemble becomes one network again."""


def apply(network: Network, params: Specialists, context: Context) -> Network:
    """Train specialists beside the network and combine them; with `distil`, train a copy of the network on what they say together.

    Raises:
        EngineError: `shape_mismatch` where no output gives one class an example, `spec_invalid` where clusters name what is not there, and
            `dataset_invalid` where a specialist would have no examples.
    """
    context.phase("training")
    examples, validation = context.to_train_on(params)
    context.labelled("train")
    head = corrected_head(context.trained_heads(examples))
    generalist = masks.fold(network.module).to(context.device).eval()
    context.stage("before", generalist)
    clusters = _clusters(generalist, head, params, context, examples)
    trained: list[_Specialist] = []
    with context.part(0.0, _SPECIALISTS_SHARE if params.distil else 1.0):
        for cluster, _ in zip(clusters, context.rounds(len(clusters)), strict=True):
            context.log(f"Specialist for the classes {', '.join(map(str, cluster))}.")
            trained.append(_train(generalist, cluster, head, params, context, examples=examples, validation=validation))
    inside = torch.zeros(len(clusters), head.classes_count or 0)
    for number, cluster in enumerate(clusters):
        inside[number, cluster] = 1
    ratios = torch.tensor([item.ratio for item in trained])
    combined = Combined(
        copy.deepcopy(generalist), [item.module for item in trained], head, inside, ratios, active_classes=params.active_classes
    )
    combined = combined.to(context.device).eval()
    context.stage("combined", combined)
    _report(generalist, trained, head, context)
    if params.distil is None:
        return network.with_module(combined.cpu())
    path = context.work / "specialists.onnx"
    network.with_module(copy.deepcopy(combined).cpu()).write_onnx(path)
    context.artifact(path, kind="specialists", format="onnx")
    student = copy.deepcopy(network.module)
    fields = params.distil.model_dump()
    single = Distillation(teacher="network", student="baseline", **fields)
    examples, validation = context.to_train_on(single)
    with context.part(_SPECIALISTS_SHARE, 1.0):
        teacher = network_teacher("specialists", combined, context, examples)
        learn(student, [teacher], single, context, examples, validation=validation, seed=context.new_seed())
    context.stage("distilled", student)
    return network.with_module(student.cpu())


@dataclass(frozen=True)
class _Specialist:
    module: nn.Module
    classes: list[int]
    ratio: float
    examples_count: int


def _clusters(generalist: nn.Module, head: Head, params: Specialists, context: Context, examples: Examples) -> list[list[int]]:
    count = head.classes_count or 0
    if params.clusters:
        beyond = [number for cluster in params.clusters for number in cluster if number >= count]
        if beyond or any(len(cluster) >= count for cluster in params.clusters):
            raise EngineError(
                "spec_invalid",
                f"clusters names class {beyond[0]}, and the network has {count} classes."
                if beyond
                else f"A cluster of all {count} classes leaves none to tell them from.",
                hint="Classes count from 0; a specialist knows some of them.",
            )
        return [sorted(cluster) for cluster in params.clusters]
    rng = context.rng()

    def found() -> list[list[int]]:
        scores = logits_of(generalist, head, examples, context) / params.temperature
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        return clusters_of(covariance(shares / shares.sum(axis=1, keepdims=True)), params.count, rng)

    clusters: list[list[int]] = context.replicas.once(found)
    kept = [cluster for cluster in clusters if 1 < len(cluster) < count]
    if not kept:
        context.warn(
            "no_specialists",
            f"The {count} classes fell into clusters of {', '.join(str(len(cluster)) for cluster in clusters)}, which need no specialist: "
            "the result answers as the network did.",
        )
    return kept


def _train(
    generalist: nn.Module,
    cluster: list[int],
    head: Head,
    params: Specialists,
    context: Context,
    *,
    examples: Examples,
    validation: Examples | None,
) -> _Specialist:
    """A copy of the generalist, trained to tell the classes of the cluster apart from each other and from all others together."""
    labels = labels_of(head, examples)
    special = np.isin(labels, cluster)
    if not special.any() or special.all():
        what = "no example" if not special.any() else "every example"
        raise EngineError(
            "dataset_invalid",
            f"The specialist for the classes {', '.join(map(str, cluster))} would have {what} of its own classes to learn from.",
            hint="State other clusters, or add examples.",
        )
    places, share = _sample(special, params.special_share, context.rng())
    module = copy.deepcopy(generalist)
    context.train(
        module,
        params,
        loss=_loss(head, cluster, params.label_smoothing, context.device),
        examples=Chosen(examples, places),
        validation=validation,
        report=False,
    )
    return _Specialist(module.eval(), cluster, oversampling(int(special.sum()), len(special), share), len(places))


def _sample(special: NDArray[np.bool_], share: float, rng: np.random.Generator) -> tuple[Indices, float]:
    """All examples of the special classes and as many others as make up the rest, or as there are; and the share that came out."""
    own, others = np.flatnonzero(special), np.flatnonzero(~special)
    wanted = min(len(others), max(1, round(len(own) * (1 - share) / share)))
    chosen = np.sort(np.concatenate([own, rng.permutation(others)[:wanted]]))
    return chosen, len(own) / len(chosen)


def _loss(head: Head, cluster: list[int], label_smoothing: float, device: torch.device) -> Loss:
    count = head.classes_count or 0
    own = torch.tensor(cluster, device=device)
    others = torch.tensor([number for number in range(count) if number not in cluster], device=device)
    numbers = torch.full((count,), len(cluster), device=device)
    numbers[own] = torch.arange(len(cluster), device=device)

    def loss(outputs: Outputs, batch: Batch) -> Tensor:
        logits = reduced(class_logits(head, as_list(outputs)[head.index]), own, others)
        value = batch.target_loss(
            head, lambda target: functional.cross_entropy(logits, numbers[target.reshape(-1)], label_smoothing=label_smoothing)
        )
        assert value is not None
        return value

    return loss


def _report(generalist: nn.Module, trained: list[_Specialist], head: Head, context: Context) -> None:
    """What each specialist knows, and how well it tells its own classes apart, beside the generalist."""
    split = context.evaluation_split
    measured = context.data is not None and split in context.data.splits and context.trained_heads(context.split(split))
    rows = []
    for item in trained:
        row: dict[str, str | float | None] = {"classes": ", ".join(map(str, item.classes)), "examples_count": item.examples_count}
        if measured:
            row["generalist_right_among_its_classes"] = _right_among(generalist, item, head, context)
            row["specialist_right_among_its_classes"] = _right_among(item.module, item, head, context)
        rows.append(row)
    context.report("specialists", rows)
    context.show(Table.of("Specialists", "classes", rows))


def _right_among(module: nn.Module, item: _Specialist, head: Head, context: Context) -> float | None:
    """Share of the evaluated examples of a specialist's classes that get the right one of them."""
    split = context.split(context.evaluation_split)
    labels = labels_of(head, split)
    places = np.flatnonzero(np.isin(labels, item.classes))
    if not len(places):
        return None
    scores = logits_of(module, head, Chosen(split, places), context)[:, item.classes]
    return float((np.asarray(item.classes)[scores.argmax(axis=1)] == labels[places]).mean())
