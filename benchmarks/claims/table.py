"""The table of docs/claims.md, from the rows that the benchmark measured."""

from collections.abc import Sequence
from typing import Any

_HEAD = """# Claims of the papers, measured

Written by `python -m benchmarks.claims`; do not edit. Every figure comes out of jobs that were run through the public spec.
`ours` is the mean over the seeds ± the standard deviation between them; a claim holds where it is on the right side of the margin,
which was set to about half of the effect before the measurement.

"""

_FOOT = """
## How the quick mode differs from the papers

- **Data.** 4,000 digits instead of 55,000. The gap between a ticket and its controls is then larger in accuracy, and everybody stops
  earlier.
- **Length of training (T1, T1b).** The paper trains for 50,000 iterations and looks for the lowest validation loss afterwards. That
  means something only if the lowest loss lies inside of the training. Looked at with seeds that are not among those measured, the full
  network and its tickets were there by about 600, the controls of 21.1 % by about 1,000 and those of 3.6 % by about 1,600; so the quick mode
  trains for 1,500 (T1) and 2,500 (T1b), and both have a row that fails if any minimum, of any repeat of a control, lies in the last tenth.
  An earlier quick mode of 600 iterations cut the controls off while they still learned, which made their early stopping look early (ratio
  0.84 instead of a value below 0.8) and their accuracy low. T1b was then measured with 1,500, too: it held (+1.65 ± 0.35), but a control had
  its minimum at the last iteration, so its training was made longer. The margins were set in those days and were not touched: what they leave is
  smaller now.
- **Seeds.** At least three; the paper has five trials, with three controls each, where the quick mode has two controls a seed.
- **Binary weights (T10).** Three layers of 256 units instead of 1,024, 40 epochs instead of 1,000, batch normalization behind every layer, squared hinge loss, and as on MNIST in the paper plain SGD
  without momentum in batches of 200, updates scaled by the square of Glorot's coefficients. Its rate, 1, is the best of 0.003 to 1 on seed 10, which is not among those measured (5.4 percent wrong with binary weights, 56.8 with real ones;
  at 0.1 it is 7.0 and 59.8). With Adam at 1e-3, which the authors' later code has for MNIST and an earlier form of this claim had, real weights are 4 to 8 points worse only (9.3 against 5.4 percent wrong on seed 0): its steps are as
  large for every weight, more than twice as many settle at ±1 (8.7 against 3.7 percent), and real weights that have settled are binary. Running statistics of stochastic training are those of networks that were drawn, so both ways to use
  it are compared with statistics of their own; the paper's advantage of stochastic over deterministic training does not show in 40 epochs.
- **MSDNet (T11).** Four classifiers on two scales of 14×14 digits, 350 iterations, with which the margins were set (with 500, seed 0 gave 97.57 percent at 0.29 of the compute, the last classifier 97.40,
  random examples 97.05: the longer earlier classifiers learn, the less there is to choose between them). Latency is that of one ONNX file at batch 1 on real inputs, beside the whole network's in turns. A decision
  takes 0.02 to 0.05 ms there and the whole network 0.15 ms, so the row needs a machine that is not too busy (0.73 was seen on one that was).
- **Slimming (T6)** was run for two seeds; a penalty of 0.001 leaves no scale below 0.01 there, as none does.
- **Widths (T12).** The network has 32,050 parameters, and what three further widths need beside it is 4.7 % of its file, of which their normalizations alone are 2.2 %.
- **Routes (T13).** ResNet-20 of width 32 on digits of 14×14; with width 16 a gate costs as much as what it may skip (latency 0.90), and at 28×28 the gates learned to skip nothing in this time.
  The gates that were learned decide the same for every digit: another digit's routes do as well.
- **Latency (T5)** is measured on the machine that runs the benchmark, so its rows need a quiet one.

## What is not measured here

These need CIFAR-10, CIFAR-100 or ImageNet and days of training; the methods are there, their figures are the papers' own:

- Winning tickets of Conv-2, -4, -6, VGG-19 and ResNet-18 on CIFAR-10, and that deep networks need late rewinding or warm-up (Frankle, Carbin,
  2019; Frankle et al., 2019).
- Masks of 41 % (heuristic) and 65.4 % (learned) on untrained CIFAR-10 networks, 76.5 % with rescaling on Conv-6 (Zhou et al., 2019).
- Scratch-E and Scratch-B of VGG-16, ResNet-34, -50, -56 and -110 under L1-norm pruning, ThiNet, regression and SSS (Liu et al., 2019). T4 is the same
  comparison on digits: its tuning is short on purpose, as the paper's 40 epochs at a low rate are against 160 at a high one.
- Anytime and budgeted accuracies of MSDNet on CIFAR-100 and ImageNet (Huang et al., 2018: about 75 % top-1 at 1.7·10⁹ operations, several points above ResNets of the same mean cost).
- Accuracies of edge-popup, soft filter pruning, SSS and ThiNet. Their definitions are tested against small cases that are solved by hand
  (`tests/engine/methods/pruning`), which says nothing of ImageNet.
"""


def table(rows: Sequence[dict[str, Any]], *, full: bool, data: str, seconds: float) -> str:
    """The page as Markdown."""
    digits = (
        f"all digits of `{data}`"
        if full
        else f"up to 5,000 digits of `{data}`, drawn with each seed, for training and validation (four to one); all test digits"
    )
    lines = [_HEAD + f"Mode: {'full' if full else 'quick'}, {digits}; {seconds / 60:.0f} minutes.\n"]
    lines += ["| | claim | paper | ours | seeds | margin | holds |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        sign = {"<=": "≤", ">=": "≥"}[row["comparison"]]
        ours = f"{_text(row['ours'])} ± {_text(row['spread'])}"
        holds = "yes" if row["passed"] else "**no**"
        claim = row["claim"].replace("|", "\\|")
        lines.append(f"| {row['id']} | {claim} | {row['paper']} | {ours} | {row['seeds']} | {sign} {row['margin']:g} | {holds} |")
    return "\n".join(lines) + "\n" + _FOOT


def _text(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"
