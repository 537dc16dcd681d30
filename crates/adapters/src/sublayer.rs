//! A sublayer with an adapter behind it or beside it.

use tch::Tensor;
use tensor_core::{ModulePath, Param, Parameters, Pass, ProjectionSurgeon, Result, Sublayer};

use crate::Bottleneck;

/// `h + a(h)` with `h = f(x)`, or `f(x) + a(x)`, for the sublayer f.
#[derive(Debug)]
pub struct Adapted {
    inner: Box<dyn Sublayer>,
    bottleneck: Bottleneck,
    is_parallel: bool,
    dropout: f64,
    site: u64,
}

impl Adapted {
    /// An adapter behind `inner`.
    pub fn behind(inner: Box<dyn Sublayer>, bottleneck: Bottleneck) -> Self {
        Self {
            inner,
            bottleneck,
            is_parallel: false,
            dropout: 0.0,
            site: 0,
        }
    }

    /// An adapter beside `inner`, on its input.
    pub fn beside(inner: Box<dyn Sublayer>, bottleneck: Bottleneck) -> Self {
        Self {
            is_parallel: true,
            ..Self::behind(inner, bottleneck)
        }
    }

    /// Drops numbers of the adapter's output with this probability while training; `site` names the random stream
    /// ([`ModulePath::site`]).
    #[must_use]
    pub fn with_dropout(self, dropout: f64, site: u64) -> Self {
        Self { dropout, site, ..self }
    }
}

impl Sublayer for Adapted {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let h = self.inner.forward(x, pass);
        if !pass.adapters_on() {
            return h;
        }
        let key = pass.dropout(self.site).filter(|_| self.dropout > 0.0);
        let read = if self.is_parallel { x } else { &h };
        let added = self.bottleneck.forward(read, key.map(|key| (self.dropout, key)));
        h + added
    }

    fn map_projections(self: Box<Self>, at: &ModulePath, surgeon: &mut ProjectionSurgeon) -> Result<Box<dyn Sublayer>> {
        let Self { inner, .. } = *self;
        let inner = inner.map_projections(at, surgeon)?;
        Ok(Box::new(Self { inner, ..*self }))
    }
}

impl Parameters for Adapted {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        self.inner.visit(at, visitor);
        self.bottleneck.visit(&at.join(ADAPTER), visitor);
    }
}

/// What stands between a sublayer's path and the names of its adapter's parameters.
pub(crate) const ADAPTER: &str = "adapters.default";
