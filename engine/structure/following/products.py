"""Products of matrices: attention, and channels that are summed over."""

from __future__ import annotations

import torch
from torch import Tensor

from engine.structure.following.elementwise import combine
from engine.structure.following.follower import CROSSED, Follower, Rule
from engine.structure.following.records import Call, Families
from engine.structure.following.ties import varying

MATRIX = "they are multiplied by a matrix of a fixed size that belongs to no layer"


def matrix_product(follower: Follower, call: Call) -> None:
    """`matmul`, `bmm`, `mm`: what is summed over goes together on both sides; batches of products are heads."""
    left, right = call.first, call.argument(1, "other", call.kwargs.get("mat2"))
    follower.give(call.result, product(follower, (left, follower.families(left)), (right, follower.families(right)), call.result))


def product(follower: Follower, left: tuple[Tensor, Families], right: tuple[Tensor, Families], result: Tensor) -> Families:
    """The families of a product of matrices."""
    if left[0].dim() < 2 or right[0].dim() < 2:
        for _, families in (left, right):
            for numbers in families:
                follower.ties.fix(numbers, MATRIX)
        return ()
    leads: list[Families] = []
    inner: list[list[Tensor]] = []
    outer: list[list[Tensor]] = []
    for (operand, families), summed in ((left, -1), (right, -2)):
        rank = operand.dim()
        own_lead, own_inner, own_outer = [], [], []
        for numbers in families:
            where = varying(numbers)
            if any(dimension < rank - 2 for dimension in where):
                own_lead.append(_head(follower, numbers))
            elif len(where) == 2:
                # Every element of the matrix is a channel of its own: it is a table, not something that layers compute.
                follower.ties.fix(numbers, MATRIX)
            elif where == {rank + summed}:
                own_inner.append(numbers)
            else:
                own_outer.append(numbers)
        leads.append(tuple(own_lead))
        inner.append(own_inner)
        outer.append(own_outer)
    _summed(follower, inner[0], inner[1])
    lead, _ = combine(follower, leads[0], _lead_shape(left[0]), leads[1], _lead_shape(right[0]))
    rows = [numbers.narrow(-1, 0, 1).expand(result.shape) for numbers in outer[0]]
    columns = [numbers.narrow(-2, 0, 1).expand(result.shape) for numbers in outer[1]]
    return (*[numbers.expand(result.shape) for numbers in lead], *rows, *columns)


def _head(follower: Follower, numbers: Tensor) -> Tensor:
    """One number for each matrix of a batch; what is in one matrix goes as a whole."""
    first = numbers[..., :1, :1]
    rank = numbers.dim()
    if varying(numbers) & {rank - 1, rank - 2}:
        follower.ties.tie(numbers, first.expand(numbers.shape), CROSSED)
        follower.together.append(first)
    return first


def _lead_shape(operand: Tensor) -> torch.Size:
    return torch.Size([*operand.shape[:-2], 1, 1])


def _summed(follower: Follower, left: list[Tensor], right: list[Tensor]) -> None:
    if not left or not right:
        for numbers in (*left, *right):
            follower.ties.fix(numbers, MATRIX)
        return
    for numbers, along in (*[(item, -1) for item in left], *[(item, -2) for item in right]):
        follower.ties.tie(follower.aligned(numbers, along), follower.aligned(left[0], -1), MATRIX)


def attention(follower: Follower, call: Call) -> None:
    """`scaled_dot_product_attention` as its two products."""
    query, key, value = (call.argument(place, name) for place, name in enumerate(("query", "key", "value")))
    mask = call.argument(3, "attn_mask")
    keys, values = follower.families(key), follower.families(value)
    repeats = query.shape[-3] // key.shape[-3] if call.kwargs.get("enable_gqa") else 1
    if repeats > 1:
        keys, values = (tuple(item.repeat_interleave(repeats, -3) for item in families) for families in (keys, values))
        key, value = (item.repeat_interleave(repeats, -3) for item in (key, value))
    flipped = tuple(numbers.transpose(-1, -2) for numbers in keys)
    scores = query @ key.transpose(-1, -2)
    found = product(follower, (query, follower.families(query)), (key.transpose(-1, -2), flipped), scores)
    if mask is not None:
        found, _ = combine(follower, found, scores.shape, follower.families(mask), mask.shape)
    follower.give(call.result, product(follower, (scores, _nothing_summed(follower, found, scores)), (value, values), call.result))


def _nothing_summed(follower: Follower, families: Families, scores: Tensor) -> Families:
    """Softmax is taken over keys, which no channel may belong to."""
    kept = []
    for numbers in families:
        if scores.dim() - 1 in varying(numbers):
            follower.ties.fix(numbers, "softmax is taken over them")
        else:
            kept.append(numbers)
    return tuple(kept)


RULES: dict[str, Rule] = {
    **dict.fromkeys(("matmul", "bmm", "mm", "rmatmul"), matrix_product),
    "scaled_dot_product_attention": attention,
}
