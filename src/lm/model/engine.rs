//! The transformer, computed in integers: tokens in, distributions out.
//!
//! Any number of lanes go through it side by side, one step after another
//! (decoding) or many steps at once (encoding): the bits are the same, since
//! every sum is a sum of integers and every other step looks at one row alone.

use std::sync::Arc;

use super::file::{Gains, Heads, Layer, Model, TURN, Weights};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::kernel::{
    self, Aligned, Arithmetic, Attention, BLOCK, Distribution, GateScales, HeadScales, INPUTS,
    LOG2_E, Norm, PlainHead, Scale, Window,
};

/// Rows (steps times lanes) that go through a layer at once: the more, the
/// fewer times its weights come from memory.
const ROWS: usize = 256;
/// Rows that go through a product at once: what it reads and writes stays in
/// the second-level cache beside the layer's weights.
const PART: usize = 64;
/// Rows of which the head's sums are kept at once.
const HEAD_ROWS: usize = 32;
/// The most bytes of keys and values of a state.
const MAX_CACHE: usize = 4 << 30;
/// The most lanes of a state.
pub const MAX_LANES: usize = 64;

/// The state of a number of lanes: their KV caches and scratch space.
pub struct State {
    model: Arc<Model>,
    weights: Arc<Weights>,
    kernel: &'static dyn Arithmetic,
    lanes: usize,
    /// Lanes of the last call.
    active: usize,
    /// Steps so far.
    position: u64,
    cache: Cache,
    buffers: Buffers,
    projected: Projected,
    attention: Attention,
    interrupt: Interrupt,
    /// The largest value of the residual stream so far, if anybody asked.
    peak: Option<i32>,
}

/// Keys and values: for each layer, lane and KV head a [`Window`].
struct Cache {
    keys: Aligned<u8>,
    values: Aligned<i8>,
    key_scales: Aligned<u32>,
    value_scales: Aligned<u32>,
}

struct Buffers {
    /// The residual stream.
    x: Aligned<i32>,
    /// Quantised rows: of the stream's width, of all query heads, of the
    /// hidden width. What pads a row stays 0.
    narrow: Aligned<i8>,
    heads: Aligned<i8>,
    hidden: Aligned<i8>,
    /// Scales of the rows of `narrow` or `hidden`, and of `heads`.
    scales: Vec<Scale>,
    head_scales: Vec<Scale>,
    sums: Aligned<i32>,
    scratch: Aligned<i32>,
    logits: Aligned<i32>,
    attended: Aligned<i32>,
    /// Cosines and sines of the positions of a block.
    cos: Vec<i16>,
    sin: Vec<i16>,
    blocks: Vec<u32>,
}

/// Queries, keys and values on their way to attention: of all lanes, for each
/// all KV heads, for each all steps.
struct Projected {
    queries: Aligned<i8>,
    query_scales: Vec<Scale>,
    keys: Aligned<i8>,
    values: Aligned<i8>,
    key_scales: Vec<u32>,
    value_scales: Vec<u32>,
}

impl State {
    /// For at most `lanes` lanes, with the kernel of `LACONICFS_KERNEL` or the
    /// best one.
    pub fn new(model: Arc<Model>, lanes: usize) -> Result<State> {
        State::with_kernel(model, lanes, kernel::selected()?)
    }

    pub fn with_kernel(
        model: Arc<Model>,
        lanes: usize,
        kernel: &'static dyn Arithmetic,
    ) -> Result<State> {
        if lanes == 0 || lanes > MAX_LANES {
            return Err(Error::Invalid("a state has 1 to 64 lanes"));
        }
        let s = model.shape();
        let slots = s.layers * lanes * s.kv_heads * room(s.window);
        let bytes = lanes * State::lane_bytes(&model);
        if bytes > MAX_CACHE {
            return Err(Error::Model(format!(
                "the keys and values of {lanes} lanes of this model would take {} MiB of memory, more than {} MiB; use fewer lanes or import it with a shorter window",
                bytes >> 20,
                MAX_CACHE >> 20,
            )));
        }
        let weights = model.weights(kernel.packing());
        let padded = |n: usize| n.next_multiple_of(INPUTS);
        let widest = s.qkv().max(2 * s.hidden).max(s.width);
        let buffers = Buffers {
            x: Aligned::new(ROWS * s.width),
            narrow: Aligned::new(PART * padded(s.width)),
            heads: Aligned::new(ROWS * padded(s.queries())),
            hidden: Aligned::new(PART * padded(s.hidden)),
            scales: vec![Scale::ZERO; PART],
            head_scales: vec![Scale::ZERO; ROWS],
            sums: Aligned::new(PART * padded(widest)),
            scratch: Aligned::new(s.vocab.max(widest).max(s.queries())),
            logits: Aligned::new(HEAD_ROWS * weights.head.stride_out()),
            attended: Aligned::new(s.queries()),
            cos: vec![0; ROWS * s.head_dim / 2],
            sin: vec![0; ROWS * s.head_dim / 2],
            blocks: vec![0; s.vocab.div_ceil(BLOCK)],
        };
        let projected = Projected {
            queries: Aligned::new(ROWS * s.queries()),
            query_scales: vec![Scale::ZERO; ROWS * s.heads],
            keys: Aligned::new(ROWS * s.kv_heads * s.head_dim),
            values: Aligned::new(ROWS * s.kv_heads * s.head_dim),
            key_scales: vec![0; ROWS * s.kv_heads],
            value_scales: vec![0; ROWS * s.kv_heads],
        };
        Ok(State {
            lanes,
            active: lanes,
            position: 0,
            cache: Cache {
                keys: Aligned::new(slots * s.head_dim),
                values: Aligned::new(slots * s.head_dim),
                key_scales: Aligned::new(slots),
                value_scales: Aligned::new(slots),
            },
            buffers,
            projected,
            attention: Attention::new(s.window, s.heads / s.kv_heads, s.head_dim),
            interrupt: Interrupt::default(),
            peak: None,
            model,
            weights,
            kernel,
        })
    }

    /// From now on keeps the largest value of the residual stream.
    pub(super) fn watch_peak(&mut self) {
        self.peak = Some(0);
    }

    /// The largest absolute value of the residual stream after any layer's half
    /// since [`watch_peak`](State::watch_peak).
    pub(super) fn peak(&self) -> i32 {
        self.peak.unwrap_or(0)
    }

    /// Bytes of the keys and values of one lane.
    pub fn lane_bytes(model: &Model) -> usize {
        let s = model.shape();
        // below 2^46 by the limits of a shape
        2 * s.layers * s.kv_heads * room(s.window) * s.head_dim
    }

    /// Forgets everything: the next call begins new lanes.
    pub fn reset(&mut self) {
        self.position = 0;
        self.active = self.lanes;
    }

    /// From now on [`predict`](State::predict) stops with
    /// [`Error::Interrupted`] soon after this is raised.
    pub fn heed(&mut self, interrupt: &Interrupt) {
        self.interrupt = interrupt.clone();
    }

    /// The most lanes that it can take.
    pub fn lanes(&self) -> usize {
        self.lanes
    }

    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Name of the kernel in use.
    pub fn kernel(&self) -> &'static str {
        self.kernel.name()
    }

    /// As [`predict`](State::predict), with the whole distributions: `vocab + 1`
    /// sums of counts, from 0 to 2^28, each larger than the one before.
    pub fn forward(
        &mut self,
        lanes: usize,
        steps: usize,
        tokens: &[u32],
        sink: &mut dyn FnMut(usize, usize, &[u32]),
    ) -> Result<()> {
        let mut cdf = vec![0; self.model.shape().vocab + 1];
        self.predict(lanes, steps, tokens, &mut |step, lane, distribution| {
            distribution.write(&mut cdf);
            sink(step, lane, &cdf);
        })
    }

    /// Takes `steps` steps of the first `lanes` lanes. `tokens` holds the codes
    /// that went before, step after step, `lanes` each; the first code of a
    /// lane is that of byte 0. `sink(step, lane, distribution)` is called in the
    /// same order with the distribution of the code that follows.
    ///
    /// Lanes that end do so from the last one backwards: `lanes` never grows
    /// until [`reset`](State::reset).
    pub fn predict(
        &mut self,
        lanes: usize,
        steps: usize,
        tokens: &[u32],
        sink: &mut dyn FnMut(usize, usize, &Distribution),
    ) -> Result<()> {
        if lanes == 0 || lanes > self.active {
            return Err(Error::Invalid(
                "more lanes than were active before, or none",
            ));
        }
        if steps.checked_mul(lanes) != Some(tokens.len()) {
            return Err(Error::Invalid("not one token for each step and lane"));
        }
        let vocab = self.model.shape().vocab;
        if tokens.iter().any(|&t| t as usize >= vocab) {
            return Err(Error::Invalid("a token that the model does not have"));
        }
        self.active = lanes;
        let at_once = ROWS / lanes;
        for (block, tokens) in tokens.chunks(at_once * lanes).enumerate() {
            self.rotations(tokens.len() / lanes);
            self.embed(tokens);
            for layer in 0..self.model.shape().layers {
                self.interrupt.check()?;
                self.attention_block(layer, lanes, tokens.len());
                self.see_peak(tokens.len());
                self.mlp_block(layer, tokens.len());
                self.see_peak(tokens.len());
            }
            let mut first = 0;
            while first < tokens.len() {
                self.interrupt.check()?;
                let rows = HEAD_ROWS.min(tokens.len() - first);
                self.head(first, rows, |row, distribution| {
                    sink(block * at_once + row / lanes, row % lanes, distribution);
                });
                first += rows;
            }
            self.position += (tokens.len() / lanes) as u64;
        }
        Ok(())
    }

    fn see_peak(&mut self, rows: usize) {
        if let Some(peak) = &mut self.peak {
            let stream = &self.buffers.x[..rows * self.model.shape().width];
            *peak = stream.iter().fold(*peak, |m, x| m.max(x.abs()));
        }
    }

    /// Cosines and sines of the next positions.
    fn rotations(&mut self, steps: usize) {
        let b = &mut self.buffers;
        let half = self.model.frequencies.len();
        for step in 0..steps {
            let position = (self.position + step as u64) as u32; // turns repeat after 2^32
            for (i, &f) in self.model.frequencies.iter().enumerate() {
                let angle = f.wrapping_mul(position).wrapping_add(1 << 19) >> 20;
                let angle = angle as usize; // of TURN = 2^12
                b.sin[step * half + i] = self.model.sine[angle];
                b.cos[step * half + i] = self.model.sine[(angle + TURN / 4) % TURN];
            }
        }
    }

    fn embed(&mut self, tokens: &[u32]) {
        let width = self.model.shape().width;
        for (x, &token) in self.buffers.x.chunks_exact_mut(width).zip(tokens) {
            let scale = self.model.embed_scales[token as usize];
            let shift = self.model.header.embed_shift;
            kernel::embed(self.model.embedding(token), scale, shift, x);
        }
    }

    /// `x += o(attention(norm(x)))`.
    fn attention_block(&mut self, layer: usize, lanes: usize, rows: usize) {
        for first in (0..rows).step_by(PART) {
            self.project(layer, lanes, rows / lanes, first, PART.min(rows - first));
        }
        // Lane after lane, so that its keys and values are read from memory once.
        for lane in 0..lanes {
            self.attend(layer, lanes, lane, rows / lanes);
        }
        let (s, l) = (self.model.shape(), &self.model.layers[layer]);
        let (w, b) = (&self.weights.layers[layer].o, &mut self.buffers);
        for first in (0..rows).step_by(PART) {
            let part = PART.min(rows - first);
            let heads = &b.heads[first * w.stride_in()..];
            self.kernel.product(w, part, heads, &mut b.sums);
            for row in 0..part {
                self.kernel.accumulate(
                    &mut b.x[(first + row) * s.width..(first + row + 1) * s.width],
                    &b.sums[row * w.stride_out()..][..s.width],
                    &l.o,
                    s.queries(),
                    l.o_unit.times(b.head_scales[first + row]),
                );
            }
        }
    }

    /// Queries, keys and values of the rows from `first` on.
    fn project(&mut self, layer: usize, lanes: usize, steps: usize, first: usize, rows: usize) {
        let (s, l) = (self.model.shape(), &self.model.layers[layer]);
        let (w, b) = (&self.weights.layers[layer], &mut self.buffers);
        normalise(self.kernel, &self.model, &l.attn_norm, b, first, rows);
        self.kernel.product(&w.qkv, rows, &b.narrow, &mut b.sums);

        let (dim, group) = (s.head_dim, s.heads / s.kv_heads);
        let (kernel, heads_are) = (self.kernel, self.model.header.heads);
        let scratch = &mut b.scratch[..dim];
        for row in 0..rows {
            let (step, lane) = ((first + row) / lanes, (first + row) % lanes);
            let sums = &b.sums[row * w.qkv.stride_out()..];
            let scale_of_row = b.scales[row];
            let head = |index: usize| HeadScales {
                channel: &l.qkv[index * dim..(index + 1) * dim],
                gained: l.gained.get(index * dim..(index + 1) * dim).unwrap_or(&[]),
                unit: l.head_units[index],
                cos: &b.cos[step * dim / 2..(step + 1) * dim / 2],
                sin: &b.sin[step * dim / 2..(step + 1) * dim / 2],
            };
            // a query or key head, turned to its position
            let turned = |index: usize, scratch: &mut [i32], out: &mut [i8]| {
                let own = &sums[index * dim..(index + 1) * dim];
                let head = head(index);
                match heads_are {
                    Heads::Normed => kernel.rotate(own, &head, scratch, out),
                    Heads::Plain | Heads::Biased => {
                        let plain = PlainHead {
                            channel: head.channel,
                            row: head.unit.times(scale_of_row),
                            bias: bias(l, index, dim),
                            turn: Some((head.cos, head.sin)),
                        };
                        kernel.plain(own, &plain, scratch, out)
                    }
                }
            };
            let to = &mut self.projected;
            for h in 0..s.kv_heads {
                let one = (lane * s.kv_heads + h) * steps + step;
                let own = one * dim..(one + 1) * dim;
                let (key, value) = (s.heads + h, s.heads + s.kv_heads + h);
                let scale = turned(key, scratch, &mut to.keys[own.clone()]);
                to.key_scales[one] = scale.to_fixed24();

                let channel = &l.qkv[value * dim..(value + 1) * dim];
                let sums = &sums[value * dim..(value + 1) * dim];
                let unit = l.v_unit.times(scale_of_row);
                let out = &mut to.values[own];
                let scale = match bias(l, value, dim) {
                    None => kernel.value(sums, channel, unit, scratch, out),
                    bias => {
                        let plain = PlainHead {
                            channel,
                            row: unit,
                            bias,
                            turn: None,
                        };
                        kernel.plain(sums, &plain, scratch, out)
                    }
                };
                to.value_scales[one] = scale.to_fixed24();

                for (q, at) in (h * group..(h + 1) * group).zip(one * group..) {
                    let out = &mut to.queries[at * dim..(at + 1) * dim];
                    to.query_scales[at] = turned(q, scratch, out);
                }
            }
        }
    }

    /// Attention of all steps of a lane, quantised.
    fn attend(&mut self, layer: usize, lanes: usize, lane: usize, steps: usize) {
        let s = self.model.shape();
        let (b, cache, from) = (&mut self.buffers, &mut self.cache, &self.projected);
        let (dim, group) = (s.head_dim, s.heads / s.kv_heads);
        let unit = LOG2_E.times(kernel::inverse_square_root(dim as u64));
        let inputs = self.weights.layers[layer].o.stride_in();
        let mut scales = [Scale::ZERO; 256];
        for step in 0..steps {
            let position = self.position + step as u64;
            let slot = (position % s.window as u64) as usize;
            let filled = (position + 1).min(s.window as u64) as usize;
            for h in 0..s.kv_heads {
                let one = (lane * s.kv_heads + h) * steps + step;
                let own = one * dim..(one + 1) * dim;
                let ring = (layer * self.lanes + lane) * s.kv_heads + h;
                let slots = ring * room(s.window)..(ring + 1) * room(s.window);
                let channels = slots.start * dim..slots.end * dim;
                let keys = &mut cache.keys[channels.clone()];
                let values = &mut cache.values[channels];
                kernel::put_key(keys, slot, &from.keys[own.clone()]);
                kernel::put_value(values, slot, &from.values[own]);
                cache.key_scales[slots.start + slot] = from.key_scales[one];
                cache.value_scales[slots.start + slot] = from.value_scales[one];
                let window = Window {
                    head_dim: dim,
                    filled,
                    keys,
                    values,
                    key_scales: &cache.key_scales[slots.clone()],
                    value_scales: &cache.value_scales[slots],
                };
                let (queries, heads) = (one * group..(one + 1) * group, h * group..(h + 1) * group);
                self.kernel.attend(
                    &from.queries[queries.start * dim..queries.end * dim],
                    &from.query_scales[queries],
                    unit,
                    &window,
                    &mut self.attention,
                    &mut b.attended[heads.start * dim..heads.end * dim],
                    &mut scales[heads],
                );
            }
            let row = step * lanes + lane;
            b.head_scales[row] = self.kernel.join(
                &b.attended,
                &scales[..s.heads],
                dim,
                &mut b.scratch[..s.queries()],
                &mut b.heads[row * inputs..row * inputs + s.queries()],
            );
        }
    }

    /// `x += down(silu(gate(norm(x))) * up(norm(x)))`.
    fn mlp_block(&mut self, layer: usize, rows: usize) {
        for first in (0..rows).step_by(PART) {
            self.mlp_part(layer, first, PART.min(rows - first));
        }
    }

    /// [`mlp_block`](State::mlp_block) for the rows from `first` on.
    fn mlp_part(&mut self, layer: usize, first: usize, rows: usize) {
        let (s, l) = (self.model.shape(), &self.model.layers[layer]);
        let (w, b) = (&self.weights.layers[layer], &mut self.buffers);
        normalise(self.kernel, &self.model, &l.mlp_norm, b, first, rows);
        self.kernel
            .product(&w.gate_up, rows, &b.narrow, &mut b.sums);
        let scales = GateScales {
            gate_channel: &l.gate,
            up_channel: &l.up,
            gate_unit: l.gate_unit,
            up_unit: l.up_unit,
            log2_e: LOG2_E,
            logistic: &self.model.logistic,
        };
        let inputs = w.down.stride_in();
        for row in 0..rows {
            let sums = &b.sums[row * w.gate_up.stride_out()..][..2 * s.hidden];
            b.scales[row] = self.kernel.gated(
                &sums[..s.hidden],
                &sums[s.hidden..],
                &scales,
                b.scales[row],
                &mut b.scratch[..s.hidden],
                &mut b.hidden[row * inputs..row * inputs + s.hidden],
            );
        }
        self.kernel.product(&w.down, rows, &b.hidden, &mut b.sums);
        for row in 0..rows {
            self.kernel.accumulate(
                &mut b.x[(first + row) * s.width..(first + row + 1) * s.width],
                &b.sums[row * w.down.stride_out()..][..s.width],
                &l.down,
                s.hidden,
                l.down_unit.times(b.scales[row]),
            );
        }
    }

    /// The distributions of a few rows.
    fn head(&mut self, first: usize, rows: usize, mut sink: impl FnMut(usize, &Distribution)) {
        let s = self.model.shape();
        let (w, b) = (&self.weights.head, &mut self.buffers);
        normalise(
            self.kernel,
            &self.model,
            &self.model.final_norm,
            b,
            first,
            rows,
        );
        self.kernel.product(w, rows, &b.narrow, &mut b.logits);
        let unit = self.model.head_unit.times(LOG2_E);
        for row in 0..rows {
            let distribution = self.kernel.distribute(
                &b.logits[row * w.stride_out()..][..s.vocab],
                &self.model.head_scales,
                unit.times(b.scales[row]),
                &mut b.scratch[..s.vocab],
                &mut b.blocks,
            );
            sink(first + row, &distribution);
        }
    }
}

/// What is added to a head of the joint projection, if anything is.
fn bias(layer: &Layer, head: usize, dim: usize) -> Option<(&[i16], Scale)> {
    let unit = *layer.bias_units.get(head)?;
    Some((layer.bias.get(head * dim..(head + 1) * dim)?, unit))
}

/// Slots that kernels want for a window.
fn room(window: usize) -> usize {
    window.next_multiple_of(64)
}

/// Normalises and quantises `rows` rows of the stream from row `first` into
/// the first rows of `narrow`.
fn normalise(
    kernel: &dyn Arithmetic,
    model: &Model,
    gains: &Gains,
    b: &mut Buffers,
    first: usize,
    rows: usize,
) {
    let width = model.shape().width;
    let stride = width.next_multiple_of(INPUTS);
    let norm = Norm {
        gain: &gains.gain,
        unit: gains.unit,
        epsilon: model.header.epsilon,
    };
    for row in 0..rows {
        let x = &b.x[(first + row) * width..(first + row + 1) * width];
        let out = &mut b.narrow[row * stride..row * stride + width];
        b.scales[row] = kernel.normalise(x, &norm, &mut b.scratch[..width], out);
    }
}
