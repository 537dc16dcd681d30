//! A projection with a memory beside it.
//!
//! `y = W x + c Σ_{e∈S(x)} a_e(x) E_e x`: W is frozen, the experts S(x) are chosen by the input, and every expert begins
//! at zero, so that at step 0 nothing changes.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tch::{Device, Kind, Tensor};
use tensor_core::{Dense, Found, ModulePath, Param, Parameters, Pass, Projection, autograd, blob};

use crate::experts::{self, Use};
use crate::{Chosen, Experts};

/// A frozen projection and the experts beside it.
///
/// It is not linear: [`Projection::weight`] is that of the base, and only a memory that holds nothing can be merged.
pub struct Memory {
    base: Box<dyn Projection>,
    experts: Arc<Mutex<Experts>>,
}

impl Memory {
    /// `experts` beside `base`; others may hold the experts too, and train them.
    pub fn new(base: Box<dyn Projection>, experts: Arc<Mutex<Experts>>) -> Self {
        Self { base, experts }
    }

    /// What the experts add for `x` (`[t, in]`), `[t, out]` f32; none if no token meets an expert that was ever touched.
    fn added(&self, x: &Tensor) -> Option<Tensor> {
        let mut experts = locked(&self.experts);
        let experts = &mut *experts;
        let x = x.to_device(Device::Cpu).to_kind(Kind::Float).contiguous();
        experts.note(&x);
        if experts.table.ids().is_empty() {
            return None;
        }
        let chosen = experts.selection.choose(&x);
        let uses = uses(experts, &chosen);
        if uses.is_empty() {
            return None;
        }
        let shape = experts.table.shape();
        let (scale, width, outputs) = (experts.scale, shape.inputs as i64, shape.outputs as i64);
        let held = blob::to_vec::<f32>(&x);
        let y = experts::forward(&experts.table, &uses, &held, scale);
        let y = Tensor::from_slice(&y).view([-1, outputs]);
        let moves = uses.iter().any(|used| used.moves);
        // Rows are no tensors; what moves them hangs on this leaf.
        let anchor = Tensor::zeros([0], (Kind::Float, Device::Cpu)).set_requires_grad(moves);
        let inputs = [&x, &chosen.shares, &anchor];
        if !autograd::wants(&inputs) {
            return Some(y);
        }
        let mut uses = uses;
        let (shared, wants_dx, top_k) = (self.experts.clone(), x.requires_grad(), experts.selection.top_k());
        Some(autograd::attach(&inputs, y, move |dy| {
            let Some(dy) = dy else { return vec![None, None, None] };
            let dy = blob::to_vec::<f32>(&dy.to_kind(Kind::Float));
            let mut experts = locked(&shared);
            // What may move may have been narrowed once the loss was known.
            for used in &mut uses {
                used.moves = used.moves && experts.may_move(experts.table.ids()[used.slot]);
            }
            let Experts { table, gradients, .. } = &mut *experts;
            let rows = (held.as_slice(), dy.as_slice());
            let (dx, d_shares) = experts::backward(table, &uses, rows, (scale, top_k, wants_dx), gradients);
            let like = |values: &[f32], width: i64| Tensor::from_slice(values).view([-1, width]);
            let dx = wants_dx.then(|| like(&dx, width));
            vec![dx, Some(like(&d_shares, top_k as i64)), None]
        }))
    }
}

/// The uses of experts that have a row, token by token.
fn uses(experts: &Experts, chosen: &Chosen) -> Vec<Use> {
    let (ids, shares) = (
        blob::to_vec::<i64>(&chosen.experts),
        blob::to_vec::<f32>(&chosen.shares),
    );
    let top_k = experts.selection.top_k();
    let pairs = ids.into_iter().zip(shares);
    let with_row = pairs.enumerate().filter_map(|(at, (id, share))| {
        let slot = experts.table.slot(id as u32)?;
        Some(Use {
            token: at / top_k,
            rank: at % top_k,
            slot,
            share,
            moves: experts.may_move(id as u32),
        })
    });
    with_row.collect()
}

/// The experts, whatever became of the thread that held them last: each write to them is whole.
pub(crate) fn locked(experts: &Mutex<Experts>) -> MutexGuard<'_, Experts> {
    experts.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Projection for Memory {
    fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let y = self.base.forward(x, pass);
        if !pass.adapters_on() {
            return y;
        }
        match self.added(x) {
            Some(added) => y + added.to_kind(x.kind()).to_device(x.device()),
            None => y,
        }
    }

    /// That of the base: what the experts add is no matrix.
    fn weight(&self) -> Tensor {
        self.base.weight()
    }

    /// # Panics
    /// If anything is in the memory ([`crate::Error::NotLinear`]).
    fn merge(self: Box<Self>) -> Dense {
        assert!(
            locked(&self.experts).table.ids().is_empty(),
            "{}",
            crate::Error::NotLinear
        );
        self.base.merge()
    }

    fn into_dense(self: Box<Self>) -> Result<Dense, Found> {
        Err(Found("a memory of experts"))
    }
}

impl Parameters for Memory {
    /// The base's; the experts are rows of a table, and what chooses them is fitted, not trained.
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        self.base.visit(at, visitor);
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory")
            .field("base", &self.base)
            .finish_non_exhaustive()
    }
}
