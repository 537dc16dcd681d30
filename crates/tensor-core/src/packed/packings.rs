//! A frozen weight's packings, made when they are first asked for and forgotten when the weight changes.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use tch::Tensor;

use super::PackedMatrix;
use crate::Way;

/// What is known of a weight, for both directions: nothing yet, that packing gains nothing, or its packing.
#[derive(Debug, Default)]
pub(crate) struct Packings {
    forward: Mutex<OnceLock<Option<PackedMatrix>>>,
    transposed: Mutex<OnceLock<Option<PackedMatrix>>>,
}

impl Packings {
    /// The packing of `weight` (`[out, in]`) for one direction, as `pack` makes it: a handle on shared memory.
    pub(crate) fn get(
        &self,
        way: Way,
        weight: &Tensor,
        pack: impl FnOnce(&Tensor) -> Option<PackedMatrix>,
    ) -> Option<PackedMatrix> {
        self.of(way)
            .get_or_init(|| match way {
                Way::Forward => pack(weight),
                Way::Transposed => pack(&weight.tr()),
            })
            .clone()
    }

    /// Frees both packings.
    pub(crate) fn forget(&self) {
        for way in [Way::Forward, Way::Transposed] {
            self.of(way).take();
        }
    }

    fn of(&self, way: Way) -> MutexGuard<'_, OnceLock<Option<PackedMatrix>>> {
        let known = match way {
            Way::Forward => &self.forward,
            Way::Transposed => &self.transposed,
        };
        known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;

    #[test]
    fn a_packing_is_made_once_and_again_after_it_was_forgotten() {
        let packings = Packings::default();
        let weight = |value: f64| Tensor::full([32, 64], value, (Kind::BFloat16, Device::Cpu));
        let pack = |weight: &Tensor| Some(PackedMatrix::pack(&weight.contiguous()));
        for way in [Way::Forward, Way::Transposed] {
            let shape: [i64; 2] = if way == Way::Forward { [32, 64] } else { [64, 32] };
            let held = |value: f64| packings.get(way, &weight(value), pack).map(|packed| packed.unpack());
            let full = |value: f64| Some(Tensor::full(shape, value, (Kind::BFloat16, Device::Cpu)));
            assert_eq!(held(1.0), full(1.0));
            assert_eq!(held(2.0), full(1.0), "known already");
            packings.forget();
            assert_eq!(held(2.0), full(2.0));
        }
    }
}
