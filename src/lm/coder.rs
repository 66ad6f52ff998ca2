//! The binary arithmetic coder.
//!
//! An interval of 64-bit numbers is narrowed by each decision in proportion to
//! its probability; the bytes on which its two ends agree are final. Carryless
//! (as of paq): where the ends straddle a byte boundary the interval may
//! become small, which costs a fraction of a bit once in millions of decisions.

/// Codes decisions one after another. Encoder and decoder are the same to their
/// user: both return the decision, only the encoder looks at `bit`.
pub trait BitCoder {
    /// `p1` is the probability of a one, in 1/65536, from 1 to 65535.
    fn code(&mut self, bit: u32, p1: u32) -> u32;
}

/// The interval `low..=high` that the decisions so far have left.
struct Interval {
    low: u64,
    high: u64,
}

impl Interval {
    const ALL: Interval = Interval {
        low: 0,
        high: u64::MAX,
    };

    /// The last number of the part that a one gets. `low <= split < high`:
    /// between decisions the ends differ in their first byte.
    #[inline(always)]
    fn split(&self, p1: u32) -> u64 {
        let (range, p1) = (self.high - self.low, u64::from(p1 & 0xffff));
        self.low + (range >> 16) * p1 + (((range & 0xffff) * p1) >> 16)
    }

    #[inline(always)]
    fn narrow(&mut self, bit: u32, split: u64) {
        if bit != 0 {
            self.high = split;
        } else {
            self.low = split + 1;
        }
    }

    /// Takes off the first byte when both ends agree on it.
    #[inline(always)]
    fn shift(&mut self) -> Option<u8> {
        if (self.low ^ self.high) >> 56 != 0 {
            return None;
        }
        let byte = (self.low >> 56) as u8;
        self.low <<= 8;
        self.high = self.high << 8 | 0xff;
        Some(byte)
    }
}

/// Writes decisions.
pub struct Encoder {
    interval: Interval,
    out: Vec<u8>,
}

impl Default for Encoder {
    fn default() -> Self {
        Encoder {
            interval: Interval::ALL,
            out: Vec::new(),
        }
    }
}

impl Encoder {
    /// The bytes, without zeros at their end: a decoder reads zeros there.
    pub fn finish(mut self) -> Vec<u8> {
        let Interval { low, high } = self.interval;
        // the number of the interval with the fewest bytes
        let fewest = (0..8u32).find_map(|bytes| {
            let below = u64::MAX >> (8 * bytes);
            let v = low.checked_add(below)? & !below;
            (v <= high).then_some(v)
        });
        self.out
            .extend_from_slice(&fewest.unwrap_or(low).to_be_bytes());
        let used = self.out.iter().rposition(|&b| b != 0).map_or(0, |i| i + 1);
        self.out.truncate(used);
        self.out
    }
}

impl BitCoder for Encoder {
    #[inline(always)]
    fn code(&mut self, bit: u32, p1: u32) -> u32 {
        let split = self.interval.split(p1);
        self.interval.narrow(bit, split);
        while let Some(byte) = self.interval.shift() {
            self.out.push(byte);
        }
        bit
    }
}

/// Reads decisions. Past the end of its bytes it reads zeros: it never fails,
/// and what garbage decodes to is garbage, which the caller bounds.
pub struct Decoder<'a> {
    interval: Interval,
    at: u64,
    bytes: std::slice::Iter<'a, u8>,
}

impl<'a> Decoder<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        let mut d = Decoder {
            interval: Interval::ALL,
            at: 0,
            bytes: bytes.iter(),
        };
        for _ in 0..8 {
            d.next_byte();
        }
        d
    }

    #[inline(always)]
    fn next_byte(&mut self) {
        self.at = self.at << 8 | u64::from(self.bytes.next().copied().unwrap_or(0));
    }
}

impl BitCoder for Decoder<'_> {
    #[inline(always)]
    fn code(&mut self, _bit: u32, p1: u32) -> u32 {
        let split = self.interval.split(p1);
        let bit = u32::from(self.at <= split);
        self.interval.narrow(bit, split);
        while self.interval.shift().is_some() {
            self.next_byte();
        }
        bit
    }
}

/// Counts bits instead of writing them: for training and measurements.
#[derive(Default)]
pub struct Cost {
    pub bits: f64,
}

impl BitCoder for Cost {
    #[inline(always)]
    fn code(&mut self, bit: u32, p1: u32) -> u32 {
        let p = if bit != 0 { p1 } else { 65536 - p1 };
        self.bits += 16.0 - f64::from(p).log2();
        bit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(decisions: &[(u32, u32)]) -> Vec<u8> {
        let mut e = Encoder::default();
        for &(bit, p1) in decisions {
            e.code(bit, p1);
        }
        e.finish()
    }

    fn decode(bytes: &[u8], decisions: &[(u32, u32)]) -> Vec<u32> {
        let mut d = Decoder::new(bytes);
        decisions.iter().map(|&(_, p1)| d.code(9, p1)).collect()
    }

    fn check(decisions: &[(u32, u32)]) -> usize {
        let bytes = encode(decisions);
        let bits: Vec<u32> = decisions.iter().map(|d| d.0).collect();
        assert_eq!(decode(&bytes, decisions), bits);
        let mut cost = Cost::default();
        for &(bit, p1) in decisions {
            cost.code(bit, p1);
        }
        let ideal = cost.bits / 8.0;
        assert!(
            bytes.len() as f64 <= ideal * 1.0001 + 2.0,
            "{} bytes for {ideal:.1}",
            bytes.len()
        );
        bytes.len()
    }

    #[test]
    fn close_to_the_entropy() {
        assert_eq!(check(&[]), 0);
        check(&[(1, 1)]);
        check(&[(0, 65535)]);
        check(&vec![(1, 65535); 100_000]);
        check(&vec![(0, 65535); 1000]);
        check(&vec![(0, 32768); 1000]);
    }

    /// Where the ends of the interval straddle: always the half that keeps
    /// the middle in it.
    #[test]
    fn straddling() {
        let mut e = Encoder::default();
        let mut decisions = vec![];
        for _ in 0..400 {
            let bit = u32::from(e.interval.split(32768) >= 1 << 63);
            e.code(bit, 32768);
            decisions.push((bit, 32768));
        }
        let bits: Vec<u32> = decisions.iter().map(|d| d.0).collect();
        assert_eq!(decode(&encode(&decisions), &decisions), bits);
    }

    proptest! {
        #[test]
        fn decisions_come_back(decisions in prop::collection::vec((0u32..2, prop_oneof![1u32..65536, 1u32..4, 65530u32..65536]), 0..2000)) {
            check(&decisions);
        }

        #[test]
        fn garbage_decodes_to_something(bytes: Vec<u8>, ps in prop::collection::vec(1u32..65536, 0..2000)) {
            let mut d = Decoder::new(&bytes);
            for p in ps {
                prop_assert!(d.code(0, p) < 2);
            }
        }
    }
}
