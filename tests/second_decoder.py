#!/usr/bin/env python3
"""A second decoder of `lm` and `mix` chunks, after docs/codec.md.

    tests/second_decoder.py MODEL FRAME LENGTH     the plain bytes of a frame
    tests/second_decoder.py MODEL FILE             those of a coded file (docs/format-coded.md)
    tests/second_decoder.py                        decodes the golden frames

It shares no code with the first one, only the documents: that both agree says that
these are right. Slow: some hundred tokens a second at best. Wants numpy,
and zstandard or the program `zstd`. Where those are missing, the last form says
so and passes.
"""

import json
import subprocess
import sys
from pathlib import Path

try:
    import numpy as np
except ImportError:
    np = None

M32, M64 = 2**32 - 1, 2**64 - 1


class Damaged(Exception):
    """The frame, file or model is not what the documents describe."""


def check(holds, what):
    if not holds:
        raise Damaged(what)


def clamp(v, low, high):
    return low if v < low else high if v > high else v


def unzstd(data):
    try:
        import zstandard

        return zstandard.ZstdDecompressor().decompressobj().decompress(data)
    except ImportError:
        return subprocess.run(["zstd", "-dc"], input=data, capture_output=True, check=True).stdout


# ---- BLAKE3 (github.com/BLAKE3-team/BLAKE3-specs), the plain hash


IV = (0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A, 0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19)
ORDER = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
ROUND = (
    (0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15),
    (0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14),
)  # fmt: skip
CHUNK_START, CHUNK_END, PARENT, ROOT = 1, 2, 4, 8


def compress(value, words, counter, length, flags):
    v = [*value, *IV[:4], counter & M32, counter >> 32, length, flags]
    for _ in range(7):
        for i, (a, b, c, d) in enumerate(ROUND):
            for m, turn_d, turn_b in ((words[2 * i], 16, 12), (words[2 * i + 1], 8, 7)):
                v[a] = (v[a] + v[b] + m) & M32
                x = v[d] ^ v[a]
                v[d] = (x >> turn_d | x << (32 - turn_d)) & M32
                v[c] = (v[c] + v[d]) & M32
                x = v[b] ^ v[c]
                v[b] = (x >> turn_b | x << (32 - turn_b)) & M32
        words = [words[i] for i in ORDER]
    return [v[i] ^ v[i + 8] for i in range(8)]


def words_of(block):
    block = block.ljust(64, b"\0")
    return [int.from_bytes(block[i : i + 4], "little") for i in range(0, 64, 4)]


def blake3(data):
    def chunk(number, root):
        value, part = IV, data[1024 * number : 1024 * number + 1024]
        blocks = [part[i : i + 64] for i in range(0, len(part), 64)] or [b""]
        for i, block in enumerate(blocks):
            flags = (CHUNK_START if i == 0 else 0) | (CHUNK_END | root if i == len(blocks) - 1 else 0)
            value = compress(value, words_of(block), number, len(block), flags)
        return value

    def tree(first, count, root):
        if count == 1:
            return chunk(first, root)
        left = 1 << (count - 1).bit_length() - 1
        both = tree(first, left, 0) + tree(first + left, count - left, 0)
        return compress(IV, both, 0, 64, PARENT | root)

    value = tree(0, max(1, -(-len(data) // 1024)), ROOT)
    return b"".join(word.to_bytes(4, "little") for word in value)


# ---- the model's arithmetic: docs/codec-model.md


def norm(m, e):
    """A scale m 2^e as a pair."""
    if m == 0:
        return (0, 0)
    shift = m.bit_length() - 31
    return (m >> shift if shift > 0 else m << -shift, e + shift)


def times(a, b, *more):
    product = norm(a[0] * b[0], a[1] + b[1])
    return times(product, *more) if more else product


def shifted(s, k):
    return (s[0], s[1] + k)


def isqrt(n):
    from math import isqrt

    return isqrt(n)


def reciprocal(n):
    return norm(2**62 // n, -62)


def square_root(n):
    return norm(isqrt(n << 48), -24)


def inverse_square_root(n):
    h = (n.bit_length() - 31) // 2  # n = v 4^h, 2^30 <= v < 2^32
    v = n >> 2 * h if h > 0 else n << -2 * h
    y = isqrt(2**68 // (2 * (v >> 25) + 1))
    for _ in range(2):
        t = v * (y * y >> 32) >> 30
        y = y * (3 * 2**30 - t) >> 31
    return norm(y, -46 - h)


LOG2_E = (1549082004, -30)


def peak(v):
    return int(np.abs(v).max())


def fit(v):
    """The row in 14 bits, and its shift k."""
    k = peak(v).bit_length() - 14
    return ((v + (1 << k - 1)) >> k if k > 0 else v << -k), k


def round15(v):
    return (v + 2**14) >> 15


def quantise(row):
    top = peak(row)
    if top == 0:
        return np.zeros(len(row), np.int64), (0, 0)
    fitted, k = fit(row)
    largest = (top + (1 << k - 1)) >> k if k > 0 else top << -k
    r = 127 * 2**21 // largest
    return (fitted * r + 2**20) >> 21, times(norm(largest, k), reciprocal(127))


def log(rate, distance):
    """Distances times a rate, with 24 bits after the point."""
    m, e = rate
    z, f = -(e + 40), m >> 16
    if m == 0:
        z = 0
    elif z < 0:
        z, f = 0, min(f << min(-z, 15), 32767)
    return np.minimum(distance >> min(z, 31), 32767) * f


def power(p):
    x = (p >> 9) & 32767
    c = 7540 - (1272 * x >> 15)
    b = 22652 - (c * x >> 15)
    a = 32768 - (b * x >> 15)
    return (a << 15) >> np.minimum(p >> 24, 31)


class Model:
    """docs/format-model.md; the passes of a lane."""

    def __init__(self, data):
        check(data[:8] == b"LACONICM", "no model file")
        version = int.from_bytes(data[8:12], "little")
        check(version in (1, 2), "a model file of another version")
        check(blake3(data[:-32]) == data[-32:], "the model file is damaged")
        self.hash = blake3(data)
        size = int.from_bytes(data[12:16], "little")
        header = json.loads(data[16 : 16 + size])
        self.sections = {name: data[at : at + size] for name, at, size in header["sections"]}
        shape = header["shape"]
        self.V, self.D, self.H, self.K = (shape[n] for n in ("vocab", "width", "heads", "kv_heads"))
        self.d, self.F, self.W = (shape[n] for n in ("head_dim", "hidden", "window"))
        self.layers, self.heads = shape["layers"], header.get("heads")
        self.fraction, self.epsilon, self.embed_shift = (header[n] for n in ("fraction", "epsilon", "embed_shift"))
        self.numbers = {}
        self.embed = self.matrix("embed", self.V, self.D)
        self.head = self.embed if header["tied"] else self.matrix("head", self.V, self.D)
        self.logistic = self.read("logistic", "<u4")
        self.start_of_tokens(json.loads(unzstd(self.sections["tokenizer"])))

    def read(self, name, kind):
        if name not in self.numbers:
            self.numbers[name] = np.frombuffer(self.sections[name], kind).astype(np.int64)
        return self.numbers[name]

    def matrix(self, name, rows, columns):
        """In float64, whose products are exact here and fast: sums are below 2^30."""
        return np.frombuffer(self.sections[name], np.int8).reshape(rows, columns).astype(np.float64)

    def units(self, name):
        if name not in self.numbers:
            raw = np.frombuffer(self.sections[name], "<i4")
            self.numbers[name] = [(int(m), int(e)) for m, e in raw.reshape(-1, 2)]
        return self.numbers[name]

    def start_of_tokens(self, tokenizer):
        """docs/codec.md, "The vocabulary"."""
        printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        alphabet = {chr(b): b for b in printable}
        alphabet |= {chr(0x100 + i): b for i, b in enumerate(b for b in range(256) if b not in printable)}
        by_id = {}
        for text, number in tokenizer["model"]["vocab"].items():
            if not tokenizer["model"].get("byte_fallback"):
                if all(c in alphabet for c in text):
                    by_id[number] = bytes(alphabet[c] for c in text)
            elif len(text) == 6 and text.startswith("<0x") and text.endswith(">"):
                by_id[number] = bytes([int(text[3:5], 16)])
            else:
                by_id[number] = text.replace("\u2581", " ").encode()
        for token in tokenizer.get("added_tokens") or []:
            by_id[token["id"]] = token["content"].encode()
        check(sorted(by_id) == list(range(self.V)), "the ids of the tokens have gaps")
        self.tokens = sorted((by_id[i] for i in range(self.V)))
        self.depth = (self.V - 1).bit_length()
        self.zero = self.tokens.index(b"\0")

    # -- one pass

    def norm(self, x, name, unit):
        u = max(0, peak(x).bit_length() - 24)
        y = x >> u
        t = (y * self.read(name, "<i2")) >> 9
        s = int((y * y).sum()) + self.D * (self.epsilon >> 2 * u)
        q, scale = quantise(t)
        return q, shifted(times(scale, times(unit, square_root(self.D)), inverse_square_root(max(s, 1))), 9)

    def linear(self, name, rows, q):
        if name not in self.numbers:
            self.numbers[name] = self.matrix(name, rows, len(q))
        return (self.numbers[name] @ q.astype(np.float64)).astype(np.int64)

    def turn(self, z, position):
        k = ((position * self.read("frequencies", "<u4") + 2**19) & M32) >> 20
        sine = self.read("sine", "<i2")
        sin, cos = sine[k], sine[(k + 1024) % 4096]
        low, high = np.split(z, 2)
        return np.concatenate([low * cos - high * sin, high * cos + low * sin])

    def turned_head(self, sums, l, head, row, position):
        """A query or key head, quantised."""
        own = slice(head * self.d, (head + 1) * self.d)
        c, unit = self.read(f"{l}.qkv.scales", "<u2")[own], self.units(f"{l}.units")[7 + head]
        if self.heads:
            return self.plain_head(sums, l, head, times(unit, row), position)
        f, _ = fit(sums)
        n = round15(f * c)
        z = round15(f * self.read(f"{l}.qk.gained", "<i2")[own])
        q, scale = quantise(self.turn(z, position))
        unit = times(unit, square_root(self.d))
        return q, shifted(times(scale, unit, inverse_square_root(max(int((n * n).sum()), 1))), -14)

    def plain_head(self, sums, l, head, scale, position=None):
        own = slice(head * self.d, (head + 1) * self.d)
        f, k = fit(sums)
        t, s = f * self.read(f"{l}.qkv.scales", "<u2")[own], shifted(scale, k)
        if self.heads == "biased":
            b = self.read(f"{l}.qkv.bias", "<i2")[own]
            unit = self.units(f"{l}.units")[7 + self.H + self.K + head]
            tops = [scale[1] + 31 + bits for scale, bits in ((s, 29), (unit, 15)) if scale[0]]
            g = max(tops) - 29

            def term(v, scale):
                z = clamp(g - scale[1], 1, 62)
                return (v * scale[0] + (1 << z - 1)) >> z

            t, s = term(t, s) + term(b, unit), norm(1, g)
        if position is not None:
            z, k = fit(t)
            t, s = self.turn(z, position), shifted(s, k - 14)
        q, scale = quantise(t)
        return q, times(scale, s)

    def value_head(self, sums, l, head, row):
        unit = times(self.units(f"{l}.units")[2], row)
        if self.heads == "biased":
            return self.plain_head(sums, l, head, unit)
        own = slice(head * self.d, (head + 1) * self.d)
        f, k = fit(sums)
        q, scale = quantise(f * self.read(f"{l}.qkv.scales", "<u2")[own])
        return q, shifted(times(scale, unit), k)

    def attend(self, query, scale, keys, key_scales, values, value_scales):
        def shorten(scales):
            cut = max(0, int(scales.max()).bit_length() - 15)
            return scales >> cut, cut

        (k_s, a), (v_s, b) = shorten(key_scales), shorten(value_scales)
        g = max(0, (127 * 127 * self.d).bit_length() - 15)
        s = ((keys @ query + ((1 << g) >> 1)) >> g) * k_s
        rate = times(scale, shifted(times(LOG2_E, inverse_square_root(self.d)), g + a - 24))
        e = power(log(rate, s.max() - s)) >> 16
        w = e * v_s
        limit = min(15, 24 - (self.W - 1).bit_length())
        c = max(0, int(w.max()).bit_length() - limit)
        return (w >> c) @ values, shifted(reciprocal(int(e.sum())), c + b - 24)

    def join(self, heads, scales):
        x = max((e for m, e in scales if m), default=0)
        rows = [(o * m) >> clamp(32 + x - e, 32, 63) for o, (m, e) in zip(heads, scales)]
        q, scale = quantise(np.concatenate(rows))
        return q, shifted(scale, 32 + x)

    def into_stream(self, x, a, name, inputs, unit, row):
        u = max(0, (127 * 127 * inputs).bit_length() - 16)
        m, e = shifted(times(shifted(unit, self.fraction), row), u)
        z, limit = clamp(-e, 1, 62), 2**30 - 1
        y = (((a * self.read(name, "<u2")) >> u) * m + (1 << z - 1)) >> z
        return np.clip(x + np.clip(y, -limit, limit), -limit, limit)

    def gated(self, sums, l, row):
        channel = self.read(f"{l}.gate_up.scales", "<u2")
        units = self.units(f"{l}.units")
        (g, k_g), (u, k_u) = fit(sums[: self.F]), fit(sums[self.F :])
        g, u = g * channel[: self.F], round15(u * channel[self.F :])
        s_g, s_u = shifted(times(units[4], row), k_g), shifted(times(units[5], row), k_u)
        p = np.minimum(log(times(s_g, LOG2_E), np.abs(g)), 2**28 - 1)
        entry = self.logistic[p >> 22]
        v, step = entry & 0xFFFF, entry >> 16
        step = np.where(step >= 2**15, step - 2**16, step)
        sigma = (v * 2**14 + step * ((p >> 8) & 16383)) >> 14
        sigma = np.where(g < 0, 32768 - sigma, sigma)
        q, scale = quantise(round15(round15(g) * sigma) * u)
        return q, shifted(times(scale, s_g, s_u), 30)

    def predict(self, lane, token):
        """The cdf of what follows `token`; `lane` is the lane's cache, a list at first empty."""
        if not lane:
            shape = (self.layers, self.K, self.W)
            lane += [0, *(np.zeros((*shape, self.d), np.int64) for _ in "kv"), *(np.zeros(shape, np.int64) for _ in "kv")]
        position, keys, values, key_scales, value_scales = lane
        lane[0] += 1
        slot, used = position % self.W, min(position + 1, self.W)
        group, d = self.H // self.K, self.d

        def fixed24(scale):
            m, e = scale
            return min(m << e + 24 if e + 24 >= 0 else m >> -(e + 24), 2**31 - 1)

        w = self.embed[token].astype(np.int64)
        x = (w * self.read("embed.scales", "<u4")[token] + (1 << self.embed_shift - 1)) >> self.embed_shift
        for l in range(self.layers):
            units = self.units(f"{l}.units")
            r, row = self.norm(x, f"{l}.attn_norm", units[0])
            sums = self.linear(f"{l}.qkv", (self.H + 2 * self.K) * d, r).reshape(-1, d)
            for h in range(self.K):
                key, scale = self.turned_head(sums[self.H + h], l, self.H + h, row, position)
                keys[l, h, slot], key_scales[l, h, slot] = key, fixed24(scale)
                value, scale = self.value_head(sums[self.H + self.K + h], l, self.H + self.K + h, row)
                values[l, h, slot], value_scales[l, h, slot] = value, fixed24(scale)
            heads, scales = [], []
            for h in range(self.H):
                query, scale = self.turned_head(sums[h], l, h, row, position)
                window = (l, h // group, slice(used))
                o, scale = self.attend(
                    query, scale, keys[window], key_scales[window], values[window], value_scales[window]
                )
                heads.append(o)
                scales.append(scale)
            q, row = self.join(heads, scales)
            x = self.into_stream(x, self.linear(f"{l}.o", self.D, q), f"{l}.o.scales", self.H * d, units[3], row)
            r, row = self.norm(x, f"{l}.mlp_norm", units[1])
            q, row = self.gated(self.linear(f"{l}.gate_up", 2 * self.F, r), l, row)
            x = self.into_stream(x, self.linear(f"{l}.down", self.D, q), f"{l}.down.scales", self.F, units[6], row)
        last, head = self.units("units")
        q, row = self.norm(x, "norm", last)
        f, k = fit((self.head @ q.astype(np.float64)).astype(np.int64))
        t = f * self.read("head.scales", "<u2")
        e = power(log(shifted(times(times(head, LOG2_E), row), k), t.max() - t))
        total = int(e.sum())
        h = total.bit_length() - 31
        rate = ((2**28 - self.V) << 31) // (total >> h)
        below = np.concatenate([[0], np.cumsum(e >> h)])
        # at most 2^31 times 2^30: fits
        cdf = np.arange(self.V + 1) + (below * rate >> 31)
        cdf[self.V] = 2**28
        return cdf.tolist()


# ---- the mixer: docs/codec-mixer.md


def mix_hash(a, b):
    h = ((a ^ b * 0x9E3779B1 & M32) * 0x85EBCA77) & M32
    return ((h ^ h >> 15) * 0xC2B2AE3D) & M32


def make_ln():
    table = []
    for i in range(2048):
        z = (i << 32) // (4096 + i)
        w, s = z, 0
        for k in range(1, 24, 2):
            s += w // k
            w = ((w * z >> 32) * z) >> 32
        table.append((s + 2**15) >> 16)
    return table


LN = make_ln()


def ln(a):
    if a == 0:
        return 0
    n = a.bit_length()
    return (n - 1) * 22713 + LN[((a << 32 - n) >> 20) & 2047]


def clamp12(v):
    return clamp(v, -6143, 6143)


def log_odds(ones, zeros):
    return clamp12((ln(ones) - ln(zeros)) >> 6)


STRETCH = [(ln(2 * p + 1) - ln(8191 - 2 * p)) >> 6 for p in range(4096)]


def make_squash():
    one = 2**48

    def exp(n):
        a, total = one, one
        for k in range(1, 11):
            a //= n * k
            total += a
        return total

    table = [0] * 3072
    e, step = exp(256), exp(128)
    for i in range(1536):
        s = min(65535, (65536 * e + ((e + one) >> 1)) // (e + one))
        table[1536 + i], table[1535 - i] = s, 65536 - s
        e = e * step >> 48
    return table


SQUASH = make_squash()


def squash(x):
    return SQUASH[(clamp12(x) + 6144) >> 2]


def approach(numbers, at, bit, shift):
    p = int(numbers[at])
    numbers[at] = p + (((65535 if bit else 0) - p) >> shift)


TABLES = "8f3d30b4a5b83418"


def tables_are_those_of_the_page():
    pieces = ((LN, 2, False), (STRETCH, 2, True), (SQUASH, 2, False))
    data = b"".join(v.to_bytes(size, "little", signed=sign) for t, size, sign in pieces for v in t)
    return blake3(data).hex().startswith(TABLES)


class Version:
    def __init__(self, number):
        self.number = number
        self.contexts, self.inputs, self.sets = ((20, 48, 4), (23, 64, 6))[number]
        self.rows = (3136, 4720)[number]
        self.last_rows = (216, 216 + 256)[number]
        self.rates = [131072 // (2 * n + 3) for n in range(12)] + [4369, 3640, 2978, (2340, 1365)[number]]
        self.first_rows = (0, 216, 1752, 2776, 3136, 3568)

    def untrained(self):
        c = self.contexts
        row = np.zeros(self.inputs, np.int64)
        row[:c] = (2500, 1000)[self.number]
        row[2 * c] = (8192, 10240)[self.number]
        row[2 * c + 2 : 2 * c + 4] = 4096
        cells = np.array([squash((i % 32 - 16) * 288 + 144) for i in range(512)])
        points = np.array([squash((i - 12) * 512) for i in range(25)])
        return {
            "weights": np.tile(row, (self.rows, 1)),
            "last": np.full((self.last_rows, self.sets), (16384, 10922)[self.number]),
            "maps": np.tile(cells, (c, 1)),
            "trust": np.full(1152, 52000),
            "apms": np.tile(points, (216 + 4608, 1)),
            "priors": np.full(2**14 + 2**17 + 2**18, 32768),
        }

    DROPPED = {"weights": 4, "last": 4, "maps": 0, "trust": 0, "apms": 5, "priors": 5}

    def trained(self, plain, live):
        """docs/format-mix.md, "The mixer's start"."""
        learned = self.untrained()
        count = sum(v.size for v in learned.values())
        check(len(plain) == 4 * count, "the mixer's start has another size")
        plain = np.frombuffer(plain, np.uint8)[2 * count * live : 2 * count * (live + 1)]
        stored = (plain[:count].astype(np.int64) | plain[count:].astype(np.int64) << 8).astype(np.int16).astype(np.int64)
        at = 0
        for name, numbers in learned.items():
            flat = numbers.reshape(-1)
            flat += stored[at : at + flat.size] << self.DROPPED[name]
            if name == "weights":
                flat[:] = flat.astype(np.int16)
            elif name != "last":
                np.clip(flat, 0, 65535, out=flat)
            at += flat.size
        return learned


def start_of(model, version, live):
    section = model.sections.get("mixer")
    if section is None or section[:3] != b"mix" or section[3] != version.number + 1:
        return version.untrained()
    return version.trained(unzstd(section[4:]), live)


LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") | frozenset(range(0x80, 0x100))
DIGITS = frozenset(b"0123456789")


def kind(b):
    if b in DIGITS:
        return 1
    if b >= 0x80 or 97 <= b <= 122:
        return 2
    if 65 <= b <= 90:
        return 3
    for number, members in ((4, b" "), (5, b"\n"), (6, b",;\t"), (7, b"\"'"), (8, b"<>(){}[]"), (9, b"\0")):
        if b in members:
            return number
    return 10 if b < 32 else 11 + (b & 3)


def byte_class(b):
    return 1 if b in DIGITS else 2 if b in LETTERS else 3 if b in b" \n\t" else 0


class Lane:
    def __init__(self, stride):
        self.text = bytearray()
        self.count = self.bytes = self.line = self.above = self.field = self.line_head = 0
        self.word = self.word_before = self.tag = self.in_tag = self.kinds = 0
        self.recent = [0] * 6
        self.followers = [0] * 4096
        self.stride = stride
        self.matches = [[0, 0, 0], [0, 0, 0]]  # at, length, misses

    def append(self, code, token):
        place = mix_hash(self.recent[0], 7) >> 20
        self.followers[place] = (self.followers[place] << 16 | code + 1) & M32
        self.recent = [code + 1, *self.recent[:5]]
        self.count += 1
        for b in token:
            self.text.append(b)
            self.bytes = (self.bytes << 8 | b) & M64
            k = kind(b)
            if k > 3 or k != self.kinds & 15:
                self.kinds = (self.kinds << 4 | k) & M32
            if b in LETTERS:
                self.word = ((self.word ^ (b | 32)) * 0x2F0B4C47) & M32 | 1
            else:
                if self.word:
                    self.word_before, self.word = self.word, 0
                if b == 10:
                    self.above, self.line = self.line, len(self.text)
                    self.field = self.line_head = 0
                elif b in b",\t |;":
                    self.field += 1
            if 1 <= len(self.text) - self.line <= 4:
                self.line_head = (self.line_head << 8 | b) & M32
            if b == 0x3C:
                self.tag, self.in_tag = 0, 1
            elif b in b" >":
                self.in_tag = 0
            elif self.in_tag:
                self.tag = (self.tag * 0x2F0B4C47 + b) & M32

    def classes(self):
        one, two, three = (byte_class(self.bytes >> s & 255) for s in (0, 8, 16))
        return 16 * one + 4 * two + three

    def contexts(self, guess, count):
        text, length, h = self.text, len(self.text), mix_hash
        if self.stride == 0:
            column = length - self.line
            at = self.above + column
            x = [text[at + k] if at + k < self.line else 0 for k in range(3)]
            up, field, place, head = x[0] | x[1] << 8 | x[2] << 16, self.field, column, self.line_head
        else:

            def r(n, a):
                at = length - n * self.stride + a
                return text[at] if 0 <= at < length else 0

            up = r(1, 0) | r(1, 1) << 8 | r(1, 2) << 16
            field = r(1, 0) | r(2, 0) << 8 | 1 << 20
            place = length % self.stride
            head = self.bytes & 255 | r(1, 0) << 8 | r(1, 1) << 16 | 1 << 30
        t1, t2, t3, t4 = self.recent[:4]
        b = self.bytes
        o2 = h(t1, t2)
        o3 = h(o2, t3)
        keys = [
            0, t1, o2, o3, h(o3, t4), t2, h(t2, t3), h(guess, t1),
            b & 0xFFFF, b & 0xFFFFFF, b & M32, h(b & M32, b >> 32 & 0xFFFF),
            h(up, t1), h(up, field), h(field, t1), place, h(head, field),
            h(self.word, self.word_before), h(self.word, field), h(self.tag, t1),
            h(self.followers[h(t1, 7) >> 20], t1), h(self.kinds & 0xFFFFFF, 3), h(t1, t3),
        ]  # fmt: skip
        return [h(key, i + 1) for i, key in enumerate(keys[:count])]


class Coder:
    """docs/format-mix.md, "The arithmetic coder"."""

    def __init__(self, data):
        self.low, self.high = 0, M64
        self.data, self.at = data, 8
        self.v = int.from_bytes(data[:8].ljust(8, b"\0"), "big")

    def decide(self, p):
        span = self.high - self.low
        split = self.low + (span >> 16) * p + ((span & 0xFFFF) * p >> 16)
        bit = int(self.v <= split)
        if bit:
            self.high = split
        else:
            self.low = split + 1
        while self.low >> 56 == self.high >> 56:
            byte = self.data[self.at] if self.at < len(self.data) else 0
            self.at += 1
            self.low = self.low << 8 & M64
            self.high = (self.high << 8 | 255) & M64
            self.v = (self.v << 8 | byte) & M64
        return bit


class Guess:
    def __init__(self, code, alive, length):
        self.code, self.alive = code, alive
        self.bucket = length if length < 16 else min(31, 14 + length // 8)


class Mixer:
    def __init__(self, model, number, lengths, stride, live, coder):
        self.model, self.version, self.live, self.coder = model, Version(number), live, coder
        learned = start_of(model, self.version, live)
        self.weights, self.last, self.maps = learned["weights"], learned["last"], learned["maps"]
        self.trust, self.apms = learned["trust"], learned["apms"]
        self.priors = np.split(learned["priors"], [2**14, 2**14 + 2**17])
        n = sum(lengths).bit_length()
        self.lines = (clamp(n + 1, 6, 16), clamp(n + 2, 6, 17))[number]
        self.slots = {}  # those that are not as they were at first
        self.heads_bits = clamp(n, 6, 16)
        self.heads = [[0] * 2**self.heads_bits for _ in range(2)]
        self.history = [0] * (sum(lengths) + 2)
        self.firsts = [1 + sum(lengths[:i]) for i in range(len(lengths))]
        self.lanes = [Lane(stride) for _ in lengths]
        self.done = 0

    def known(self, number):
        return self.history[number] if number < len(self.history) else 0

    def guesses(self, number):
        lane = self.lanes[number]
        here = self.firsts[number] + lane.count
        for k in range(2):
            at, length, misses = lane.matches[k]
            goes_on = at != 0 and self.known(at + 1) != 0
            if goes_on and self.known(at) == lane.recent[0]:
                at, length, misses = at + 1, min(length + 1, 65536), 0 if length > 15 else misses
            elif goes_on and self.version.number == 1 and k == 0 and misses < 8:
                at, length, misses = at + 1, 0, misses + 1
            else:
                at = length = misses = 0
            wanted = ((4, 2), (6, 2))[self.version.number][k]
            if lane.count >= wanted:
                h = 0
                for token in lane.recent[:wanted]:
                    h = mix_hash(h, token)
                entry = h >> (32 - self.heads_bits)
                place, self.heads[k][entry] = self.heads[k][entry], here
                looks = length < 3 if self.version.number == 1 else at == 0
                if looks and place != 0 and self.known(place) != 0:
                    agree, most = 0, min(32, lane.count, place - 1)
                    while agree < most and self.known(place - agree - 1) == self.known(here - agree - 1):
                        agree += 1
                    if agree >= (3, 2)[k]:
                        at, length, misses = place, agree, 0
            lane.matches[k] = [at, length, misses]
        (first, length, _), (second, other, _) = lane.matches
        none = Guess(0, False, 0)
        return [
            Guess(self.known(first) - 1, True, length) if first else none,
            Guess(self.known(second) - 1, True, other) if second and second != first else none,
        ]

    def find(self, context, prefix):
        h = mix_hash(context, prefix)
        line, tag = h >> (32 - self.lines), h & 0xFFFF | 1
        fresh = [0x8000] * 16
        pair = [self.slots.setdefault(2 * line + i, fresh[:]) for i in range(2)]
        for i in range(2):
            if pair[i][0] == tag:
                return 2 * line + i
        victim = int(pair[1][1] & 15 < pair[0][1] & 15)
        fresh[0] = tag
        self.slots[2 * line + victim] = fresh
        return 2 * line + victim

    def decode(self, number, cdf):
        """The next token of a lane."""
        model, version, lane, live = self.model, self.version, self.lanes[number], self.live
        contexts, depth, at_all = version.contexts, model.depth, model.V
        guesses = self.guesses(number)
        first = guesses[0]
        guess = mix_hash(first.code + 1, first.bucket) if first.alive else 0
        hashes = lane.contexts(guess, contexts)
        last_byte, classes = lane.bytes & 255, lane.classes()
        rate = (36, (24, 16)[version.number])[live]
        if version.number == 1:
            rate += 30720 // (1024 + self.done)
        rates, order = version.rates, range(contexts)
        every = np.arange(contexts)
        prefix, node, found, nodes = 1, 1, [], []
        inputs = np.zeros(version.inputs, np.int64)
        inputs[2 * contexts + 4] = 256
        for level in range(depth):
            below = depth - level - 1
            lo = (prefix << below + 1) - (1 << depth)
            mid = lo + (1 << below)
            if level % 4 == 0:
                self.put(found, nodes)
                found, nodes, node = [], [], 1
                for context in hashes:
                    found.append(self.find(context, prefix))
                    nodes.append(self.slots[found[-1]][:])
                if not live:
                    c = (0, 1 + last_byte, lane.recent[0])
                    entries = [16 * (mix_hash(c[k], prefix) >> 36 - (14, 17, 18)[k]) for k in range(3)]
            if mid >= at_all:
                prefix, node = 2 * prefix, 2 * node
                continue

            states = [slot[node] for slot in nodes]
            odds = [STRETCH[v >> 4] for v in states]
            cells = [32 * (v & 15) + (7 * p >> 11) + 16 for v, p in zip(states, odds)]
            means = (self.maps[every, cells] >> 4).tolist()
            inputs[:contexts] = [STRETCH[m] if v & 15 else 0 for v, m in zip(states, means)]
            inputs[contexts : 2 * contexts] = odds
            known = sum(v & 15 > 0 for v in states)
            if live:
                hi = min(mid + (1 << below), at_all)
                o = log_odds(cdf[hi] - cdf[mid], cdf[mid] - cdf[lo])
                inputs[2 * contexts] = o
                inputs[2 * contexts + 1] = (squash(o) - 32768) >> 4
                trust = min(19, abs(o) // 320)
            else:
                trust = min(19, known)
                for k in range(3):
                    inputs[2 * contexts + 5 + k] = STRETCH[int(self.priors[k][entries[k] + node]) >> 4]
            trusted = [576 * k + 18 * g.bucket + level for k, g in enumerate(guesses)]
            for k, g in enumerate(guesses):
                a = STRETCH[int(self.trust[trusted[k]]) >> 4] if g.alive else 0
                inputs[2 * contexts + 2 + k] = a if g.code >> below & 1 else -a
            sure = 0 if not first.alive else 1 if first.bucket <= 5 else 2 if first.bucket <= 15 else 3
            agree = 0
            if guesses[1].alive:
                differ = first.alive and (first.code ^ guesses[1].code) >> below & 1
                agree = 2 if differ else 1
            state = 3 * sure + agree

            ways = prefix if level < 9 else 512 + (prefix >> level - 8) % 512
            inside = (12 * level + state, 6 * last_byte + level // 3, ways, 20 * level + trust,
                      24 * level + known, 64 * level + classes)  # fmt: skip
            rows = [version.first_rows[k] + inside[k] for k in range(version.sets)]
            sums = (self.weights[rows] @ inputs).astype(np.int32).astype(np.int64)
            sums = np.clip(sums >> 14, -6143, 6143)
            last_rows = (12 * level + state, 216 + last_byte)[: version.number + 1]
            mixes = [clamp12(int(self.last[r] @ sums) >> 16) for r in last_rows]
            mixed = sum(mixes) >> version.number
            i, f = (mixed + 6144) >> 9, (mixed + 6144) & 511
            apms = [self.apms[12 * level + state], self.apms[216 + 256 * level + last_byte]]
            p = 2 * squash(mixed) + sum((int(a[i]) * (512 - f) + int(a[i + 1]) * f) >> 9 for a in apms)
            bit = self.coder.decide(clamp(p >> 2, 1, 65535))

            t = 65536 * bit
            for a in apms:
                approach(a, i + (f >= 256), bit, 7)
            for r, m in zip(last_rows, mixes):
                self.last[r] = (self.last[r] + (((t - squash(m)) * sums + 2**17) >> 18)).astype(np.int32)
            for r, s in zip(rows, sums.tolist()):
                e = clamp(((t - squash(s)) * rate) >> 8, -32767, 32767)
                self.weights[r] = np.clip(self.weights[r] + ((inputs * e + 2**14) >> 15), -32768, 32767)
            goal = 4095 if bit else 0
            for j in order:
                v = states[j]
                chance, n = v >> 4, v & 15
                nodes[j][node] = chance + (((goal - chance) * rates[n] + 2**15) >> 16) << 4 | min(n + 1, 15)
            meant = self.maps[every, cells]
            self.maps[every, cells] = meant + (((65535 if bit else 0) - meant) >> 6)
            if not live:
                for k in range(3):
                    approach(self.priors[k], entries[k] + node, bit, 5)
            for k, g in enumerate(guesses):
                if g.alive:
                    g.alive = (g.code >> below & 1) == bit
                    approach(self.trust, trusted[k], g.alive, 6)
            prefix, node = 2 * prefix + bit, 2 * node + bit
        self.put(found, nodes)
        code = prefix - (1 << depth)
        self.history[self.firsts[number] + lane.count] = code + 1
        lane.append(code, model.tokens[code])
        self.done += 1
        return code

    def put(self, found, nodes):
        for at, slot in zip(found, nodes):
            self.slots[at] = slot


# ---- frames: docs/format.md, docs/format-mix.md


def varint(data, at):
    n = 0
    for i in range(5):
        check(at + i < len(data), "the payload ends in its head")
        n |= (data[at + i] & 0x7F) << 7 * i
        if data[at + i] < 0x80:
            check(i == 0 or data[at + i] != 0, "a number takes more bytes than it needs")
            return n, at + i + 1
    raise Damaged("a number of too many bytes")


def decode_frame(model, frame, length):
    check(len(frame) > 0, "an empty frame")
    codec, version = frame[0] & 15, frame[0] >> 4
    if codec in (0, 1):
        check(version == 0, "a frame of a newer version")
        return frame[1:] if codec == 0 else unzstd(frame[1:])
    check(codec in (2, 3) and version in (0, 1), "a frame of a newer version")
    check(frame[1:5] == model.hash[:4], "the frame names another model")
    live, payload = codec == 3, frame[5:]
    n, at = varint(payload, 0)
    check(n <= length and (n == 0) == (length == 0), "more tokens than bytes")
    if n == 0:
        check(at == len(payload), "bytes after the end")
        return b""
    count, at = varint(payload, at)
    check(1 <= count <= min(64, n), "a wrong number of lanes")
    stride = 0
    if version == 1:
        stride, at = varint(payload, at)
        check(stride <= 2048, "a stride that is too long")
    lengths = [n // count + (lane < n % count) for lane in range(count)]
    mixer = Mixer(model, version, lengths, stride, live, Coder(payload[at:]))
    caches, before = [[] for _ in lengths], [model.zero] * count
    left = length
    for step in range(lengths[0]):
        for lane in range(count):
            if step < lengths[lane]:
                cdf = model.predict(caches[lane], before[lane]) if live else None
                before[lane] = mixer.decode(lane, cdf)
                left -= len(model.tokens[before[lane]])
                check(left >= 0, "more bytes than the frame promised")
    check(left == 0, "fewer bytes than the frame promised")
    return b"".join(bytes(lane.text) for lane in mixer.lanes)


def decode_file(model, data):
    """docs/format-coded.md."""
    check(data[:4] == b"lcnf" and data[4] == 1, "no coded file")
    size, length = 1 << data[6], int.from_bytes(data[8:16], "big")
    at, out = 16, b""
    if data[5] & 1:
        check(data[16:48] == model.hash, "the file was coded with another model")
        at = 48
    while len(out) < length:
        frame_length, digest = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 20]
        plain = decode_frame(model, data[at + 20 : at + 20 + frame_length], min(size, length - len(out)))
        check(blake3(plain)[:16] == digest, "the hash of a chunk differs")
        out += plain
        at += 20 + frame_length
    check(at == len(data), "bytes after the end")
    return out


def golden():
    if np is None:
        print("skipped: numpy is not installed for python3 (pip install numpy)")
        return
    try:
        import zstandard  # noqa: F401
    except ImportError:
        from shutil import which

        if not which("zstd"):
            print("skipped: there is neither python3's zstandard nor the program zstd")
            return
    # what the golden frames hold, by the recipe of their makers
    plain = "".join(f"{i}: the {i * i % 91} of the {i % 13}\n" for i in range(400)).encode()[:5000]
    folder = Path(__file__).parent / "golden"
    check(tables_are_those_of_the_page(), "the mixer's tables are not those of the page")
    # the model that they name, as a golden store carries it
    (name,) = (folder / "volume-3" / "models").glob("17d42498*")
    model = Model(unzstd(name.read_bytes()))
    for version, codec in ((0, "mix"), (1, "mix"), (0, "lm"), (1, "lm")):
        frame = (folder / f"frame-v{version}.{codec}").read_bytes()
        check(decode_frame(model, frame, len(plain)) == plain, f"frame-v{version}.{codec} decodes to other bytes")
        print(f"second decoder: frame-v{version}.{codec}: the right {len(plain)} bytes")


def main(arguments):
    try:
        if not arguments:
            golden()
            return 0
        model = Model(Path(arguments[0]).read_bytes())
        coded = Path(arguments[1]).read_bytes()
        whole = len(arguments) == 2
        plain = decode_file(model, coded) if whole else decode_frame(model, coded, int(arguments[2]))
        sys.stdout.buffer.write(plain)
        return 0
    except Damaged as damage:
        print(f"second decoder: {damage}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
