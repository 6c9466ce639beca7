"""Parameters of the quantization methods that train: the network learns under the rounding that its file will have."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from engine.contract.cost import MASKED_COPIES, Cost, Facts
from engine.contract.method import Reference, Requires
from engine.contract.params import Ratio, TrainingRun
from engine.methods.quantization.spec_shared import ACTIVATION_BYTES, Calibration, IntegerFields

Teacher = Annotated[str, Field(pattern=r"^(baseline|mdl_[A-Za-z0-9]+)$")]


class QuantizationAwareTraining(IntegerFields, TrainingRun):
    """Train the network with the rounding of its int8 file in the forward pass, gradients passing straight through.

    Starts from static quantization (the same operators, ranges and writers) and ends in the same kind of file, whose grid is bit for bit the
    one that was trained: what training sees is what ONNX Runtime computes without integer kernels, up to the order of float additions. The
    network of least loss on validation examples is kept, the untrained one among them, and none that answers fewer of them right, or in which one of
    several outputs loses by itself. Weights that are zero stay zero. With `teacher` it learns another network's answers.
    """

    title: ClassVar[str] = "Quantization-aware training"
    requires: ClassVar[Requires] = Requires(dataset=True, labels=True)
    references: ClassVar[tuple[Reference, ...]] = (
        Reference(
            title="Jacob et al., Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018",
            url="https://arxiv.org/abs/1712.05877",
        ),
        Reference(title="Esser et al., Learned Step Size Quantization, ICLR 2020", url="https://arxiv.org/abs/1902.08153"),
        Reference(
            title="Krishnamoorthi, Quantizing Deep Convolutional Networks for Efficient Inference, 2018",
            url="https://arxiv.org/abs/1806.08342",
        ),
    )
    examples: ClassVar = (
        {"method": "quantization_aware_training", "epochs": 3},
        {"method": "quantization_aware_training", "epochs": 3, "step_size": "learned", "teacher": "baseline", "alpha": 1.0},
    )

    whole_run: ClassVar[str | None] = "it keeps the best state by itself (`keep`)"

    method: Literal["quantization_aware_training"] = "quantization_aware_training"
    step_size: Literal["calibrated", "learned"] = "calibrated"
    """`calibrated`: activation ranges stay those of the calibration, weight scales follow the largest weight. `learned`: every scale is
    trained with the weights, from the calibrated one (LSQ); zero points stay."""
    batch_norm: Literal["corrected", "frozen"] = "corrected"
    """Normalizations behind convolutions are folded into them, as in the file. `corrected`: they go on learning, with batch statistics
    that are corrected for after the rounding; `frozen`: their statistics stay as they are."""
    freeze_batch_norm_after: Ratio = 0.5
    """Share of the training after which `corrected` statistics are frozen, too."""
    keep: Literal["best", "last"] = "best"
    """`best`: the state of least loss on validation examples, that of static quantization before any training being the first of them, among
    those that answer no fewer of these right than it does; `last`: the state at the end."""
    hold_zeros: bool = True
    """Weights that are zero now, pruned ones among them, stay zero."""
    teacher: Teacher | None = None
    """`baseline` (the uploaded model) or a model id whose answers are learned beside the labels, or in their place with `alpha: 1`."""
    alpha: Ratio = 0.9
    """Weight of the teacher's term; the labels get the rest."""
    temperature: float = Field(4.0, gt=0, le=1000)
    """Temperature that softens the answers of both."""
    learning_rate: float = Field(1e-4, gt=0, le=1000)
    """Peak learning rate."""
    operators: Literal["weighted", "all"] = "weighted"
    """As in `static_quantization`: which operators compute in 8 bits."""
    symmetric: bool = False
    """Signed activations around zero instead of an unsigned range with a zero point."""
    calibration: Calibration = Calibration()
    """The examples that show the activation ranges at the start."""

    @property
    def needs(self) -> Requires:
        """No labels when a teacher's answers are the only target."""
        return Requires(dataset=True, labels=self.teacher is None or self.alpha < 1)

    def cost(self, facts: Facts) -> Cost:
        """The calibration and one training, after each epoch of which validation examples are read; a teacher is asked each time."""
        training = self.training_cost(facts)
        asked = 0 if self.teacher is None else training.trained_examples
        calibration = Cost(calibration_samples=self.calibration.samples, activation_bytes=ACTIVATION_BYTES)
        # Fake quantization keeps each value before and after it.
        kept = 2 * training.kept_examples
        return (
            training + calibration + Cost(read_examples=asked + 0.2 * training.trained_examples, kept_examples=kept, copies=MASKED_COPIES)
        )

    def teachers(self) -> tuple[str, ...]:
        """The teacher, where it is another model."""
        return () if self.teacher in (None, "baseline") else (str(self.teacher),)

    @model_validator(mode="after")
    def _consistent(self) -> "QuantizationAwareTraining":
        fields = type(self).model_fields
        changed = [name for name in ("alpha", "temperature") if getattr(self, name) != fields[name].default]
        if self.teacher is None and changed:
            raise ValueError(f"{' and '.join(changed)} need(s) a teacher")
        return self
