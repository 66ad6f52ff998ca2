//! Matrix products with AMX tiles, the rest as with AVX-512.
//!
//! A packed block of 16 columns and 64 inputs is a tile as it lies: 16 rows of
//! 64 bytes. The intrinsics are not stable yet, so the instructions are
//! written out. Attention and products of a few rows, which tiles do not pay
//! for, go through AVX-512.

use std::arch::asm;
use std::sync::OnceLock;

use super::avx512::{Sums, Vnni, attend, correction, places, signed_rows};
use super::number::Scale;
use super::pack::{COLUMNS, INPUTS, Packed, Packing, Window};
use super::{Attention, GateScales, HeadScales, Norm};

pub struct Tiles;

/// Rows below which tiles do not pay.
const FEW: usize = 5;

/// All eight tiles with 16 rows of 64 bytes, palette 1.
#[repr(C, align(64))]
struct Config([u8; 64]);

static CONFIG: Config = {
    let mut c = [0; 64];
    c[0] = 1;
    let mut tile = 0;
    while tile < 8 {
        c[16 + 2 * tile] = 64;
        c[48 + tile] = 16;
        tile += 1;
    }
    Config(c)
};

/// Asks the kernel for the use of tiles; whether it and the processor agree.
/// Needs `std::is_x86_feature_detected` for the AVX-512 side separately.
pub fn available() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| {
        let leaf = std::arch::x86_64::__cpuid(0);
        if leaf.eax < 7 {
            return false;
        }
        let features = std::arch::x86_64::__cpuid_count(7, 0).edx;
        let (tiles, int8) = (features >> 24 & 1, features >> 25 & 1);
        tiles == 1 && int8 == 1 && permitted()
    })
}

/// Has this process been given the tile registers?
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: a system call without pointers; an old kernel refuses it
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// Sums of 16 rows and two blocks of columns over `tiles` times 64 inputs.
///
/// # Safety
/// Tiles are available and configured; `a` is readable at 16 rows of
/// `64 * tiles` bytes `a_stride` apart, both blocks of `w` at `1024 * tiles`
/// bytes, `out` writable at 16 rows of 32 sums `out_stride` bytes apart.
unsafe fn one_row_tile(
    a: *const i8,
    a_stride: usize,
    w: [*const u8; 2],
    tiles: usize,
    out: *mut i32,
    out_stride: usize,
) {
    // SAFETY: the caller vouches for the memory; only tile registers change
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "2:",
            "tileloadd tmm4, [{a} + {a_stride}]",
            "tileloadd tmm5, [{w0} + {row}]",
            "tileloadd tmm6, [{w1} + {row}]",
            "tdpbssd tmm0, tmm4, tmm5",
            "tdpbssd tmm1, tmm4, tmm6",
            "add {a}, 64",
            "add {w0}, 1024",
            "add {w1}, 1024",
            "dec {tiles}",
            "jnz 2b",
            "tilestored [{out} + {out_stride}], tmm0",
            "tilestored [{out} + {out_stride} + 64], tmm1",
            a = inout(reg) a => _,
            a_stride = in(reg) a_stride,
            w0 = inout(reg) w[0] => _,
            w1 = inout(reg) w[1] => _,
            row = in(reg) 64usize,
            tiles = inout(reg) tiles => _,
            out = in(reg) out,
            out_stride = in(reg) out_stride,
            out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm5") _, out("tmm6") _,
            options(nostack),
        );
    }
}

/// The same for 32 rows: each tile of weights is loaded once for both.
///
/// # Safety
/// As for [`one_row_tile`], with 32 rows.
unsafe fn two_row_tiles(
    a: *const i8,
    a_stride: usize,
    w: [*const u8; 2],
    tiles: usize,
    out: *mut i32,
    out_stride: usize,
) {
    // SAFETY: rows 16 to 31 of the caller's ranges
    let (a1, out1) = unsafe { (a.add(16 * a_stride), out.byte_add(16 * out_stride)) };
    // SAFETY: the caller vouches for the memory; only tile registers change
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{a} + {a_stride}]",
            "tileloadd tmm5, [{w0} + {row}]",
            "tileloadd tmm6, [{w1} + {row}]",
            "tileloadd tmm7, [{a1} + {a_stride}]",
            "tdpbssd tmm0, tmm4, tmm5",
            "tdpbssd tmm1, tmm4, tmm6",
            "tdpbssd tmm2, tmm7, tmm5",
            "tdpbssd tmm3, tmm7, tmm6",
            "add {a}, 64",
            "add {a1}, 64",
            "add {w0}, 1024",
            "add {w1}, 1024",
            "dec {tiles}",
            "jnz 2b",
            "tilestored [{out} + {out_stride}], tmm0",
            "tilestored [{out} + {out_stride} + 64], tmm1",
            "tilestored [{out1} + {out_stride}], tmm2",
            "tilestored [{out1} + {out_stride} + 64], tmm3",
            a = inout(reg) a => _,
            a1 = inout(reg) a1 => _,
            a_stride = in(reg) a_stride,
            w0 = inout(reg) w[0] => _,
            w1 = inout(reg) w[1] => _,
            row = in(reg) 64usize,
            tiles = inout(reg) tiles => _,
            out = in(reg) out,
            out1 = in(reg) out1,
            out_stride = in(reg) out_stride,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}

impl super::Dots for Tiles {
    const PACKING: Packing = Packing::Signed;

    unsafe fn product(w: &Packed, rows: usize, a: &[i8], out: &mut [i32]) {
        if rows < FEW {
            // SAFETY: this kernel is listed only where AVX-512 is too; the
            // caller checked the lengths
            return unsafe { signed_rows(w, rows, a, out) };
        }
        let (stride_in, stride_out) = (w.stride_in(), w.stride_out());
        // SAFETY: tiles are available
        unsafe { configure(&CONFIG) };
        for column in (0..stride_out).step_by(2 * COLUMNS) {
            // SAFETY: `stride_out` is a multiple of 64; column blocks have
            // `16 * stride_in` bytes
            let blocks =
                [0, 1].map(|i| unsafe { w.data.as_ptr().add((column + i * COLUMNS) * stride_in) });
            let mut row = 0;
            while row < rows {
                // SAFETY: the caller checked that `a` and `out` have room for
                // a multiple of 16 rows
                unsafe {
                    let a = a.as_ptr().add(row * stride_in);
                    let out = out.as_mut_ptr().add(row * stride_out + column);
                    let tiles = stride_in / INPUTS;
                    if rows - row > 16 {
                        two_row_tiles(a, stride_in, blocks, tiles, out, 4 * stride_out);
                        row += 32;
                    } else {
                        one_row_tile(a, stride_in, blocks, tiles, out, 4 * stride_out);
                        row += 16;
                    }
                }
            }
        }
        // SAFETY: tiles are available and no longer in use
        unsafe { release() };
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
        // rows of tiles are the queries, their bytes two for each
        if window.head_dim.is_multiple_of(64) && scales.len() <= 8 {
            // SAFETY: the same contract
            unsafe { attend::<Tiles>(queries, scales, unit, window, scratch, out, out_scales) }
        } else {
            // SAFETY: the same contract
            unsafe { attend::<Vnni>(queries, scales, unit, window, scratch, out, out_scales) }
        }
    }

    super::avx512_steps! {}
}

/// Tiles for attention: 0 to 3 for sums and 7 for what is multiplied, of so
/// many rows; 4 to 6 for keys or values.
fn attention_tiles(rows: usize) -> Config {
    let mut c = CONFIG.0;
    for tile in [0, 1, 2, 3, 7] {
        c[48 + tile] = rows as u8;
    }
    Config(c)
}

/// Uses these tiles from now on.
///
/// # Safety
/// Tiles are available.
unsafe fn configure(config: &Config) {
    // SAFETY: the configuration is 64 bytes; only tile registers change
    unsafe {
        asm!("ldtilecfg [{c}]", c = in(reg) &raw const *config, options(nostack, readonly));
    }
}

/// Only for at most 8 queries and heads of a multiple of 64 channels.
impl Sums for Tiles {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn scores(queries: &[i8], window: &Window, stride: usize, out: &mut [i32]) {
        let dim = window.head_dim;
        let count = queries.len() / dim;
        // keys are stored plus 128: what that adds is taken off at the start
        let mut start = Rows([[0; COLUMNS]; 16]);
        for (start, q) in start.0.iter_mut().zip(queries.chunks_exact(dim)) {
            // SAFETY: `dim` bytes, a multiple of 16
            *start = [unsafe { correction(q.as_ptr().cast(), dim) }; COLUMNS];
        }
        // SAFETY: tiles are available (this kernel is listed); keys have room
        // for a multiple of 64 slots and `out` for `stride` sums a query
        unsafe {
            configure(&attention_tiles(count));
            // four blocks of slots at once: each waits long for its sums
            for slot in (0..window.filled).step_by(4 * COLUMNS) {
                let keys = window.keys.as_ptr().add(slot * dim);
                asm!(
                    "tileloadd tmm0, [{s} + {row}]",
                    "tileloadd tmm1, [{s} + {row}]",
                    "tileloadd tmm2, [{s} + {row}]",
                    "tileloadd tmm3, [{s} + {row}]",
                    s = in(reg) &raw const start,
                    row = in(reg) 64usize,
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    options(nostack, readonly),
                );
                for part in 0..dim / 64 {
                    let block = COLUMNS * dim;
                    asm!(
                        "tileloadd tmm7, [{q} + {dim}]",
                        "tileloadd tmm4, [{k0} + {row}]",
                        "tileloadd tmm5, [{k1} + {row}]",
                        "tileloadd tmm6, [{k2} + {row}]",
                        "tdpbsud tmm0, tmm7, tmm4",
                        "tileloadd tmm4, [{k3} + {row}]",
                        "tdpbsud tmm1, tmm7, tmm5",
                        "tdpbsud tmm2, tmm7, tmm6",
                        "tdpbsud tmm3, tmm7, tmm4",
                        q = in(reg) queries.as_ptr().add(64 * part),
                        dim = in(reg) dim,
                        k0 = in(reg) keys.add(1024 * part),
                        k1 = in(reg) keys.add(1024 * part + block),
                        k2 = in(reg) keys.add(1024 * part + 2 * block),
                        k3 = in(reg) keys.add(1024 * part + 3 * block),
                        row = in(reg) 64usize,
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack, readonly),
                    );
                }
                asm!(
                    "tilestored [{o} + {stride}], tmm0",
                    "tilestored [{o} + {stride} + 64], tmm1",
                    "tilestored [{o} + {stride} + 128], tmm2",
                    "tilestored [{o} + {stride} + 192], tmm3",
                    o = in(reg) out.as_mut_ptr().add(slot),
                    stride = in(reg) 4 * stride,
                    options(nostack),
                );
            }
            release();
        }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn weigh(bytes: &[u8], window: &Window, stride: usize, out: &mut [i32]) {
        let dim = window.head_dim;
        let queries = out.len() / dim;
        let mut sums = Rows([[0i32; 4 * COLUMNS]; 16]);
        // SAFETY: tiles are available; values have room for a multiple of 64
        // slots, the rows of bytes likewise, and there are two for each query
        unsafe {
            configure(&attention_tiles(2 * queries));
            for channel in (0..dim).step_by(64) {
                asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                    out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                    options(nostack, nomem));
                for slot in (0..window.filled).step_by(64) {
                    asm!(
                        "tileloadd tmm7, [{p} + {stride}]",
                        "tileloadd tmm4, [{v} + {row}]",
                        "tileloadd tmm5, [{v} + {row} + 64]",
                        "tileloadd tmm6, [{v} + {row} + 128]",
                        "tdpbusd tmm0, tmm7, tmm4",
                        "tileloadd tmm4, [{v} + {row} + 192]",
                        "tdpbusd tmm1, tmm7, tmm5",
                        "tdpbusd tmm2, tmm7, tmm6",
                        "tdpbusd tmm3, tmm7, tmm4",
                        p = in(reg) bytes.as_ptr().add(slot),
                        stride = in(reg) stride,
                        v = in(reg) window.values.as_ptr().add(slot * dim + 4 * channel),
                        row = in(reg) 4 * dim,
                        out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                        out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                        options(nostack, readonly),
                    );
                }
                asm!(
                    "tilestored [{o} + {row}], tmm0",
                    "tilestored [{o} + {row} + 64], tmm1",
                    "tilestored [{o} + {row} + 128], tmm2",
                    "tilestored [{o} + {row} + 192], tmm3",
                    o = in(reg) &raw mut sums,
                    row = in(reg) 256usize,
                    options(nostack),
                );
                for (query, out) in out.chunks_exact_mut(dim).enumerate() {
                    let (low, high) = places(query, queries);
                    let sums = sums.0[low].iter().zip(&sums.0[high]);
                    for (o, (&l, &h)) in out[channel..channel + 64].iter_mut().zip(sums) {
                        *o = l + (h << 8);
                    }
                }
            }
            release();
        }
    }
}

/// Rows of sums where a tile may lie.
#[repr(C, align(64))]
struct Rows<const N: usize>([[i32; N]; 16]);

/// Gives the tiles back.
///
/// # Safety
/// Tiles are available and no longer in use.
unsafe fn release() {
    // SAFETY: only tile registers change
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
}
