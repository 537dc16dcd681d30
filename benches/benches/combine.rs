//! Three adapters of rank 16 as one of rank 16: through their factors, and through the dense update.
#![allow(missing_docs, reason = "criterion's macros write a public function without one")]

use benches::normal;
use criterion::{Criterion, criterion_group, criterion_main};
use lora::LoraConfig;
use lora::combine::{CombinationType, CombineConfig, Weighted, combine};
use tch::Tensor;

const RANK: i64 = 16;

fn adapters(width: i64) -> Vec<Weighted> {
    let weights = [0.5, 0.3, 0.2];
    let adapter = |weight: f64| Weighted {
        name: format!("{weight}"),
        config: LoraConfig {
            r: RANK,
            lora_alpha: 32.0,
            ..LoraConfig::default()
        },
        tensors: vec![
            ("base_model.model.q_proj.lora_A.weight".into(), normal(&[RANK, width])),
            ("base_model.model.q_proj.lora_B.weight".into(), normal(&[width, RANK])),
        ],
        weight,
    };
    weights.map(adapter).into()
}

fn combined(adapters: &[Weighted], combination_type: CombinationType, density: Option<f64>) -> Tensor {
    let options = CombineConfig {
        combination_type,
        density,
        svd_rank: Some(RANK),
        ..CombineConfig::default()
    };
    let combination = combine(adapters, &options, &mut |_, _| ()).expect("adapters of one shape");
    combination.tensors[1].1.shallow_clone()
}

/// As PEFT goes about it, but for the vectors beyond the smaller side.
fn dense(adapters: &[Weighted]) -> Tensor {
    let update = |one: &Weighted| one.tensors[1].1.matmul(&one.tensors[0].1) * (2.0 * one.weight);
    let sum = adapters
        .iter()
        .map(update)
        .reduce(|sum, one| sum + one)
        .expect("three adapters");
    let (u, s, _) = sum.svd(true, true);
    u.narrow(1, 0, RANK) * s.narrow(0, 0, RANK)
}

fn combinations(criterion: &mut Criterion) {
    // The dense ways take a minute at 4096: `benches/peft/combine.py` measures PEFT there.
    for width in [1024, 4096] {
        let adapters = adapters(width);
        let mut group = criterion.benchmark_group(format!("3 adapters of rank {RANK}, {width} × {width}"));
        group.sample_size(10);
        group.bench_function("svd", |bencher| {
            bencher.iter(|| combined(&adapters, CombinationType::Svd, None));
        });
        if width == 1024 {
            group.bench_function("ties_svd", |bencher| {
                bencher.iter(|| combined(&adapters, CombinationType::TiesSvd, Some(0.5)));
            });
            group.bench_function("libtorch's svd of the dense sum", |bencher| {
                bencher.iter(|| dense(&adapters));
            });
        }
        group.finish();
    }
}

criterion_group!(benches, combinations);
criterion_main!(benches);
