"""What a method's parameters declare, and the catalogue that finds every method.

A method is one `MethodParams` class in its family's `spec.py` and one file `engine/methods/<family>/<wire name>.py` with one public
function `apply(network, params, context) -> network`. Nothing registers anything: the catalogue walks the families.
This module imports no torch, so that the API can read the catalogue.
"""

import functools
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from engine.contract.cost import NOTHING, Cost, Facts
from engine.contract.params import Params


class Requires(Params):
    """What a method needs from the job besides the model."""

    dataset: bool = False
    """Examples at all, labelled or not."""
    labels: bool = False
    """Labelled examples."""
    trainable: bool = True
    """A network whose every operator can be trained; false for methods that work on the ONNX graph itself."""


class Effect(Params):
    """What a user may expect of the published file, stated before the job runs."""

    file_size: Literal["smaller", "only_compressed", "unchanged"] = "unchanged"
    dense_latency: Literal["faster", "depends_on_hardware", "unchanged"] = "unchanged"


class Reference(Params):
    """A paper or a manual."""

    title: str
    url: str


class MethodParams(Params):
    """Base of all methods' parameters; the docstring of a subclass is its text in the API, UI and docs."""

    title: ClassVar[str]
    requires: ClassVar[Requires] = Requires()
    effect: ClassVar[Effect] = Effect()
    references: ClassVar[tuple[Reference, ...]] = ()
    examples: ClassVar[tuple[dict[str, Any], ...]] = ()
    forbids_next: ClassVar[Mapping[str, str]] = {}
    """Which methods may not follow, directly or later: wire name, family or `*` → the reason that the user reads."""

    leaves_graph: ClassVar[bool] = False
    """Whether the network after it is an ONNX graph that has no trainable form, which formats of modules do not hold."""

    id: str | None = Field(None, pattern=r"^[A-Za-z0-9_-]{1,64}$")
    """A name of the step inside this spec, used in reports and events."""

    @property
    def needs(self) -> Requires:
        """What this step needs with these very parameters; `requires` unless a parameter changes it."""
        return self.requires

    def cost(self, facts: Facts) -> Cost:
        """What the step costs with these very parameters, for plan, estimate and progress bar; no pass of any example by default."""
        return NOTHING

    @property
    def share_left(self) -> float:
        """Share of its operations that the network has after the step, about or at most, where the parameters say it."""
        return 1.0

    def teachers(self) -> tuple[str, ...]:
        """Ids of further models that this step reads."""
        return ()

    @classmethod
    def wire_name(cls) -> str:
        """The value of `method` that selects this class; also the name of the file that implements it."""
        return str(cls.model_fields["method"].default)

    @classmethod
    def family(cls) -> str:
        """The folder of the method below `engine/methods`."""
        return cls.__module__.split(".")[2]

    @classmethod
    def available(cls) -> bool:
        """Whether the file that implements the method is installed; looks for it without importing it."""
        return importlib.util.find_spec(f"engine.methods.{cls.family()}.{cls.wire_name()}") is not None

    @classmethod
    def implementation(cls) -> Callable[..., Any]:
        """The method's `apply` function. Imports torch: call it in a job child only."""
        module = importlib.import_module(f"engine.methods.{cls.family()}.{cls.wire_name()}")
        function: Callable[..., Any] = module.apply
        return function


@functools.cache
def catalogue() -> dict[str, type[MethodParams]]:
    """Every method by wire name, sorted; found by importing `engine.methods.<family>.spec` of every family.

    A long `spec.py` may be split by topic: it imports the classes of the modules beside it.
    """
    found: dict[str, type[MethodParams]] = {}
    for package in pkgutil.iter_modules(importlib.import_module("engine.methods").__path__, "engine.methods."):
        if package.ispkg and importlib.util.find_spec(f"{package.name}.spec"):
            module = importlib.import_module(f"{package.name}.spec")
            for _, cls in inspect.getmembers(module, inspect.isclass):
                if issubclass(cls, MethodParams) and cls.__module__.startswith(f"{package.name}.") and "method" in cls.model_fields:
                    found[cls.wire_name()] = cls
    return dict(sorted(found.items()))
