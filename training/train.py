"""Trains the model on the shards of data.py for so many minutes of the wall clock.

    python3 train.py DATA RUN --tokenizer tokenizer.json --minutes N [--init FOLDER | --shape laconic-m] [--seed N]
    python3 train.py DATA RUN --tokenizer tokenizer.json --resume
    torchrun --standalone --nproc-per-node 2 train.py ...

Under torchrun each process takes its share of an update's windows and the gradients are averaged. On a CPU that other
programs use too, one process of one thread per core is several times faster than one process of several threads, because
no product waits for a core that is busy elsewhere.

Muon for the matrices, Adam for the rest, bf16 weights beside float32 master copies. The learning rate warms up over
WARMUP updates, is constant until half of the time has passed, and falls linearly to zero at the end ("trapezoid"). The
clock is the wall clock: an interrupted run that resumes still ends when it was to end, and whatever the machine's speed turns
out to be, the rate is zero when the time is over. With --pausing the clock stands still while the run does, and
--leave-after N leaves after N minutes with a checkpoint to resume from: for machines that are lent by the slice.

RUN/checkpoint.pt (weights, optimiser, step, clock) is replaced every CHECKPOINT_EVERY seconds;
RUN/stable.pt is the state before the rate began to fall, from which a later run can continue; RUN/final/ is the result. The windows of a pass depend on the seed, step, process and
pass alone.
"""
import argparse
import datetime
import json
import math
import os
import time

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F

import amx
import model as lm

START = 188
SHARE = dict(books=.30, docs=.08, wiki=.12, struct=.16, logs=.07, other=.06, code=.21)
CONTEXT = lm.CONTEXT
WARMUP = 100                     # updates
DECAY = 0.5                      # of the time
MUON_RATE, MUON_MOMENTUM, MUON_WEIGHT_DECAY = 0.02, 0.95, 0.02
ADAM_RATE, ADAM_FIRST, ADAM_SECOND = 0.004, 0.9, 0.95
NEWTON_SCHULZ = ((4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037), (2.8769, -3.1427, 1.2046),
                 (2.8366, -3.0525, 1.2012))  # "Polar Express" coefficients, Amsel et al. 2025
CHECKPOINT_EVERY, EVALUATE_EVERY, REPORT_EVERY = 180, 600, 20  # seconds, seconds, updates
EVALUATION_WINDOWS = 8           # of each domain


class Shards:
    """Random windows of the training stream: a lane of the codec, START and then text from any place."""

    def __init__(self, folder, seed, device):
        self.seed = seed
        self.names = list(SHARE)
        self.share = np.array(list(SHARE.values()))
        self.train, self.held = ({d: self.shard(f"{folder}/{d}{kind}.u16") for d in SHARE} for kind in ("", ".held"))
        short = [d for d in SHARE if len(self.train[d]) <= CONTEXT]
        if short:
            raise SystemExit(f"train.py: {folder} lacks text of {', '.join(short)}: run data.py with more sources, or change SHARE")
        # A GPU that waits for windows to be cut and carried to it is idle most of the time: it gets the whole text.
        self.stream = None
        if device != "cpu":
            whole = [np.asarray(self.train[d]) for d in self.names]
            self.begins = np.cumsum([0] + [len(ids) for ids in whole])[:-1]
            self.stream = torch.from_numpy(np.concatenate(whole).view(np.int16)).to(device)

    def shard(self, path):
        """Token ids; empty where there is no such file. Too little held-out text is no error: its figure is not printed."""
        return np.memmap(path, np.uint16, "r") if os.path.exists(path) and os.path.getsize(path) > 0 else np.empty(0, np.uint16)

    def window(self, ids, rng):
        at = rng.integers(0, len(ids) - CONTEXT)
        return np.concatenate([[START], ids[at:at + CONTEXT]]).astype(np.int64)

    def batch(self, rows, key):
        """[rows, 1 + CONTEXT]; key: numbers that decide which windows."""
        rng = np.random.default_rng([self.seed, *key])
        domains = rng.choice(len(self.names), rows, p=self.share / self.share.sum())
        if self.stream is not None:
            at = [self.begins[d] + rng.integers(0, len(self.train[self.names[d]]) - CONTEXT) for d in domains]
            places = torch.tensor(at, device=self.stream.device)[:, None] + torch.arange(CONTEXT, device=self.stream.device)
            return F.pad(self.stream[places].long() & 0xffff, (1, 0), value=START)
        return torch.from_numpy(np.stack([self.window(self.train[self.names[d]], rng) for d in domains]))

    def held_out(self, domain):
        rng = np.random.default_rng(0)
        return torch.from_numpy(np.stack([self.window(self.held[domain], rng) for _ in range(EVALUATION_WINDOWS)]))


class Optimiser:
    """Muon (Jordan et al. 2024) on stacks of equally shaped matrices, Adam on embedding and norms."""

    def __init__(self, model):
        self.params = dict(model.named_parameters())
        self.master = {n: p.detach().clone().float() for n, p in self.params.items()}
        model.bfloat16()
        self.rest = [n for n, p in self.params.items() if p.ndim != 2 or n == "embed_tokens.weight"]
        self.stacks = {}
        for n, p in self.params.items():
            if n not in self.rest:
                self.stacks.setdefault("x".join(map(str, p.shape)), []).append(n)
        self.momentum = {key: torch.zeros_like(torch.stack([self.master[n] for n in names])) for key, names in self.stacks.items()}
        self.first = {n: torch.zeros_like(self.master[n]) for n in self.rest}
        self.second = {n: torch.zeros_like(self.master[n]) for n in self.rest}

    def state(self):
        return dict(master=self.master, momentum=self.momentum, first=self.first, second=self.second)

    def restore(self, state):
        with torch.no_grad():
            for mine, theirs in zip(self.state().values(), (state[k] for k in self.state())):
                for key, tensor in mine.items():
                    tensor.copy_(theirs[key])
            self.publish()

    def publish(self):
        """Rounds the master copies into the bf16 weights."""
        for n, p in self.params.items():
            p.copy_(self.master[n])
            p.grad = None

    @torch.no_grad()
    def average(self, gradients, loss, elapsed):
        """Averages the gradients over the processes; returns the mean loss and the first process's clock."""
        if not dist.is_initialized():
            return float(loss), elapsed
        grads = list(gradients.values())
        flat = torch.cat([g.flatten() for g in grads] + [torch.stack([loss, torch.full_like(loss, elapsed)]).float()])
        flat[-1] *= dist.get_world_size() * (dist.get_rank() == 0)
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        at = 0
        for g in grads:
            g.copy_(flat[at:at + g.numel()].view_as(g))
            at += g.numel()
        return flat[-2].item(), flat[-1].item()

    @torch.no_grad()
    def step(self, gradients, rate, count):
        """One update from float32 gradients by name; count: updates so far, this one included."""
        for key, names in self.stacks.items():
            g = torch.stack([gradients[n] for n in names])
            m = self.momentum[key].lerp_(g, 1 - MUON_MOMENTUM)
            update = orthogonal(g.lerp(m, MUON_MOMENTUM)) * max(1, g.shape[-2] / g.shape[-1]) ** .5
            for n, u in zip(names, update):
                self.master[n].mul_(1 - rate * MUON_RATE * MUON_WEIGHT_DECAY).sub_(u, alpha=rate * MUON_RATE)
        for n in self.rest:
            g = gradients[n]
            first = self.first[n].lerp_(g, 1 - ADAM_FIRST) / (1 - ADAM_FIRST ** count)
            second = self.second[n].lerp_(g * g, 1 - ADAM_SECOND) / (1 - ADAM_SECOND ** count)
            scale = 1 if n == "embed_tokens.weight" else .5
            self.master[n].sub_(rate * ADAM_RATE * scale * first / (second.sqrt() + 1e-8))
        self.publish()


def orthogonal(g):
    """The nearest orthogonal matrices, roughly: Newton-Schulz steps in bf16, on a stack."""
    x = g.bfloat16()
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for p, q, r in NEWTON_SCHULZ:
        s = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(s, s, s, beta=q, alpha=r), x, beta=p)
    return (x.mT if tall else x).float()


def token_bytes(path):
    """How many bytes each token stands for (byte-level BPE: a letter is a byte)."""
    vocabulary = json.load(open(path))["model"]["vocab"]
    lengths = torch.zeros(len(vocabulary), dtype=torch.long)
    for token, i in vocabulary.items():
        lengths[i] = len(token)
    return lengths


@torch.no_grad()
def evaluate(model, shards, lengths, device):
    """Bits per byte on the held-out windows of each domain."""
    out = {}
    for domain in shards.names:
        if len(shards.held[domain]) <= CONTEXT:
            continue
        x = shards.held_out(domain)
        targets = x[:, 1:]
        loss = model(x[:, :-1].to(device), targets.to(device)).item()
        out[domain] = loss * targets.numel() / np.log(2) / lengths[targets].sum().item()
    return out


def main():
    a = argparse.ArgumentParser()
    a.add_argument("data")
    a.add_argument("run")
    a.add_argument("--tokenizer", required=True)
    a.add_argument("--minutes", type=float, help="of wall clock, from the first start to the end of the decay")
    a.add_argument("--init", help="folder in the public layout to continue from")
    a.add_argument("--resume", action="store_true", help="go on from RUN/checkpoint.pt")
    a.add_argument("--device", default="cpu")
    a.add_argument("--threads", type=int, default=1)
    a.add_argument("--rows", type=int, default=4, help="windows a pass")
    a.add_argument("--passes", type=int, default=2, help="passes an update")
    a.add_argument("--shape", choices=lm.SHAPES, default="laconic-s", help="of a model that starts from nothing")
    a.add_argument("--seed", type=int, default=20)
    a.add_argument("--pausing", action="store_true", help="the clock stands still while the run does")
    a.add_argument("--leave-after", type=float, metavar="N", help="leave after N minutes, to be resumed")
    a.add_argument("--eager", action="store_true", help="without torch.compile")
    a.add_argument("--amx", action="store_true", help="passes by amx.cpp, on a CPU that has AMX")
    a = a.parse_args()
    if not a.resume and a.minutes is None:
        raise SystemExit("train.py: give --minutes N, or --resume")
    if a.amx and not amx.available():
        raise SystemExit("train.py: this processor has no AMX; leave out --amx")
    os.makedirs(a.run, exist_ok=True)
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    if "WORLD_SIZE" in os.environ:
        dist.init_process_group("gloo" if a.device == "cpu" else "nccl", timeout=datetime.timedelta(hours=2))
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    shards, lengths = Shards(a.data, a.seed, a.device), token_bytes(a.tokenizer)

    state = torch.load(f"{a.run}/checkpoint.pt", map_location=a.device, weights_only=False) if a.resume else None
    model = lm.Model(**state["shape"]) if state else lm.load(a.init) if a.init else lm.Model(len(lengths), **lm.SHAPES[a.shape])
    optimiser = Optimiser(model.to(a.device))
    begin, step, tokens = time.time(), 0, 0
    length = (a.minutes or 0) * 60
    if state:
        optimiser.restore(state["optimiser"])
        begin, length, step, tokens = state["begin"], state["length"], state["step"], state["tokens"]
        if a.pausing:
            begin = time.time() - state["elapsed"]
    if a.device != "cpu":
        lm.use_fused_attention()
        if not a.eager:  # equal layers are compiled once: seconds instead of a minute
            for layer in model.layers:
                layer.compile(dynamic=False)
    forward = model if a.eager or a.device != "cpu" else torch.compile(model)
    by_hand = amx.Pass(model) if a.amx else None

    def gradients_of(batches):
        """The mean loss over all windows, and its gradients."""
        loss = torch.zeros((), device=a.device)
        if by_hand:
            by_hand.clear()
        for x in batches:
            if by_hand:
                tokens = x.shape[0] * CONTEXT * a.passes
                loss += by_hand(x, 1 / tokens) / tokens
            else:
                part = forward(x[:, :-1].contiguous(), x[:, 1:].contiguous()) / a.passes
                part.backward()
                loss += part.detach()
        return loss, by_hand.gradients() if by_hand else {n: p.grad.float() for n, p in optimiser.params.items()}

    decay_from = (1 - DECAY) * length

    def checkpoint(name):
        torch.save(dict(shape=model.shape, optimiser=optimiser.state(), step=step, begin=begin, length=length, tokens=tokens,
                        elapsed=time.time() - begin),
                   f"{a.run}/{name}.new")
        os.replace(f"{a.run}/{name}.new", f"{a.run}/{name}")

    def report(text):
        if rank == 0:
            print(f"{time.strftime('%H:%M:%S', time.gmtime())} step {step} {tokens / 1e6:.2f}M tokens: {text}", flush=True)

    def bits_per_byte():
        if rank == 0:
            figures = evaluate(model, shards, lengths, a.device)
            mean = sum(figures[d] * SHARE[d] for d in figures) / max(1e-9, sum(SHARE[d] for d in figures))
            report("bits per byte " + " ".join(f"{d} {v:.4f}" for d, v in figures.items()) + f" | by share {mean:.4f}")

    report(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f}M parameters, {world} processes on {a.device}, "
           f"{world * a.rows * a.passes * CONTEXT} tokens an update, ends at {time.strftime('%H:%M:%S', time.gmtime(begin + length))}")
    bits_per_byte()
    elapsed = time.time() - begin
    saved = evaluated = elapsed
    # Forward and backward pass: 6 for every weight, 12 for every query and key in reach.
    shape = model.shape
    flops = 6 * sum(p.numel() for p in model.parameters()) + 12 * lm.WINDOW * shape["num_hidden_layers"] * shape[
        "num_attention_heads"] * shape["head_dim"]
    reported, losses, since = time.time(), [], tokens
    stable = elapsed >= decay_from and os.path.exists(f"{a.run}/stable.pt")
    leave_at = elapsed + a.leave_after * 60 if a.leave_after else math.inf
    while elapsed < min(length, leave_at):
        loss, gradients = gradients_of(shards.batch(a.rows, (step, rank, i)).to(a.device) for i in range(a.passes))
        total, elapsed = optimiser.average(gradients, loss, time.time() - begin)
        if not math.isfinite(total):
            raise SystemExit(f"train.py: the loss is {total} at step {step}; go back to a checkpoint with a lower rate")
        rate = min(1, (step + 1) / WARMUP, max(0, length - elapsed) / (length - decay_from))
        step += 1
        optimiser.step(gradients, rate, step)
        tokens += world * a.rows * a.passes * CONTEXT
        losses.append(total)
        if step % REPORT_EVERY == 0:
            speed = (tokens - since) / (time.time() - reported)
            report(f"loss {np.mean(losses):.4f}, rate {rate:.3f}, {speed:.0f} tokens/s, {speed * flops / 1e12:.3g} TFLOP/s")
            reported, losses, since = time.time(), [], tokens
        if elapsed >= decay_from and not stable and rank == 0:
            checkpoint("stable.pt")
            stable = True
        if elapsed - saved > CHECKPOINT_EVERY and rank == 0:
            checkpoint("checkpoint.pt")
            saved = elapsed
        if elapsed - evaluated > EVALUATE_EVERY and elapsed < length - 60:
            bits_per_byte()
            evaluated = elapsed
    if rank == 0:
        checkpoint("checkpoint.pt")
    if elapsed < length:
        report("left; go on with --resume")
    elif rank == 0:
        lm.save(optimiser.master, model.shape, f"{a.run}/final", torch.bfloat16, a.tokenizer)
        report(f"wrote {a.run}/final")
        bits_per_byte()
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
