#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| vq_fuzz::run("search", bytes));
