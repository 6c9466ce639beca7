"""Parameters of the distillation family: a network learns from another one's outputs."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from engine.architectures.spec import read_architecture
from engine.contract.cost import NOTHING, Cost, Facts
from engine.contract.errors import EngineError
from engine.contract.metadata import Name, NamedArchitecture, PreprocessingSpec
from engine.contract.method import MethodParams, Reference, Requires
from engine.contract.params import Params, Ratio, TrainingRun
from engine.methods.distillation.spec_specialists import Specialists

__all__ = ["Distillation", "Specialists"]

TeacherName = Annotated[str, Field(pattern=r"^(baseline|network|mdl_[A-Za-z0-9]+|logits:[A-Za-z0-9_.-]{1,200})$")]
Positive = Annotated[float, Field(gt=0, le=1e6)]
LOGITS = "logits:"
"""Begins the name of a teacher whose answers are stored in the dataset."""
STAGES = ("baseline", "network")
"""Teachers and students that the job has itself."""


class FeaturePair(Params):
    """A layer of the student whose output is to become like that of a layer of the teacher."""

    student: str = Field(min_length=1, max_length=512)
    """Name of the student's layer."""
    teacher: str = Field(min_length=1, max_length=512)
    """Name of the teacher's layer."""
    kind: Literal["features", "attention"] = "features"
    """`features`: mean squared error over the teacher's variance, through a learned projection where the widths differ (Romero et al.,
    2015); `attention`: squared distance of the normalized maps of mean squares over the channels (Zagoruyko, Komodakis, 2017). Where the
    maps differ in size, the larger one is averaged down."""
    weight: float = Field(1.0, gt=0, le=1e6)
    """Of this term beside the teacher's others; `alpha` weighs them all."""


class OutputMatch(Params):
    """How one output is matched to the teacher's."""

    weight: float = Field(1.0, ge=0, le=1e6)
    """Of the output's terms among those of the other outputs; 0 leaves it alone."""
    loss: Literal["auto", "mse", "l1", "cosine"] = "auto"
    """Of an output of plain values: mean squared error over the variance of the teacher's values (`auto` and `mse`), mean absolute error
    over their standard deviation, or one minus the cosine of each example's values, for embeddings."""


class Distillation(MethodParams, TrainingRun):
    """Train the network to give the softened answers of a teacher.

    loss = (1 - alpha) · CE(student, labels) + alpha · T² · KL(teacher at T ‖ student at T). With `alpha: 1` no labels are needed.
    """

    title: ClassVar[str] = "Knowledge distillation"
    requires: ClassVar[Requires] = Requires(dataset=True, labels=True)
    references: ClassVar[tuple[Reference, ...]] = (
        Reference(
            title="Hinton, Vinyals, Dean, Distilling the Knowledge in a Neural Network, 2015", url="https://arxiv.org/abs/1503.02531"
        ),
        Reference(title="Zhao et al., Decoupled Knowledge Distillation, CVPR 2022", url="https://arxiv.org/abs/2203.08679"),
        Reference(title="Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015", url="https://arxiv.org/abs/1412.6550"),
        Reference(title="Zagoruyko, Komodakis, Paying More Attention to Attention, ICLR 2017", url="https://arxiv.org/abs/1612.03928"),
    )
    examples: ClassVar = (
        {"method": "distillation", "teacher": "baseline", "temperature": 4.0, "alpha": 0.9, "epochs": 5},
        {"method": "distillation", "loss": "dkd", "epochs": 2, "augment": {"shift": 1}, "baselines": ["hard_labels"]},
    )

    method: Literal["distillation"] = "distillation"
    teacher: TeacherName | tuple[TeacherName, ...] = "baseline"
    """`baseline` (the uploaded model), `network` (as it stands after the earlier steps), a model id, `logits:<name>` (logits that the
    dataset holds for each example as the target `y_<split>.<name>`; `y_<split>.<name>.<output>` where there are several outputs), or a list
    of them: an ensemble."""
    ensemble: Literal["arithmetic", "geometric"] = "arithmetic"
    """How answers of several teachers become one: the mean of their softened probabilities, or of their logits. Plain values are averaged
    in any case."""
    teacher_weights: tuple[Positive, ...] = Field((), max_length=64)
    """Weight of each teacher in the mean; all alike by default."""
    teacher_preprocessing: PreprocessingSpec | None = None
    """What uploaded teachers expect, where it is not what the dataset states for the network: stored values are scaled and normalized like
    this, and pictures are resized to the size of the teacher's input. Teachers of another input size need it; `layout` is the
    dataset's."""
    student: NamedArchitecture = "network"
    """What is trained: `network` (as it stands after the earlier steps), `baseline`, a model id, or a builtin architecture with new
    weights: its name, or `{"name": …, "params": {…}}`, of which classes, channels and size are the network's where they are not stated. A
    student of another input size is put behind a resize, so that the result takes the inputs that the original takes."""
    temperature: float = Field(4.0, gt=0, le=1000)
    """Temperature T that softens both networks' answers."""
    alpha: Ratio = 0.9
    """Weight of the teacher's term; the labels get the rest."""
    loss: Literal["kl", "mse_logits", "dkd"] = "kl"
    """The teacher's term for class scores: T²·KL of the softened answers; half the mean squared difference of the zero-mean logits, its
    limit for high T; or T²·(`target_weight`·KL of the target class against the rest + `non_target_weight`·KL among the other classes),
    which needs labels."""
    target_weight: float = Field(1.0, ge=0, le=1000)
    """Of `dkd`, α in its paper."""
    non_target_weight: float = Field(8.0, ge=0, le=1000)
    """Of `dkd`, β in its paper."""
    feature_layers: tuple[FeaturePair, ...] = Field((), max_length=64)
    """Layers inside of the networks that are matched, too; with one teacher that is a network."""
    outputs: dict[Name, OutputMatch] = Field({}, max_length=64)
    """How single outputs are matched, by name."""
    exclude_classes: tuple[Annotated[int, Field(ge=0)], ...] = Field((), max_length=10_000)
    """Examples of these classes are left out of the training."""
    bias_correction: Literal["none", "prior_match", "validation"] = "none"
    """After the training, biases of the classes (those of `exclude_classes`, or all) such that the mean answer has each class as often as
    it should be: on all training inputs as often as `class_prior` says, or on validation examples as often as it is their label, which
    gives the lowest cross-entropy there."""
    class_prior: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field((), max_length=100_000)
    """Share of each class for `prior_match`; by default that of the training labels, those of excluded classes among them, or without
    labels the teacher's mean answer."""
    baselines: tuple[Literal["hard_labels"], ...] = Field((), max_length=1)
    """What the student is compared with, in the report: the same student from the same weights, trained as long on the labels of the same
    examples."""

    @property
    def needs(self) -> Requires:
        """No labels when the teacher's answers are the only target."""
        labels = (
            self.alpha < 1 or self.loss == "dkd" or bool(self.exclude_classes or self.baselines) or self.bias_correction == "validation"
        )
        return Requires(dataset=True, labels=labels)

    @property
    def teacher_names(self) -> tuple[str, ...]:
        """All teachers."""
        return (self.teacher,) if isinstance(self.teacher, str) else self.teacher

    def cost(self, facts: Facts) -> Cost:
        """One training, in which every teacher is asked once for each example, or each time that it is changed; and a baseline's."""
        training = self.training_cost(facts)
        asked = sum(not name.startswith(LOGITS) for name in self.teacher_names)
        again = self.augment is not None or bool(self.feature_layers)
        passes = training.trained_examples if again else min(training.trained_examples, facts.train_examples)
        return training + Cost(read_examples=asked * passes) + (training if self.baselines else NOTHING)

    def teachers(self) -> tuple[str, ...]:
        """The model ids among the teachers, and the student's."""
        names = (*self.teacher_names, *((self.student,) if isinstance(self.student, str) else ()))
        return tuple(dict.fromkeys(name for name in names if name.startswith("mdl_")))

    @field_validator("student", mode="after")
    @classmethod
    def _known_student(cls, student: NamedArchitecture) -> NamedArchitecture:
        if isinstance(student, str) and (student in STAGES or student.startswith("mdl_")):
            return student
        try:
            read_architecture(student)
        except EngineError as error:
            raise ValueError(
                f"{error.message.replace('metadata.architecture', 'student')}; {error.hint or 'network, or a model id'}"
            ) from error
        return student

    @model_validator(mode="after")
    def _consistent(self) -> "Distillation":
        names = self.teacher_names
        if not names:
            raise ValueError("name at least one teacher")
        if self.teacher_weights and len(self.teacher_weights) != len(names):
            raise ValueError(f"teacher_weights has {len(self.teacher_weights)} numbers for {len(names)} teachers")
        if self.ensemble != "arithmetic" and len(names) == 1:
            raise ValueError("ensemble says how answers of several teachers become one: name several, or leave it out")
        fields = type(self).model_fields
        shares = [name for name in ("target_weight", "non_target_weight") if getattr(self, name) != fields[name].default]
        if shares and self.loss != "dkd":
            raise ValueError(f"{' and '.join(shares)} belong to loss: dkd")
        stored = any(name.startswith(LOGITS) for name in names)
        if stored and self.augment is not None:
            raise ValueError("stored logits are answers to the examples as they are: leave out augment, or upload the teacher")
        if self.feature_layers and (stored or len(names) != 1):
            raise ValueError("feature_layers needs exactly one teacher that is a network")
        if self.loss == "dkd" and self.augment is not None and self.augment.mixup is not None:
            raise ValueError("dkd parts one target class from the others, and mixed examples have two: leave out mixup, or use kl")
        if self.class_prior and self.bias_correction != "prior_match":
            raise ValueError("class_prior is for bias_correction: prior_match")
        if self.class_prior and not 0.999 <= sum(self.class_prior) <= 1.001:
            raise ValueError(f"class_prior adds up to {sum(self.class_prior):g}, not to 1")
        if self.student == "network" and names == ("network",) and self.augment is None and self.alpha == 1:
            raise ValueError("a network that has to answer as it does has nothing to learn: name another teacher or student")
        return self
