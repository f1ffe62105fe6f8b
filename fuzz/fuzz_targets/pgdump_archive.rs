//! The custom archive of pg_dump, on any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mainstay_pgdump::fuzzing::archive(bytes));
