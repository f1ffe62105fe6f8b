//! A sealed record of a repository on any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mainstay_repository::fuzzing::record(bytes));
