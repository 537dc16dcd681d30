//! Wanda: a weight counts as much as its input is strong.
//!
//! `S_ij = |W_ij| · ‖X_j‖₂`, compared within each row (output); what stays is not changed. Source: Sun et al. 2023,
//! arXiv:2306.11695, eq. 1. Deviation: none; the sum of squares stands for the mean, which scales all scores alike.

use tch::{Kind, Tensor};

use crate::{Error, Mask, Per, Result, Sparsity, choose};

/// The strength of each input over all calibration tokens, which come in any number of parts.
#[derive(Debug)]
pub struct InputNorms {
    squares: Tensor,
    num_tokens: usize,
}

impl InputNorms {
    /// Of no tokens yet.
    pub fn new(inputs: i64) -> Self {
        Self {
            squares: Tensor::zeros([inputs], (Kind::Double, tch::Device::Cpu)),
            num_tokens: 0,
        }
    }

    /// Takes in `x`, `[t, in]`.
    pub fn add(&mut self, x: &Tensor) {
        let x = x.detach();
        self.num_tokens += x.size()[0] as usize;
        let x = if x.kind() == Kind::Double {
            x
        } else {
            x.to_kind(Kind::Float)
        };
        let squares = x.square().sum_dim_intlist([0].as_slice(), false, Kind::Double);
        self.squares += squares.to_device(tch::Device::Cpu);
    }

    /// `‖X_j‖₂`, `[in]` f64.
    pub fn norms(&self) -> Tensor {
        self.squares.sqrt()
    }

    /// How many tokens were seen.
    pub fn num_tokens(&self) -> usize {
        self.num_tokens
    }
}

/// The mask of a weight `[out, in]` whose inputs have `norms` (`[in]`).
pub fn wanda(weight: &Tensor, norms: &Tensor, sparsity: Sparsity) -> Result<Mask> {
    let width = weight.size()[1];
    if norms.size() != [width] {
        return Err(Error::Shape {
            what: "the inputs' norms",
            wanted: vec![width],
            found: norms.size(),
        });
    }
    let size = weight.detach().to_device(norms.device()).to_kind(Kind::Double).abs();
    choose::mask(&(size * norms.to_kind(Kind::Double)), sparsity, Per::Row)
}
