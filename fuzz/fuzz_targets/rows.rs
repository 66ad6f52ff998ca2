#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| laconicfs_fuzz::rows(data));
