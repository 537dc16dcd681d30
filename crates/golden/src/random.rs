//! Numbers for tests: the same ones for the same seed, whatever other tests of the process draw meanwhile.

use std::sync::{Mutex, PoisonError};

use tch::{Device, Kind, Tensor};

/// Standard normal numbers in f32 on the CPU.
///
/// libtorch's generator is the whole process's and tests run side by side, so that seeding it and drawing from it must
/// not be parted: whoever draws in a test does it here.
pub fn random(seed: i64, shape: impl AsRef<[i64]>) -> Tensor {
    static DRAWING: Mutex<()> = Mutex::new(());
    let _drawing = DRAWING.lock().unwrap_or_else(PoisonError::into_inner);
    tch::manual_seed(seed);
    Tensor::randn(shape.as_ref(), (Kind::Float, Device::Cpu))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_side_by_side_draw_what_each_draws_alone() {
        let numbers = |seed| Vec::<f32>::try_from(random(seed, [192])).unwrap();
        let alone: Vec<Vec<f32>> = (0..8).map(numbers).collect();
        std::thread::scope(|scope| {
            for (seed, alone) in (0..8).zip(&alone) {
                scope.spawn(move || {
                    for _ in 0..200 {
                        assert_eq!(numbers(seed), *alone);
                    }
                });
            }
        });
    }
}
