//! Zeros that stay: a projection whose pruned weights are not trained back.
//!
//! `y = x (M ∘ W)ᵀ` with W whatever trains inside: the matrix itself, or `W₀ + s B A`. With `G = M ∘ dyᵀ x`: `dW = G`,
//! `dB = s G Aᵀ`, `dA = s Bᵀ G`, `dx = dy (M ∘ W)`. So merging `B A` under the mask changes nothing, where a plain adapter
//! would fill the zeros in. The price is one `[out, in]` temporary forward and one backward.
//! Shapes: t tokens, r rank; W and M `[out, in]`, A `[r, in]`, B `[out, r]`.

use std::sync::{Mutex, PoisonError};

use tch::{Kind, Tensor};
use tensor_core::{
    Dense, Documents, DropoutKey, Found, ModulePath, Param, Parameters, Parts, Pass, Projection, Stamp, Update,
    autograd,
};

use crate::{Error, Mask, Result};

/// A projection under a mask.
#[derive(Debug)]
pub struct Masked {
    inner: Box<dyn Projection>,
    mask: Mask,
    few: Mutex<Option<Effective>>,
}

/// `M ∘ W` as it was when the factors were last written to.
#[derive(Debug)]
struct Effective {
    stamps: [Stamp; 2],
    weight: Tensor,
}

/// Rows up to which the effective weight is kept: generation asks for it token by token.
const FEW: i64 = 16;

impl Masked {
    /// `inner` with zeros where `mask` says so, for ever.
    ///
    /// Errors: an inner projection whose update this cannot mask (one with dropout, or magnitudes over directions); a
    /// weight that is not zero where the mask says so.
    pub fn new(inner: Box<dyn Projection>, mask: Mask) -> Result<Self> {
        let weight = inner.weight();
        if mask.kept().size() != weight.size() {
            return Err(Error::Shape {
                what: "the mask",
                wanted: weight.size(),
                found: mask.kept().size(),
            });
        }
        let masked = Self {
            inner,
            mask,
            few: Mutex::default(),
        };
        let documents = Documents::new(&[1]);
        let pass = Pass::train(&documents, DropoutKey(0));
        let is_known = match masked.inner.parts(&pass) {
            Some(parts) => parts.finish.is_none(),
            None => masked.trained().is_some(),
        };
        if !is_known {
            return Err(Error::Unmaskable);
        }
        Ok(masked)
    }

    /// The mask.
    pub fn mask(&self) -> &Mask {
        &self.mask
    }

    /// The one matrix that trains, if there is nothing else.
    fn trained(&self) -> Option<Param> {
        let mut params = Vec::new();
        self.inner.visit(&ModulePath::root(), &mut |at, param| {
            params.push((at.clone(), param.share()));
        });
        let [(at, param)] = <[_; 1]>::try_from(params).ok()?;
        (at.as_str() == "weight" && param.is_trainable()).then_some(param)
    }

    /// `M ∘ W` in dtype `kind`, without a graph.
    fn effective(&self, kind: Kind) -> Tensor {
        tch::no_grad(|| self.mask.apply(&self.inner.weight()).to_kind(kind))
    }

    /// As [`Self::effective`], kept from call to call where rows are few.
    fn effective_for(&self, x: &Tensor, update: &Update) -> Tensor {
        if x.size()[0] > FEW || autograd::is_recording() {
            *self.few.lock().unwrap_or_else(PoisonError::into_inner) = None;
            return self.effective(x.kind());
        }
        let stamps = [update.a.stamp(), update.b.stamp()];
        let mut few = self.few.lock().unwrap_or_else(PoisonError::into_inner);
        match &*few {
            Some(kept) if kept.stamps == stamps && kept.weight.kind() == x.kind() => kept.weight.shallow_clone(),
            _ => {
                let weight = self.effective(x.kind());
                let kept = weight.shallow_clone();
                *few = Some(Effective { stamps, weight: kept });
                weight
            }
        }
    }

    fn with_update(&self, x: &Tensor, update: &Update) -> Tensor {
        let weight = self.effective_for(x, update);
        let y = tch::no_grad(|| x.matmul(&weight.tr()));
        let inputs = [x, update.a.value(), update.b.value()];
        if !autograd::wants(&inputs) {
            return y;
        }
        let (saved, mask, scale, wants_dx) = (x.shallow_clone(), self.mask.share(), update.scale, x.requires_grad());
        let (a, b) = (update.a.value().detach(), update.b.value().detach());
        autograd::attach(&inputs, y, move |dy| {
            let Some(dy) = dy else { return vec![None, None, None] };
            let dx = wants_dx.then(|| dy.matmul(&weight));
            let g = mask.apply(&dy.tr().matmul(&saved).to_kind(Kind::Float)) * scale;
            vec![dx, Some(b.tr().matmul(&g)), Some(g.matmul(&a.tr()))]
        })
    }

    fn with_trained(&self, x: &Tensor, weight: &Param) -> Tensor {
        let compute = self.effective(x.kind());
        let y = tch::no_grad(|| x.matmul(&compute.tr()));
        let inputs = [x, weight.value()];
        if !autograd::wants(&inputs) {
            return y;
        }
        let (saved, mask, wants_dx) = (x.shallow_clone(), self.mask.share(), x.requires_grad());
        autograd::attach(&inputs, y, move |dy| {
            let Some(dy) = dy else { return vec![None, None] };
            let dx = wants_dx.then(|| dy.matmul(&compute));
            vec![dx, Some(mask.apply(&dy.tr().matmul(&saved).to_kind(Kind::Float)))]
        })
    }
}

impl Projection for Masked {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        match self.inner.parts(pass) {
            Some(Parts {
                update: Some(update), ..
            }) => self.with_update(x, &update),
            Some(_) => self.inner.forward(x, pass),
            None => match self.trained() {
                Some(weight) => self.with_trained(x, &weight),
                None => x.matmul(&self.effective(x.kind()).tr()),
            },
        }
    }

    fn weight(&self) -> Tensor {
        self.mask.apply(&self.inner.weight())
    }

    fn merge(self: Box<Self>) -> Dense {
        let dense = self.inner.merge();
        let (weight, role) = (self.mask.apply(dense.param().value()), dense.param().role());
        match dense.param().is_trainable() {
            true => Dense::new(Param::trainable(&weight, role)),
            false => Dense::new(Param::frozen(weight, role)),
        }
    }

    fn into_dense(self: Box<Self>) -> Result<Dense, Found> {
        Err(Found("a mask over pruned weights"))
    }

    /// A frozen matrix is zero already where the mask says so.
    fn parts(&self, pass: &Pass) -> Option<Parts<'_>> {
        self.inner.parts(pass).filter(Parts::is_plain)
    }
}

impl Parameters for Masked {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        self.inner.visit(at, visitor);
    }
}
