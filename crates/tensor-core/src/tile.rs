//! Products of blocks, of numbers that tensors hold: [`gemm::tile`], and what joins it with libtorch's dtypes.

pub use gemm::tile::{
    BLOCK, LANES, Left, Right, TileKernel, TileLanes, Tiles, add_rows, dispatch, exp2, pack, prefetch, product,
    scratch, whole,
};

#[cfg(target_arch = "x86_64")]
pub use gemm::tile::{Sums, TileSums};

use crate::vector::Scalar;

/// f32 or bf16, as an operand of [`product`] and as the dtype of a tensor.
pub trait Number: gemm::tile::Number + Scalar {}

impl<T: gemm::tile::Number + Scalar> Number for T {}
