//! A statement that is hidden, on any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mainstay_postgres::fuzzing::statement(bytes));
