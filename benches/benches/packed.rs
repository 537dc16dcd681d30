//! Frozen projections packed and multiplied here, and libtorch's products, at 2048 rows; the head's shape at 256.
//!
//! `ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2` holds libtorch to what it does on a machine without AVX-512.
#![allow(missing_docs, reason = "criterion's macros write a public function without one")]

use std::time::Duration;

use benches::{FEED_FORWARD, HIDDEN, KV_HEADS, TOKENS, VOCABULARY, normal};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use tch::{Kind, Tensor};
use tensor_core::Unit;
use tensor_core::packed::{self, LowRankTerm, PackedMatrix, Term};
use tensor_core::unit::on_each;

/// Rank of the low-rank terms.
const RANK: i64 = 16;

fn bf16(shape: &[i64]) -> Tensor {
    normal(shape).to_kind(Kind::BFloat16)
}

fn group<'a>(criterion: &'a mut Criterion, name: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(name.to_owned());
    group
        .sample_size(10)
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    group
}

fn products(criterion: &mut Criterion) {
    tensor_core::device::keep_memory();
    let kv = HIDDEN / 9 * KV_HEADS;
    let shapes = [
        (TOKENS, HIDDEN, 2 * FEED_FORWARD),
        (TOKENS, HIDDEN, kv),
        (TOKENS, FEED_FORWARD, HIDDEN),
        (TOKENS, HIDDEN, FEED_FORWARD),
        (256, HIDDEN, VOCABULARY),
        (1, HIDDEN, FEED_FORWARD),
    ];
    for (rows, input, out) in shapes {
        let mut group = group(criterion, &format!("product {rows} x {input} -> {out}"));
        let (weight, x) = (bf16(&[out, input]), bf16(&[rows, input]));
        if let Some(matrix) = &PackedMatrix::of(&weight) {
            let term = Term {
                x: &x,
                matrix,
                low_rank: None,
            };
            on_each(|unit| {
                if unit != Unit::Portable {
                    let name = format!("packed on {unit:?}");
                    group.bench_function(name, |bencher| bencher.iter(|| packed::product(&[term], None).0));
                }
            });
        }
        group.bench_function("libtorch", |bencher| bencher.iter(|| x.matmul(&weight.tr())));
        group.finish();
    }
}

fn low_rank(criterion: &mut Criterion) {
    for (input, out) in [(HIDDEN, FEED_FORWARD), (FEED_FORWARD, HIDDEN)] {
        let mut group = group(
            criterion,
            &format!("product with rank {RANK}, {TOKENS} x {input} -> {out}"),
        );
        let (weight, x) = (bf16(&[out, input]), bf16(&[TOKENS, input]));
        let (inner, outer) = (bf16(&[RANK, input]), bf16(&[out, RANK]));
        let low_rank = Some(LowRankTerm {
            inner: &inner,
            outer: &outer,
            scale: 2.0,
            packed: None,
        });
        if let Some(matrix) = &PackedMatrix::of(&weight) {
            let term = Term {
                x: &x,
                matrix,
                low_rank,
            };
            group.bench_function("packed", |bencher| bencher.iter(|| packed::product(&[term], None)));
        }
        group.bench_function("libtorch", |bencher| {
            bencher.iter(|| packed::reference::product(&[(&x, &weight, low_rank)], None));
        });
        group.finish();
    }
}

fn outers(criterion: &mut Criterion) {
    for width in [HIDDEN, FEED_FORWARD] {
        let mut group = group(criterion, &format!("outer product {RANK} x {TOKENS} x {width}"));
        let (left, right) = (bf16(&[TOKENS, RANK]), bf16(&[TOKENS, width]));
        group.bench_function("packed", |bencher| bencher.iter(|| packed::outer(&left, &right)));
        group.bench_function("libtorch", |bencher| {
            bencher.iter(|| packed::reference::outer(&left, &right));
        });
        group.finish();
    }
}

fn packing(criterion: &mut Criterion) {
    let mut group = group(criterion, &format!("packing {FEED_FORWARD} x {HIDDEN}"));
    let weight = bf16(&[FEED_FORWARD, HIDDEN]);
    group.bench_function("forward", |bencher| bencher.iter(|| PackedMatrix::of(&weight)));
    group.bench_function("transposed", |bencher| bencher.iter(|| PackedMatrix::of(&weight.tr())));
    group.finish();
}

criterion_group!(benches, products, low_rank, outers, packing);
criterion_main!(benches);
