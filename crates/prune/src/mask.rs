//! Which weights of a matrix stay.

use tch::{Kind, Tensor};

use crate::Pattern;

/// Where a weight stays: `[out, in]`, true there.
#[derive(Debug)]
pub struct Mask {
    kept: Tensor,
}

impl Mask {
    /// From booleans `[out, in]`.
    pub fn new(kept: Tensor) -> Self {
        assert_eq!(kept.kind(), Kind::Bool, "a mask is of booleans");
        Self { kept }
    }

    /// Of a weight that is pruned already: true where it is not zero.
    pub fn of(weight: &Tensor) -> Self {
        Self {
            kept: weight.detach().ne(0.0),
        }
    }

    /// The booleans.
    pub fn kept(&self) -> &Tensor {
        &self.kept
    }

    /// A second handle on the same mask.
    #[must_use]
    pub fn share(&self) -> Self {
        Self {
            kept: self.kept.shallow_clone(),
        }
    }

    /// A copy of `weight` with zeros where the mask says so: whatever stood there, a number or not.
    pub fn apply(&self, weight: &Tensor) -> Tensor {
        weight.masked_fill(&self.kept.logical_not().to_device(weight.device()), 0.0)
    }

    /// How many weights go.
    pub fn num_zeros(&self) -> usize {
        self.kept.numel() - self.kept.sum(Kind::Int64).int64_value(&[]) as usize
    }

    /// The share of weights that go.
    pub fn sparsity(&self) -> f64 {
        self.num_zeros() as f64 / self.kept.numel() as f64
    }

    /// Whether every group of consecutive inputs has at least the pattern's zeros.
    pub fn has_pattern(&self, pattern: Pattern) -> bool {
        let (of, zeros) = (pattern.of() as i64, pattern.zeros() as i64);
        let width = self.kept.size().last().copied().unwrap_or(0);
        if width % of != 0 {
            return false;
        }
        let kept = self
            .kept
            .reshape([-1, of])
            .sum_dim_intlist([-1].as_slice(), false, Kind::Int64);
        kept.le(of - zeros).all().int64_value(&[]) == 1
    }
}
