//! Row norms of `W + s·BA`, without the matrix: `n² = ‖W‖² + 2s·Σ (WAᵀ)∘B + s²·Σ (B AAᵀ)∘B`, sums over each row.
//!
//! ‖W‖² is taken once. `WAᵀ` goes through the frozen map, however it holds W, and n is kept until A or B is written to:
//! once an optimiser step. Backward, with `c = dn / n`: `dB = s·c∘(WAᵀ + s·B AAᵀ)`,
//! `dA = s·((c∘B)ᵀ W + s·((c∘B)ᵀ B) A)`.
//!
//! In f32; over a bf16 map, `WAᵀ` has its products' rounding, which moves n by at most 2⁻⁸ of ‖s·BA‖.
//! Where `W + s·BA` nearly cancels, n has an absolute error of 2⁻¹² of ‖W‖.

use std::cell::RefCell;

use lora::LowRank;
use tch::{Kind, Tensor};
use tensor_core::{FrozenMap, Stamp};

/// A row of zeros has this norm: its magnitude is zero as well, and the quotient is defined.
const SMALLEST: f64 = 1e-20;

/// The norms of one module's rows.
#[derive(Debug)]
pub(crate) struct Norms {
    /// ‖W‖², `[out]` f32.
    base_square: Tensor,
    /// What the frozen map is applied in.
    kind: Kind,
    kept: RefCell<Option<(Stamps, Norm)>>,
}

type Stamps = Option<[Stamp; 2]>;

/// Norms of one state of A and B.
#[derive(Debug)]
pub(crate) struct Norm {
    /// n, `[out]` f32.
    pub(crate) n: Tensor,
    /// `WAᵀ`, `[out, r]` f32; none without an update.
    cross: Option<Tensor>,
}

impl Norms {
    /// Of a frozen `weight` `[out, in]`.
    pub(crate) fn of(weight: &Tensor) -> Self {
        let norm = rows(weight);
        Self {
            base_square: &norm * &norm,
            kind: weight.kind(),
            kept: RefCell::default(),
        }
    }

    /// The norms with this update now.
    pub(crate) fn now(&self, frozen: &dyn FrozenMap, update: Option<&LowRank>) -> Norm {
        let stamps = update.map(|update| [update.a().stamp(), update.b().stamp()]);
        let mut kept = self.kept.borrow_mut();
        match &*kept {
            Some((of, norm)) if *of == stamps => norm.share(),
            _ => {
                let norm = tch::no_grad(|| self.taken(frozen, update));
                kept.insert((stamps, norm)).1.share()
            }
        }
    }

    fn taken(&self, frozen: &dyn FrozenMap, update: Option<&LowRank>) -> Norm {
        let (square, cross) = match update {
            None => (self.base_square.shallow_clone(), None),
            Some(update) => {
                let (a, b, s) = (update.a().value(), update.b().value(), update.scale());
                let cross = frozen
                    .apply(&a.to_kind(self.kind))
                    .tr()
                    .to_kind(Kind::Float)
                    .contiguous();
                let half = &cross * 2.0 + b.matmul(&a.matmul(&a.tr())) * s;
                let added = (half * b).sum_dim_intlist([1].as_slice(), false, Kind::Float) * s;
                (&self.base_square + added, Some(cross))
            }
        };
        Norm {
            n: square.clamp_min(0.0).sqrt().clamp_min(SMALLEST),
            cross,
        }
    }

    /// What carries a gradient of n to A and B.
    pub(crate) fn backward(&self, norm: &Norm, frozen: &dyn FrozenMap, update: &LowRank) -> NormBackward {
        NormBackward {
            frozen: frozen.share(),
            kind: self.kind,
            a: update.a().value().detach(),
            b: update.b().value().detach(),
            scale: update.scale(),
            n: norm.n.shallow_clone(),
            cross: norm.cross.as_ref().map(Tensor::shallow_clone),
        }
    }
}

impl Norm {
    fn share(&self) -> Self {
        Self {
            n: self.n.shallow_clone(),
            cross: self.cross.as_ref().map(Tensor::shallow_clone),
        }
    }
}

/// Everything that the gradient of n needs.
pub(crate) struct NormBackward {
    frozen: Box<dyn FrozenMap + Send>,
    kind: Kind,
    a: Tensor,
    b: Tensor,
    scale: f64,
    n: Tensor,
    cross: Option<Tensor>,
}

impl NormBackward {
    /// The gradients of A and B for that of n, `[out]` f32.
    pub(crate) fn of(&self, dn: &Tensor) -> (Tensor, Tensor) {
        let (a, b, s) = (&self.a, &self.b, self.scale);
        let c = (dn / &self.n).unsqueeze(1);
        let mut along = b.matmul(&a.matmul(&a.tr())) * s;
        if let Some(cross) = &self.cross {
            along += cross;
        }
        let turned = (&c * b).tr().contiguous();
        let through = self.frozen.apply_transposed(&turned.to_kind(self.kind), None);
        let da = through.to_kind(Kind::Float) + turned.matmul(b).matmul(a) * s;
        (da * s, along * c * s)
    }
}

/// The norm of each row, in f32.
pub(crate) fn rows(matrix: &Tensor) -> Tensor {
    matrix.linalg_norm(2, [1].as_slice(), false, Kind::Float)
}

/// `m / n` of each row of `matrix`, n its own norm: what brings its rows to the lengths m.
pub(crate) fn to_length(matrix: &Tensor, m: &Tensor) -> Tensor {
    matrix * (m / rows(matrix).clamp_min(SMALLEST)).unsqueeze(1)
}
