//! A piece of a base backup or of WAL, on any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mainstay_postgres::fuzzing::copy(bytes));
