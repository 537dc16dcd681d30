//! What inputs have in common: the second derivative of a layer's error, and its factor that `SparseGPT` walks along.
//!
//! `H = 2 Σ x xᵀ`; inputs that never fire (`H_jj = 0`) get 1; `H + λ mean(diag H) I = (Uᵀ U)⁻¹` with U upper triangular.
//! Row j of U is, but for the scale, how the columns after j best make up for a change in column j.
//!
//! Source: Frantar and Alistarh 2023, arXiv:2301.00774, section 3.3. Deviation: everything is in f64; H is not divided by
//! the number of samples, which changes no mask and no weight.

use tch::{Kind, Tensor};

use crate::{Error, Result};

/// `Σ x xᵀ` over all calibration tokens, which come in any number of parts.
#[derive(Debug)]
pub struct Gram {
    sum: Tensor,
    num_tokens: usize,
}

impl Gram {
    /// Of no tokens yet: `[in, in]` of zeros.
    pub fn new(inputs: i64) -> Self {
        Self {
            sum: Tensor::zeros([inputs, inputs], (Kind::Double, tch::Device::Cpu)),
            num_tokens: 0,
        }
    }

    /// Takes in `x`, `[t, in]`: the product in f32 (f64 if `x` is), the sum in f64.
    pub fn add(&mut self, x: &Tensor) {
        let x = x.detach();
        self.num_tokens += x.size()[0] as usize;
        let x = if x.kind() == Kind::Double {
            x
        } else {
            x.to_kind(Kind::Float)
        };
        self.sum += x.tr().matmul(&x).to_device(tch::Device::Cpu);
    }

    /// `H = 2 Σ x xᵀ`, `[in, in]` f64.
    pub fn hessian(&self) -> Tensor {
        &self.sum * 2.0
    }

    /// How many tokens were seen.
    pub fn num_tokens(&self) -> usize {
        self.num_tokens
    }
}

/// The factor of a damped Hessian: made once for all matrices that read the same input.
#[derive(Debug)]
pub struct Factor {
    upper: Tensor,
    dead: Tensor,
}

impl Factor {
    /// Of `hessian` (`[in, in]`); `damping` is a share of its mean diagonal, 0.01 in the paper.
    pub fn of(hessian: &Tensor, damping: f64) -> Result<Self> {
        let (rows, width) = hessian.size2().unwrap_or((-1, -1));
        if rows != width || width < 1 {
            return Err(Error::Shape {
                what: "the Hessian",
                wanted: vec![width, width],
                found: hessian.size(),
            });
        }
        if !(damping >= 0.0 && damping.is_finite()) {
            return Err(Error::Option {
                option: "damping",
                found: format!("{damping} is no share of the mean diagonal"),
                hint: "0.01 is the paper's",
            });
        }
        let damped = hessian.to_kind(Kind::Double).copy();
        let mut diagonal = damped.diagonal(0, 0, 1);
        let dead = diagonal.eq(0.0);
        let _ = diagonal.masked_fill_(&dead, 1.0);
        let mean = diagonal.mean(Kind::Double).double_value(&[]);
        let _ = diagonal.g_add_scalar_(damping * mean);
        let refused = |_| Error::NotPositive { damping };
        let inverse = damped
            .f_linalg_cholesky(false)
            .map_err(refused)?
            .cholesky_inverse(false);
        let upper = inverse.f_linalg_cholesky(true).map_err(refused)?;
        if upper.isfinite().all().int64_value(&[]) == 0 {
            return Err(Error::NotPositive { damping });
        }
        Ok(Self {
            upper: upper.contiguous(),
            dead,
        })
    }

    /// How many inputs there are.
    pub fn width(&self) -> usize {
        self.dead.size()[0] as usize
    }

    /// U, `[in, in]` f64.
    pub fn upper(&self) -> &Tensor {
        &self.upper
    }

    /// Which inputs never fire, `[in]` booleans.
    pub fn dead(&self) -> &Tensor {
        &self.dead
    }
}
