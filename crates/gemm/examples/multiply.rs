//! Multiplies by one packed matrix on every instruction set of this machine, and says how fast.
//!
//! `cargo run --release -p finetune-gemm --example multiply`

use std::time::Instant;

use gemm::half::bf16;
use gemm::ndarray::Array2;
use gemm::tile::Number;
use gemm::tile::scratch::Plain;
use gemm::{Packed, unit};

/// Rows, columns and inner width: a projection of a small language model, over 256 tokens.
const SHAPE: [usize; 3] = [256, 576, 576];

/// The best of a few rounds, in 10⁹ multiplications and additions a second.
fn rate<T: Number + Plain>() -> f64 {
    let [m, n, k] = SHAPE;
    let number = |(i, j): (usize, usize)| T::from_f32(((i * 7 + j * 3) % 16) as f32 / 16.0 - 0.5);
    let (a, b) = (
        Array2::from_shape_fn((m, k), number),
        Array2::from_shape_fn((k, n), number),
    );
    let packed = Packed::new(b.view());
    let mut c = Array2::zeros((m, n));
    let mut best = f64::INFINITY;
    for _ in 0..5 {
        let begin = Instant::now();
        packed.multiply_into(a.view(), c.view_mut(), false);
        best = best.min(begin.elapsed().as_secs_f64());
    }
    // One element by hand: the result is what is measured.
    let by_hand: f32 = (0..k).map(|l| a[[3, l]].to_f32() * b[[l, 5]].to_f32()).sum();
    assert!((c[[3, 5]] - by_hand).abs() < 1e-2, "{} is not {by_hand}", c[[3, 5]]);
    2.0 * (m * n * k) as f64 / best / 1e9
}

fn main() {
    println!("{:12} {:>8} {:>8}  GFLOP/s", "unit", "f32", "bf16");
    unit::on_each(|unit| println!("{unit:12} {:8.1} {:8.1}", rate::<f32>(), rate::<bf16>()));
}
