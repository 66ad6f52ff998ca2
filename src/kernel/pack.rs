//! Weights and the KV cache in the order in which kernels read them.

use super::memory::Aligned;

/// Columns of a block of weights.
pub const COLUMNS: usize = 16;
/// Inputs are padded with zeros to a multiple of this.
pub const INPUTS: usize = 64;
/// Outputs are padded to a multiple of this.
pub const OUTPUTS: usize = 64;

/// How a kernel wants its weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Row after row.
    Rows,
    /// Blocks of 16 outputs; in a block, for every 4 inputs, 16 times 4
    /// weights.
    Signed,
    /// The same with 128 added, as unsigned bytes.
    Biased,
}

/// Number of packings.
pub const PACKINGS: usize = 3;

/// An int8 matrix of `outputs` rows of `inputs` weights, packed. What pads it
/// are zero weights.
pub struct Packed {
    pub inputs: usize,
    pub outputs: usize,
    pub packing: Packing,
    pub data: Aligned<u8>,
}

impl Packed {
    /// Packs two's complement weights, row after row of `inputs`.
    pub fn new(weights: &[u8], inputs: usize, packing: Packing) -> Packed {
        let outputs = weights.len() / inputs;
        let bias = match packing {
            Packing::Rows | Packing::Signed => 0,
            Packing::Biased => 0x80,
        };
        let mut packed = Packed {
            inputs,
            outputs,
            packing,
            data: Aligned::new(0),
        };
        let mut data = Aligned::new(packed.stride_out() * packed.stride_in());
        data.fill(bias);
        let block = COLUMNS * packed.stride_in();
        for (j, row) in weights.chunks_exact(inputs).enumerate() {
            let (base, step) = match packing {
                Packing::Rows => (j * packed.stride_in(), 4),
                _ => (j / COLUMNS * block + j % COLUMNS * 4, COLUMNS * 4),
            };
            for (k, four) in row.chunks(4).enumerate() {
                let at = base + k * step;
                for (d, &w) in data[at..at + four.len()].iter_mut().zip(four) {
                    *d = w ^ bias;
                }
            }
        }
        packed.data = data;
        packed
    }

    /// Values from one row of inputs to the next.
    pub fn stride_in(&self) -> usize {
        self.inputs.next_multiple_of(INPUTS)
    }

    /// Sums from one row of outputs to the next.
    pub fn stride_out(&self) -> usize {
        self.outputs.next_multiple_of(OUTPUTS)
    }
}

/// The keys and values that one lane has seen, of one layer and KV head: a
/// ring of `window` slots. Keys (plus 128) lie in blocks of 16 slots; in a
/// block, for every 4 channels, 16 times 4 values. Values lie in blocks of 4
/// slots; in a block, for every channel, 4 values. There is room for a
/// multiple of 64 slots.
#[derive(Clone, Copy)]
pub struct Window<'a> {
    pub head_dim: usize,
    /// Slots in use, from slot 0.
    pub filled: usize,
    pub keys: &'a [u8],
    pub values: &'a [i8],
    /// Scales with 24 bits after the point.
    pub key_scales: &'a [u32],
    pub value_scales: &'a [u32],
}

impl Window<'_> {
    /// Panics unless the lengths fit each other: kernels rely on it.
    pub(super) fn check(&self, queries: usize, out: usize, stride: usize) {
        let slots = self.filled.next_multiple_of(64);
        assert!(self.head_dim > 0 && self.head_dim.is_multiple_of(16));
        assert!(self.filled > 0 && slots <= stride && stride.is_multiple_of(64));
        assert!(queries.is_multiple_of(self.head_dim) && out == queries);
        assert!(self.keys.len() >= slots * self.head_dim);
        assert!(self.values.len() >= slots * self.head_dim);
        assert!(self.key_scales.len() >= self.filled && self.value_scales.len() >= self.filled);
    }
}

/// Puts a key into its slot.
#[inline(always)]
pub fn put_key(keys: &mut [u8], slot: usize, key: &[i8]) {
    let at = slot / 16 * 16 * key.len() + slot % 16 * 4;
    for (four, out) in key.chunks_exact(4).zip(keys[at..].chunks_mut(64)) {
        for (o, &k) in out.iter_mut().zip(four) {
            *o = k as u8 ^ 0x80;
        }
    }
}

/// Puts a value into its slot.
#[inline(always)]
pub fn put_value(values: &mut [i8], slot: usize, value: &[i8]) {
    let at = slot / 4 * 4 * value.len() + slot % 4;
    for (&v, out) in value.iter().zip(values[at..].chunks_mut(4)) {
        out[0] = v;
    }
}
