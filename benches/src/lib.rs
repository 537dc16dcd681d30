//! Kernel and step benchmarks.
