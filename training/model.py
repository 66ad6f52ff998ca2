"""A plain Qwen3 (RMSNorm, QK-norm, RoPE, grouped-query attention, SwiGLU, tied head) whose attention sees a sliding window,
as the codec's engine does: a token attends to itself and the WINDOW - 1 tokens before it.

On a CPU attention is written as products of a block of queries with the two or three blocks of keys in reach: the cost per
token does not grow with the length of the sequence, and this is faster than the fused kernel. On a GPU it is one fused kernel
that skips what is out of reach (FlexAttention), if `use_fused_attention` found that it works.
"""
import json
import os
import shutil

import torch
import torch.nn as nn
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

WINDOW = 256
BLOCK = 128          # queries per product; divides WINDOW
CONTEXT = 1024       # longest sequence of training
EPSILON = 1e-6
ROPE_BASE = 10000.0

SHAPES = {
    # 3.67M parameters
    "laconic-s": dict(hidden_size=256, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=1, head_dim=64, intermediate_size=640),
    # 30.3M parameters: 58 MiB in bf16
    "laconic-m": dict(hidden_size=512, num_hidden_layers=10, num_attention_heads=8, num_key_value_heads=2, head_dim=64,
                      intermediate_size=1408),
    # for tests
    "tiny": dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16, intermediate_size=64),
}


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), EPSILON)


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin


def banded_attention(q, k, v):
    """q: [batch, heads, time, dim]; k, v: [batch, kv heads, time, dim]; time is a multiple of BLOCK. Returns q's shape."""
    batch, heads, time, dim = q.shape
    kv_heads, blocks, reach = k.shape[1], time // BLOCK, WINDOW // BLOCK
    share = heads // kv_heads
    queries = q.reshape(batch, kv_heads, share, blocks, BLOCK, dim).transpose(2, 3).reshape(batch, kv_heads, blocks, share * BLOCK, dim)

    def in_reach(x):
        """[batch, kv heads, blocks, WINDOW + BLOCK, dim]: for each block, the blocks before it that it sees, and itself."""
        x = F.pad(x, (0, 0, WINDOW, 0)).view(batch, kv_heads, blocks + reach, BLOCK, dim)
        return torch.cat([x[:, :, i:i + blocks] for i in range(reach + 1)], 3)

    row = torch.arange(BLOCK, device=q.device)[None, :, None] + WINDOW
    column = torch.arange(WINDOW + BLOCK, device=q.device)[None, None, :]
    before_start = column < WINDOW - BLOCK * torch.arange(blocks, device=q.device)[:, None, None]
    hidden = ((column > row) | (column <= row - WINDOW) | before_start).unsqueeze(1)
    scores = (queries @ in_reach(k).mT).view(batch, kv_heads, blocks, share, BLOCK, WINDOW + BLOCK)
    scores = (scores.float() * dim ** -0.5).masked_fill(hidden, float("-inf"))
    weights = scores.softmax(-1).to(v.dtype).view(batch, kv_heads, blocks, share * BLOCK, WINDOW + BLOCK)
    out = (weights @ in_reach(v)).view(batch, kv_heads, blocks, share, BLOCK, dim)
    return out.transpose(2, 3).reshape(batch, heads, time, dim)


attention = banded_attention


def use_fused_attention():
    """Attention as one kernel from now on, where this GPU and library can (gradients included); says whether they can."""
    global attention
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def in_reach(batch, head, query, key):
        return (key <= query) & (key > query - WINDOW)

    compiled, masks = torch.compile(flex_attention), {}

    def fused(q, k, v):
        time = q.shape[2]
        if time not in masks:
            masks[time] = create_block_mask(in_reach, None, None, time, time, device=q.device)
        return compiled(q, k, v, block_mask=masks[time], enable_gqa=q.shape[1] != k.shape[1])

    try:
        q, k, v = (torch.randn(2, h, CONTEXT, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True) for h in (4, 1, 1))
        got, want = fused(q, k, v), banded_attention(q, k, v)
        got.float().square().sum().backward()
        if not torch.allclose(got.float(), want.float(), atol=0.03):
            raise ValueError(f"it is off by {(got - want).abs().max().item()}")
    except Exception as error:  # whatever the compiler of kernels may raise: there is another way
        print(f"no fused attention ({type(error).__name__}: {str(error)[:200]})", flush=True)
        return False
    attention = fused
    return True


class Layer(nn.Module):
    def __init__(self, width, heads, kv_heads, head_dim, hidden):
        super().__init__()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        linear = lambda inputs, outputs: nn.Linear(inputs, outputs, bias=False)
        self.input_layernorm, self.post_attention_layernorm = Norm(width), Norm(width)
        self.self_attn = nn.ModuleDict(dict(
            q_proj=linear(width, heads * head_dim), k_proj=linear(width, kv_heads * head_dim), v_proj=linear(width, kv_heads * head_dim),
            o_proj=linear(heads * head_dim, width), q_norm=Norm(head_dim), k_norm=Norm(head_dim)))
        self.mlp = nn.ModuleDict(dict(gate_proj=linear(width, hidden), up_proj=linear(width, hidden), down_proj=linear(hidden, width)))

    def forward(self, x, cos, sin):
        batch, time, _ = x.shape
        a, m = self.self_attn, self.mlp
        split = lambda y, n: y.view(batch, time, n, self.head_dim)
        h = self.input_layernorm(x)
        q = rotate(a["q_norm"](split(a["q_proj"](h), self.heads)).transpose(1, 2), cos, sin)
        k = rotate(a["k_norm"](split(a["k_proj"](h), self.kv_heads)).transpose(1, 2), cos, sin)
        v = split(a["v_proj"](h), self.kv_heads).transpose(1, 2)
        x = x + a["o_proj"](attention(q, k, v).transpose(1, 2).reshape(batch, time, -1))
        h = self.post_attention_layernorm(x)
        return x + m["down_proj"](F.silu(m["gate_proj"](h)) * m["up_proj"](h))


class Model(nn.Module):
    """Parameter names are those of the public layout less their prefix `model.`."""

    def __init__(self, vocab_size=4096, hidden_size=256, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=1, head_dim=64,
                 intermediate_size=640):
        super().__init__()
        self.shape = dict(vocab_size=vocab_size, hidden_size=hidden_size, num_hidden_layers=num_hidden_layers,
                          num_attention_heads=num_attention_heads, num_key_value_heads=num_key_value_heads, head_dim=head_dim,
                          intermediate_size=intermediate_size)
        self.embed_tokens = nn.Embedding(vocab_size, hidden_size)
        self.layers = nn.ModuleList(Layer(hidden_size, num_attention_heads, num_key_value_heads, head_dim, intermediate_size)
                                    for _ in range(num_hidden_layers))
        self.norm = Norm(hidden_size)
        for name, p in self.named_parameters():
            if p.ndim == 2:
                if name.endswith(("o_proj.weight", "down_proj.weight")):
                    nn.init.zeros_(p)
                else:
                    nn.init.normal_(p, std=0.02 if name.startswith("embed") else 0.8 * hidden_size ** -0.5)
        angle = torch.outer(torch.arange(CONTEXT).float(), ROPE_BASE ** -(torch.arange(0, head_dim, 2).float() / head_dim))
        self.register_buffer("cos", torch.cat([angle.cos()] * 2, -1), persistent=False)
        self.register_buffer("sin", torch.cat([angle.sin()] * 2, -1), persistent=False)

    def forward(self, ids, targets):
        """Mean loss in nats a token."""
        x, time = self.embed_tokens(ids), ids.shape[1]
        for layer in self.layers:
            x = layer(x, self.cos[:time].to(x.dtype), self.sin[:time].to(x.dtype))
        logits = self.norm(x).flatten(0, 1) @ self.embed_tokens.weight.t()
        return F.cross_entropy(logits.float(), targets.flatten())


def load(folder):
    """The model of a folder in the public layout, in float32."""
    with open(f"{folder}/config.json") as f:
        config = json.load(f)
    model = Model()
    if config["model_type"] != "qwen3" or not config["tie_word_embeddings"] or config["rope_theta"] != ROPE_BASE:
        raise ValueError(f"{folder}: not a Qwen3 with a tied head and RoPE base {ROPE_BASE}")
    model = Model(**{key: config[key] for key in model.shape})
    weights = load_file(f"{folder}/model.safetensors")
    model.load_state_dict({name: weights["model." + name].float() for name in model.state_dict()})
    return model


def save(weights, shape, folder, dtype, tokenizer):
    """Writes config.json, model.safetensors and tokenizer.json in the public layout; each file appears complete or not at all."""
    os.makedirs(folder, exist_ok=True)
    config = dict(architectures=["Qwen3ForCausalLM"], model_type="qwen3", **shape, hidden_act="silu", rms_norm_eps=EPSILON,
                  rope_theta=ROPE_BASE, max_position_embeddings=CONTEXT, tie_word_embeddings=True, attention_bias=False,
                  attention_dropout=0.0, use_sliding_window=False, sliding_window=None,
                  max_window_layers=shape["num_hidden_layers"], bos_token_id=188, eos_token_id=188,
                  torch_dtype=str(dtype).split(".")[1])
    tensors = {"model." + name: w.detach().to("cpu", dtype).contiguous() for name, w in weights.items()}
    save_file(tensors, f"{folder}/model.safetensors.new", metadata={"format": "pt"})
    os.replace(f"{folder}/model.safetensors.new", f"{folder}/model.safetensors")
    with open(f"{folder}/config.json.new", "w") as f:
        json.dump(config, f, indent=1)
        f.write("\n")
    os.replace(f"{folder}/config.json.new", f"{folder}/config.json")
    shutil.copyfile(tokenizer, f"{folder}/tokenizer.json")
