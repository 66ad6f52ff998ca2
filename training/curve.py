"""python3 curve.py OUT.svg LOG... : the curve of one or more runs of train.py, one after the other, for the model's card.

The loss of the training batches, in nats a token (the mean of five reports), and bits per byte of the held-out windows
by share; where the learning rate falls the ground is grey. Needs matplotlib.
"""
import re
import sys

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "laconicfs"  # the same file from the same logs
import matplotlib.pyplot as plt

REPORT = re.compile(r"^\S+ step \d+ ([\d.]+)M tokens: (?:loss ([\d.]+), rate ([\d.]+)|bits per byte .*by share ([\d.]+))")
TOGETHER = 5


def read(path):
    """The runs of a log: (tokens, loss, rate) and (tokens, bits per byte) of each. What a resumed run did again counts as it was done last."""
    runs = []
    with open(path) as f:
        for tokens, loss, rate, bits in (m.groups() for m in map(REPORT.match, f) if m):
            at = float(tokens)
            if bits and at == 0:
                runs.append(({}, {}))
            losses, held = runs[-1]
            if bits:
                held[at] = float(bits)
            else:
                losses[at] = float(loss), float(rate)
    return [([(t, *v) for t, v in sorted(losses.items())], sorted(held.items())) for losses, held in runs]


def main(out, *logs):
    figure, (above, below) = plt.subplots(2, sharex=True, figsize=(9, 6))
    begin = 0
    for losses, held in (run for path in logs for run in read(path)):
        groups = [losses[i:i + TOGETHER] for i in range(0, len(losses), TOGETHER)]
        mean = lambda group, k: sum(row[k] for row in group) / len(group)
        above.plot([begin + mean(g, 0) for g in groups], [mean(g, 1) for g in groups], "C0", linewidth=1)
        below.plot([begin + t for t, _ in held], [bits for _, bits in held], "C1.-")
        falling = [t for t, _, rate in losses if rate < 1 and t > losses[-1][0] / 4]
        for axes in (above, below) if falling else ():
            axes.axvspan(begin + falling[0], begin + losses[-1][0], color="0.92", linewidth=0)
        begin += max(losses[-1][0], held[-1][0])
    above.set_ylabel("training loss, nats a token")
    below.set_ylabel("held-out bits per byte, by share")
    below.set_xlabel("million tokens (grey: the rate falls)")
    figure.tight_layout()
    figure.savefig(out, metadata={"Date": None})


if len(sys.argv) < 3:
    raise SystemExit(__doc__)
main(*sys.argv[1:])
