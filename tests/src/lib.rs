//! End-to-end tests of the built command, and what its fuzzing campaign feeds to the readers.

pub mod fuzzing;
