//! The name of a slice on any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mainstay_repository::fuzzing::slice_name(bytes));
