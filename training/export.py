"""python3 export.py CHECKPOINT OUT --tokenizer tokenizer.json [--float32] : a checkpoint of train.py as a folder in the public layout.

bf16 is what ships; --float32 keeps what a later run continues from (train.py --init).
"""
import argparse

import torch

import model as lm

a = argparse.ArgumentParser()
a.add_argument("checkpoint")
a.add_argument("out")
a.add_argument("--tokenizer", required=True)
a.add_argument("--float32", action="store_true")
a = a.parse_args()
state = torch.load(a.checkpoint, map_location="cpu", weights_only=False)
lm.save(state["optimiser"]["master"], state["shape"], a.out, torch.float32 if a.float32 else torch.bfloat16, a.tokenizer)
print(f"{a.out}: step {state['step']}, {state['tokens'] / 1e6:.1f}M tokens in this run")
