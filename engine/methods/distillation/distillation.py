"""Knowledge distillation (Hinton, Vinyals, Dean, 2015): the network learns the softened answers of a teacher, output by output."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from engine.contract.display import Table
from engine.contract.errors import EngineError
from engine.methods.context import Context
from engine.methods.distillation import transfer
from engine.methods.distillation.answers import SoftAnswers
from engine.methods.distillation.features import Features
from engine.methods.distillation.spec import Distillation
from engine.methods.distillation.students import is_new, student_of
from engine.methods.distillation.teachers import Teacher, a_few, teachers_of
from engine.methods.distillation.terms import Term, terms_of
from engine.networks.network import Network
from engine.training.batches import Batch, Examples, Outputs, as_list
from engine.training.losses import Loss, targets_loss

_BASELINE_SHARE = 0.4
"""Of the step's progress that a baseline takes."""


def apply(network: Network, params: Distillation, context: Context) -> Network:
    """Train a student with, for every output, (1 - alpha)·loss(targets) + alpha·loss(teacher).

    Of class scores the teacher's term is T²·KL(teacher at T ‖ student at T), or what `loss` says; of plain values it is the mean squared
    error over the teacher's variance, so that outputs in different units weigh the same. Outputs without targets learn from the
    teacher alone. Teacher and student read the same tensors.

    Raises:
        EngineError: `shape_mismatch` where their outputs differ in shape, `layer_not_found`, `output_unknown` and `dataset_invalid` where
            the parameters name what is not there.
    """
    context.phase("training")
    # Drawn before anything else, so that plain training with the same seed sees the same order of examples.
    seed, drawn = context.new_seed(), context.new_seed()
    chosen = transfer.chosen(params, context)
    student = student_of(network, params, context, chosen.examples, drawn)
    teachers = teachers_of(network, params, context, chosen.examples)
    context.stage("before", student)
    start = copy.deepcopy(student) if params.baselines else None
    with context.part(0.0, 1 - _BASELINE_SHARE if params.baselines else 1.0):
        learn(student, teachers, params, context, chosen.examples, validation=chosen.validation, seed=seed)
    context.stage("distilled", student)
    uncorrected = copy.deepcopy(student) if params.bias_correction != "none" else None
    student = transfer.corrected(student, teachers, params, context, chosen)
    context.report("teachers", list(params.teacher_names))
    if is_new(params):
        context.report("student", params.student)
    rivals = {} if uncorrected is None else {"before bias correction": uncorrected}
    if start is not None:
        rivals["hard labels"] = start
        with context.part(1 - _BASELINE_SHARE, 1.0):
            loss = targets_loss(context.trained_heads(chosen.examples), params.label_smoothing)
            context.train(start, params, loss=loss, examples=chosen.examples, validation=chosen.validation, seed=seed, report=False)
    _compare(student, rivals, teachers, params, context)
    return network.with_module(student.cpu())


def learn(
    student: nn.Module,
    teachers: Sequence[Teacher],
    params: Distillation,
    context: Context,
    examples: Examples,
    *,
    validation: Examples | None,
    seed: int,
) -> None:
    """Train the student in place on the teachers' answers to `examples`, and on their targets as far as `alpha` leaves it."""
    terms = terms_of(context.reading(), teachers, params)
    trained = {head.name for head in context.trained_heads(examples)} if params.alpha < 1 else set()
    context.report("losses", {term.head.name: _described(term, trained) for term in terms})
    student.to(context.device)
    answers = SoftAnswers(teachers, terms, examples, remember=not params.feature_layers and params.augment is None)
    features = None
    if params.feature_layers:
        module = teachers[0].module
        if module is None:
            raise EngineError("spec_invalid", "feature_layers needs a teacher that is a network.", hint="Name a model as the teacher.")
        features = Features(student, module, params.feature_layers, a_few(examples, context), seed)
    try:
        context.train(
            student if features is None else features.module,
            params,
            loss=_loss(terms, answers, features, trained, params),
            examples=examples,
            validation=validation,
            seed=seed,
        )
    finally:
        if features is not None:
            features.close()


def _loss(terms: Sequence[Term], answers: SoftAnswers, features: Features | None, trained: set[str], params: Distillation) -> Loss:
    hard = {term.head.name: targets_loss([term.head.model_copy(update={"weight": 1.0})], params.label_smoothing) for term in terms}

    def loss(outputs: Outputs, batch: Batch) -> Tensor:
        given = as_list(outputs)
        values = []
        for term, wanted in zip(terms, answers(batch, [output.shape for output in given]), strict=True):
            if term.weight == 0:
                continue
            soft = term.loss(given, wanted, batch)
            name = term.head.name
            value = soft if name not in trained else (1 - params.alpha) * hard[name](outputs, batch) + params.alpha * soft
            values.append(value if term.weight == 1 else term.weight * value)
        if features is not None:
            values.append(params.alpha * features.loss())
        return values[0] if len(values) == 1 else torch.stack(values).sum()

    return loss


def _described(term: Term, trained: set[str]) -> str:
    if term.weight == 0:
        return "none"
    return f"{term.described} to the teacher" + (" and its targets" if term.head.name in trained else "")


def _compare(
    student: nn.Module, rivals: Mapping[str, nn.Module], teachers: Sequence[Teacher], params: Distillation, context: Context
) -> None:
    """Report and show the student beside what it is compared with, on the evaluated examples."""
    split = context.evaluation_split
    if not rivals or context.data is None or split not in context.data.splits:
        return
    networks: dict[str, nn.Module] = {f"teacher {teacher.name}": teacher.module for teacher in teachers if teacher.module is not None}
    networks |= {"student": student, **rivals}
    rows: list[dict[str, str | float]] = [{"network": name, **context.evaluate(module, split)} for name, module in networks.items()]
    context.report("compared", rows)
    context.show(Table.of("Student and teachers", "network", rows))
    if params.exclude_classes and context.split(split).targets:
        found = {name: transfer.recalls(module, context.labelled(split), context) for name, module in networks.items()}
        recalls: list[dict[str, str | float | None]] = [
            {"network": name, **{f"class {number}": share[number] for number in params.exclude_classes}} for name, share in found.items()
        ]
        context.report("recall_of_excluded_classes", recalls)
        context.show(Table.of("Share of the excluded classes' examples that is recognized", "network", recalls))
