//! A projection over packed codes: dequantised for each product, never kept dense and never in a graph.
//!
//! `y = x Ŵᵀ`, `dx = dy Ŵ` with `Ŵ = level[code] · c`, in the dtype of x. Ŵ goes through one buffer that all matrices share;
//! for a few tokens on the CPU, where reading the weight is all the work, it goes through the cache alone.
//! Shapes: t tokens, in and out widths; W `[out, in]`.

use std::cell::RefCell;

use tch::{Device, Kind, Tensor};
use tensor_core::{Dense, Found, FrozenMap, ModulePath, Param, Parameters, Parts, Pass, Projection, Role, over_frozen};

use crate::codec::Scheme;
use crate::{QuantizedWeight, ScaleTensors, few_rows};

/// A frozen matrix in 4 or 8 bits.
#[derive(Debug)]
pub struct Quantized {
    weight: QuantizedWeight,
}

impl Quantized {
    /// Over `weight`.
    pub fn new(weight: QuantizedWeight) -> Self {
        Self { weight }
    }

    /// The codes and scales.
    pub fn packed(&self) -> &QuantizedWeight {
        &self.weight
    }

    /// Gives `body` the whole of Ŵ in dtype `kind`, in memory that is used again.
    fn with_dense<R>(&self, kind: Kind, body: impl FnOnce(&Tensor) -> R) -> R {
        with_buffer(self.weight.shape, kind, self.weight.codes.device(), |dense| {
            self.weight.dequantise_into(dense);
            body(dense)
        })
    }
}

impl FrozenMap for Quantized {
    fn share(&self) -> Box<dyn FrozenMap + Send> {
        Box::new(Self::new(self.weight.share()))
    }

    fn apply(&self, x: &Tensor) -> Tensor {
        few_rows::product(x, &self.weight).unwrap_or_else(|| self.with_dense(x.kind(), |dense| x.matmul(&dense.tr())))
    }

    fn apply_transposed(&self, y: &Tensor, onto: Option<Tensor>) -> Tensor {
        self.with_dense(y.kind(), |dense| match onto {
            Some(onto) => onto.addmm(y, dense),
            None => y.matmul(dense),
        })
    }
}

impl Projection for Quantized {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let parts = self.parts(pass).expect("a quantised weight is always frozen");
        over_frozen(x, &[parts]).pop().expect("one output")
    }

    fn weight(&self) -> Tensor {
        self.weight.dequantise(Kind::Float)
    }

    /// The dequantised matrix, in the dtype of the one that was quantised.
    fn merge(self: Box<Self>) -> Dense {
        Dense::new(Param::frozen(self.weight.dequantise(self.weight.kind), Role::Base))
    }

    fn into_dense(self: Box<Self>) -> Result<Dense, Found> {
        Err(Found(match self.weight.scheme {
            Scheme::Nf4 | Scheme::Fp4 | Scheme::Int4 => "a 4-bit weight",
            Scheme::Int8 => "an 8-bit weight",
        }))
    }

    fn parts(&self, _pass: &Pass) -> Option<Parts<'_>> {
        Some(Parts::frozen(self))
    }
}

impl Parameters for Quantized {
    /// Codes and scales, under the names that bitsandbytes gives them.
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        let mut show = |name: &str, tensor: &Tensor| {
            visitor(&at.join(name), &Param::frozen(tensor.shallow_clone(), Role::Base));
        };
        show("weight", &self.weight.codes);
        match &self.weight.scales {
            ScaleTensors::Plain(absmax) => show("weight.absmax", absmax),
            ScaleTensors::Nested { codes, absmax, .. } => {
                show("weight.absmax", codes);
                show("weight.nested_absmax", absmax);
            }
        }
    }
}

/// Memory of this shape that is used again by the next call on this thread; it holds whatever was there.
fn with_buffer<R>(shape: [i64; 2], kind: Kind, device: Device, body: impl FnOnce(&Tensor) -> R) -> R {
    thread_local! {
        static BUFFERS: RefCell<Vec<Tensor>> = const { RefCell::new(Vec::new()) };
    }
    let count = shape[0] * shape[1];
    BUFFERS.with_borrow_mut(|buffers| {
        let held = buffers
            .iter()
            .position(|held| held.kind() == kind && held.device() == device);
        let enough = held.filter(|&idx| buffers[idx].numel() as i64 >= count);
        let idx = enough.unwrap_or_else(|| {
            if let Some(idx) = held {
                // Given back before the larger one is asked for.
                drop(buffers.swap_remove(idx));
            }
            buffers.push(Tensor::empty([count], (kind, device)));
            buffers.len() - 1
        });
        body(&buffers[idx].narrow(0, 0, count).view(shape))
    })
}
