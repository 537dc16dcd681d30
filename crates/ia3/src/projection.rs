//! A projection whose outputs, or whose inputs, are scaled one by one.

use tch::{Kind, Tensor};
use tensor_core::{Dense, Documents, Found, ModulePath, Param, Parameters, Parts, Pass, Projection, Role, over_frozen};

/// What of a layer is scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Each output, the bias with it.
    Outputs,
    /// Each input: PEFT's `feedforward_modules`.
    Inputs,
}

impl Side {
    /// The shape of l for a weight of `[out, in]`.
    pub fn shape(self, [out, input]: [i64; 2]) -> [i64; 2] {
        match self {
            Self::Outputs => [out, 1],
            Self::Inputs => [1, input],
        }
    }
}

/// `l ⊙ (x Wᵀ)` or `(l ⊙ x) Wᵀ` over any frozen base: dense, packed or quantised.
#[derive(Debug)]
pub struct Ia3 {
    base: Box<dyn Projection>,
    side: Side,
    scale: Param,
}

impl Ia3 {
    /// Scales `side` of `base` by `scale`, of [`Side::shape`].
    ///
    /// Errors: what was found where a frozen weight without an adapter was wanted.
    ///
    /// # Panics
    /// If `scale` has another shape.
    pub fn new(base: Box<dyn Projection>, side: Side, scale: &Tensor) -> Result<Self, Found> {
        let documents = Documents::new(&[]);
        let parts = base
            .parts(&Pass::evaluate(&documents))
            .ok_or(Found("a weight that trains"))?;
        if !parts.is_plain() {
            return Err(Found("an adapter"));
        }
        drop(parts);
        let weight = base.weight();
        let wanted = side.shape(weight.size2().expect("a matrix").into());
        assert_eq!(scale.size(), wanted, "one factor for each of the {side:?}");
        let scale = Param::trainable(&scale.to_device(weight.device()), Role::Adapter);
        Ok(Self { base, side, scale })
    }

    /// What is scaled.
    pub fn side(&self) -> Side {
        self.side
    }

    /// l as it is trained, of [`Side::shape`].
    pub fn scale(&self) -> &Param {
        &self.scale
    }

    /// l as a row, f32.
    fn factors(&self) -> Tensor {
        self.scale.value().view([-1])
    }

    fn base_parts(&self, pass: &Pass) -> Parts<'_> {
        self.base.parts(pass).expect("checked when it was made")
    }
}

impl Projection for Ia3 {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let one = |x: &Tensor, parts: Parts| over_frozen(x, &[parts]).pop().expect("one output");
        match self.parts(pass) {
            Some(parts) => one(x, parts),
            // The product's memory is given away, and x is read by others too.
            None => one(
                &kernels::scale_columns(x.copy(), &self.factors()),
                self.base_parts(pass),
            ),
        }
    }

    fn weight(&self) -> Tensor {
        tch::no_grad(|| self.base.weight().to_kind(Kind::Float) * self.scale.value().detach())
    }

    fn merge(self: Box<Self>) -> Dense {
        // In f32 whatever the base's dtype, and rounded once.
        let merged = self.weight();
        let dense = self.base.merge();
        let (kind, role) = (dense.param().value().kind(), dense.param().role());
        Dense::new(Param::frozen(merged.to_kind(kind), role))
    }

    fn into_dense(self: Box<Self>) -> Result<Dense, Found> {
        Err(Found("an IA3 adapter"))
    }

    fn parts(&self, pass: &Pass) -> Option<Parts<'_>> {
        let base = self.base_parts(pass);
        if !pass.adapters_on() {
            return Some(base);
        }
        match self.side {
            Side::Outputs => Some(Parts {
                finish: Some(Box::new(|y| kernels::scale_columns(y, &self.factors()))),
                ..base
            }),
            Side::Inputs => None,
        }
    }

    fn bias_scale(&self, pass: &Pass) -> Option<Tensor> {
        (self.side == Side::Outputs && pass.adapters_on()).then(|| self.factors())
    }
}

impl Parameters for Ia3 {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        self.base.visit(at, visitor);
        visitor(&at.join("ia3_l"), &self.scale);
    }
}
