//! The cutting of Redis's replication stream on any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mainstay_rdb::fuzzing::stream(bytes));
