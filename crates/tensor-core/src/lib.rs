//! Seams, parameters and libtorch access: what every other crate stands on.
