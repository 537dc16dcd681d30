//! Fused operators for language models, each with its plain reference.

pub mod vector;
