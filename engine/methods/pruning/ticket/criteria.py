"""The mask criteria of Zhou et al. (Deconstructing Lottery Tickets, 2019, section 3): which weights a ticket keeps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from engine.methods.pruning.spec_lottery import Criterion


def survival_ranks(
    criterion: Criterion, wi: Tensor, wf: Tensor, *, generator: torch.Generator, signs: str = "any", slope: Tensor | None = None
) -> Tensor:
    """Rank of every weight among those ranked with it, 0 for the first to go; ties are broken at random.

    Args:
        criterion: The score.
        wi: Initial weights, flat.
        wf: Final weights, flat.
        generator: Breaks ties, and is the whole of `random`.
        signs: `any`, or which weights come first whatever their score: those whose sign stayed the `same` or is `different`. Zhou et
            al. give the others the score 0, under which a negative score would fall; here they come after all of the preferred ones,
            in random order.
        slope: Gradient of the loss at the initial weights, flat; needed by `snip` only.

    Returns:
        Whole numbers as float64, of the shape of `wi`.
    """
    wi, wf = wi.double().cpu(), wf.double().cpu()
    if criterion == "random":
        scores = torch.zeros_like(wi)
    elif criterion == "snip":
        assert slope is not None
        scores = (slope.double().cpu() * wi).abs()
    elif criterion in _PAIRED:
        sign = _PAIRED[criterion]
        # The smaller of the two ranks: a threshold on it is the same percentile for both magnitudes.
        scores = torch.minimum(_ranks(sign * wi.abs(), generator), _ranks(sign * wf.abs(), generator))
    else:
        scores = _SCORES[criterion](wi, wf)
    if signs == "any":
        return _ranks(scores, generator)
    agree = torch.sign(wi) == torch.sign(wf)
    preferred = agree if signs == "same" else ~agree
    return _ranks(torch.where(preferred, _ranks(scores, generator) + 1, 0.0), generator)


_PAIRED = {"large_init_large_final": 1.0, "small_init_small_final": -1.0}

_SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "large_final": lambda wi, wf: wf.abs(),
    "small_final": lambda wi, wf: -wf.abs(),
    "large_init": lambda wi, wf: wi.abs(),
    "small_init": lambda wi, wf: -wi.abs(),
    "magnitude_increase": lambda wi, wf: wf.abs() - wi.abs(),
    "movement": lambda wi, wf: (wf - wi).abs(),
}


def _ranks(scores: Tensor, generator: torch.Generator) -> Tensor:
    shuffled = torch.randperm(len(scores), generator=generator)
    order = shuffled[torch.argsort(scores[shuffled], stable=True)]
    ranks = torch.empty_like(scores)
    ranks[order] = torch.arange(len(scores), dtype=scores.dtype)
    return ranks
