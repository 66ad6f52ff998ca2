"""python3 test_model.py : the banded attention against the library's, the pass for AMX against the plain one, and what a run writes."""
import tempfile

import torch
import torch.nn.functional as F

import amx
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


def test_amx_pass_has_the_gradients_of_the_plain_one():
    if not amx.available():
        print("skipped: this processor has no AMX")
        return
    for heads, kv_heads in (4, 1), (2, 2):
        torch.manual_seed(2)
        plain = lm.Model(1024, 256, 2, heads, kv_heads, 64, 192)
        for p in plain.parameters():  # none of the zeros that a new model begins with
            p.data.copy_((p + .02 * torch.randn_like(p)).bfloat16())
        by_hand = lm.Model(**plain.shape).bfloat16()
        by_hand.load_state_dict(plain.state_dict())
        windows = torch.randint(0, 1024, (2, 1 + 640))
        loss = plain(windows[:, :-1], windows[:, 1:])
        loss.backward()
        run = amx.Pass(by_hand)
        assert abs(run(windows[:1], 1 / 1280) + run(windows[1:], 1 / 1280) - 1280 * loss.item()) < 2e-3 * 1280
        for name, p in plain.named_parameters():
            error = (run.gradients()[name] - p.grad).norm() / p.grad.norm()
            assert error < .03, f"{name}: off by {error:.3f}"


if __name__ == "__main__":
    test_banded_attention_is_a_sliding_window()
    test_save_and_load_keep_the_weights()
    test_amx_pass_has_the_gradients_of_the_plain_one()
    print("ok")
