"""Lottery tickets: iterative magnitude pruning with rewinding (Frankle, Carbin, 2019), its criteria and controls (Zhou et al., 2019)."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from engine.contract.errors import EngineError
from engine.methods.channels.gradients import backpropagated
from engine.methods.context import Context
from engine.methods.pruning.magnitude_pruning import keep_best, keep_best_together
from engine.methods.pruning.spec_lottery import LotteryTicket
from engine.methods.pruning.structure.trial import Row, State, Trainer, Trial, mean_trial
from engine.methods.pruning.ticket.actions import kept_values, moved_toward_zero, pruned_values
from engine.methods.pruning.ticket.criteria import survival_ranks
from engine.methods.pruning.ticket.files import publish
from engine.networks import masks
from engine.networks.example_inputs import running_inputs
from engine.networks.initialization import initialize
from engine.networks.layers import PRUNABLE, select
from engine.networks.masks import Density, Mask
from engine.networks.network import Network


def apply(network: Network, params: LotteryTicket, context: Context) -> Network:
    """Find a ticket and return it trained, with its masks held; publishes θ0, the masks of every round and the untrained ticket.

    Round r keeps round(n·(1 - rate)^r) of the n weights of each layer (or of all together), counted by rank. Every training starts
    with a fresh optimizer, sees the examples in the same order, and stands at the schedule's position that it is rewound to.
    Raises `pruning_impossible` where no layer is left to prune.
    """
    search = _Search(context.without_masks(network.module), params, context)
    targets = [0, *(range(1, params.rounds + 1) if params.mode == "iterative" else (params.rounds,))]
    for number, place in zip(targets, context.rounds(len(targets)), strict=True):
        if number == 0:
            search.train_dense()
        elif not search.round(number, last=place == len(targets)):
            break
    result = search.finish()
    context.warn(
        "no_dense_speedup",
        "Zeros make the compressed file smaller; dense inference computes them all the same. structured_pruning makes networks faster.",
    )
    return network.with_module(result.cpu())


@dataclass(frozen=True)
class _Origin:
    """What a round starts from."""

    masks: dict[str, Mask]
    start: State
    """Weights and buffers at the point of rewinding."""
    final: State
    """Those that the training before came to, by which the masks were found."""


class _Search:
    """The dense network, and the masks found for it so far."""

    def __init__(self, module: nn.Module, params: LotteryTicket, context: Context) -> None:
        self._params, self._context = params, context
        self._trainer = Trainer(context, params.training, params.validation_every)
        self._names, self._output = self._choose(module)
        if params.initialization != "uploaded":
            initialize(module, params.initialization, context.new_seed())
        self._plain = module
        self._initial: State = copy.deepcopy(module.state_dict())
        self._slopes = self._gradients() if params.criterion == "snip" else {}
        self._order_seed = context.new_seed()
        self._generator = context.generator()
        self._start = self._rewind_iteration()
        self._masks = {name: Mask.full(self._initial[name]) for name in self._names}
        self._trained: nn.Module = module
        self._ticket: nn.Module | None = None
        self._origin: _Origin | None = None
        self._history: list[dict[str, Mask]] = []
        self._rows: list[Row] = []

    def train_dense(self) -> None:
        """Train the whole network, which is round 0, and remember its weights at the point of rewinding."""
        self._context.phase("training")
        self._trained = copy.deepcopy(self._plain)
        self._dense, self._rewound = self._trainer.run(self._trained, seed=self._order_seed, capture=self._start)
        self._rows.append({"round": 0, "density": 1.0, **self._dense.to_json()})

    def round(self, number: int, *, last: bool) -> bool:
        """Prune to the density of round `number`, rewind and train; False where the result is too bad to go on."""
        params, context = self._params, self._context
        context.phase("pruning")
        final = masks.fold(self._trained).state_dict()
        found = self._prune(number, final)
        origin = _Origin(found, start=final if params.rewind == "learning_rate" else self._rewound, final=final)
        candidate = self._rewind(origin)
        ticket = masks.fold(candidate)
        context.phase("training")
        each = params.control_rounds == "all"
        compared = len(params.controls) * params.control_repeats if last or each or params.max_drop is not None else 0
        with context.part(0, 1 / (1 + compared)):
            trial, _ = self._trainer.run(candidate, seed=self._order_seed, start=self._start)
        with context.part(1 / (1 + compared), 1):
            if params.max_drop is not None and self._origin is not None:
                quality = self._trainer.quality
                drop = quality.loss(*(item.early_stop[f"validation.{quality.name}"] for item in (self._dense, trial)))
                if drop > params.max_drop:
                    context.log(
                        f"Round {number} loses {drop:.4f} of the validation examples' {quality.name}, more than max_drop: the one before is the result."
                    )
                    if not each:
                        self._compare(self._rows[-1], self._origin)
                    return False
            self._masks, self._trained, self._ticket, self._origin = found, candidate, ticket, origin
            self._history.append(found)
            self._rows.append(self._row(number, found, trial))
            if last or each:
                self._compare(self._rows[-1], origin)
        return True

    def finish(self) -> nn.Module:
        """Report and publish; returns the trained ticket."""
        assert self._ticket is not None
        context, params, density = self._context, self._params, self._density(self._masks)
        context.report("rounds", self._rows)
        layers = {name: mask.density for name, mask in self._masks.items()}
        context.report(
            "layers",
            {name: {"kept_count": d.kept_count, "total_count": d.total_count, "sparsity": d.sparsity} for name, d in layers.items()},
        )
        context.metric("sparsity", density.sparsity)
        publish(context, self._initial, self._rewound if params.rewind in ("iteration", "epoch") else None, self._history, self._ticket)
        return self._trained

    def _choose(self, module: nn.Module) -> tuple[list[str], str | None]:
        """Names of the weights that take part, and that of the output layer if it is among them."""
        selection = select(module, include=self._params.include, ignore=self._params.ignore)
        self._context.unmatched(selection.unmatched_ignores)
        output = output_layer(module, self._context)
        layers = {name: layer for name, layer in selection.layers.items() if name != output or self._params.output_rate_factor > 0}
        if not layers:
            raise EngineError("pruning_impossible", "No layer is left to prune.", hint="Check include and ignore.")
        return masks.weights_of(layers), masks.weights_of({output: layers[output]})[0] if output in layers else None

    def _rewind_iteration(self) -> int:
        per_epoch = math.ceil(self._trainer.examples.count / self._params.training.batch_size)
        start = self._params.rewind_at * (per_epoch if self._params.rewind == "epoch" else 1)
        if start >= self._trainer.iterations:
            raise EngineError(
                "spec_invalid",
                f"rewind_at is iteration {start}, but training ends after {self._trainer.iterations}.",
                hint="Lower rewind_at, or train longer.",
            )
        return start

    def _gradients(self) -> dict[str, Tensor]:
        sums = {name: torch.zeros_like(self._initial[name]) for name in self._names}
        module = copy.deepcopy(self._plain)
        parameters = {name: masks.stored(masks.owner(module, name)) for name in self._names}
        for size in backpropagated(module, self._context, examples=self._trainer.examples):
            for name in self._names:
                gradient = parameters[name].grad
                sums[name] += 0 if gradient is None else gradient * size
        return sums

    def _prune(self, number: int, final: State) -> dict[str, Mask]:
        """The masks of round `number` by the weights that training ended with, nested under those of the round before."""
        params = self._params
        rate = params.round_rate
        apart = [name for name in self._names if params.scope == "layer" or name == self._output]
        together = [name for name in self._names if name not in apart]
        found = {}
        for name in apart:
            factor = params.output_rate_factor if name == self._output else 1.0
            ranks = self._ranks([name], final)[name]
            found[name] = keep_best(ranks, self._masks[name], kept_count(self._masks[name].density.total_count, rate * factor, number))
        if together:
            total = sum(self._masks[name].density.total_count for name in together)
            old = {name: self._masks[name] for name in together}
            found |= keep_best_together(self._ranks(together, final), old, kept_count(total, rate, number))
        return {name: found[name] for name in self._names}

    def _ranks(self, names: list[str], final: State) -> dict[str, Tensor]:
        wi, wf = (torch.cat([state[name].reshape(-1) for name in names]) for state in (self._initial, final))
        slope = torch.cat([self._slopes[name].reshape(-1) for name in names]) if self._slopes else None
        ranks = survival_ranks(self._params.criterion, wi, wf, generator=self._generator, signs=self._params.signs, slope=slope)
        parts = torch.split(ranks, [self._initial[name].numel() for name in names])
        return {name: part.reshape(self._initial[name].shape).to(self._context.device) for name, part in zip(names, parts, strict=True)}

    def _rewind(self, origin: _Origin) -> nn.Module:
        """A module at its start, buffers included, with the masks held."""
        params, generator, start = self._params, self._generator, origin.start
        module = copy.deepcopy(self._plain)
        module.load_state_dict(start)
        rests: dict[str, Tensor] = {}
        for name, mask in origin.masks.items():
            wi, wf, on_cpu = self._initial[name].cpu(), origin.final[name].cpu(), Mask(mask.keep.cpu())
            values = kept_values(params.kept_weights, start[name].cpu(), wi, on_cpu, keep_sign=params.keep_sign, generator=generator)
            if params.pruned_weights == "freeze_toward_zero_all":
                values = torch.where(moved_toward_zero(wi, wf), 0.0, values)
            rest = pruned_values(params.pruned_weights, wi, wf, on_cpu, generator)
            if rest is not None:
                rests[name] = rest.to(self._context.device)
            with torch.no_grad():
                module.get_parameter(name).copy_(values)
        masks.hold(module, origin.masks, rests)
        return module

    def _row(self, number: int, found: dict[str, Mask], trial: Trial) -> Row:
        density = self._density(found).value
        for name, value in (("density", density), ("early_stop_iteration", trial.early_stop_iteration), *trial.early_stop.items()):
            self._context.metric(name, value, step=number)
        return {
            "round": number,
            "density": density,
            "layer_densities": {name: mask.density.value for name, mask in found.items()},
            "early_stop_ratio": trial.early_stop_iteration / self._dense.early_stop_iteration,
            **trial.to_json(),
        }

    def _compare(self, row: Row, origin: _Origin) -> None:
        """Add the controls of a round to its row."""
        for name, _ in zip(self._params.controls, self._context.rounds(len(self._params.controls)), strict=True):
            row.setdefault("controls", {})[name] = self._control(name, origin)

    def _control(self, name: str, origin: _Origin) -> Row:
        trials = []
        for _ in self._context.rounds(self._params.control_repeats):
            if name == "random_reinit":
                module = self._rewind(origin)
                self._draw_again(module)
            else:
                module = self._rewind(replace(origin, masks={key: _shuffled(mask, self._generator) for key, mask in origin.masks.items()}))
            trials.append(self._trainer.run(module, seed=self._context.new_seed(), start=self._start)[0])
        return mean_trial(trials)

    def _draw_again(self, module: nn.Module) -> None:
        """Other initial weights from the same distribution; of uploaded weights that is known by their values only."""
        if self._params.initialization != "uploaded":
            initialize(module, self._params.initialization, self._context.new_seed())
            return
        with torch.no_grad():
            for name in self._names:
                values = self._initial[name].reshape(-1).cpu()
                shuffled = values[torch.randperm(len(values), generator=self._generator)]
                masks.stored(masks.owner(module, name)).copy_(shuffled.reshape(self._initial[name].shape))

    @staticmethod
    def _density(found: dict[str, Mask]) -> Density:
        return sum((mask.density for mask in found.values()), Density(0, 0))


def kept_count(total: int, rate: float, rounds: int) -> int:
    """Weights kept after `rounds` that each prune the share `rate` of what is left; at least one."""
    return max(1, round(total * (1 - rate) ** rounds))


def output_layer(module: nn.Module, context: Context) -> str | None:
    """Name of the convolution or linear layer that runs last."""
    ran: list[nn.Module] = []
    hooks = [layer.register_forward_hook(lambda layer, *_: ran.append(layer)) for layer in module.modules() if isinstance(layer, PRUNABLE)]
    running_inputs(module, context.signature, 2, context.device)
    for hook in hooks:
        hook.remove()
    return {layer: name for name, layer in module.named_modules()}[ran[-1]] if ran else None


def _shuffled(mask: Mask, generator: torch.Generator) -> Mask:
    """A random mask of the same density."""
    order = torch.randperm(mask.keep.numel(), generator=generator).to(mask.keep.device)
    return Mask(mask.keep.reshape(-1)[order].reshape(mask.keep.shape))
