//! Hands libFuzzer's inputs to [`weft_fuzz::injection`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weft_fuzz::injection(data));
