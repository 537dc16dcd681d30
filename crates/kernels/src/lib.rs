//! Fused operators for language models, each with its plain reference.

pub mod adamw;
pub mod attention;
pub mod dropout;
pub mod rms_norm;
pub mod rope;
pub mod swiglu;
pub mod vector;

pub mod reference;
mod rows;
#[cfg(test)]
mod twins;
#[allow(dead_code)]
mod tile;

pub use attention::{SequenceKv, attend_past, attention};
pub use rms_norm::{Gain, add_rms_norm, rms_norm};
pub use rope::{RopeTable, Rotation, rope, rope_qkv};
pub use swiglu::{Activation, gated, gated_packed, geglu_tanh, swiglu};
