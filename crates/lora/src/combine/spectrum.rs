//! A sum of low-rank updates through its singular values, without ever forming it.
//!
//! `Σ w s B A = b a` with `b = [B_1, B_2, …]` and `a = [w_1 s_1 A_1; …]`. With `b = Q_b R_b` and `aᵀ = Q_a R_a` the
//! small core `R_b R_aᵀ = U S Vᵀ` gives `b a = (Q_b U) S (Q_a V)ᵀ`: `O((out + in) R²)` in place of `O(out · in · min)`,
//! R the ranks' sum. In f64, so that the result is exact to the f32 it is written in. Shapes: in and out widths.

use tch::{Kind, Tensor};
use tensor_core::Error as CoreError;

use super::terms::Term;
use crate::Result;

/// Singular values with their vectors: `U [out, k]`, `S` descending, `Vᵀ [k, in]`, f64.
#[derive(Debug)]
pub(super) struct Spectrum {
    pub(super) u: Tensor,
    pub(super) s: Vec<f64>,
    pub(super) vt: Tensor,
    /// The squared Frobenius norm of the whole, of which `s` may be the beginning only.
    pub(super) energy: f64,
}

/// Both factors of an update at scale 1: A `[r, in]`, B `[out, r]`, f32.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) a: Tensor,
    pub(super) b: Tensor,
}

/// The terms' factors side by side, f64: `b [out, R]`, `a [R, in]` with weights and scales in it.
pub(super) fn stacked(terms: &[Term]) -> (Tensor, Tensor) {
    let b: Vec<Tensor> = terms.iter().map(|term| term.b.to_kind(Kind::Double)).collect();
    let a: Vec<Tensor> = terms
        .iter()
        .map(|term| term.a.to_kind(Kind::Double) * term.strength())
        .collect();
    (Tensor::cat(&b, 1), Tensor::cat(&a, 0))
}

impl Spectrum {
    /// Of `b a`: `b [out, R]`, `a [R, in]`, f64.
    pub(super) fn of_product(b: &Tensor, a: &Tensor) -> Result<Self> {
        let ((q_b, r_b), (q_a, r_a)) = (qr(b)?, qr(&a.tr())?);
        let core = Self::of_matrix(&r_b.matmul(&r_a.tr()))?;
        Ok(Self {
            u: q_b.matmul(&core.u),
            vt: core.vt.matmul(&q_a.tr()),
            ..core
        })
    }

    /// Of a dense matrix, all of it: f64.
    pub(super) fn of_matrix(matrix: &Tensor) -> Result<Self> {
        let (u, s, v) = matrix.f_svd(true, true).map_err(|error| torch(&error))?;
        let s = Vec::<f64>::try_from(&s).map_err(|error| torch(&error))?;
        let energy = s.iter().map(|value| value * value).sum();
        Ok(Self {
            u,
            s,
            vt: v.tr(),
            energy,
        })
    }

    /// The smallest rank, at least 1, that leaves out no more than f32 rounds away: 2⁻²⁴ of the Frobenius norm.
    pub(super) fn whole_rank(&self) -> i64 {
        let allowed = self.energy * f64::from(f32::EPSILON / 2.0).powi(2);
        let mut left_out = 0.0;
        let mut rank = self.s.len();
        while rank > 1 {
            left_out += self.s[rank - 1].powi(2);
            if left_out > allowed {
                break;
            }
            rank -= 1;
        }
        rank as i64
    }

    /// The share of the energy that the first `rank` values hold; 1 of nothing.
    pub(super) fn explained(&self, rank: i64) -> f64 {
        let kept: f64 = self.s.iter().take(rank as usize).map(|value| value * value).sum();
        if self.energy > 0.0 {
            (kept / self.energy).min(1.0)
        } else {
            1.0
        }
    }

    /// The best approximation of rank `rank` (Eckart and Young 1936): `B = U S`, `A = Vᵀ`, as PEFT splits it.
    ///
    /// Singular vectors have no sign of their own; here the largest number of each row of A is positive.
    pub(super) fn cut(&self, rank: i64) -> Pair {
        let rank = rank.min(self.s.len() as i64);
        let (u, vt) = (self.u.narrow(1, 0, rank), self.vt.narrow(0, 0, rank));
        let largest = vt.abs().argmax(1, true);
        let sign = vt.gather(1, &largest, false).sign();
        let s = Tensor::from_slice(&self.s[..rank as usize]);
        Pair {
            a: (vt * &sign).to_kind(Kind::Float).contiguous(),
            b: (u * (s * sign.squeeze_dim(1))).to_kind(Kind::Float).contiguous(),
        }
    }
}

impl Pair {
    /// Holds all numbers within the `quantile` of both factors' numbers and its negative, as PEFT's `svd_clamp` does.
    pub(super) fn clamp(self, quantile: f64) -> Self {
        let all = Tensor::cat(&[self.b.flatten(0, -1), self.a.flatten(0, -1)], 0);
        let (sorted, _) = all.to_kind(Kind::Double).sort(0, false);
        let place = quantile * (sorted.numel() - 1) as f64;
        let at = |place: f64| sorted.double_value(&[place as i64]);
        let high = at(place.floor()) + place.fract() * (at(place.ceil()) - at(place.floor()));
        Self {
            a: self.a.clamp(-high, high),
            b: self.b.clamp(-high, high),
        }
    }

    /// `‖B A - b a‖ / ‖b a‖` by Frobenius norms, without forming either product.
    pub(super) fn distance(&self, b: &Tensor, a: &Tensor) -> Result<f64> {
        let (own_b, own_a) = (self.b.to_kind(Kind::Double), self.a.to_kind(Kind::Double));
        let apart = norm(&Tensor::cat(&[own_b, -b], 1), &Tensor::cat(&[&own_a, a], 0))?;
        let whole = norm(b, a)?;
        Ok(if apart > 0.0 { apart / whole } else { 0.0 })
    }
}

/// The Frobenius norm of `b a`.
fn norm(b: &Tensor, a: &Tensor) -> Result<f64> {
    let ((_, r_b), (_, r_a)) = (qr(b)?, qr(&a.tr())?);
    Ok(r_b.matmul(&r_a.tr()).norm().double_value(&[]))
}

pub(super) fn qr(matrix: &Tensor) -> Result<(Tensor, Tensor)> {
    Tensor::f_linalg_qr(matrix, "reduced").map_err(|error| torch(&error))
}

fn torch(error: &tch::TchError) -> crate::Error {
    // What follows is C++'s stack.
    let text = error.to_string();
    CoreError::Torch(text.split("\nException raised from").next().unwrap_or(&text).to_owned()).into()
}
