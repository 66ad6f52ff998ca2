//! The projections to queries, keys and values.

use super::Config;
use crate::error::Result;
use crate::lm::model::file::{Heads, Shape};

/// How much of a channel's size a query may take from its key, or give to it.
const MOST: f64 = 64.0;

/// One projection: rows of `width` weights, an output channel each, and what is
/// added to each; no biases where the family has none.
pub struct Projection {
    pub weights: Vec<f32>,
    pub bias: Vec<f32>,
}

/// Queries, keys and values of a layer.
pub struct Projections {
    pub q: Projection,
    pub k: Projection,
    pub v: Projection,
}

impl Projections {
    /// `take` gives a tensor of the layer by name and shape.
    pub fn take(
        config: &Config,
        take: impl Fn(&str, &[usize]) -> Result<Vec<f32>>,
    ) -> Result<Projections> {
        let s = &config.shape;
        let one = |name: &str, rows: usize| -> Result<Projection> {
            let weights = take(&format!("self_attn.{name}.weight"), &[rows, s.width])?;
            let bias = match config.family.heads() {
                Heads::Biased => take(&format!("self_attn.{name}.bias"), &[rows])?,
                Heads::Normed | Heads::Plain => Vec::new(),
            };
            Ok(Projection { weights, bias })
        };
        let keys = s.kv_heads * s.head_dim;
        Ok(Projections {
            q: one("q_proj", s.queries())?,
            k: one("k_proj", keys)?,
            v: one("v_proj", keys)?,
        })
    }

    /// Makes each channel of a key head about as large as those of the queries
    /// that meet it. A product of query and key does not change where one is
    /// multiplied by what the other is divided by, and the rotation mixes
    /// channels j and j + d/2 only, which get the same factor. Without it one
    /// large channel (biases of keys, above all) would take the 8 bits of its
    /// head for itself; the same idea as SmoothQuant (Xiao et al. 2023).
    pub fn balance(&mut self, s: &Shape, gains: &[f32]) {
        let (dim, half) = (s.head_dim, s.head_dim / 2);
        let group = s.heads / s.kv_heads;
        for head in 0..s.kv_heads {
            for j in 0..half {
                let pair = |h: usize| [h * dim + j, h * dim + j + half];
                let largest = |p: &Projection, channels: &mut dyn Iterator<Item = usize>| {
                    channels
                        .map(|c| p.size(c, s.width, gains))
                        .fold(1e-30, f64::max)
                };
                let queries = head * group..(head + 1) * group;
                let q = largest(&self.q, &mut queries.clone().flat_map(pair));
                let k = largest(&self.k, &mut pair(head).into_iter());
                let factor = (k / q).sqrt().clamp(1.0 / MOST, MOST) as f32;
                for channel in queries.flat_map(pair) {
                    self.q.multiply(channel, s.width, factor);
                }
                for channel in pair(head) {
                    self.k.multiply(channel, s.width, 1.0 / factor);
                }
            }
        }
    }
}

impl Projection {
    /// About how large an output channel becomes after a norm with these gains.
    fn size(&self, channel: usize, width: usize, gains: &[f32]) -> f64 {
        let row = &self.weights[channel * width..(channel + 1) * width];
        let squares = row
            .iter()
            .zip(gains)
            .map(|(&w, &g)| f64::from(w * g).powi(2));
        let bias = self.bias.get(channel).map_or(0.0, |b| f64::from(b.abs()));
        squares.sum::<f64>().sqrt() + bias
    }

    fn multiply(&mut self, channel: usize, width: usize, factor: f32) {
        let row = &mut self.weights[channel * width..(channel + 1) * width];
        row.iter_mut().for_each(|w| *w *= factor);
        if let Some(bias) = self.bias.get_mut(channel) {
            *bias *= factor;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape {
        vocab: 256,
        width: 32,
        layers: 1,
        heads: 2,
        kv_heads: 1,
        head_dim: 32,
        hidden: 32,
        window: 16,
    };

    /// Numbers that only look random, from -1 to 1.
    fn noise(seed: u64, count: usize) -> Vec<f32> {
        let mut x = seed;
        let mut next = || {
            x = x
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            (x >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    fn apply(p: &Projection, input: &[f32], head: usize) -> Vec<f64> {
        let dim = SHAPE.head_dim;
        let row = |c: usize| &p.weights[c * SHAPE.width..(c + 1) * SHAPE.width];
        let sum = |c: usize| {
            row(c)
                .iter()
                .zip(input)
                .map(|(&w, &x)| f64::from(w * x))
                .sum::<f64>()
        };
        (head * dim..(head + 1) * dim)
            .map(|c| sum(c) + f64::from(p.bias[c]))
            .collect()
    }

    fn quantised(row: &[f64]) -> Vec<f64> {
        let step = row.iter().fold(0.0, |m: f64, v| m.max(v.abs())) / 127.0;
        row.iter().map(|v| (v / step).round() * step).collect()
    }

    fn dot(a: &[f64], b: &[f64]) -> f64 {
        a.iter().zip(b).map(|(a, b)| a * b).sum()
    }

    /// Scores of queries and keys, and by how much 8 bits a head change them.
    fn scores(p: &Projections) -> (Vec<f64>, f64) {
        let mut scores = Vec::new();
        let mut error = 0.0;
        for i in 0..40 {
            let (a, b) = (noise(i, SHAPE.width), noise(100 + i, SHAPE.width));
            let (q, k) = (apply(&p.q, &a, (i % 2) as usize), apply(&p.k, &b, 0));
            scores.push(dot(&q, &k));
            error += (dot(&quantised(&q), &quantised(&k)) - dot(&q, &k)).abs();
        }
        (scores, error)
    }

    #[test]
    fn balance_keeps_scores_and_makes_quantising_gentler() {
        let projection = |seed, rows: usize| Projection {
            weights: noise(seed, rows * SHAPE.width),
            bias: noise(seed + 1, rows),
        };
        let mut p = Projections {
            q: projection(1, 64),
            k: projection(3, 32),
            v: projection(5, 32),
        };
        p.k.bias[3] = 300.0; // the size that trained checkpoints have
        let (before, error_before) = scores(&p);
        p.balance(&SHAPE, &[1.0; 32]);
        let (after, error_after) = scores(&p);
        for (b, a) in before.iter().zip(&after) {
            assert!((b - a).abs() < 1e-3 * b.abs().max(1.0), "{b} became {a}");
        }
        assert!(
            error_after < error_before / 3.0,
            "{error_before} became {error_after}"
        );
    }
}
