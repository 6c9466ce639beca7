"""Choosing layers of a module by name, glob, `re:` pattern or type: what `include` and `ignore` of a spec mean."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from engine.contract import patterns
from engine.contract.errors import EngineError

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
PRUNABLE = (*CONVOLUTIONS, nn.Linear)
"""Layers whose weights and channels can be pruned."""


@dataclass(frozen=True)
class Selection:
    """The chosen layers by name, in the module's order, and the patterns that chose nothing."""

    layers: dict[str, nn.Module]
    unmatched_ignores: tuple[str, ...] = ()


def select(
    module: nn.Module,
    *,
    include: Sequence[str] = (),
    ignore: Sequence[str] = (),
    types: tuple[type[nn.Module], ...] = PRUNABLE,
) -> Selection:
    """Layers of the given `types` that an `include` pattern names (all, where there is none) and no `ignore` pattern does.

    A pattern names a layer by its own name, by the name of a module around it, or by its type.
    Raises `layer_not_found` where an `include` pattern names no layer: the user meant one that is not there.
    """
    candidates = {name: layer for name, layer in module.named_modules() if isinstance(layer, types)}
    for pattern in include:
        if not any(matches(pattern, name, layer) for name, layer in candidates.items()):
            raise layer_not_found(f"include: {pattern!r}", pattern, candidates)
    chosen = {
        name: layer
        for name, layer in candidates.items()
        if (not include or any(matches(pattern, name, layer) for pattern in include))
        and not any(matches(pattern, name, layer) for pattern in ignore)
    }
    unmatched = tuple(p for p in ignore if not any(matches(p, name, layer) for name, layer in module.named_modules()))
    return Selection(chosen, unmatched)


def layer_not_found(what: str, pattern: str, layers: Iterable[str], **details: str) -> EngineError:
    """The error about a pattern that names no layer, with the names that are near."""
    names = list(layers)
    close = difflib.get_close_matches(pattern, names, n=3)
    return EngineError(
        "layer_not_found",
        f"{what} names no layer of this network.",
        hint=f"Close names: {', '.join(close)}." if close else f"Layers: {', '.join(names[:20])}.",
        details=details,
    )


def matches(pattern: str, name: str, layer: nn.Module) -> bool:
    """Whether `pattern` names this layer. Raises `pattern_invalid` on a broken regular expression."""
    types = {cls.__name__ for cls in type(layer).__mro__ if cls not in (nn.Module, object)}
    return patterns.matches(pattern, name, types)
