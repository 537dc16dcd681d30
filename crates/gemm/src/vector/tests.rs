//! Every unit against f64 and against plain loops.

use half::bf16;

use super::{Kernel, Lanes, Scalar, dispatch};
use crate::unit::on_each;

struct Map<'a, F> {
    x: &'a [f32],
    f: F,
}

/// A function of lanes, since closures cannot be generic.
trait Function {
    fn apply<L: Lanes>(&self, x: L) -> L;
}

impl<F: Function> Kernel for Map<'_, F> {
    type Output = Vec<f32>;
    #[inline(always)]
    fn run<L: Lanes>(self) -> Vec<f32> {
        let mut y = vec![0.0; self.x.len()];
        for at in (0..y.len()).step_by(16) {
            f32::write(&mut y, at, self.f.apply(f32::read::<L>(self.x, at)));
        }
        y
    }
}

struct Exp;
impl Function for Exp {
    #[inline(always)]
    fn apply<L: Lanes>(&self, x: L) -> L {
        x.exp()
    }
}

struct Sigmoid;
impl Function for Sigmoid {
    #[inline(always)]
    fn apply<L: Lanes>(&self, x: L) -> L {
        x.sigmoid()
    }
}

struct Bf16;
impl Function for Bf16 {
    #[inline(always)]
    fn apply<L: Lanes>(&self, x: L) -> L {
        x.round_to_bf16()
    }
}

/// Distance in units of the last place of an f32 near `want`.
fn ulps(got: f32, want: f64) -> f64 {
    let unit = f64::from(f32::from_bits((want as f32).abs().to_bits() + 1)) - f64::from((want as f32).abs());
    (f64::from(got) - want).abs() / unit
}

#[test]
fn exp_is_good_to_two_units_in_the_last_place() {
    let x: Vec<f32> = (-103_900..88_720).map(|i| i as f32 * 1e-3 + 1.7e-4).collect();
    on_each(|unit| {
        let y = dispatch(Map { x: &x, f: Exp });
        for (&x, &y) in x.iter().zip(&y) {
            let error = ulps(y, f64::from(x).exp());
            assert!(error < 2.0, "{unit:?}: exp({x}) = {y}, {error} units off");
        }
    });
}

#[test]
fn exp_ends_where_f32_ends() {
    let x = [
        f32::NEG_INFINITY,
        -1e30,
        -104.0,
        0.0,
        89.0,
        1e30,
        f32::INFINITY,
        f32::NAN,
    ];
    on_each(|unit| {
        let y = dispatch(Map { x: &x, f: Exp });
        assert_eq!(
            y[..7],
            [0.0, 0.0, 0.0, 1.0, f32::INFINITY, f32::INFINITY, f32::INFINITY],
            "{unit:?}"
        );
        assert!(y[7].is_nan());
    });
}

#[test]
fn sigmoid_stays_accurate_in_both_tails() {
    let x: Vec<f32> = (-8700..8700).map(|i| i as f32 * 1e-2).collect();
    on_each(|unit| {
        let y = dispatch(Map { x: &x, f: Sigmoid });
        for (&x, &y) in x.iter().zip(&y) {
            // Two units from exp, one each from the sum and the quotient.
            let error = ulps(y, 1.0 / (1.0 + (-f64::from(x)).exp()));
            assert!(error < 4.0, "{unit:?}: sigmoid({x}) = {y}, {error} units off");
        }
    });
}

#[test]
fn rounding_to_bf16_is_the_half_crates() {
    // Every upper half with lower halves around the tie, NaN with a payload in the lower half only among them.
    let mut x = Vec::new();
    for upper in 0..=u16::MAX {
        for lower in [0, 1, 0x7fff, 0x8000, 0x8001, 0xffff] {
            x.push(f32::from_bits(u32::from(upper) << 16 | lower));
        }
    }
    on_each(|unit| {
        let y = dispatch(Map { x: &x, f: Bf16 });
        for (&x, &y) in x.iter().zip(&y) {
            let want = bf16::from_f32(x).to_f32();
            assert!(
                y.to_bits() == want.to_bits() || (y.is_nan() && want.is_nan()),
                "{unit:?}: {x} became {y}, not {want}"
            );
        }
    });
}

#[test]
fn reading_and_writing_bf16_respects_the_end() {
    struct Copy<'a>(&'a [bf16], &'a mut [bf16]);
    impl Kernel for Copy<'_> {
        type Output = f32;
        #[inline(always)]
        fn run<L: Lanes>(self) -> f32 {
            let mut largest = L::splat(f32::NEG_INFINITY);
            for at in (0..self.0.len()).step_by(16) {
                let lanes = bf16::read::<L>(self.0, at);
                largest = lanes.at_least(largest);
                bf16::write(self.1, at, lanes);
            }
            largest.largest()
        }
    }
    let x: Vec<bf16> = (0..53).map(|i| bf16::from_f32(i as f32 - 20.0)).collect();
    on_each(|unit| {
        let mut y = vec![bf16::ZERO; 53];
        assert_eq!(dispatch(Copy(&x, &mut y)).to_bits(), 32f32.to_bits(), "{unit:?}");
        assert_eq!(x, y, "{unit:?}");
    });
}

#[test]
fn sums_are_whole() {
    struct Sum<'a>(&'a [f32]);
    impl Kernel for Sum<'_> {
        type Output = f32;
        #[inline(always)]
        fn run<L: Lanes>(self) -> f32 {
            f32::read::<L>(self.0, 0).sum()
        }
    }
    let x: Vec<f32> = (0..16).map(|i| (1 << i) as f32).collect();
    on_each(|unit| assert_eq!(dispatch(Sum(&x)).to_bits(), 65535f32.to_bits(), "{unit:?}"));
}
