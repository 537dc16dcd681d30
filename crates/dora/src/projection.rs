//! A projection whose rows are decomposed into magnitude and direction.

use lora::LowRank;
use tch::{Kind, Tensor};
use tensor_core::{
    Dense, Documents, DropoutKey, Found, FrozenMap, ModulePath, Param, Parameters, Parts, Pass, Projection, Role,
    autograd, over_frozen,
};

use crate::norm::{Norms, to_length};

/// `y = (m / n) ⊙ (x Wᵀ + s · (x Aᵀ) Bᵀ)` over any frozen base: dense, packed or quantised.
///
/// Without an update only the magnitudes train. Under dropout, as in PEFT,
/// `y = x Wᵀ + (m/n - 1) ⊙ x̃ Wᵀ + (m/n) ⊙ s (x̃ Aᵀ) Bᵀ` with `x̃ = dropout(x)`.
#[derive(Debug)]
pub struct Dora {
    base: Box<dyn Projection>,
    update: Option<LowRank>,
    magnitude: Param,
    norms: Norms,
    exact_norm: bool,
    dropout: f64,
    site: u64,
}

impl Dora {
    /// Over `base` with this update (none: the direction stays); the magnitudes begin as the rows' norms.
    ///
    /// Errors: what was found where a frozen weight without an adapter was wanted.
    pub fn new(base: Box<dyn Projection>, update: Option<LowRank>) -> Result<Self, Found> {
        let documents = Documents::new(&[]);
        let parts = base
            .parts(&Pass::evaluate(&documents))
            .ok_or(Found("a weight that trains"))?;
        if !parts.is_plain() {
            return Err(Found("an adapter"));
        }
        let norms = Norms::of(&base.weight());
        let magnitude = Param::trainable(&norms.now(parts.frozen, update.as_ref()).n, Role::Norm);
        drop(parts);
        Ok(Self {
            base,
            update,
            magnitude,
            norms,
            exact_norm: false,
            dropout: 0.0,
            site: 0,
        })
    }

    /// The same with these magnitudes, `[out]`.
    #[must_use]
    pub fn with_magnitude(self, magnitude: &Tensor) -> Self {
        Self {
            magnitude: Param::trainable(&magnitude.to_device(self.magnitude.value().device()), Role::Norm),
            ..self
        }
    }

    /// Whether the gradient goes through the norms too: `(I - v̂v̂ᵀ)` of eq. 6, which the paper leaves out.
    #[must_use]
    pub fn with_exact_norm(self, exact_norm: bool) -> Self {
        Self { exact_norm, ..self }
    }

    /// Drops inputs of the update with this probability while training; `site` names the random stream
    /// ([`ModulePath::site`]).
    #[must_use]
    pub fn with_dropout(self, dropout: f64, site: u64) -> Self {
        Self { dropout, site, ..self }
    }

    /// The update; none where only the magnitudes train.
    pub fn low_rank(&self) -> Option<&LowRank> {
        self.update.as_ref()
    }

    /// m, `[out]`.
    pub fn magnitude(&self) -> &Param {
        &self.magnitude
    }

    /// Magnitude-only modules have no update whose input could be dropped.
    fn dropout_key(&self, pass: &Pass) -> Option<DropoutKey> {
        let drops = self.update.is_some() && self.dropout > 0.0 && pass.adapters_on();
        pass.dropout(self.site).filter(|_| drops)
    }

    /// `m / n`, `[out]` f32, as a function of m and, if asked for, of A and B.
    fn gain(&self, frozen: &dyn FrozenMap) -> Tensor {
        let norm = self.norms.now(frozen, self.update.as_ref());
        let m = self.magnitude.value();
        let gain = tch::no_grad(|| m / &norm.n);
        match self.update.as_ref().filter(|_| self.exact_norm) {
            Some(update) => {
                let inputs = [m, update.a().value(), update.b().value()];
                if !autograd::wants(&inputs) {
                    return gain;
                }
                let (backward, m, n) = (self.norms.backward(&norm, frozen, update), m.detach(), norm.n);
                autograd::attach(&inputs, gain, move |dg| {
                    let Some(dg) = dg else { return vec![None, None, None] };
                    let dm = dg / &n;
                    let (da, db) = backward.of(&(&dm * m / n).neg());
                    vec![Some(dm), Some(da), Some(db)]
                })
            }
            None if autograd::wants(&[m]) => autograd::attach(&[m], gain, move |dg| vec![dg.map(|dg| dg / norm.n)]),
            None => gain,
        }
    }

    /// Everything but dropout.
    fn decomposed<'a>(&'a self, frozen: &'a dyn FrozenMap, pass: &Pass) -> Parts<'a> {
        Parts {
            frozen,
            update: self.update.as_ref().map(|update| update.as_update(pass)),
            finish: Some(Box::new(move |h| kernels::scale_columns(h, &self.gain(frozen)))),
        }
    }

    fn base_parts(&self, pass: &Pass) -> Parts<'_> {
        self.base.parts(pass).expect("checked when it was made")
    }
}

impl Projection for Dora {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        if let Some(parts) = self.parts(pass) {
            return over_frozen(x, &[parts]).pop().expect("one output");
        }
        let key = self.dropout_key(pass).expect("only dropout keeps it from being parts");
        let dropped = kernels::dropout::dropout(x, self.dropout, key);
        let one = |x: &Tensor, parts: Parts| over_frozen(x, &[parts]).pop().expect("one output");
        one(&(x - &dropped), self.base_parts(pass)) + one(&dropped, self.decomposed(self.base_parts(pass).frozen, pass))
    }

    fn weight(&self) -> Tensor {
        tch::no_grad(|| {
            let direction = self.base.weight().to_kind(Kind::Float);
            let direction = match &self.update {
                Some(update) => direction + update.update(),
                None => direction,
            };
            to_length(&direction, &self.magnitude.value().detach())
        })
    }

    fn merge(self: Box<Self>) -> Dense {
        // In f32 whatever the base's dtype, and rounded once.
        let merged = self.weight();
        let dense = self.base.merge();
        let (kind, role) = (dense.param().value().kind(), dense.param().role());
        Dense::new(Param::frozen(merged.to_kind(kind), role))
    }

    fn into_dense(self: Box<Self>) -> Result<Dense, Found> {
        Err(Found("a DoRA adapter"))
    }

    fn parts(&self, pass: &Pass) -> Option<Parts<'_>> {
        let base = self.base_parts(pass);
        if !pass.adapters_on() {
            return Some(base);
        }
        self.dropout_key(pass)
            .is_none()
            .then(|| self.decomposed(base.frozen, pass))
    }
}

impl Parameters for Dora {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        self.base.visit(at, visitor);
        if let Some(update) = &self.update {
            update.visit(at, visitor);
        }
        visitor(&at.join("lora_magnitude_vector"), &self.magnitude);
    }
}
