//! Matrix products with AMX tiles, the rest as with AVX-512.
//!
//! A packed block of 16 columns and 64 inputs is a tile as it lies: 16 rows of
//! 64 bytes. The intrinsics are not stable yet, so the instructions are
//! written out. Attention and products of a few rows, which tiles do not pay
//! for, go through AVX-512.

use std::arch::asm;
use std::sync::OnceLock;

use super::avx512::{Vnni, signed_rows};
use super::pack::{COLUMNS, INPUTS, Packed, Packing, Window};

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
        // SAFETY: tiles are available; the configuration is 64 bytes
        unsafe {
            asm!("ldtilecfg [{c}]", c = in(reg) &raw const CONFIG, options(nostack, readonly));
        }
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
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }

    unsafe fn scores(queries: &[i8], window: &Window, stride: usize, out: &mut [i32]) {
        // SAFETY: the same contract
        unsafe { Vnni::scores(queries, window, stride, out) }
    }

    unsafe fn weigh(weights: &[u16], window: &Window, stride: usize, out: &mut [i32]) {
        // SAFETY: the same contract
        unsafe { Vnni::weigh(weights, window, stride, out) }
    }

    unsafe fn spread(powers: &[i32], sum: u64, out: &mut [u32]) {
        // SAFETY: the same contract
        unsafe { Vnni::spread(powers, sum, out) }
    }
}
