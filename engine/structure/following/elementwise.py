"""Operations element by element: what meets in one element of the result vanishes together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from engine.structure.following.follower import FIXED_SIZE, Follower, Rule
from engine.structure.following.records import Call, Families
from engine.structure.following.ties import varying


def elementwise(follower: Follower, call: Call) -> None:
    """Any number of operands that broadcast."""
    operands = [item for item in tree_leaves((call.args, call.kwargs)) if isinstance(item, Tensor)]
    found: Families = ()
    shape = torch.Size([])
    for operand in operands:
        found, shape = combine(follower, found, shape, follower.families(operand), operand.shape)
    follower.give(call.result, found)


def combine(
    follower: Follower, first: Families, first_shape: torch.Size, second: Families, second_shape: torch.Size
) -> tuple[Families, torch.Size]:
    """The families of two operands' result, and its shape.

    Channels that meet along the same dimension are tied. A channel that meets something which is spread over its dimension stays
    free; one that meets a fixed size along it stays. Where that depends on which dimension is cut, it is decided later: heads, say,
    go as a whole, which is known once they have met in a product.
    """
    shape: torch.Size = torch.broadcast_shapes(first_shape, second_shape)
    a, b = _Operand.of(first, first_shape, shape), _Operand.of(second, second_shape, shape)
    kept: list[Tensor] = []
    dropped: set[int] = set()
    later = False
    for one in a.families:
        chosen = one
        partners = [other for other in b.families if varying(one) & varying(other)]
        later |= not partners and bool(varying(one) - b.spread)
        for other in partners:
            dropped.add(id(other))
            repeats = follower.is_repeat(one), follower.is_repeat(other)
            if varying(one) & b.spread or varying(other) & a.spread or any(repeats):
                later = True
                stands = other if repeats[0] or (not repeats[1] and varying(other) & a.spread) else one
            else:
                follower.ties.tie(one, other, FIXED_SIZE)
                # Where one of them changes along more dimensions, it is tied along these now.
                stands = one if len(varying(one)) <= len(varying(other)) else other
            chosen = stands if chosen is one else chosen
        if not any(item is chosen for item in kept):
            kept.append(chosen)
    for other in b.families:
        if id(other) not in dropped:
            later |= bool(varying(other) - a.spread)
            kept.append(other)
    if later:
        follower.wait(lambda: _decide(follower, a, b))
    return tuple(kept), shape


@dataclass(frozen=True)
class _Operand:
    families: list[Tensor]
    """In the shape of the result."""
    spread: set[int]
    """Dimensions over which the operand is spread."""

    @classmethod
    def of(cls, families: Families, own: torch.Size, shape: torch.Size) -> _Operand:
        missing = len(shape) - len(own)
        over = {place for place, size in enumerate(shape) if size > 1 and (place < missing or own[place - missing] == 1)}
        return cls([numbers.expand(shape) for numbers in families], over)


def _decide(follower: Follower, a: _Operand, b: _Operand) -> None:
    known = {id(numbers): varying(follower.known(numbers)) for numbers in (*a.families, *b.families)}
    for mine, theirs in ((a, b), (b, a)):
        for numbers in mine.families:
            partners = [other for other in theirs.families if known[id(numbers)] & known[id(other)]]
            for other in partners:
                follower.ties.tie(numbers, other, FIXED_SIZE)
            if not partners and known[id(numbers)] - theirs.spread:
                follower.ties.fix(numbers, FIXED_SIZE)


def passed(follower: Follower, call: Call) -> None:
    """Functions of one tensor; sizes of others do not matter."""
    follower.give(call.result, follower.families(call.first))


def gated(follower: Follower, call: Call) -> None:
    """Gated linear unit: the first half of a dimension times a function of the second."""
    dimension = int(call.argument(1, "dim", -1))
    found = []
    for numbers in follower.families(call.first):
        first, second = numbers.chunk(2, dimension)
        if varying(numbers) & {dimension % numbers.dim()}:
            follower.ties.tie(first, second, FIXED_SIZE)
        found.append(first)
    follower.give(call.result, found)


def slopes(follower: Follower, call: Call) -> None:
    """PReLU with weights given by themselves: one for all, or one a channel."""
    value, weight = call.first, call.argument(1, "weight")
    shape = torch.Size([weight.numel(), *[1] * max(0, value.dim() - 2)])
    families = tuple(numbers.reshape(shape) for numbers in follower.families(weight))
    found, _ = combine(follower, follower.families(value), value.shape, families, shape)
    follower.give(call.result, found)


_PASSED = (
    "abs absolute acos acosh alias asin asinh atan atanh bernoulli bitwise_not bool ceil celu clone contiguous cos cosh cpu data detach "
    "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout double elu erf erfc exp exp2 expm1 float floor frac gelu "
    "half hardshrink hardsigmoid hardswish hardtanh invert isfinite isinf isnan leaky_relu lgamma log log10 log1p log2 logical_not logit "
    "logsigmoid mish nan_to_num neg negative positive pos real reciprocal relu relu6 requires_grad round rrelu rsqrt selu sgn sigmoid sign "
    "sign signbit silu sin sinh softplus softshrink softsign sqrt square tan tanh tanhshrink threshold to trunc type type_as"
)
_JOINED = (
    "add addcdiv addcmul and atan2 bitwise_and bitwise_or bitwise_xor clamp clamp_max clamp_min clip copysign div divide eq equal floor_divide "
    "floordiv fmax fmin fmod ge greater greater_equal gt heaviside hypot iadd iand idiv imul ior isub itruediv ixor ldexp le less "
    "less_equal lerp logaddexp logical_and logical_or logical_xor lt masked_fill maximum minimum mod mul multiply ne not_equal or pow "
    "radd rdiv remainder rfloordiv rmul rpow rsub rtruediv sub subtract true_divide truediv where xor xlogy ipow float_power"
)
RULES: dict[str, Rule] = {
    **dict.fromkeys(_PASSED.split(), passed),
    **dict.fromkeys(_JOINED.split(), elementwise),
    "glu": gated,
    "prelu": slopes,
}
