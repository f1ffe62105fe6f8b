//! Reports on operations on any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mainstay_mongo::fuzzing::operations(bytes));
