//! libFuzzer over `answers`: see `end_to_end::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| end_to_end::fuzzing::answers(bytes));
