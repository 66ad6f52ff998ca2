//! Floats to integers: scales, and matrices of int8 weights.

use crate::kernel::Scale;

/// The largest channel scale.
const TOP: f64 = 32767.0;

/// A positive number as a scale.
pub fn scale(v: f64) -> Scale {
    let exponent = 30 - v.log2().floor() as i32;
    Scale::new((v * f64::from(exponent).exp2()) as u64, -exponent)
}

pub fn value(s: Scale) -> f64 {
    f64::from(s.m) * f64::from(s.e).exp2()
}

/// The unit in which the largest of these is 32767; anything if all are 0.
pub fn unit_for(values: impl Iterator<Item = f64>) -> Scale {
    let top = values.fold(0.0, |m: f64, v| m.max(v.abs()));
    // rounded up a little, so that the largest stays within 15 bits
    scale((top / TOP * (1.0 + 1e-8)).clamp(1e-30, 1e12))
}

/// A quantised matrix: weights, scales of its rows (channels), and the unit of
/// the scales in each of its groups of rows.
pub struct Matrix {
    pub weights: Vec<i8>,
    pub channels: Vec<u16>,
    pub units: Vec<Scale>,
    group: usize,
}

impl Matrix {
    /// Rows of `width` values; the scales of every `group` rows share a unit.
    pub fn new(values: &[f32], width: usize, group: usize) -> Matrix {
        let mut m = Matrix {
            weights: Vec::with_capacity(values.len()),
            channels: Vec::new(),
            units: Vec::new(),
            group,
        };
        for rows in values.chunks(width * group) {
            let peak = |row: &[f32]| row.iter().fold(0.0, |m: f32, v| m.max(v.abs()));
            let step = |row: &[f32]| f64::from(peak(row)) / 127.0;
            let unit = unit_for(rows.chunks(width).map(step));
            for row in rows.chunks(width) {
                // the scale is rounded first, so that it loses nothing
                let channel = (step(row) / value(unit)).ceil().clamp(1.0, TOP);
                let inverse = 1.0 / (channel * value(unit));
                let quantise = |&v: &f32| (f64::from(v) * inverse).round().clamp(-127.0, 127.0);
                m.weights.extend(row.iter().map(|v| quantise(v) as i8));
                m.channels.push(channel as u16);
            }
            m.units.push(unit);
        }
        m
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.weights.iter().map(|&w| w as u8).collect()
    }

    /// What a weight of 1 in this row stands for.
    pub fn step(&self, row: usize) -> f64 {
        f64::from(self.channels[row]) * value(self.units[row / self.group])
    }
}
