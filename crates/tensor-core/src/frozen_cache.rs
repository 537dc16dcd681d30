//! What follows from parameters that stay as they are for a while: made at the first pass, read at the others.
//!
//! Decoding runs through the same low-rank factors for every token; casting and packing them anew each time would cost
//! as much as their products.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use tch::{Device, Kind, Tensor};

use crate::packed::PackedMatrix;

/// A promise that no parameter changes while it lives, and what was made on the strength of it. Clones share that.
#[derive(Clone, Default)]
pub struct FrozenCache(Rc<RefCell<HashMap<Key, Ready>>>);

/// Where both factors lie, and the dtype they are computed in.
type Key = ([usize; 2], Kind);

/// Both factors in that dtype, packed if it is bf16 on the CPU.
struct Ready {
    /// Handles on the factors' own memory: nothing else can come to lie at their addresses meanwhile.
    _own: [Tensor; 2],
    factors: [Tensor; 2],
    packed: Option<[PackedMatrix; 2]>,
}

impl FrozenCache {
    /// The factors that `own` are in dtype `kind`, made by `make` if they are new.
    pub(crate) fn factors(
        &self,
        own: [&Tensor; 2],
        kind: Kind,
        make: impl FnOnce() -> [Tensor; 2],
    ) -> ([Tensor; 2], Option<[PackedMatrix; 2]>) {
        let mut known = self.0.borrow_mut();
        let key = (own.map(|factor| factor.data_ptr() as usize), kind);
        let ready = known.entry(key).or_insert_with(|| {
            let factors = make();
            let is_packed = kind == Kind::BFloat16 && factors.iter().all(|factor| factor.device() == Device::Cpu);
            Ready {
                _own: own.map(Tensor::detach),
                packed: is_packed.then(|| factors.each_ref().map(PackedMatrix::pack)),
                factors,
            }
        });
        (
            ready.factors.each_ref().map(Tensor::shallow_clone),
            ready.packed.clone(),
        )
    }
}

impl std::fmt::Debug for FrozenCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FrozenCache({} updates)", self.0.borrow().len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn factor(value: f64) -> Tensor {
        Tensor::full([1000, 1], value, (Kind::Float, Device::Cpu))
    }

    #[test]
    fn what_is_kept_is_never_that_of_a_factor_which_is_gone() {
        let still = FrozenCache::default();
        for value in 0..64 {
            let value = f64::from(value);
            // Gone at the end of the turn: the allocator would give the same block to the next factor.
            let (a, b) = (factor(value), factor(-value));
            let ([kept, _], _) = still.factors([&a, &b], Kind::Double, || {
                [&a, &b].map(|factor| factor.to_kind(Kind::Double))
            });
            assert_eq!(kept.double_value(&[0, 0]), value);
        }
    }

    #[test]
    fn updates_that_share_one_factor_are_told_apart() {
        let (still, a) = (FrozenCache::default(), factor(1.0));
        for value in [2.0, 3.0, 2.0] {
            let b = factor(value);
            let ([_, kept], _) = still.factors([&a, &b], Kind::Float, || [a.copy(), b.copy()]);
            assert_eq!(kept.double_value(&[0, 0]), value);
        }
    }
}
