//! The walk over a database file of Redis on any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mainstay_rdb::fuzzing::file(bytes));
