//! A model in bitsandbytes' 4 bits, or an adapter in 8 or 4.

pub mod adapter;
pub mod model;
