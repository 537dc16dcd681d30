//! The fine-tuning command.
fn main() {}
