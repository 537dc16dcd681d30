//! Products and sums of rows, sixteen numbers at a time.

use tensor_core::gemm::vector::Scalar as _;
use tensor_core::vector::{Kernel, LANES, Lanes, dispatch};

/// `Σ a b`.
pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    dispatch(Dot(a, b))
}

/// `to += scale · from`.
pub(crate) fn add_scaled(to: &mut [f32], scale: f32, from: &[f32]) {
    dispatch(AddScaled { to, scale, from });
}

struct Dot<'a>(&'a [f32], &'a [f32]);

impl Kernel for Dot<'_> {
    type Output = f32;
    #[inline(always)]
    fn run<L: Lanes>(self) -> f32 {
        let mut sum = L::splat(0.0);
        for at in (0..self.0.len()).step_by(LANES) {
            sum = f32::read::<L>(self.0, at).mul_add(f32::read::<L>(self.1, at), sum);
        }
        sum.sum()
    }
}

struct AddScaled<'a> {
    to: &'a mut [f32],
    scale: f32,
    from: &'a [f32],
}

impl Kernel for AddScaled<'_> {
    type Output = ();
    #[inline(always)]
    fn run<L: Lanes>(self) {
        let scale = L::splat(self.scale);
        for at in (0..self.to.len()).step_by(LANES) {
            let sum = f32::read::<L>(self.from, at).mul_add(scale, f32::read::<L>(self.to, at));
            f32::write(self.to, at, sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_summed_whole() {
        for len in [1, 15, 16, 17, 40] {
            let a: Vec<f32> = (0..len).map(|i| i as f32).collect();
            let b = vec![2.0f32; len];
            assert_eq!(dot(&a, &b), (len * (len - 1)) as f32);
            let mut to = b.clone();
            add_scaled(&mut to, 0.5, &a);
            assert_eq!(to[len - 1], 2.0 + 0.5 * (len - 1) as f32);
        }
    }
}
