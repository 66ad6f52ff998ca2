//! Buffers that begin at a cache line.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// A cache line.
#[repr(C, align(64))]
struct Line([u8; 64]);

/// Integers of which every bit pattern is a value.
pub trait Plain: Copy + Default {}
impl Plain for i8 {}
impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for i16 {}
impl Plain for i32 {}
impl Plain for u32 {}
impl Plain for [u16; 16] {}

/// A zeroed slice of integers aligned to 64 bytes, for vector loads. A large
/// one lies in huge pages, where the system has them: what is read from end to
/// end for every step then takes far fewer look-ups of addresses.
pub struct Aligned<T: Plain> {
    lines: NonNull<Line>,
    layout: Layout,
    len: usize,
    of: PhantomData<T>,
}

// SAFETY: it owns its memory and hands it out as slices do.
unsafe impl<T: Plain + Send> Send for Aligned<T> {}
// SAFETY: as above.
unsafe impl<T: Plain + Sync> Sync for Aligned<T> {}

/// The size of a huge page.
const HUGE: usize = 2 << 20;

impl<T: Plain> Aligned<T> {
    pub fn new(len: usize) -> Aligned<T> {
        let lines = (len * size_of::<T>()).div_ceil(64).max(1);
        let bytes = lines * 64;
        // half a huge page may stay empty, no more
        let huge = bytes >= HUGE / 2;
        let (bytes, align) = match huge {
            true => (bytes.next_multiple_of(HUGE), HUGE),
            false => (bytes, 64),
        };
        let Ok(layout) = Layout::from_size_align(bytes, align) else {
            panic!("{bytes} bytes are more than there are addresses");
        };
        // SAFETY: the size is not 0; all of it is written before it is read
        let lines = unsafe {
            let Some(lines) = NonNull::new(alloc(layout)) else {
                handle_alloc_error(layout);
            };
            #[cfg(target_os = "linux")]
            if huge {
                // only advice: a system without such pages refuses it
                libc::madvise(lines.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE);
            }
            lines.as_ptr().write_bytes(0, bytes);
            lines.cast()
        };
        Aligned {
            lines,
            layout,
            len,
            of: PhantomData,
        }
    }
}

impl<T: Plain> Drop for Aligned<T> {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout
        unsafe { dealloc(self.lines.as_ptr().cast(), self.layout) };
    }
}

impl<T: Plain> Deref for Aligned<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `lines` holds at least `len * size_of::<T>()` initialised
        // bytes, aligned to 64, and any bytes are a `T` (`Plain`).
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for Aligned<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`; the borrow of `self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_ptr().cast(), self.len) }
    }
}
