//! Codes a matrix of normally distributed numbers with each scheme: size, error, and time.
//!
//! `cargo run --release -p finetune-block-codecs --example code_a_matrix`

use std::f32::consts::TAU;
use std::time::Instant;

use block_codecs::ndarray::Array2;
use block_codecs::{BlockSize, Blocks, Error, Scheme};

/// Normally distributed numbers, by Box and Muller from a linear congruential generator.
fn normal(shape: (usize, usize)) -> Array2<f32> {
    let mut state = 1u32;
    let mut uniform = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        ((state >> 8) as f32 + 0.5) / 16_777_216.0
    };
    Array2::from_shape_fn(shape, |_| {
        let radius = (-2.0 * uniform().ln()).sqrt();
        radius * (TAU * uniform()).cos()
    })
}

fn main() -> Result<(), Error> {
    let weight = normal((576, 1536));
    let norm = |x: &Array2<f32>| x.iter().map(|x| f64::from(x * x)).sum::<f64>().sqrt();
    println!(
        "{:5} {:>12} {:>8} {:>10} {:>10}",
        "", "bits/number", "error", "coded in", "read in"
    );
    let mut errors = Vec::new();
    for scheme in [Scheme::Int8, Scheme::Nf4, Scheme::Fp4, Scheme::Int4] {
        let begin = Instant::now();
        let blocks = Blocks::of(weight.view(), scheme, BlockSize::default())?;
        let coded = begin.elapsed();
        let blocks = blocks.with_nested_scales();
        let begin = Instant::now();
        let back = blocks.to_array::<f32>();
        let read = begin.elapsed();
        let error = norm(&(&back - &weight)) / norm(&weight);
        let bits = 8.0 * blocks.num_bytes() as f64 / weight.len() as f64;
        println!(
            "{scheme:5} {bits:12.3} {:7.2} % {coded:10.2?} {read:10.2?}",
            100.0 * error
        );
        errors.push(error);
    }
    // The paper's order: NF4 is made for such numbers.
    assert!(errors[0] < errors[1] && errors[1] < errors[3] && errors[1] < errors[2]);
    Ok(())
}
