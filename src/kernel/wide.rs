//! Plain loops, compiled once more for wider registers.

#[cfg(target_arch = "x86_64")]
use super::mixing::Avx512;
use super::mixing::{Mixing, Plain};

/// How wide; the results are the same. `LACONICFS_KERNEL` may force a narrower
/// one than the best.
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
            let forced = std::env::var_os("LACONICFS_KERNEL").unwrap_or_default();
            let most = match forced.to_str() {
                Some("scalar") => 1,
                Some("avx2" | "avxvnni") => 2,
                _ => usize::MAX,
            };
            let widest = Width::all().into_iter().take(most).next_back();
            widest.unwrap_or(Width::Base)
        })
    }

    /// All that this CPU has, from the narrowest.
    pub fn all() -> Vec<Width> {
        #[allow(unused_mut)]
        let mut all = vec![Width::Base];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("bmi1")
                && is_x86_feature_detected!("bmi2")
                && is_x86_feature_detected!("lzcnt")
                && is_x86_feature_detected!("popcnt");
            let avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq");
            if avx2 {
                all.push(Width::Avx2);
            }
            if avx2 && avx512 {
                all.push(Width::Avx512);
            }
        }
        all
    }
}

/// Work whose loops shall use wide registers: `run`, and all that it calls,
/// must be `inline(always)`. (A closure would not be inlined.)
pub trait Job {
    type Output;
    fn run(self, mixing: impl Mixing) -> Self::Output;
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn avx2<J: Job>(job: J) -> J::Output {
    job.run(Plain)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt,avx512f,avx512bw,avx512vl,avx512dq")]
fn avx512<J: Job>(job: J) -> J::Output {
    job.run(Avx512(()))
}

/// Runs a job, its loops compiled for registers of this width.
#[inline(always)]
pub fn wide<J: Job>(width: Width, job: J) -> J::Output {
    match width {
        Width::Base => job.run(Plain),
        // SAFETY: a `Width` other than `Base` comes from `all`, which has
        // asked the CPU for the features.
        #[cfg(target_arch = "x86_64")]
        Width::Avx2 => unsafe { avx2(job) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Width::Avx512 => unsafe { avx512(job) },
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
