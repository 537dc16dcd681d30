//! Sixteen f32 at a time, of numbers that tensors hold: [`gemm::vector`], and what joins it with libtorch's dtypes.

pub use gemm::vector::{Kernel, LANES, Lanes, dispatch};

use crate::blob;

/// f32 or bf16, as lanes read and write it and as the dtype of a tensor.
pub trait Scalar: gemm::vector::Scalar + blob::Number {}

impl<T: gemm::vector::Scalar + blob::Number> Scalar for T {}
