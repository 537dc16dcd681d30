//! A training step of a feed-forward with a memory beside its last matrix, for tables of 10 thousand to a million experts.
//!
//! `cargo bench -p benches --bench memory`. The claims: a step's cost does not depend on the table's size (within 20 %),
//! and what is resident grows with the rows that were touched. The second is printed before the times.
#![allow(missing_docs, reason = "criterion's macros write a public function without one")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use benches::{FEED_FORWARD, HIDDEN, normal};
use criterion::{Criterion, criterion_group, criterion_main};
use memory_tuning::{Experts, Memory, MemoryConfig, RowUpdate};
use tch::{Kind, Tensor};
use tensor_core::{Dense, Documents, DropoutKey, Linear, Param, Pass, Projection, Role, autograd, project};

/// Tokens of a step: sixteen facts of sixteen tokens.
const TOKENS: i64 = 256;
/// Tokens whose experts train: four of each fact.
const ANSWERS: i64 = 64;
const SIZES: [usize; 3] = [10_000, 99_856, 1_000_000];

struct Step {
    gate: Linear,
    up: Linear,
    memory: Memory,
    experts: Arc<Mutex<Experts>>,
    x: Tensor,
    dy: Tensor,
    documents: Documents,
}

impl Step {
    fn new(num_experts: usize) -> Self {
        tch::manual_seed(7);
        let config = MemoryConfig {
            num_experts,
            top_k: 8,
            ..MemoryConfig::default()
        };
        let dense = |out: i64, input: i64| {
            let weight = (normal(&[out, input]) / (input as f64).sqrt()).to_kind(Kind::BFloat16);
            Dense::new(Param::frozen(weight, Role::Base))
        };
        let experts = Experts::random(&config, &"down_proj".into(), FEED_FORWARD as usize, HIDDEN as usize);
        let experts = Arc::new(Mutex::new(experts));
        Self {
            gate: Linear::new(dense(FEED_FORWARD, HIDDEN), None),
            up: Linear::new(dense(FEED_FORWARD, HIDDEN), None),
            memory: Memory::new(Box::new(dense(HIDDEN, FEED_FORWARD)), experts.clone()),
            experts,
            x: normal(&[TOKENS, HIDDEN]).to_kind(Kind::BFloat16),
            dy: normal(&[TOKENS, HIDDEN]).to_kind(Kind::BFloat16),
            documents: Documents::new(&[TOKENS as usize]),
        }
    }

    fn inner(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let [gate, up] = project(x, [&self.gate, &self.up], pass);
        kernels::gated(kernels::Activation::Silu, &gate, &up)
    }

    /// The experts of the answers move from now on.
    fn choose(&self) {
        let pass = Pass::evaluate(&self.documents);
        let inner = tch::no_grad(|| self.inner(&self.x, &pass))
            .narrow(0, 0, ANSWERS)
            .to_kind(Kind::Float);
        let mut experts = self.experts.lock().expect("no thread has panicked");
        let chosen = experts.selection.choose(&inner).experts.flatten(0, -1);
        let ids: Vec<i64> = Vec::try_from(chosen).expect("numbers");
        experts
            .let_move(ids.into_iter().map(|id| id as u32))
            .expect("room for rows");
    }

    /// Forward, backward, update.
    fn run(&self) {
        let pass = Pass::train(&self.documents, DropoutKey(1));
        let x = self.x.detach().set_requires_grad(true);
        let y = self.memory.forward(&self.inner(&x, &pass), &pass);
        autograd::backward(&[&y], &[&self.dy]).expect("a graph");
        let update = RowUpdate {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
            gradient_scale: 1.0,
        };
        let mut experts = self.experts.lock().expect("no thread has panicked");
        experts.update(&update).expect("room for states");
    }
}

/// Bytes of this process in memory.
fn resident() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<f64>().ok());
    pages.unwrap_or(0.0) * 4096.0
}

fn steps(criterion: &mut Criterion) {
    tensor_core::device::keep_memory();
    let mut group = criterion.benchmark_group("memory step");
    group
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(4));
    for size in SIZES {
        let step = Step::new(size);
        step.run();
        let before = resident();
        step.choose();
        step.run();
        let (touched, width) = {
            let experts = step.experts.lock().expect("no thread has panicked");
            (experts.table.ids().len(), experts.table.shape().width())
        };
        // A row and both of its running means.
        let rows = (touched * width * 4 * 3) as f64;
        eprintln!(
            "{size} experts: table {:.0} MB if it were whole, {touched} rows touched = {:.1} MB with their states, resident memory grew by {:.1} MB",
            (size * width * 4) as f64 / 1e6,
            rows / 1e6,
            (resident() - before) / 1e6
        );
        group.bench_function(format!("{size} experts"), |bencher| bencher.iter(|| step.run()));
    }
    group.finish();
}

criterion_group!(benches, steps);
criterion_main!(benches);
