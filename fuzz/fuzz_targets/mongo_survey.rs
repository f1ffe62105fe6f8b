//! The survey of an oplog on any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mainstay_mongo::fuzzing::survey(bytes));
