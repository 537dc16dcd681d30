//! The equations' numbers, from an oracle in f64 and from a published table.

use std::sync::{Arc, Mutex};

use golden::{Vectors, assert_close};
use memory_tuning::{
    ExpertKind, ExpertShape, Experts, Gradients, Memory, MemoryConfig, ProductKeys, RowOptimizer, RowStates, RowUpdate,
    Selection, Table,
};
use tch::{Kind, Tensor};
use tensor_core::{Dense, Documents, DropoutKey, Param, Pass, Projection, Role, autograd, blob};

/// f32 sums of at most a few dozen terms of size one.
const NEAR: f64 = 2e-5;

struct Case {
    vectors: Vectors,
    experts: Arc<Mutex<Experts>>,
    memory: Memory,
}

impl Case {
    fn read(name: &str, kind: ExpertKind, rank: usize) -> Self {
        let vectors = Vectors::open(&format!("memory/{name}"));
        let f32 = |name: &str| vectors.get(name).to_kind(Kind::Float);
        let (weight, keys) = (f32("weight"), ProductKeys::new(f32("keys.0"), f32("keys.1")));
        let config = MemoryConfig {
            num_experts: keys.num_keys().pow(2),
            expert: kind,
            expert_rank: rank,
            scale: vectors.number("scale"),
            top_k: vectors.integers("top_k")[0] as usize,
            temperature: vectors.number("temperature"),
            ..MemoryConfig::default()
        };
        let (outputs, inputs) = weight.size2().unwrap();
        let selection = Selection::new(f32("query"), f32("offset"), keys, &config);
        let mut table = Table::new(ExpertShape::new(&config, inputs as usize, outputs as usize), 1);
        for (id, row) in vectors.integers("touched").iter().zip(0..) {
            let slot = table.touch(*id as u32).unwrap();
            table
                .row_mut(slot)
                .copy_from_slice(&blob::to_vec(&f32("rows").get(row).contiguous()));
        }
        let mut experts = Experts::new(&config, selection, table);
        let moving = vectors.integers("moving");
        experts.let_move(moving.iter().map(|&id| id as u32)).unwrap();
        let experts = Arc::new(Mutex::new(experts));
        let base = Dense::new(Param::frozen(weight, Role::Base));
        Self {
            memory: Memory::new(Box::new(base), experts.clone()),
            vectors,
            experts,
        }
    }

    fn f32(&self, name: &str) -> Tensor {
        self.vectors.get(name).to_kind(Kind::Float)
    }
}

#[test]
fn selection_output_and_gradients_are_the_oracle_s() {
    for (name, kind, rank) in [("low-rank", ExpertKind::LowRank, 2), ("value", ExpertKind::Value, 1)] {
        let case = Case::read(name, kind, rank);
        let chosen = case.experts.lock().unwrap().selection.choose(&case.f32("x"));
        assert_eq!(chosen.experts, case.vectors.get("experts"), "{name}");
        assert_close(name, &chosen.shares, &case.vectors.get("shares"), NEAR, NEAR);

        let x = case.f32("x").set_requires_grad(true);
        let documents = Documents::new(&[x.size()[0] as usize]);
        let y = case.memory.forward(&x, &Pass::train(&documents, DropoutKey(0)));
        assert_close(name, &y, &case.vectors.get("y"), NEAR, NEAR);
        autograd::backward(&[&y], &[&case.f32("dy")]).unwrap();
        assert_close(name, &x.grad(), &case.vectors.get("d_x"), NEAR, NEAR);

        let mut experts = case.experts.lock().unwrap();
        let Experts { table, gradients, .. } = &mut *experts;
        let mut moved = 0;
        for (id, wanted) in case.vectors.integers("moving").iter().zip(0..) {
            let slot = table.slot(*id as u32).unwrap();
            moved += usize::from(gradients.iter().any(|(other, _)| other == slot));
            let found = Tensor::from_slice(gradients.row(slot));
            assert_close(
                &format!("{name}: row {id}"),
                &found,
                &case.vectors.get("d_rows").get(wanted),
                NEAR,
                NEAR,
            );
        }
        assert!(moved > 3, "{name}: the case moves {moved} rows");
        assert_eq!(
            gradients.iter().count(),
            case.vectors.integers("moving").len(),
            "{name}: no other row has a gradient"
        );
    }
}

#[test]
fn a_first_layer_needs_no_gradient_of_its_input() {
    let case = Case::read("low-rank", ExpertKind::LowRank, 2);
    let documents = Documents::new(&[9]);
    let y = case
        .memory
        .forward(&case.f32("x"), &Pass::train(&documents, DropoutKey(0)));
    autograd::backward(&[&y], &[&case.f32("dy")]).unwrap();
    let mut experts = case.experts.lock().unwrap();
    let id = case.vectors.integers("moving")[1] as u32;
    let slot = experts.table.slot(id).unwrap();
    let found = Tensor::from_slice(experts.gradients.row(slot));
    assert_close("row", &found, &case.vectors.get("d_rows").get(1), NEAR, NEAR);
    assert_eq!(
        case.memory
            .forward(&case.f32("x"), &Pass::evaluate(&documents).without_adapters()),
        case.f32("x").matmul(&case.f32("weight").tr())
    );
}

/// W, A, B, x of the golden LoRA: `y = W x + 2 · B A x`. Two experts hold A's rows and B's columns; with keys of zero
/// four experts answer with a quarter each, so c = 8 makes their sum that update.
#[test]
fn experts_gathered_from_the_table_are_a_lora() {
    let matrix = |rows: usize, columns: usize, at: &dyn Fn(f64, f64) -> f64| {
        let each = (0..rows).flat_map(|i| (0..columns).map(move |j| (i as f64, j as f64)));
        let values: Vec<f32> = each.map(|(i, j)| at(i, j) as f32).collect();
        Tensor::from_slice(&values).view([rows as i64, columns as i64])
    };
    let w = matrix(4, 8, &|i, j| (0.7 * i + 1.3 * j + 0.1 * i * j + 0.2).sin());
    let x = matrix(1, 8, &|_, j| (0.9 * j).cos() * (1.0 + 0.5 * j));
    let a = matrix(2, 8, &|k, j| (0.5 * k + 0.2 * j).sin());
    let b = matrix(2, 4, &|k, i| 0.1 * (0.4 * i + 0.6 * k).cos());
    let config = MemoryConfig {
        num_experts: 4,
        top_k: 4,
        query_dim: 2,
        scale: 8.0,
        ..MemoryConfig::default()
    };
    let zeros = |shape: &[i64]| Tensor::zeros(shape, (Kind::Float, tch::Device::Cpu));
    let keys = ProductKeys::new(zeros(&[2, 1]), zeros(&[2, 1]));
    let mut table = Table::new(ExpertShape::new(&config, 8, 4), 0);
    for (id, row) in [(2, 0), (1, 1)] {
        let slot = table.touch(id).unwrap();
        let row = Tensor::cat(&[a.get(row), b.get(row)], 0);
        table.row_mut(slot).copy_from_slice(&blob::to_vec(&row));
    }
    let selection = Selection::new(zeros(&[2, 8]), zeros(&[2]), keys, &config);
    let experts = Arc::new(Mutex::new(Experts::new(&config, selection, table)));
    let memory = Memory::new(Box::new(Dense::new(Param::frozen(w, Role::Base))), experts);
    let documents = Documents::new(&[1]);
    let y = memory.forward(&x, &Pass::evaluate(&documents));
    let wanted = Tensor::from_slice(&[8.630321f64, -0.709799, -4.814864, -0.274494]).view([1, 4]);
    assert_close("LoRA", &y, &wanted, 1e-5, 1e-5);
}

#[test]
fn rows_move_as_the_oracle_s_and_only_those_with_a_gradient_have_a_state() {
    let vectors = Vectors::open("memory/adamw");
    let numbers: Vec<f64> = Vec::try_from(vectors.get("numbers")).unwrap();
    let update = RowUpdate {
        learning_rate: numbers[0],
        beta1: numbers[1],
        beta2: numbers[2],
        epsilon: numbers[3],
        weight_decay: numbers[4],
        gradient_scale: numbers[5],
    };
    let rows = vectors.get("rows").to_kind(Kind::Float);
    let (m, width) = rows.size2().unwrap();
    let config = MemoryConfig {
        expert: ExpertKind::Value,
        ..MemoryConfig::default()
    };
    let mut table = Table::new(ExpertShape::new(&config, 3, width as usize), 0);
    for row in 0..m {
        let slot = table.touch(100 + row as u32).unwrap();
        table.row_mut(slot).copy_from_slice(&blob::to_vec(&rows.get(row)));
    }
    let mut states = RowStates::new(RowOptimizer::Adamw, width as usize);
    let mut gradients = Gradients::new(width as usize);
    let touched = vectors.get("touched");
    for step in 0..touched.size()[0] {
        gradients.clear();
        for row in (0..m).filter(|&row| touched.int64_value(&[step, row]) == 1) {
            let gradient = vectors.get("gradients").get(step).get(row).to_kind(Kind::Float);
            gradients.row(row as usize).copy_from_slice(&blob::to_vec(&gradient));
        }
        let before: Vec<Vec<f32>> = (0..m as usize).map(|slot| table.row(slot).to_vec()).collect();
        states.update(&mut table, &gradients, &update).unwrap();
        for row in 0..m {
            let found = Tensor::from_slice(table.row(row as usize));
            let wanted = vectors.get("after").get(step).get(row);
            assert_close(&format!("step {step}, row {row}"), &found, &wanted, NEAR, NEAR);
            if touched.int64_value(&[step, row]) == 0 {
                assert_eq!(
                    table.row(row as usize),
                    before[row as usize],
                    "a row without a gradient stays bit for bit"
                );
            }
        }
    }
    // The third row never had a gradient.
    assert_eq!(states.counts(), (&[100, 101, 103][..], &[4, 5, 3][..]));
}
