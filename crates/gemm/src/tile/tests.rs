//! Every unit of this machine against products in f64.

use half::bf16;

use super::pack::{self, Rows as _, Strided};
use super::scratch::{self, Need};
use super::*;
use crate::unit::on_each;

fn numbers<T: Number>(n: usize, seed: u32) -> Vec<T> {
    let mut state = seed;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            T::from_f32((state >> 8) as f32 / 8_388_608.0 - 1.0)
        })
        .collect()
}

/// Which packing makes the operands.
#[derive(Clone, Copy, Debug)]
enum Way {
    Plain,
    Transposed,
}

struct Product<'a, T> {
    way: Way,
    a: Strided<'a, T>,
    b: Strided<'a, T>,
    c: &'a mut [f32],
}

impl<T: Number + scratch::Plain> TileKernel for Product<'_, T> {
    #[inline(always)]
    fn run<L: TileLanes>(self, tiles: &Tiles) {
        let Self { way, a, b, c } = self;
        // Transposed operands are given as [k, m] and [n, k].
        let (m, k, n) = match way {
            Way::Plain => (whole(a.len), whole(a.width), whole(b.width)),
            Way::Transposed => (whole(a.width), whole(a.len), whole(b.len)),
        };
        let mut held = scratch::hold(Need::default().and::<T>(m * k).and::<T>(k * n));
        let mut scratch = held.scratch();
        let (left, right) = (scratch.take::<T>(m * k), scratch.take::<T>(k * n));
        let left = match way {
            Way::Plain => {
                pack::left(a, left);
                pack::right::<L, T>(b, right);
                Left::rows(left, k)
            }
            Way::Transposed => {
                pack::left_transposed::<L, T>(a, 0, m, left);
                pack::right_transposed::<L, T>(b, right);
                Left::blocks(left, m)
            }
        };
        product::<L, T>(tiles, [m, n, k], left, Right::panels(right, k), (c, n), true);
    }
}

fn check<T: Number + scratch::Plain>(way: Way, [m, n, k]: [usize; 3]) {
    // Rows are three numbers longer than their matrix, which shall be left alone.
    let shapes = match way {
        Way::Plain => [(m, k), (k, n)],
        Way::Transposed => [(k, m), (n, k)],
    };
    let data = [0, 1].map(|i| numbers::<T>(shapes[i].0 * (shapes[i].1 + 3), 7 + i as u32));
    let [a, b] = [0, 1].map(|i| Strided {
        data: &data[i],
        stride: shapes[i].1 + 3,
        len: shapes[i].0,
        width: shapes[i].1,
    });
    on_each(|unit| {
        let mut c = vec![0.5; whole(m) * whole(n)];
        dispatch(Product { way, a, b, c: &mut c });
        for i in 0..whole(m) {
            for j in 0..whole(n) {
                let want: f64 = 0.5
                    + (0..if i < m && j < n { k } else { 0 })
                        .map(|l| {
                            let (x, y) = match way {
                                Way::Plain => (a.row(i)[l], b.row(l)[j]),
                                Way::Transposed => (a.row(l)[i], b.row(j)[l]),
                            };
                            f64::from(x.to_f32()) * f64::from(y.to_f32())
                        })
                        .sum::<f64>();
                let got = f64::from(c[i * whole(n) + j]);
                // Operands are exact; k sums of numbers below k in f32.
                let tolerance = k as f64 * k as f64 * f64::from(f32::EPSILON) / 8.0;
                assert!(
                    (got - want).abs() <= tolerance,
                    "{unit:?} {way:?} [{i}, {j}]: {got}, not {want}"
                );
            }
        }
    });
}

#[test]
fn products_of_odd_sizes_equal_those_in_f64() {
    for way in [Way::Plain, Way::Transposed] {
        for shape in [[1, 1, 1], [33, 17, 65], [32, 64, 32], [70, 5, 96], [16, 100, 31]] {
            check::<f32>(way, shape);
            check::<bf16>(way, shape);
        }
    }
}

#[test]
fn powers_of_two_are_good_to_three_units_in_the_last_place() {
    struct Powers<'a>(&'a [f32], &'a mut [f32]);
    impl TileKernel for Powers<'_> {
        #[inline(always)]
        fn run<L: TileLanes>(self, _: &Tiles) {
            for (x, y) in self.0.chunks_exact(16).zip(self.1.chunks_exact_mut(16)) {
                f32::store_bits(exp2(f32::bits::<L>(x)), y);
            }
        }
    }
    let x: Vec<f32> = (-126_000..16_000).map(|i| i as f32 * 1e-3 + 1.7e-4).collect();
    on_each(|unit| {
        let mut y = vec![0.0; x.len()];
        dispatch(Powers(&x, &mut y));
        for (&x, &y) in x.iter().zip(&y) {
            let want = f64::from(x).exp2();
            assert!(
                (f64::from(y) / want - 1.0).abs() < 3.0 * f64::from(f32::EPSILON),
                "{unit:?}: 2^{x} = {y}"
            );
        }
        let ends = [
            f32::NEG_INFINITY,
            -1e30,
            -150.0,
            0.0,
            f32::NAN,
            1.0,
            2.0,
            3.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
            0.0,
        ];
        let mut y = [0.0; 16];
        dispatch(Powers(&ends, &mut y));
        assert_eq!(y[..4], [0.0, 0.0, 0.0, 1.0]);
        assert!(y[4].is_nan());
        assert_eq!(y[5..8], [2.0, 4.0, 8.0]);
    });
}

#[test]
fn strides_and_lengths_that_do_not_fit_are_refused() {
    struct Strides([usize; 4]);
    impl TileKernel for Strides {
        fn run<L: TileLanes>(self, tiles: &Tiles) {
            let Self([row, depth, c_row, m]) = self;
            let (a, b, mut c) = ([0.0f32; 1024], [0.0f32; 1024], [0.0f32; 1024]);
            let (left, right) = (Left::rows(&a, row), Right::panels(&b, depth));
            product::<L, f32>(tiles, [m, 32, 32], left, right, (&mut c, c_row), false);
        }
    }
    dispatch(Strides([32, 32, 32, 32]));
    for wrong in [
        [33, 32, 32, 32],
        [32, 33, 32, 32],
        [32, 32, 33, 32],
        [32, 32, 32, 64],
        [32, 32, 32, 16],
        [usize::MAX / 31, 32, 32, 32],
        [32, usize::MAX / 16 + 1, 32, 32],
        [32, 32, usize::MAX / 31 + 1, 32],
    ] {
        assert!(
            std::panic::catch_unwind(|| dispatch(Strides(wrong))).is_err(),
            "{wrong:?}"
        );
    }
}

#[test]
fn a_kernel_may_run_another_one_inside() {
    struct Outer<'a>(&'a mut [f32]);
    impl TileKernel for Outer<'_> {
        fn run<L: TileLanes>(self, tiles: &Tiles) {
            let mut inner = [0.0f32; 1024];
            dispatch(Ones(&mut inner));
            let ones = [bf16::ONE; 1024];
            product::<L, bf16>(
                tiles,
                [32; 3],
                Left::rows(&ones, 32),
                Right::panels(&ones, 32),
                (&mut *self.0, 32),
                false,
            );
        }
    }
    struct Ones<'a>(&'a mut [f32]);
    impl TileKernel for Ones<'_> {
        fn run<L: TileLanes>(self, tiles: &Tiles) {
            let ones = [bf16::ONE; 1024];
            product::<L, bf16>(
                tiles,
                [32; 3],
                Left::rows(&ones, 32),
                Right::panels(&ones, 32),
                (&mut *self.0, 32),
                false,
            );
        }
    }
    on_each(|unit| {
        let mut sums = [0.0f32; 1024];
        dispatch(Outer(&mut sums));
        assert_eq!(sums, [32.0; 1024], "{unit:?}");
    });
}

#[test]
#[should_panic(expected = "scratch memory of a size")]
fn scratch_that_is_no_size_is_refused() {
    let mut held = scratch::hold(Need::default().and::<f32>(16));
    let _ = held.scratch().take::<f32>(usize::MAX / 4 + 2);
}
