//! A slice of a replication stream on any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mainstay_repository::fuzzing::arrivals(bytes));
