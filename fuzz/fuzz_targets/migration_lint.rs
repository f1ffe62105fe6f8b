//! The linter of migrations on any bytes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mainstay_migrations::fuzzing::lints(bytes));
