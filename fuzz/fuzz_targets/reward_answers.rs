//! libFuzzer over `reward_answers`: see `end_to_end::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| end_to_end::fuzzing::reward_answers(bytes));
