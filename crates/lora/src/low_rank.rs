//! The update itself: two factors and a scale.
//!
//! `ΔW = s · B A`, never formed while training. Forward `s · (x Aᵀ) Bᵀ`; backward with `v = s · dy B`:
//! `dB = s · dyᵀ (x Aᵀ)`, `dA = vᵀ x`, `dx = v A`. Shapes: t tokens, r rank; A `[r, in]`, B `[out, r]`.

use tch::{Kind, Tensor};
use tensor_core::{ModulePath, Param, Pass, Role, Update, autograd, packed};

/// Factors A and B in f32, with the scale of their product.
#[derive(Debug)]
pub struct LowRank {
    a: Param,
    b: Param,
    scale: f64,
    initial: Option<(Param, Param)>,
}

impl LowRank {
    /// Trainable factors: A `[r, in]`, B `[out, r]`.
    pub fn new(a: &Tensor, b: &Tensor, scale: f64) -> Self {
        Self {
            a: Param::trainable(a, Role::Adapter),
            b: Param::trainable(b, Role::AdapterOut),
            scale,
            initial: None,
        }
    }

    /// Factors whose first product was taken out of the base weight (PiSSA, OLoRA): saving undoes that.
    #[must_use]
    pub fn taken_from_base(self) -> Self {
        let initial = |param: &Param| Param::frozen(param.value().detach().copy(), Role::Adapter);
        Self {
            initial: Some((initial(&self.a), initial(&self.b))),
            ..self
        }
    }

    /// The same factors, not training.
    #[must_use]
    pub fn frozen(self) -> Self {
        let freeze = |param: Param| param.with_training(false, Kind::Float);
        Self {
            a: freeze(self.a),
            b: freeze(self.b),
            ..self
        }
    }

    /// `s`.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// A `[r, in]`.
    pub fn a(&self) -> &Param {
        &self.a
    }

    /// B `[out, r]`.
    pub fn b(&self) -> &Param {
        &self.b
    }

    /// `s · B A`, `[out, in]` f32: for merging and measuring only.
    pub fn update(&self) -> Tensor {
        tch::no_grad(|| self.b.value().matmul(self.a.value()) * self.scale)
    }

    /// As the seam's fused function reads it.
    pub fn as_update(&self, pass: &Pass) -> Update<'_> {
        Update {
            a: &self.a,
            b: &self.b,
            scale: self.scale,
            still: pass.frozen_cache().cloned(),
        }
    }

    /// `s · (x Aᵀ) Bᵀ` alone: over a base that trains or is itself wrapped, or on dropped-out inputs.
    pub(crate) fn branch(&self, x: &Tensor) -> Tensor {
        let (a, b, scale) = (compute(&self.a, x), compute(&self.b, x), self.scale);
        let (y, su) = tch::no_grad(|| {
            let su = x.matmul(&a.tr()) * scale;
            (su.matmul(&b.tr()), su)
        });
        let inputs = [x, self.a.value(), self.b.value()];
        if !autograd::wants(&inputs) {
            return y;
        }
        let (saved, wants_dx) = (x.shallow_clone(), x.requires_grad());
        autograd::attach(&inputs, y, move |dy| {
            let Some(dy) = dy else { return vec![None, None, None] };
            let v = dy.matmul(&b) * scale;
            let (da, db) = (packed::outer(&v, &saved), packed::outer(&su, &dy).tr().contiguous());
            vec![wants_dx.then(|| v.matmul(&a)), Some(da), Some(db)]
        })
    }

    /// Both factors as PEFT names those of a projection.
    pub fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        self.visit_as(at, ".weight", visitor);
    }

    /// Both factors under PEFT's names; first values, where kept, beside them.
    pub(crate) fn visit_as(&self, at: &ModulePath, suffix: &str, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        let (a, b) = if suffix.is_empty() {
            ("lora_embedding_A", "lora_embedding_B")
        } else {
            ("lora_A", "lora_B")
        };
        visitor(&at.join(format!("{a}{suffix}")), &self.a);
        visitor(&at.join(format!("{b}{suffix}")), &self.b);
        if let Some((first_a, first_b)) = &self.initial {
            visitor(&at.join(format!("{a}.initial")), first_a);
            visitor(&at.join(format!("{b}.initial")), first_b);
        }
    }
}

fn compute(factor: &Param, x: &Tensor) -> Tensor {
    tch::no_grad(|| factor.cast(x.kind()).detach())
}
