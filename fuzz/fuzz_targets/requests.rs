#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| drpcd::fuzzing::run("requests", data));
