//! The products, plainly: the specification of the other kernels'.

use super::number::Scale;
use super::pack::{Packed, Packing, Window};
use super::{Attention, Sums, attend};

pub struct Plain;

impl super::Dots for Plain {
    const PACKING: Packing = Packing::Rows;

    unsafe fn product(w: &Packed, rows: usize, a: &[i8], out: &mut [i32]) {
        let (stride_in, stride_out) = (w.stride_in(), w.stride_out());
        let rows_of_a = a.chunks_exact(stride_in).take(rows);
        for (a, out) in rows_of_a.zip(out.chunks_exact_mut(stride_out)) {
            for (o, w) in out.iter_mut().zip(w.data.chunks_exact(stride_in)) {
                let products = a
                    .iter()
                    .zip(w)
                    .map(|(&a, &w)| i32::from(a) * i32::from(w as i8));
                *o = products.sum();
            }
        }
    }

    unsafe fn attend(
        queries: &[i8],
        scales: &[Scale],
        unit: Scale,
        window: &Window,
        scratch: &mut Attention,
        out: &mut [i32],
        out_scales: &mut [Scale],
    ) {
        // SAFETY: the same contract
        unsafe { attend::<Plain>(queries, scales, unit, window, scratch, out, out_scales) }
    }
}

impl Sums for Plain {
    unsafe fn scores(queries: &[i8], window: &Window, stride: usize, out: &mut [i32]) {
        let dim = window.head_dim;
        for (q, out) in queries.chunks_exact(dim).zip(out.chunks_exact_mut(stride)) {
            for (slot, o) in out.iter_mut().take(window.filled).enumerate() {
                let at = slot / 16 * 16 * dim + slot % 16 * 4;
                *o = (0..dim)
                    .map(|d| {
                        let k = window.keys[at + d / 4 * 64 + d % 4] ^ 0x80;
                        i32::from(k as i8) * i32::from(q[d])
                    })
                    .sum();
            }
        }
    }

    unsafe fn weigh(weights: &[u16], window: &Window, stride: usize, out: &mut [i32]) {
        let dim = window.head_dim;
        for (p, out) in weights.chunks_exact(stride).zip(out.chunks_exact_mut(dim)) {
            out.fill(0);
            let blocks = window.values.chunks_exact(4 * dim);
            for (p, v) in p[..window.filled].chunks(4).zip(blocks) {
                for (o, v) in out.iter_mut().zip(v.chunks_exact(4)) {
                    for (&p, &v) in p.iter().zip(v) {
                        *o += i32::from(p) * i32::from(v);
                    }
                }
            }
        }
    }
}
