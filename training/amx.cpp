// Forward and backward pass of model.py's Model on one core with AMX: the same arithmetic as the compiled one (products of bf16, sums
// in float32), several times faster, because what lies between the products is written by hand and everything a product reads is
// packed for it once.
//
//     g++ -O3 -march=sapphirerapids -shared -fPIC -o amx.so amx.cpp
//
// All matrices are row-major. A window of text is one sequence of `time` tokens; windows go through the model one after another,
// and gradients are added up. Every width, the vocabulary, and `time` are multiples of 64; a head has 64 channels.
//
// A "packed" operand is the right-hand side of a product, [k][n], in tiles of 32 x 16 that hold pairs of neighbours in k side by side,
// as TDPBF16PS reads them; the tiles of 16 columns follow one another in k.
#include <immintrin.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

namespace {

using bf16 = uint16_t;
constexpr int HEAD = 64;                 // channels of a head
constexpr int WINDOW = 256;              // a token sees itself and WINDOW - 1 tokens before it
constexpr int QUERIES = 64;              // tokens whose attention is computed at once
constexpr int REACH = WINDOW + QUERIES;  // keys that they see, from the first one's window on
constexpr int TILE = 512;                // values of a tile
constexpr int CHUNK = 256;               // tokens whose logits' gradients are kept at once
constexpr float EPSILON = 1e-6f;

// ---- memory

struct Free {
    void operator()(void* p) const { free(p); }
};

// Zeroed, aligned to pages of 2 MiB where it is large: they are kept and used again for every window.
template <class T>
struct Buffer {
    std::unique_ptr<T, Free> memory;
    explicit Buffer(size_t n) {
        size_t align = n * sizeof(T) >= (256 << 10) ? 2 << 20 : 64, bytes = (n * sizeof(T) + align - 1) / align * align;
        memory.reset(static_cast<T*>(aligned_alloc(align, bytes)));
        if (align > 64) madvise(memory.get(), bytes, MADV_HUGEPAGE);  // slower without, that is all
        memset(memory.get(), 0, bytes);
    }
    operator T*() const { return memory.get(); }
};

// ---- vectors of 16

using V = __m512;
V load(const float* p) { return _mm512_loadu_ps(p); }
void store(float* p, V v) { _mm512_storeu_ps(p, v); }
V load(const bf16* p) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16)); }
void store(bf16* p, V v) { _mm256_storeu_si256((__m256i*)p, (__m256i)_mm512_cvtneps_pbh(v)); }
V all(float x) { return _mm512_set1_ps(x); }
float sum(V v) { return _mm512_reduce_add_ps(v); }

V exp(V x) {
    V t = _mm512_max_ps(x, all(-100)) * all(1.44269504f), n = _mm512_roundscale_ps(t, 8), f = t - n;
    V p = all(1.3333558e-3f);
    for (float c : {9.6181291e-3f, 5.5504109e-2f, 2.4022651e-1f, 6.9314718e-1f, 1.0f}) p = _mm512_fmadd_ps(p, f, all(c));
    return _mm512_scalef_ps(p, n);
}

V sigmoid(V x) { return _mm512_rcp14_ps(all(1) + exp(-x)); }  // to 14 bits: more than a bf16 holds

// ---- packing

// A matrix [m][k] of rows or of tiles of 16 x 32; steps in values: from a row to the next, from 32 columns, and from 16 rows.
struct Left {
    const bf16* at;
    size_t stride, step_k, step_m;
    const bf16* value(int i, int j) const { return at + i / 16 * step_m + i % 16 * stride + j / 32 * step_k + j % 32; }
};
Left rows(const bf16* x, int stride) { return {x, size_t(stride), 32, 16 * size_t(stride)}; }
Left tiles(const bf16* x, int k) { return {x, 32, TILE, size_t(k) / 32 * TILE}; }

void transpose(__m512i* r) {  // 16 x 16 values of 32 bits
    __m512i t[16];
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            r[i + 2 * j] = _mm512_unpacklo_epi64(t[i + j], t[i + j + 2]);
            r[i + 2 * j + 1] = _mm512_unpackhi_epi64(t[i + j], t[i + j + 2]);
        }
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 2; j++) {
            t[8 * j + i] = _mm512_shuffle_i32x4(r[8 * j + i], r[8 * j + i + 4], 0x88);
            t[8 * j + i + 4] = _mm512_shuffle_i32x4(r[8 * j + i], r[8 * j + i + 4], 0xdd);
        }
    for (int i = 0; i < 8; i++) {
        r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    }
}

// Packs x[n][k], that is its transpose as an operand.
void pack_transposed(const bf16* x, int n, int k, bf16* out) {
    for (int i = 0; i < n; i += 16)
        for (int j = 0; j < k; j += 32, out += TILE) {
            __m512i r[16];
            for (int l = 0; l < 16; l++) r[l] = _mm512_loadu_si512(x + size_t(i + l) * k + j);
            transpose(r);
            for (int l = 0; l < 16; l++) _mm512_store_si512(out + 32 * l, r[l]);
        }
}

__m512i pairs(const bf16* x, const bf16* y) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)x)),
                           _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)y)), 16));
}

// Packs x[k][n]. With `left`, as the left-hand side of a product that has k in common: tiles of 16 rows n and 32 columns k.
template <bool left>
void pack(const Left& x, int k, int n, bf16* out) {
    for (int j = 0; j < k; j += 32)
        for (int i = 0; i < n; i += 16) {
            __m512i r[16];
            for (int l = 0; l < 16; l++) r[l] = pairs(x.value(j + 2 * l, i), x.value(j + 2 * l + 1, i));
            if (left) transpose(r);
            bf16* to = out + (size_t(i) / 16 * (k / 32) + j / 32) * TILE;
            for (int l = 0; l < 16; l++) _mm512_store_si512(to + 32 * l, r[l]);
        }
}

// ---- products

struct Right {  // a packed right-hand side; step_n: from 16 columns to the next
    const bf16* at;
    size_t step_n;
};
Right packed(const bf16* x, int k) { return {x, size_t(k) / 32 * TILE}; }

void use_tiles() {
    struct alignas(64) {
        uint8_t palette = 1, start = 0, reserved[14] = {};
        uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
        uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } config;
    _tile_loadconfig(&config);
}

// The compiler does not know that loads of tiles read what was stored before.
inline void tiles_read_memory() { asm volatile("" ::: "memory"); }

// Four tiles of sums, 32 x 32: += left x right.
inline void block(const bf16* a, const Left& left, const bf16* b, const Right& right, int k) {
    const bf16 *below = a + left.step_m, *beside = b + right.step_n;
    for (int i = 0; i < k; i += 32, a += left.step_k, below += left.step_k, b += TILE, beside += TILE) {
        _tile_loadd(4, a, left.stride * 2);
        _tile_loadd(6, b, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, beside, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, below, left.stride * 2);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

// Calls f(i, j) for blocks of 32 x 32, so that the smaller of the two sides is the one read again and again.
template <class F>
void for_blocks(int m, int n, F f) {
    if (m <= n)
        for (int j = 0; j < n; j += 32)
            for (int i = 0; i < m; i += 32) f(i, j);
    else
        for (int i = 0; i < m; i += 32)
            for (int j = 0; j < n; j += 32) f(i, j);
}

// For each block of 32 x 32: out(row, column, sums), where the sums of a row lie 32 apart.
template <class Out>
void product(int m, int n, int k, Left left, Right right, Out out) {
    alignas(64) float sums[32 * 32];
    tiles_read_memory();
    for_blocks(m, n, [&](int i, int j) {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        block(left.at + i / 16 * left.step_m, left, right.at + j / 16 * right.step_n, right, k);
        _tile_stored(0, sums, 128);
        _tile_stored(1, sums + 16, 128);
        _tile_stored(2, sums + 16 * 32, 128);
        _tile_stored(3, sums + 16 * 32 + 16, 128);
        out(i, j, sums);
    });
}

auto into(bf16* y, int stride) {
    return [=](int i, int j, const float* sums) {
        for (int r = 0; r < 32; r++)
            _mm512_storeu_si512(y + size_t(i + r) * stride + j, (__m512i)_mm512_cvtne2ps_pbh(load(sums + 32 * r + 16), load(sums + 32 * r)));
    };
}
auto into(float* y, int stride) {
    return [=](int i, int j, const float* sums) {
        for (int r = 0; r < 32; r++)
            for (int c : {0, 16}) store(y + size_t(i + r) * stride + j + c, load(sums + 32 * r + c));
    };
}
auto onto(float* y, int stride) {
    return [=](int i, int j, const float* sums) {
        for (int r = 0; r < 32; r++)
            for (int c : {0, 16}) {
                float* to = y + size_t(i + r) * stride + j + c;
                store(to, load(to) + load(sums + 32 * r + c));
            }
    };
}

// y[m][n] += left x right
void accumulate(int m, int n, int k, Left left, Right right, float* y) {
    tiles_read_memory();
    for_blocks(m, n, [&](int i, int j) {
        float *to = y + size_t(i) * n + j, *below = to + 16 * size_t(n);
        _tile_loadd(0, to, n * 4);
        _tile_loadd(1, to + 16, n * 4);
        _tile_loadd(2, below, n * 4);
        _tile_loadd(3, below + 16, n * 4);
        block(left.at + i / 16 * left.step_m, left, right.at + j / 16 * right.step_n, right, k);
        _tile_stored(0, to, n * 4);
        _tile_stored(1, to + 16, n * 4);
        _tile_stored(2, below, n * 4);
        _tile_stored(3, below + 16, n * 4);
    });
}

// ---- the model

struct Shape {
    int32_t vocabulary, width, layers, heads, kv_heads, hidden;
};

// Weights as the model has them, [out][in], and gradients of the same, but [in][out].
struct LayerWeights {
    const bf16 *norm, *q, *k, *v, *q_norm, *k_norm, *o, *post_norm, *gate, *up, *down;
};
struct LayerGradients {
    float *norm, *qkv, *q_norm, *k_norm, *o, *post_norm, *gate_up, *down;
};

// A matrix packed for x W' (there) and for its gradient dy W (back).
struct Matrix {
    int out, in;
    Buffer<bf16> whole, there, back;
    Matrix(int out, int in) : out(out), in(in), whole(size_t(out) * in), there(size_t(out) * in), back(size_t(out) * in) {}
    void set(std::initializer_list<std::pair<const bf16*, int>> parts) {
        bf16* to = whole;
        for (auto [w, rows] : parts) {
            memcpy(to, w, size_t(rows) * in * 2);
            to += size_t(rows) * in;
        }
        pack_transposed(whole, out, in, there);
        pack<false>(rows(whole, in), out, in, back);
    }
};

// x / |x| in out, and 1 / |x|, where |x| is the root of the mean square
template <class T>
float normalise(const T* x, int n, bf16* out) {
    V squares = all(0);
    for (int i = 0; i < n; i += 16) squares += load(x + i) * load(x + i);
    float scale = 1 / std::sqrt(sum(squares) / n + EPSILON);
    for (int i = 0; i < n; i += 16) store(out + i, load(x + i) * all(scale));
    return scale;
}

// out = unit * w
void weigh(const bf16* unit, const bf16* w, int time, int n, bf16* out) {
    for (size_t t = 0; t < size_t(time) * n; t += n)
        for (int i = 0; i < n; i += 16) store(out + t + i, load(unit + t + i) * load(w + i));
}

// dx += the gradient of norm(x) * w, given dy of it; dw too
void norm_back(const float* dy, const bf16* unit, const float* scales, const bf16* w, int time, int n, float* dx, float* dw) {
    for (int t = 0; t < time; t++, dy += n, unit += n, dx += n) {
        V dot = all(0);
        for (int i = 0; i < n; i += 16) {
            V u = load(unit + i), d = load(dy + i);
            store(dw + i, load(dw + i) + d * u);
            dot += d * load(w + i) * u;
        }
        V mean = all(sum(dot) / n), scale = all(scales[t]);
        for (int i = 0; i < n; i += 16) store(dx + i, load(dx + i) + scale * (load(dy + i) * load(w + i) - load(unit + i) * mean));
    }
}

struct Layer {
    Matrix qkv, o, gate_up, down;
    LayerWeights w{};
    LayerGradients g{};
    // What the way back needs of a window.
    Buffer<bf16> unit, projected, attended, post_unit, gates;
    Buffer<float> scales, post_scales, log_sums;
    Layer(const Shape& s, int time)
        : qkv((s.heads + 2 * s.kv_heads) * HEAD, s.width), o(s.width, s.heads * HEAD), gate_up(2 * s.hidden, s.width), down(s.width, s.hidden),
          unit(size_t(time) * s.width), projected(size_t(time) * qkv.out), attended(size_t(time) * o.in), post_unit(size_t(time) * s.width),
          gates(size_t(time) * 2 * s.hidden), scales(time), post_scales(time), log_sums(size_t(time) * s.heads) {}
};

class Model {
    const Shape s;
    const int time, share, block_rows, padded;
    std::vector<std::unique_ptr<Layer>> layers;
    Matrix head;
    Buffer<float> cosine, sine;
    Buffer<float> x, dx, dh;
    Buffer<bf16> h, dy, wide, dwide, left, right;
    // Attention of one key and value head: queries by block, a block's rows head after head; keys and values behind WINDOW zeros.
    Buffer<bf16> queries, keys, values, keys_packed, keys_back, values_packed, values_back, weights, dscores, block_out, turned, block_packed;
    Buffer<float> scores, dweights, dqueries, dkeys, dvalues;
    // Of the head.
    Buffer<float> logits, final_scales;
    Buffer<bf16> dlogits, final_unit;

  public:
    const bf16 *embedding = nullptr, *norm = nullptr;
    float *d_embedding = nullptr, *d_head = nullptr, *d_norm = nullptr;

    Model(const Shape& s, int time)
        : s(s), time(time), share(s.heads / s.kv_heads), block_rows(share * QUERIES), padded(WINDOW + time), head(s.vocabulary, s.width),
          cosine(size_t(time) * HEAD / 2), sine(size_t(time) * HEAD / 2), x(size_t(time) * s.width), dx(size_t(time) * s.width),
          dh(size_t(time) * s.width), h(size_t(time) * std::max(s.width, s.heads * HEAD)), dy(size_t(time) * s.width), wide(size_t(time) * widest()),
          dwide(size_t(time) * widest()), left(size_t(time) * widest()), right(size_t(time) * widest()), queries(size_t(time) * share * HEAD),
          keys(size_t(padded) * HEAD), values(size_t(padded) * HEAD), keys_packed(size_t(padded) * HEAD), keys_back(size_t(padded) * HEAD),
          values_packed(size_t(padded) * HEAD), values_back(size_t(padded) * HEAD), weights(size_t(block_rows) * REACH),
          dscores(size_t(block_rows) * REACH), block_out(size_t(block_rows) * HEAD), turned(size_t(block_rows) * REACH),
          block_packed(size_t(block_rows) * HEAD), scores(size_t(block_rows) * REACH), dweights(size_t(block_rows) * REACH),
          dqueries(size_t(time) * share * HEAD), dkeys(size_t(padded) * HEAD), dvalues(size_t(padded) * HEAD),
          logits(size_t(64) * logits_stride()), final_scales(time), dlogits(size_t(CHUNK) * s.vocabulary), final_unit(size_t(time) * s.width) {
        for (int i = 0; i < s.layers; i++) layers.push_back(std::make_unique<Layer>(s, time));
        for (int t = 0; t < time; t++)
            for (int i = 0; i < HEAD / 2; i++) {
                double angle = t * std::pow(10000.0, -2.0 * i / HEAD);
                cosine[t * HEAD / 2 + i] = std::cos(angle);
                sine[t * HEAD / 2 + i] = std::sin(angle);
            }
    }

    bool fits(const Shape& other, int other_time) const { return time == other_time && !memcmp(&s, &other, sizeof s); }

    // After every update. The embedding and the norms are read in place.
    void set(const void* const* w, float* const* g) {
        auto next = [&] { return static_cast<const bf16*>(*w++); };
        auto gradient = [&] { return *g++; };
        embedding = next();
        d_embedding = gradient();
        d_head = gradient();
        head.set({{embedding, s.vocabulary}});
        norm = next();
        d_norm = gradient();
        for (auto& l : layers) {
            auto& v = l->w;
            for (auto p : {&v.norm, &v.q, &v.k, &v.v, &v.q_norm, &v.k_norm, &v.o, &v.post_norm, &v.gate, &v.up, &v.down}) *p = next();
            auto& d = l->g;
            for (auto p : {&d.norm, &d.qkv, &d.q_norm, &d.k_norm, &d.o, &d.post_norm, &d.gate_up, &d.down}) *p = gradient();
            l->qkv.set({{v.q, s.heads * HEAD}, {v.k, s.kv_heads * HEAD}, {v.v, s.kv_heads * HEAD}});
            l->o.set({{v.o, s.width}});
            l->gate_up.set({{v.gate, s.hidden}, {v.up, s.hidden}});
            l->down.set({{v.down, s.width}});
        }
    }

    // ids[time + 1]: returns the loss in nats, summed over the tokens; adds up gradients of `scale` times it unless scale is 0.
    double window(const int32_t* ids, float scale) {
        for (int t = 0; t < time; t++)
            for (int i = 0; i < s.width; i += 16) store(x + size_t(t) * s.width + i, load(embedding + size_t(ids[t]) * s.width + i));
        for (auto& l : layers) forward(*l);
        memset(dx, 0, size_t(time) * s.width * 4);
        double loss = predict(ids + 1, scale);
        if (scale == 0) return loss;
        for (int i = s.layers - 1; i >= 0; i--) backward(*layers[i]);
        for (int t = 0; t < time; t++)
            for (int i = 0; i < s.width; i += 16) {
                float* to = d_embedding + size_t(ids[t]) * s.width + i;
                store(to, load(to) + load(dx + size_t(t) * s.width + i));
            }
        return loss;
    }

  private:
    int logits_stride() const { return s.vocabulary + 32; }  // no power of two: its rows would share a few lines of the cache
    int widest() const { return std::max({2 * s.hidden, (s.heads + 2 * s.kv_heads) * HEAD, s.width}); }

    void normalise_all(bf16* unit, float* scales) {
        for (int t = 0; t < time; t++) scales[t] = normalise(x + size_t(t) * s.width, s.width, unit + size_t(t) * s.width);
    }

    void forward(Layer& l) {
        normalise_all(l.unit, l.scales);
        weigh(l.unit, l.w.norm, time, s.width, h);
        product(time, l.qkv.out, s.width, rows(h, s.width), packed(l.qkv.there, s.width), into(l.projected, l.qkv.out));
        for (int i = 0; i < s.kv_heads; i++) {
            attention_operands(l, i);
            attend(l, i);
        }
        product(time, s.width, l.o.in, rows(l.attended, l.o.in), packed(l.o.there, l.o.in), onto(x, s.width));
        normalise_all(l.post_unit, l.post_scales);
        weigh(l.post_unit, l.w.post_norm, time, s.width, h);
        product(time, l.gate_up.out, s.width, rows(h, s.width), packed(l.gate_up.there, s.width), into(l.gates, l.gate_up.out));
        activate(l);
        product(time, s.width, s.hidden, rows(wide, s.hidden), packed(l.down.there, s.hidden), onto(x, s.width));
    }

    // wide[time][hidden] = silu(gate) * up
    void activate(const Layer& l) {
        for (int t = 0; t < time; t++) {
            const bf16 *gate = l.gates + size_t(t) * 2 * s.hidden, *up = gate + s.hidden;
            for (int i = 0; i < s.hidden; i += 16) {
                V g = load(gate + i);
                store(wide + size_t(t) * s.hidden + i, g * sigmoid(g) * load(up + i));
            }
        }
    }

    // y = rotate(x / |x| * w) * scale
    void rotate(const bf16* x, const bf16* w, int t, float scale, bf16* y) {
        alignas(64) bf16 unit[HEAD];
        normalise(x, HEAD, unit);
        for (int i = 0; i < HEAD / 2; i += 16) {
            V c = load(cosine + t * HEAD / 2 + i) * all(scale), n = load(sine + t * HEAD / 2 + i) * all(scale);
            V a = load(unit + i) * load(w + i), b = load(unit + HEAD / 2 + i) * load(w + HEAD / 2 + i);
            store(y + i, a * c - b * n);
            store(y + HEAD / 2 + i, b * c + a * n);
        }
    }

    // dx of the same; dw added up
    void rotate_back(const float* dy, const bf16* x, const bf16* w, int t, float scale, bf16* dx, float* dw) {
        alignas(64) bf16 unit[HEAD];
        alignas(64) float d[HEAD], none[HEAD] = {};
        float size = normalise(x, HEAD, unit);
        for (int i = 0; i < HEAD / 2; i += 16) {
            V c = load(cosine + t * HEAD / 2 + i) * all(scale), n = load(sine + t * HEAD / 2 + i) * all(scale);
            V a = load(dy + i), b = load(dy + HEAD / 2 + i);
            store(d + i, a * c + b * n);
            store(d + HEAD / 2 + i, b * c - a * n);
        }
        norm_back(d, unit, &size, w, 1, HEAD, none, dw);
        for (int i = 0; i < HEAD; i += 16) store(dx + i, load(none + i));
    }

    const bf16* projection(const Layer& l, int t, int head) const { return l.projected + size_t(t) * l.qkv.out + head * HEAD; }
    size_t query_row(int t, int j) const { return size_t(t / QUERIES) * block_rows + j * QUERIES + t % QUERIES; }

    void attention_operands(const Layer& l, int kv) {
        for (int t = 0; t < time; t++) {
            for (int j = 0; j < share; j++)
                rotate(projection(l, t, kv * share + j), l.w.q_norm, t, 1 / std::sqrt(float(HEAD)), queries + query_row(t, j) * HEAD);
            rotate(projection(l, t, s.heads + kv), l.w.k_norm, t, 1, keys + size_t(WINDOW + t) * HEAD);
            memcpy(values + size_t(WINDOW + t) * HEAD, projection(l, t, s.heads + s.kv_heads + kv), HEAD * 2);
        }
        pack_transposed(keys, padded, HEAD, keys_packed);
        pack<false>(rows(values, HEAD), padded, HEAD, values_packed);
    }

    // Of the columns of 16 keys from `column` on, those that row `row` of a block sees, whose first tokens begin the window or not.
    static __mmask16 seen(int row, int column, int begin) {
        __m512i at = _mm512_add_epi32(_mm512_set1_epi32(column), _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0));
        return _mm512_cmpgt_epi32_mask(at, _mm512_set1_epi32(std::max(row, begin - 1))) & _mm512_cmple_epi32_mask(at, _mm512_set1_epi32(row + WINDOW));
    }

    // scores[block_rows][REACH] of the block of queries from token t on
    void score(int t) {
        product(block_rows, REACH, HEAD, rows(queries + query_row(t, 0) * HEAD, HEAD), packed(keys_packed + size_t(t) * HEAD, HEAD), into(scores, REACH));
    }

    void attend(Layer& l, int kv) {
        for (int t = 0; t < time; t += QUERIES) {
            score(t);
            int begin = std::max(0, WINDOW - t);
            for (int r = 0; r < block_rows; r++) {
                float* at = scores + size_t(r) * REACH;
                int row = r % QUERIES;
                V most = all(-INFINITY), total = all(0);
                for (int c = 0; c < REACH; c += 16) most = _mm512_mask_max_ps(most, seen(row, c, begin), most, load(at + c));
                float top = _mm512_reduce_max_ps(most);
                for (int c = 0; c < REACH; c += 16) {
                    V e = _mm512_maskz_mov_ps(seen(row, c, begin), exp(load(at + c) - all(top)));
                    total += e;
                    store(at + c, e);
                }
                float whole = sum(total);
                for (int c = 0; c < REACH; c += 16) store(weights + size_t(r) * REACH + c, load(at + c) * all(1 / whole));
                l.log_sums[size_t(t + row) * s.heads + kv * share + r / QUERIES] = top + std::log(whole);
            }
            product(block_rows, HEAD, REACH, rows(weights, REACH), {values_packed + size_t(t) / 32 * TILE, size_t(padded) / 32 * TILE}, into(block_out, HEAD));
            for (int r = 0; r < block_rows; r++)
                memcpy(l.attended + size_t(t + r % QUERIES) * l.o.in + (kv * share + r / QUERIES) * HEAD, block_out + size_t(r) * HEAD, HEAD * 2);
        }
    }

    // dwide[time][qkv.out]: gradients of the projections of one key and value head, from dy[time][o.in] of what was attended
    void attend_back(Layer& l, int kv) {
        attention_operands(l, kv);
        pack<false>(rows(keys, HEAD), padded, HEAD, keys_back);
        pack_transposed(values, padded, HEAD, values_back);
        memset(dkeys, 0, size_t(padded) * HEAD * 4);
        memset(dvalues, 0, size_t(padded) * HEAD * 4);
        for (int t = 0; t < time; t += QUERIES) {
            score(t);
            for (int r = 0; r < block_rows; r++)
                memcpy(block_out + size_t(r) * HEAD, h + size_t(t + r % QUERIES) * l.o.in + (kv * share + r / QUERIES) * HEAD, HEAD * 2);
            product(block_rows, REACH, HEAD, rows(block_out, HEAD), packed(values_back + size_t(t) * HEAD, HEAD), into(dweights, REACH));
            int begin = std::max(0, WINDOW - t);
            for (int r = 0; r < block_rows; r++) {
                size_t token = t + r % QUERIES, at = size_t(r) * REACH;
                int of = kv * share + r / QUERIES;
                V dot = all(0), log_sum = all(l.log_sums[token * s.heads + of]);
                for (int i = 0; i < HEAD; i += 16) dot += load(block_out + size_t(r) * HEAD + i) * load(l.attended + token * l.o.in + of * HEAD + i);
                V mean = all(sum(dot));
                for (int c = 0; c < REACH; c += 16) {
                    V p = _mm512_maskz_mov_ps(seen(r % QUERIES, c, begin), exp(load(scores + at + c) - log_sum));
                    store(weights + at + c, p);
                    store(dscores + at + c, p * (load(dweights + at + c) - mean));
                }
            }
            Right beside{keys_back + size_t(t) / 32 * TILE, size_t(padded) / 32 * TILE};
            product(block_rows, HEAD, REACH, rows(dscores, REACH), beside, into(dqueries + query_row(t, 0) * HEAD, HEAD));
            pack<true>(rows(dscores, REACH), block_rows, REACH, turned);
            pack<false>(rows(queries + query_row(t, 0) * HEAD, HEAD), block_rows, HEAD, block_packed);
            accumulate(REACH, HEAD, block_rows, tiles(turned, block_rows), packed(block_packed, block_rows), dkeys + size_t(t) * HEAD);
            pack<true>(rows(weights, REACH), block_rows, REACH, turned);
            pack<false>(rows(block_out, HEAD), block_rows, HEAD, block_packed);
            accumulate(REACH, HEAD, block_rows, tiles(turned, block_rows), packed(block_packed, block_rows), dvalues + size_t(t) * HEAD);
        }
        for (int t = 0; t < time; t++) {
            auto to = [&](int head) { return dwide + size_t(t) * l.qkv.out + head * HEAD; };
            for (int j = 0; j < share; j++)
                rotate_back(dqueries + query_row(t, j) * HEAD, projection(l, t, kv * share + j), l.w.q_norm, t, 1 / std::sqrt(float(HEAD)),
                            to(kv * share + j), l.g.q_norm);
            rotate_back(dkeys + size_t(WINDOW + t) * HEAD, projection(l, t, s.heads + kv), l.w.k_norm, t, 1, to(s.heads + kv), l.g.k_norm);
            for (int i = 0; i < HEAD; i += 16) store(to(s.heads + s.kv_heads + kv) + i, load(dvalues + size_t(WINDOW + t) * HEAD + i));
        }
    }

    // dw[in][out] += x' d, from x[time][in] and d[time][out]
    void weight_gradient(const bf16* x, const bf16* d, const Matrix& w, float* dw) {
        pack<true>(rows(x, w.in), time, w.in, left);
        pack<false>(rows(d, w.out), time, w.out, right);
        accumulate(w.in, w.out, time, tiles(left, time), packed(right, time), dw);
    }

    void round_dx() {
        for (size_t i = 0; i < size_t(time) * s.width; i += 16) store(dy + i, load(dx + i));
    }

    // dx: of the layer's output; of its input afterwards
    void backward(Layer& l) {
        round_dx();
        activate(l);
        weight_gradient(wide, dy, l.down, l.g.down);
        product(time, s.hidden, s.width, rows(dy, s.width), packed(l.down.back, s.width), into(wide, s.hidden));
        for (int t = 0; t < time; t++) {
            const bf16 *gate = l.gates + size_t(t) * 2 * s.hidden, *up = gate + s.hidden, *d = wide + size_t(t) * s.hidden;
            bf16 *dgate = dwide + size_t(t) * 2 * s.hidden, *dup = dgate + s.hidden;
            for (int i = 0; i < s.hidden; i += 16) {
                V g = load(gate + i), share = sigmoid(g), silu = g * share, da = load(d + i);
                store(dup + i, da * silu);
                store(dgate + i, da * load(up + i) * (share + silu * (all(1) - share)));
            }
        }
        weigh(l.post_unit, l.w.post_norm, time, s.width, h);
        weight_gradient(h, dwide, l.gate_up, l.g.gate_up);
        product(time, s.width, l.gate_up.out, rows(dwide, l.gate_up.out), packed(l.gate_up.back, l.gate_up.out), into(dh, s.width));
        norm_back(dh, l.post_unit, l.post_scales, l.w.post_norm, time, s.width, dx, l.g.post_norm);

        round_dx();
        weight_gradient(l.attended, dy, l.o, l.g.o);
        product(time, l.o.in, s.width, rows(dy, s.width), packed(l.o.back, s.width), into(h, l.o.in));
        for (int i = 0; i < s.kv_heads; i++) attend_back(l, i);
        weigh(l.unit, l.w.norm, time, s.width, h);
        weight_gradient(h, dwide, l.qkv, l.g.qkv);
        product(time, s.width, l.qkv.out, rows(dwide, l.qkv.out), packed(l.qkv.back, l.qkv.out), into(dh, s.width));
        norm_back(dh, l.unit, l.scales, l.w.norm, time, s.width, dx, l.g.norm);
    }

    // The loss; with a scale, dx of the last layer's output.
    double predict(const int32_t* targets, float scale) {
        normalise_all(final_unit, final_scales);
        weigh(final_unit, norm, time, s.width, h);
        double loss = 0;
        for (int t = 0; t < time; t += CHUNK) {
            const int count = std::min(CHUNK, time - t);
            for (int u = 0; u < count; u += 64) {
                product(64, s.vocabulary, s.width, rows(h + size_t(t + u) * s.width, s.width), packed(head.there, s.width), into(logits, logits_stride()));
                for (int r = 0; r < 64; r++)
                    loss += cross_entropy(logits + size_t(r) * logits_stride(), targets[t + u + r], scale, tiles(dlogits, s.vocabulary), u + r);
                if (scale != 0)
                    product(64, s.width, s.vocabulary, tiles(dlogits + size_t(u) * s.vocabulary, s.vocabulary), packed(head.back, s.vocabulary),
                            into(dh + size_t(t + u) * s.width, s.width));
            }
            if (scale != 0) {
                pack<true>(rows(h + size_t(t) * s.width, s.width), count, s.width, left);
                for (int j = 0; j < s.vocabulary; j += 1024) {  // so that what is packed stays near
                    const int n = std::min(1024, s.vocabulary - j);
                    pack<false>(tiles(dlogits + size_t(j) * 16, s.vocabulary), count, n, right);
                    accumulate(s.width, n, count, tiles(left, count), packed(right, count), d_head + size_t(j) * s.width);
                }
            }
        }
        if (scale != 0) norm_back(dh, final_unit, final_scales, norm, time, s.width, dx, d_norm);
        return loss;
    }

    // Of the logits `at`, which it overwrites; with a scale, the row of `d` becomes their gradient.
    double cross_entropy(float* at, int target, float scale, const Left& d, int row) {
        V most = load(at), total = all(0);
        float expected = at[target];
        for (int i = 16; i < s.vocabulary; i += 16) most = _mm512_max_ps(most, load(at + i));
        V top = all(_mm512_reduce_max_ps(most));
        for (int i = 0; i < s.vocabulary; i += 16) {
            V e = exp(load(at + i) - top);
            total += e;
            store(at + i, e);
        }
        float whole = sum(total);
        if (scale != 0) {
            V share = all(scale / whole);
            at[target] -= whole;
            for (int i = 0; i < s.vocabulary; i += 16) store(const_cast<bf16*>(d.value(row, i)), load(at + i) * share);
        }
        return _mm512_cvtss_f32(top) + std::log(whole) - expected;
    }
};

std::unique_ptr<Model> model;

}  // namespace

// ids[windows][time + 1]. weights, gradients: pointers in the order that Model::set takes them; the head's gradient comes in pieces of 1024 tokens,
// each [width][tokens]. Returns the loss summed over all tokens, or a negative number if this kernel allows no tiles.
extern "C" double pass(const int32_t* shape, const void* const* weights, float* const* gradients, const int32_t* ids, int windows, int time, float scale) {
    if (syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* tile data */) != 0) return -1;
    Shape s;
    memcpy(&s, shape, sizeof s);
    if (!model || !model->fits(s, time)) model = std::make_unique<Model>(s, time);
    use_tiles();
    model->set(weights, gradients);
    double loss = 0;
    for (int i = 0; i < windows; i++) loss += model->window(ids + size_t(i) * (time + 1), scale);
    _tile_release();
    return loss;
}
