//! Hands libFuzzer's inputs to [`weft_fuzz::headers`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weft_fuzz::headers(data));
