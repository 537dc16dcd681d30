//! The seam through which methods enter: a matrix, however it is held.
//!
//! Why this form: a slot is owned, so surgery consumes (no half-changed model, a dense weight is freed the moment it is
//! packed); forward takes the pass, so no layer holds a mode; the bias stays with the slot, so no method can lose it, and
//! a method that scales a layer's whole output says so. QLoRA is two surgeries in order; nothing here knows of it.

use std::fmt::Debug;

use tch::{Kind, Tensor};

use crate::packed::PackedMatrix;
use crate::{Dense, Documents, Error, Found, ModulePath, Param, Parameters, Parts, Pass, Result, Way};

/// A linear map `y = x Wᵀ`, however `W` is held. Shapes: t tokens, in and out widths.
pub trait Projection: Parameters + Debug + Send {
    /// `[t, in]` to `[t, out]`, in the dtype of `x`.
    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor;

    /// The effective weight with adapters on, dense, `[out, in]`, in f32 where anything had to be computed.
    fn weight(&self) -> Tensor;

    /// The same function as one plain matrix.
    fn merge(self: Box<Self>) -> Dense;

    /// The matrix itself, only if nothing wraps or packs it; otherwise what was found.
    fn into_dense(self: Box<Self>) -> Result<Dense, Found>;

    /// This map in this pass as a frozen map with at most one low-rank update, if it is that: several projections of
    /// one input are then one function ([`crate::project`]), which never saves a frozen weight.
    fn parts(&self, pass: &Pass) -> Option<Parts<'_>> {
        let _ = pass;
        None
    }

    /// The factors, `[out]` f32, by which the bias of the slot is multiplied in this pass; none if it stays as it is.
    ///
    /// For a method that scales what the whole layer gives out.
    fn bias_scale(&self, pass: &Pass) -> Option<Tensor> {
        let _ = pass;
        None
    }
}

/// A linear map that does not train: it can be applied in both directions without a graph.
pub trait FrozenMap {
    /// A second handle on the same weight, for a backward closure to own.
    fn share(&self) -> Box<dyn FrozenMap + Send>;

    /// `x Wᵀ`: `[t, in]` to `[t, out]`.
    fn apply(&self, x: &Tensor) -> Tensor;

    /// `y W + onto`: `[t, out]` to `[t, in]`, added to `onto` (`[t, in]`) when given.
    fn apply_transposed(&self, y: &Tensor, onto: Option<Tensor>) -> Tensor;

    /// The weight packed for this machine's matrix unit, if it is: products of several terms then run as one.
    ///
    /// A handle: the memory is shared.
    fn packed(&self, way: Way) -> Option<PackedMatrix> {
        let _ = way;
        None
    }
}

/// What is done to each projection: its path and what the slot holds, to what it shall hold.
pub type ProjectionSurgeon<'a> = dyn FnMut(&ModulePath, Box<dyn Projection>) -> Result<Box<dyn Projection>> + 'a;

/// A slot for a projection, with its bias.
#[derive(Debug)]
pub struct Linear {
    projection: Box<dyn Projection>,
    bias: Option<Param>,
}

impl Linear {
    /// A slot with this projection and bias (`[out]`).
    pub fn new(projection: impl Projection + 'static, bias: Option<Param>) -> Self {
        Self::holding(Box::new(projection), bias)
    }

    /// As [`Self::new`], where only a surgeon knows what the projection is.
    pub fn holding(projection: Box<dyn Projection>, bias: Option<Param>) -> Self {
        Self { projection, bias }
    }

    /// `[t, in]` to `[t, out]`.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        self.with_bias(self.projection.forward(x, pass), pass)
    }

    /// `y`, `[t, out]`, and the bias of this pass.
    pub(crate) fn with_bias(&self, y: Tensor, pass: &Pass) -> Tensor {
        let Some(bias) = &self.bias else { return y };
        let bias = bias.cast(y.kind());
        match self.projection.bias_scale(pass) {
            Some(scale) => (bias * scale).to_kind(y.kind()) + y,
            None => y + bias,
        }
    }

    /// What the slot holds.
    pub fn projection(&self) -> &dyn Projection {
        &*self.projection
    }

    /// The bias, `[out]`.
    pub fn bias(&self) -> Option<&Param> {
        self.bias.as_ref()
    }

    /// Replaces the projection by what the surgeon makes of it. If that scales the bias no longer, because it is merged, the
    /// bias keeps the scale.
    pub fn map(self, at: &ModulePath, surgeon: &mut ProjectionSurgeon) -> Result<Self> {
        let documents = Documents::new(&[]);
        let pass = Pass::evaluate(&documents);
        let scale = self.projection.bias_scale(&pass);
        let projection = surgeon(at, self.projection)?;
        let bias = match (self.bias, scale) {
            (Some(bias), Some(scale)) if projection.bias_scale(&pass).is_none() => Some(scaled(&bias, &scale)),
            (bias, _) => bias,
        };
        Ok(Self { projection, bias })
    }

    /// The same slot as one plain matrix with its bias.
    #[must_use]
    pub fn merge(self) -> Self {
        let merged = self.map(&ModulePath::root(), &mut |_, projection| {
            Ok(Box::new(projection.merge()))
        });
        merged.expect("merging has no errors")
    }

    /// The plain matrix of a slot that nothing has touched, and its bias.
    pub fn into_dense(self, at: &ModulePath) -> Result<(Dense, Option<Param>)> {
        match self.projection.into_dense() {
            Ok(dense) => Ok((dense, self.bias)),
            Err(Found(found)) => Err(Error::NotDense {
                at: at.clone(),
                found,
                hint: "merge the model first",
            }),
        }
    }

    /// Makes the bias trainable or frozen (frozen biases take dtype `kind`).
    #[must_use]
    pub fn train_bias(self, trains: bool, kind: tch::Kind) -> Self {
        Self {
            bias: self.bias.map(|bias| bias.with_training(trains, kind)),
            ..self
        }
    }
}

/// The bias times `scale`, in f32 and rounded once.
fn scaled(bias: &Param, scale: &Tensor) -> Param {
    let (value, kind) = (bias.value(), bias.value().kind());
    let scaled = tch::no_grad(|| value.to_kind(Kind::Float) * scale.detach());
    Param::frozen(scaled.to_kind(kind), bias.role())
}

impl Parameters for Linear {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        self.projection.visit(at, visitor);
        if let Some(bias) = &self.bias {
            visitor(&at.join("bias"), bias);
        }
    }
}
