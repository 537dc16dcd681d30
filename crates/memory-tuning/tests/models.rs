//! Memories in whole models: what they promise of every token, every row and every file.

use checkpoint::ModelDir;
use decoder::Decoder;
use decoder::loss::{IGNORED, SupervisedLoss, TokenRow};
use golden::laws;
use memory_tuning::{
    ExpertKind, Experts, Memory, MemoryBank, MemoryConfig, Placement, RowOptimizer, RowUpdate, Wrapping,
};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use tch::{Device, Kind, Tensor};
use tensor_core::{
    Checkpointing, CheckpointingPolicy, Dense, Documents, DropoutKey, ModelPass, ModulePath, Objective as _, Param,
    Pass, Projection, Role,
};

fn base(name: &str) -> Decoder {
    let dir = ModelDir::open(&golden::vectors_dir().join("families").join(name)).expect("vectors open");
    Decoder::load(&dir, Device::Cpu, Kind::Float).expect("loaded")
}

fn config(expert: ExpertKind) -> MemoryConfig {
    MemoryConfig {
        num_experts: 10_000,
        top_k: 4,
        query_dim: 8,
        expert,
        seed: 11,
        ..MemoryConfig::default()
    }
}

fn wrapped(model: Decoder, config: &MemoryConfig) -> (Decoder, MemoryBank) {
    let wrapping = Wrapping::choose(config.clone(), &model.projection_paths()).expect("targets");
    let model = model
        .map_projections(&mut |at, base| wrapping.projection(at, base))
        .expect("nothing refused");
    (model, wrapping.bank())
}

const TOKENS: [i64; 9] = [5, 40, 33, 21, 90, 7, 64, 12, 3];

fn logits(model: &Decoder) -> Tensor {
    model.logits(&Tensor::from_slice(&TOKENS), &Documents::new(&[5, 4]))
}

/// One document, whose last two tokens are the answer.
fn fact(tokens: [i64; 5]) -> TokenRow {
    let mut targets = [IGNORED; 5];
    targets[2..4].copy_from_slice(&tokens[3..]);
    TokenRow {
        tokens: Tensor::from_slice(&tokens),
        targets: Tensor::from_slice(&targets),
        documents: Documents::new(&[5]),
    }
}

/// Fits every selection to what the model meets on some text.
fn fit(model: &Decoder, bank: &MemoryBank) {
    let noted = bank.inputs_during(|| {
        let text: Vec<i64> = (0..60).map(|i| (i * 37 + i * i) % 91).collect();
        let _ = model.hidden(&Tensor::from_slice(&text), &Pass::evaluate(&Documents::new(&[60])));
        Ok::<(), ()>(())
    });
    let noted = noted.unwrap();
    bank.each(|idx, _, experts| experts.selection.fit(&noted[idx][0]));
}

/// The experts of each projection that a fact's answer meets.
fn chosen(model: &Decoder, bank: &MemoryBank, fact: &TokenRow) -> Vec<BTreeSet<u32>> {
    let noted = bank.inputs_during(|| {
        let _ = model.hidden(&fact.tokens, &Pass::evaluate(&fact.documents));
        Ok::<(), ()>(())
    });
    let mut inputs = noted.unwrap().into_iter();
    bank.each(|_, _, experts| {
        let x = inputs.next().unwrap().remove(0).narrow(0, 2, 2);
        let ids: Vec<i64> = Vec::try_from(experts.selection.choose(&x).experts.flatten(0, -1)).unwrap();
        ids.into_iter().map(|id| id as u32).collect()
    })
}

/// Steps on one fact; the loss of its answer, a token, before each.
fn memorise(model: &Decoder, bank: &MemoryBank, fact: &TokenRow, steps: usize, optimizer: RowOptimizer) -> Vec<f64> {
    let mine = chosen(model, bank, fact);
    bank.train_with(optimizer);
    bank.each(|idx, _, experts| experts.let_move(mine[idx].iter().copied()))
        .into_iter()
        .collect::<Result<(), _>>()
        .unwrap();
    let plan = CheckpointingPolicy::uniform(Checkpointing::Keep, 8);
    (0..steps)
        .map(|step| {
            let policy = ModelPass::train(model, &plan, DropoutKey(step as u64));
            let loss = SupervisedLoss.loss(&policy, fact).unwrap();
            let value = loss.sum.double_value(&[]) / 2.0;
            policy.backward(&loss, 0.5, 1.0).unwrap();
            let norm = bank.gradient_norm();
            bank.update(&RowUpdate {
                learning_rate: 0.05,
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                weight_decay: 0.0,
                gradient_scale: (1.0 / norm).min(1.0),
            })
            .unwrap();
            value
        })
        .collect()
}

/// What the model says in the places of a fact's answer.
fn answer(model: &Decoder, fact: &TokenRow) -> [i64; 2] {
    let said = model.logits(&fact.tokens, &fact.documents).argmax(-1, false);
    [said.int64_value(&[2]), said.int64_value(&[3])]
}

#[test]
fn logits_at_step_0_are_the_base_s_bit_for_bit() {
    for name in ["llama-tied", "qwen2-tied", "gemma3"] {
        for expert in [ExpertKind::LowRank, ExpertKind::Value] {
            let (model, bank) = wrapped(base(name), &config(expert));
            assert_eq!(logits(&model), logits(&base(name)), "{name}");
            // Rows that exist add nothing yet either.
            for done in bank.each(|_, _, experts| experts.let_move(0..10_000)) {
                done.unwrap();
            }
            assert_eq!(logits(&model), logits(&base(name)), "{name}");
        }
    }
}

#[test]
fn a_memory_wraps_as_the_law_says() {
    let dense = || -> Box<dyn Projection> {
        let weight = golden::random(5, [11, 6]);
        Box::new(Dense::new(Param::frozen(weight, Role::Base)))
    };
    laws::wrapping_laws("memory", 6, &dense, &|| {
        let experts = Experts::random(&config(ExpertKind::LowRank), &ModulePath::from("at"), 6, 11);
        Box::new(Memory::new(dense(), Arc::new(Mutex::new(experts))))
    });
}

#[test]
fn a_fact_is_learnt_and_nothing_else_moves() {
    for expert in [ExpertKind::LowRank, ExpertKind::Value] {
        let (model, bank) = wrapped(base("llama-untied"), &config(expert));
        fit(&model, &bank);
        let (one, other) = (fact([5, 40, 33, 21, 90]), fact([9, 2, 70, 14, 31]));
        assert_ne!(answer(&model, &one), [21, 90]);
        memorise(&model, &bank, &one, 200, RowOptimizer::Adamw);
        assert_eq!(answer(&model, &one), [21, 90], "{expert:?}");
        let before = rows(&bank);
        let selection = bank.tensors();
        let plain = laws::state(&model);
        memorise(&model, &bank, &other, 200, RowOptimizer::Adamw);
        assert_eq!(answer(&model, &other), [14, 31], "{expert:?}");
        assert_eq!(laws::state(&model), plain, "the base stays");
        let mine = chosen(&model, &bank, &other);
        for ((path, id), row) in before {
            let idx = bank.paths().position(|at| at.as_str() == path).unwrap();
            let is_its = mine[idx].contains(&id);
            let now = rows(&bank)
                .into_iter()
                .find(|(key, _)| *key == (path.clone(), id))
                .unwrap()
                .1;
            assert_eq!(now == row, !is_its, "{path} {id}: only the fact's own rows move");
        }
        for (name, tensor) in selection.iter().filter(|(name, _)| !name.ends_with("experts")) {
            assert_eq!(&bank.tensors()[name], tensor, "{name} stays");
        }
    }
}

/// Every row, under its projection and expert.
fn rows(bank: &MemoryBank) -> Vec<((String, u32), Vec<f32>)> {
    let each = bank.each(|_, at, experts| {
        let ids = experts.table.ids().to_vec();
        ids.into_iter()
            .enumerate()
            .map(|(slot, id)| ((at.to_string(), id), experts.table.row(slot).to_vec()))
            .collect::<Vec<_>>()
    });
    each.into_iter().flatten().collect()
}

#[test]
fn plain_gradient_descent_learns_too_and_keeps_no_state() {
    let (model, bank) = wrapped(base("llama-untied"), &config(ExpertKind::Value));
    let losses = memorise(&model, &bank, &fact([5, 40, 33, 21, 90]), 60, RowOptimizer::Sgd);
    assert!(losses[59] < losses[0], "{losses:?}");
    assert!(
        bank.each(|_, _, experts| experts.states.is_empty())
            .into_iter()
            .all(|empty| empty)
    );
}

#[test]
fn a_forgotten_fact_leaves_the_base() {
    let (model, bank) = wrapped(base("llama-untied"), &config(ExpertKind::LowRank));
    let before = logits(&base("llama-untied"));
    memorise(&model, &bank, &fact([5, 40, 33, 21, 90]), 5, RowOptimizer::Adamw);
    assert_ne!(logits(&model), before);
    bank.each(|_, _, experts| {
        for id in experts.table.ids().to_vec() {
            experts.table.reset(id);
            experts.states.reset(id);
        }
    });
    assert_eq!(logits(&model), before);
}

#[test]
fn experts_under_other_numbers_are_the_same_memory() {
    let config = config(ExpertKind::LowRank);
    let (model, bank) = wrapped(base("llama-untied"), &config);
    memorise(&model, &bank, &fact([5, 40, 33, 21, 90]), 5, RowOptimizer::Adamw);
    let wanted = logits(&model);
    // Sub-key i moves to place n - 1 - i in the first half, by 7 places in the second.
    let n = config.num_keys() as i64;
    let first: Vec<i64> = (0..n).rev().collect();
    let second: Vec<i64> = (0..n).map(|j| (j + 7) % n).collect();
    let (other, fresh) = wrapped(base("llama-untied"), &config);
    let olds = rows(&bank);
    let mut keys = bank
        .each(|_, _, experts| experts.selection.keys.permuted([&first, &second]))
        .into_iter();
    fresh.each(|_, at, experts| {
        experts.selection.keys = keys.next().unwrap();
        for ((path, id), row) in olds.iter().filter(|((path, _), _)| path == at.as_str()) {
            let (i, j) = (i64::from(*id) / n, i64::from(*id) % n);
            let moved = (n - 1 - i) * n + (j - 7).rem_euclid(n);
            let slot = experts.table.touch(moved as u32).unwrap();
            experts.table.row_mut(slot).copy_from_slice(row);
            assert_eq!(path, at.as_str());
        }
    });
    golden::assert_close("permuted", &logits(&other), &wanted, 1e-5, 1e-5);
    assert_ne!(wanted, logits(&base("llama-untied")));
}

#[test]
fn the_selection_of_a_fact_is_the_same_before_and_after_it_is_learnt() {
    // One adapted projection: nothing before it changes.
    let config = MemoryConfig {
        layers_to_transform: Some(vec![1]),
        ..config(ExpertKind::LowRank)
    };
    let (model, bank) = wrapped(base("llama-untied"), &config);
    assert_eq!(bank.len(), 1);
    let one = fact([5, 40, 33, 21, 90]);
    let before = chosen(&model, &bank, &one);
    memorise(&model, &bank, &one, 30, RowOptimizer::Adamw);
    assert_eq!(chosen(&model, &bank, &one), before);
    assert_eq!(before[0].len(), bank.num_touched());
}

#[test]
fn a_saved_memory_comes_back_bit_for_bit_and_goes_on_alike() {
    let folder = tempfile::tempdir().unwrap();
    let config = config(ExpertKind::LowRank);
    let (model, bank) = wrapped(base("llama-untied"), &config);
    fit(&model, &bank);
    memorise(&model, &bank, &fact([5, 40, 33, 21, 90]), 5, RowOptimizer::Adamw);
    bank.save_rows(folder.path()).unwrap();
    bank.save_states(folder.path()).unwrap();
    let placement = Placement::new(config.clone(), folder.path(), bank.tensors()).unwrap();
    let placed = base("llama-untied")
        .map_projections(&mut |at, base| placement.projection(at, base))
        .unwrap();
    let again = placement.finish().unwrap();
    assert_eq!(logits(&placed), logits(&model));
    assert_ne!(logits(&placed), logits(&base("llama-untied")));
    assert_eq!(rows(&again), rows(&bank));

    // The states too: the next step is the same.
    again
        .load_states(RowOptimizer::Adamw, folder.path(), &bank.state_tensors())
        .unwrap();
    let step = |bank: &MemoryBank| {
        bank.each(|_, _, experts| {
            experts.gradients.row(0)[0] = 1.0;
        });
        bank.update(&RowUpdate {
            learning_rate: 0.1,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.1,
            gradient_scale: 1.0,
        })
        .unwrap();
        rows(bank)
    };
    assert_eq!(step(&again), step(&bank));

    // States that are not those of these rows.
    let at = "model.layers.0.mlp.down_proj";
    for (change, wanted) in [
        (
            &(|moved: &mut Vec<i64>, _: &mut Vec<i64>| moved.truncate(1)) as &dyn Fn(&mut Vec<i64>, &mut Vec<i64>),
            "a number of updates for each expert",
        ),
        (
            &|moved, _| moved[0] = 4_000_000_000,
            "states of experts that have a row",
        ),
        (&|moved, _| moved[1] = moved[0], "each expert once"),
        (
            &|moved, updates| {
                moved.truncate(1);
                updates.truncate(1);
            },
            "bytes",
        ),
    ] {
        let mut tensors = bank.state_tensors();
        let [moved, updates] = ["moved", "updates"].map(|name| format!("{at}.{name}"));
        let read = |name: &str| Vec::<i64>::try_from(tensors[name].to_kind(Kind::Int64)).unwrap();
        let (mut ids, mut counts) = (read(&moved), read(&updates));
        assert!(ids.len() > 1);
        change(&mut ids, &mut counts);
        let kind = tensors[&moved].kind();
        tensors.insert(moved, Tensor::from_slice(&ids).to_kind(kind));
        tensors.insert(updates, Tensor::from_slice(&counts).to_kind(kind));
        let error = again
            .load_states(RowOptimizer::Adamw, folder.path(), &tensors)
            .unwrap_err();
        let said = error.to_string();
        assert!(said.contains(wanted) && said.contains("hint"), "{wanted}: {said}");
    }

    // A model that lacks the modules, and a folder that lacks a row.
    let mut tensors = bank.tensors();
    let lost = tensors.remove("model.layers.0.mlp.down_proj.experts").unwrap();
    tensors.insert("model.layers.9.mlp.down_proj.experts".into(), lost);
    let placement = Placement::new(config.clone(), folder.path(), tensors).unwrap();
    base("llama-untied")
        .map_projections(&mut |at, base| placement.projection(at, base))
        .unwrap();
    let error = placement.finish().unwrap_err().to_string();
    assert!(error.contains("layers.9") && error.contains("hint"), "{error}");
    let path = memory_tuning::rows_file(folder.path(), &"model.layers.0.mlp.down_proj".into());
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
    let placement = Placement::new(config, folder.path(), bank.tensors()).unwrap();
    let cut = base("llama-untied").map_projections(&mut |at, base| placement.projection(at, base));
    let error = format!("{:?}", cut.unwrap_err());
    assert!(error.contains("rows of"), "{error}");
}

#[test]
fn targets_that_match_nothing_are_refused() {
    let config = MemoryConfig {
        target_modules: memory_tuning::TargetModules::Many(vec!["down_projj".into()]),
        ..config(ExpertKind::LowRank)
    };
    let error = Wrapping::choose(config, &base("llama-tied").projection_paths())
        .unwrap_err()
        .to_string();
    assert!(error.contains("down_projj") && error.contains("hint"), "{error}");
}
