"""The forward and backward pass of amx.cpp, built when first needed: for processors with AMX, one process per core."""
import ctypes
import os
import subprocess
import tempfile

import torch

SOURCE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "amx.cpp")
FLAGS = ["-O3", "-march=sapphirerapids", "-shared", "-fPIC"]
PIECE = 1024  # tokens in a piece of the head's gradient


def available():
    try:
        with open("/proc/cpuinfo") as f:
            return "amx_bf16" in f.read()
    except OSError:
        return False


def build():
    """The pass as a function. The library lies in a folder of its own and is gone from the disk once it is loaded."""
    with tempfile.TemporaryDirectory() as folder:
        library = f"{folder}/amx.so"
        subprocess.run([os.environ.get("CXX", "g++"), *FLAGS, "-o", library, SOURCE], check=True)
        function = getattr(ctypes.CDLL(library), "pass")
    function.restype = ctypes.c_double
    return function


class Pass:
    """Losses and gradients of a model whose weights are bf16 and stay where they are in memory."""

    def __init__(self, model):
        s, weights = model.shape, dict(model.named_parameters())
        width, hidden, vocabulary = s["hidden_size"], s["intermediate_size"], s["vocab_size"]
        queries, keys = s["num_attention_heads"] * s["head_dim"], s["num_key_value_heads"] * s["head_dim"]
        if s["head_dim"] != 64 or any(n % 64 for n in (width, hidden)) or vocabulary % PIECE:
            raise SystemExit(f"amx.py: heads of 64 channels, widths in steps of 64 and a vocabulary in steps of {PIECE} are wanted, not {s}")
        self.function = build()
        self.shape = (ctypes.c_int32 * 6)(vocabulary, width, s["num_hidden_layers"], s["num_attention_heads"], s["num_key_value_heads"], hidden)
        self.buffers, order = [], ["embed_tokens.weight", "norm.weight"]

        def gradient(*size):
            self.buffers.append(torch.zeros(size))
            return self.buffers[-1]

        self.embedding, self.head = gradient(vocabulary, width), gradient(vocabulary // PIECE, width, PIECE)
        self.named = {"norm.weight": gradient(width)}
        for i in range(s["num_hidden_layers"]):
            def put(names, gradients):
                for name, g in zip(names, gradients):
                    self.named[f"layers.{i}.{name}.weight"] = g

            put(["input_layernorm"], [gradient(width)])
            put([f"self_attn.{x}_proj" for x in "qkv"], gradient(width, queries + 2 * keys).t().split([queries, keys, keys]))
            put(["self_attn.q_norm", "self_attn.k_norm"], [gradient(64), gradient(64)])
            put(["self_attn.o_proj"], [gradient(queries, width).t()])
            put(["post_attention_layernorm"], [gradient(width)])
            put(["mlp.gate_proj", "mlp.up_proj"], gradient(width, 2 * hidden).t().split([hidden, hidden]))
            put(["mlp.down_proj"], [gradient(hidden, width).t()])
            order += [f"layers.{i}.{name}.weight" for name in (
                "input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.q_norm", "self_attn.k_norm",
                "self_attn.o_proj", "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")]
        self.weights = [weights[name] for name in order]

    def __call__(self, windows, scale):
        """windows: [rows, 1 + time] token ids. The summed loss in nats; adds `scale` times its gradient to the gradients."""
        ids = windows.to(torch.int32).contiguous()
        addresses = lambda tensors: (ctypes.c_void_p * len(tensors))(*[t.data_ptr() for t in tensors])
        assert all(w.dtype == torch.bfloat16 and w.is_contiguous() for w in self.weights)
        loss = self.function(self.shape, addresses(self.weights), addresses(self.buffers), ctypes.c_void_p(ids.data_ptr()),
                             len(ids), ids.shape[1] - 1, ctypes.c_float(scale))
        if loss < 0:
            raise SystemExit("amx.py: the kernel does not let this process use AMX: train without --amx")
        return loss

    def clear(self):
        for buffer in self.buffers:
            buffer.zero_()

    def gradients(self):
        """By the parameters' names, in their shapes."""
        head = self.head.transpose(1, 2).reshape(self.embedding.shape)
        return {**self.named, "embed_tokens.weight": self.embedding + head}
