//! What several tests need: models of the golden vectors, and a projection that is not plain.

use std::path::Path;

use checkpoint::ModelDir;
use decoder::Decoder;
use tch::{Device, Kind, Tensor};
use tensor_core::{Dense, Found, ModulePath, Param, Parameters, Pass, Projection, Role};

/// The tiny model `families/NAME` in f32.
pub(crate) fn load(name: &str) -> Decoder {
    load_dir(&golden::vectors_dir().join("families").join(name), Kind::Float)
}

/// The model in a folder.
pub(crate) fn load_dir(folder: &Path, kind: Kind) -> Decoder {
    let dir = ModelDir::open(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    Decoder::load(&dir, Device::Cpu, kind).unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
}

/// `y = x Wᵀ + x (u vᵀ)ᵀ`: a matrix and a trained update of rank one beside it, by libtorch's own autograd.
#[derive(Debug)]
pub(crate) struct RankOne {
    base: Dense,
    u: Param,
    v: Param,
}

impl RankOne {
    /// Beside a plain matrix, with an update that is not zero.
    pub(crate) fn beside(projection: Box<dyn Projection>) -> Self {
        let base = projection.into_dense().expect("a plain matrix");
        let size = base.weight().size();
        let row = |n: i64, step: f64| (Tensor::arange(n, (Kind::Float, Device::Cpu)) * step).sin() * 0.3;
        Self {
            base,
            u: Param::trainable(&row(size[0], 0.7), Role::AdapterOut),
            v: Param::trainable(&row(size[1], 1.3), Role::Adapter),
        }
    }
}

impl Projection for RankOne {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let y = self.base.forward(x, pass);
        if !pass.adapters_on() {
            return y;
        }
        y + x.matmul(&self.v.cast(x.kind())).outer(&self.u.cast(x.kind()))
    }

    fn weight(&self) -> Tensor {
        self.base.weight().to_kind(Kind::Float) + self.u.value().detach().outer(&self.v.value().detach())
    }

    fn merge(self: Box<Self>) -> Dense {
        let kind = self.base.weight().kind();
        Dense::new(Param::frozen(self.weight().to_kind(kind), self.base.param().role()))
    }

    fn into_dense(self: Box<Self>) -> Result<Dense, Found> {
        Err(Found("an update of rank one"))
    }
}

impl Parameters for RankOne {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        self.base.visit(&at.join("base_layer"), visitor);
        visitor(&at.join("u"), &self.u);
        visitor(&at.join("v"), &self.v);
    }
}
