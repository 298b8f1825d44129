//! Hands libFuzzer's inputs to [`weft_fuzz::snapshot`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weft_fuzz::snapshot(data));
