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
pub struct Still(Rc<RefCell<HashMap<Key, Ready>>>);

/// Where the first factor lies, and the dtype it is computed in.
type Key = (usize, Kind);

/// Both factors in that dtype, packed if it is bf16 on the CPU.
struct Ready {
    factors: [Tensor; 2],
    packed: Option<[PackedMatrix; 2]>,
}

impl Still {
    /// The factors of the update whose first one is `a`, made by `make` if they are new.
    pub(crate) fn factors(
        &self,
        a: &Tensor,
        kind: Kind,
        make: impl FnOnce() -> [Tensor; 2],
    ) -> ([Tensor; 2], Option<[PackedMatrix; 2]>) {
        let mut known = self.0.borrow_mut();
        let ready = known.entry((a.data_ptr() as usize, kind)).or_insert_with(|| {
            let factors = make();
            let is_packed = kind == Kind::BFloat16 && factors.iter().all(|factor| factor.device() == Device::Cpu);
            Ready {
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

impl std::fmt::Debug for Still {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Still({} updates)", self.0.borrow().len())
    }
}
