//! The second seam: what a block adds to the residual stream.

use std::fmt::Debug;

use tch::Tensor;

use crate::{ModulePath, Parameters, Pass, ProjectionSurgeon, Result};

/// Attention, a feed-forward, experts, a memory, or one of them in a wrapper. Shapes: t tokens, d model width.
pub trait Sublayer: Parameters + Debug + Send {
    /// `[t, d]` to `[t, d]`: what is added to the stream.
    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor;

    /// Replaces each projection inside by what the surgeon makes of it.
    fn map_projections(self: Box<Self>, at: &ModulePath, surgeon: &mut ProjectionSurgeon) -> Result<Box<dyn Sublayer>>;
}

/// What is done to each sublayer: its path and what the slot holds, to what it shall hold.
pub type SublayerSurgeon<'a> = dyn FnMut(&ModulePath, Box<dyn Sublayer>) -> Result<Box<dyn Sublayer>> + 'a;
