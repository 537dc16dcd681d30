//! Matrix products in f32 and bf16, and the SIMD lanes under them, in plain Rust.
//!
//! The crate has three layers, and each can be used alone:
//!
//! - [`multiply`] and [`Packed`]: products of [`ndarray`] views on rayon's threads.
//! - [`tile`]: products of blocks that a kernel of your own calls, with the packings of their operands.
//! - [`vector`]: sixteen f32 at a time, one body of code for every instruction set.
//!
//! [`unit::Unit`] says what computes: AMX tiles, AVX-512 with bf16 instructions, AVX-512, AVX2, or plain loops. It is found
//! when the program runs, so one binary serves all machines. Numbers are f32 or [`half::bf16`]; sums are f32.
//!
//! ```
//! use ndarray::array;
//!
//! let a = array![[1.0f32, 2.0], [3.0, 4.0], [5.0, 6.0]];
//! let b = array![[1.0f32, 0.0, -1.0], [0.0, 1.0, 1.0]];
//! assert_eq!(gemm::multiply(a.view(), b.view()), array![[1.0, 2.0, 1.0], [3.0, 4.0, 1.0], [5.0, 6.0, 1.0]]);
//! ```
//!
//! A matrix that is multiplied more than once is packed once:
//!
//! ```
//! use half::bf16;
//! use ndarray::Array2;
//!
//! let weight = Array2::from_shape_fn((64, 48), |(i, j)| bf16::from_f32((i + j) as f32 / 64.0));
//! let packed = gemm::Packed::new(weight.view());
//! for rows in [1, 5, 200] {
//!     let x = Array2::from_elem((rows, 64), bf16::ONE);
//!     assert_eq!(packed.multiply(x.view()).dim(), (rows, 48));
//! }
//! ```

#![expect(
    clippy::inline_always,
    reason = "a kernel's parts must be inlined where its instructions are allowed"
)]

mod matrix;
pub mod tile;
pub mod unit;
pub mod vector;

pub use matrix::{Packed, multiply};
pub use unit::Unit;

// In the signatures here.
pub use {half, ndarray};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
