//! End-to-end tests of the built command: see `tests/end_to_end`. This library is empty; it lets the package have tests.
