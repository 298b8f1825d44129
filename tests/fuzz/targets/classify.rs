//! Hands libFuzzer's inputs to [`weft_fuzz::classify`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weft_fuzz::classify(data));
