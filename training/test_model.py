"""python3 test_model.py : the banded attention against the library's, and shapes of what a run writes."""
import tempfile

import torch
import torch.nn.functional as F

import model as lm


def test_banded_attention_is_a_sliding_window():
    torch.manual_seed(1)
    q, k, v = torch.randn(2, 4, 640, 64), torch.randn(2, 2, 640, 64), torch.randn(2, 2, 640, 64)
    at = torch.arange(640)
    seen = (at[None, :] <= at[:, None]) & (at[None, :] > at[:, None] - lm.WINDOW)
    expected = F.scaled_dot_product_attention(q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), attn_mask=seen)
    assert torch.allclose(lm.banded_attention(q, k, v), expected, atol=1e-5)


def test_save_and_load_keep_the_weights():
    model = lm.Model(hidden_size=64, num_hidden_layers=2)
    with tempfile.TemporaryDirectory() as folder:
        open(f"{folder}/t.json", "w").write("{}")
        lm.save(dict(model.named_parameters()), model.shape, folder, torch.float32, f"{folder}/t.json")
        for (name, a), (other, b) in zip(model.named_parameters(), lm.load(folder).named_parameters(), strict=True):
            assert name == other and torch.equal(a, b)


if __name__ == "__main__":
    test_banded_attention_is_a_sliding_window()
    test_save_and_load_keep_the_weights()
    print("ok")
