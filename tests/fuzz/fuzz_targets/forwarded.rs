#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| wayline_fuzz_targets::forwarded(data));
