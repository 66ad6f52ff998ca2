//! Plain loops, compiled once more for wider registers.

/// How wide; the results are the same. `LACONICFS_KERNEL=scalar` forces the
/// narrowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// What every CPU of the target has.
    Base,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Width {
    /// The widest that this CPU has.
    pub fn best() -> Width {
        static BEST: std::sync::OnceLock<Width> = std::sync::OnceLock::new();
        *BEST.get_or_init(|| {
            if std::env::var_os("LACONICFS_KERNEL").is_some_and(|k| k == "scalar") {
                return Width::Base;
            }
            *Width::all().last().unwrap_or(&Width::Base)
        })
    }

    /// All that this CPU has, from the narrowest.
    pub fn all() -> Vec<Width> {
        #[allow(unused_mut)]
        let mut all = vec![Width::Base];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") {
                all.push(Width::Avx2);
                if is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vl") {
                    all.push(Width::Avx512);
                }
            }
        }
        all
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2")]
fn avx2<R>(f: impl FnOnce() -> R) -> R {
    f()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,avx512f,avx512bw,avx512vl,avx512dq")]
fn avx512<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// Runs a closure whose loops (all it calls must be `inline(always)`) are
/// compiled for registers of this width.
#[inline(always)]
pub fn wide<R>(width: Width, f: impl FnOnce() -> R) -> R {
    match width {
        Width::Base => f(),
        // SAFETY: a `Width` other than `Base` comes from `all`, which has
        // asked the CPU for the features.
        #[cfg(target_arch = "x86_64")]
        Width::Avx2 => unsafe { avx2(f) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Width::Avx512 => unsafe { avx512(f) },
    }
}

/// Asks for the cache line of a value that will be wanted soon.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, on an address that is valid.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
