//! Hands libFuzzer's inputs to [`weft_fuzz::sse`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| weft_fuzz::sse(data));
