//! A server's part of a log-in on any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mainstay_mongo::fuzzing::challenge(bytes));
