//! Builds, pipelines and end-to-end runs.
fn main() {}
