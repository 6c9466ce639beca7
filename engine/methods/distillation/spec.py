"""Parameters of the distillation family: a network learns from another one's outputs."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from engine.contract.cost import Cost, Facts
from engine.contract.method import MethodParams, Reference, Requires
from engine.contract.params import Ratio, TrainingRun

TeacherName = Annotated[str, Field(pattern=r"^(baseline|mdl_[A-Za-z0-9]+)$")]


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
    )
    examples: ClassVar = ({"method": "distillation", "teacher": "baseline", "temperature": 4.0, "alpha": 0.9, "epochs": 5},)

    method: Literal["distillation"] = "distillation"
    teacher: TeacherName | tuple[TeacherName, ...] = "baseline"
    """`baseline` (the uploaded model), a model id, or a list of them (an ensemble: the mean of their softened answers)."""
    temperature: float = Field(4.0, gt=0, le=1000)
    """Temperature T that softens both networks' answers."""
    alpha: Ratio = 0.9
    """Weight of the teacher's term; the labels get the rest."""

    @property
    def needs(self) -> Requires:
        """No labels when the teacher's answers are the only target."""
        return Requires(dataset=True, labels=self.alpha < 1)

    def cost(self, facts: Facts) -> Cost:
        """One training, in which every teacher is asked once for each example."""
        training, count = self.training_cost(facts), 1 if isinstance(self.teacher, str) else len(self.teacher)
        return training + Cost(read_examples=count * min(training.trained_examples, facts.train_examples))

    def teachers(self) -> tuple[str, ...]:
        """The model ids among the teachers."""
        names = (self.teacher,) if isinstance(self.teacher, str) else self.teacher
        return tuple(name for name in names if name != "baseline")

    @model_validator(mode="after")
    def _consistent(self) -> "Distillation":
        if not self.teacher:
            raise ValueError("name at least one teacher")
        return self
