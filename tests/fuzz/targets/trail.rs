//! Hands libFuzzer's inputs to [`weft_fuzz::trail`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weft_fuzz::trail(data));
