//! NF4 there and back, beside a copy that moves as many bytes: a 4096 × 4096 matrix.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use half::bf16;
use quant::codec::{BlockSize, Number, Scheme, dequantise, quantise};

const NUMBERS: usize = 4096 * 4096;

fn numbers<T: Number>() -> Vec<T> {
    (0..NUMBERS)
        .map(|idx| T::narrow((idx as f32 * 0.37).sin() * 0.05))
        .collect()
}

fn of<T: Number>(criterion: &mut Criterion, name: &str) {
    let block = BlockSize::default();
    let values: Vec<T> = numbers();
    let (mut codes, mut absmax) = (vec![0u8; NUMBERS / 2], vec![0.0f32; NUMBERS / 64]);
    let mut back = values.clone();
    // What is read and what is written, together.
    let moved = NUMBERS * size_of::<T>() + codes.len() + 4 * absmax.len();
    let mut group = criterion.benchmark_group(format!("nf4 {name}"));
    group.throughput(Throughput::Bytes(moved as u64));
    group.measurement_time(Duration::from_secs(4)).sample_size(20);
    group.bench_function("quantise", |bencher| {
        bencher.iter(|| quantise(Scheme::Nf4, block, black_box(&values), &mut codes, &mut absmax).unwrap());
    });
    group.bench_function("dequantise", |bencher| {
        bencher.iter(|| dequantise(Scheme::Nf4, block, black_box(&codes), &absmax, &mut back));
    });
    // Half of these bytes read, half written, by both threads.
    let half = moved / 2 / size_of::<T>();
    group.bench_function("copy of as many bytes", |bencher| {
        bencher.iter(|| copy(black_box(&values[..half]), &mut back[..half]));
    });
    group.finish();
}

fn copy<T: Number>(from: &[T], to: &mut [T]) {
    use rayon::prelude::*;
    let chunks = to.par_chunks_mut(1 << 16).zip(from.par_chunks(1 << 16));
    chunks.for_each(|(to, from)| to.copy_from_slice(from));
}

fn nf4(criterion: &mut Criterion) {
    of::<f32>(criterion, "f32");
    of::<bf16>(criterion, "bf16");
}

criterion_group!(benches, nf4);
criterion_main!(benches);
