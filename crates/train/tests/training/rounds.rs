//! Runs in which what trains changes: states, counts, masters, checkpoints.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};
use tensor_core::{ModulePath, Param, Parameters, Role};
use train::{AdamW, Optimizer, Outcome, Rounds, Start, TrainConfig};

use crate::resume::metrics;
use crate::tiny::{Formula, Tiny, parse, run_in};

/// Every `every` steps the other block stays; table and head always do.
struct Turns {
    every: usize,
    name: &'static str,
}

const BLOCKS: [[&str; 2]; 2] = [
    ["layers.0.weight", "layers.0.bias"],
    ["layers.1.weight", "layers.1.bias"],
];

impl Rounds for Turns {
    fn round_of(&self, step: usize, _: usize) -> usize {
        step / self.every
    }

    fn frozen(&self, round: usize) -> BTreeSet<ModulePath> {
        let block = BLOCKS[round % 2];
        ["table.weight", "head.weight"]
            .into_iter()
            .chain(block)
            .map(ModulePath::from)
            .collect()
    }

    fn frozen_kind(&self) -> Kind {
        Kind::Float
    }

    fn origin(&self) -> Value {
        json!({ "name": self.name })
    }
}

const TURNS: Turns = Turns {
    every: 4,
    name: "turns",
};
const RECIPE: &str = "num_train_epochs = 2.0\nlr_scheduler_type = \"cosine\"\nweight_decay = 0.1\nsave_steps = 5\n\
    eval_strategy = \"steps\"\neval_steps = 3";

fn whole(folder: &Path, config: &TrainConfig) -> Tiny {
    let model = Tiny::new();
    run_in(
        Some(&TURNS),
        &model,
        &Formula::new(),
        config,
        (folder, Start::New),
        &mut |_, _| {},
    )
    .unwrap();
    model
}

#[test]
fn a_run_in_rounds_stopped_anywhere_and_resumed_equals_one_that_never_stopped() {
    let config = parse(RECIPE);
    let folder = tempfile::tempdir().unwrap();
    let model = whole(folder.path(), &config);
    // Before, at and after the ends of rounds 0 and 1, and in round 2, where block 0 rests with a moved value.
    for stop_at in [2, 4, 5, 8, 9, 11] {
        let other = tempfile::tempdir().unwrap();
        let stopped = Tiny::new();
        let mut stop_there = |entry: &train::Entry, stop: &std::sync::atomic::AtomicBool| {
            stop.fetch_or(entry.step == stop_at, Ordering::Relaxed);
        };
        let place = (other.path(), Start::New);
        let report = run_in(Some(&TURNS), &stopped, &Formula::new(), &config, place, &mut stop_there).unwrap();
        assert!(matches!(report.outcome, Outcome::Interrupted { step, .. } if step == stop_at));
        let resumed = Tiny::new();
        let place = (other.path(), Start::Resume);
        run_in(Some(&TURNS), &resumed, &Formula::new(), &config, place, &mut |_, _| {}).unwrap();
        assert_eq!(resumed.values(), model.values(), "stopped at {stop_at}");
        assert_eq!(metrics(other.path()), metrics(folder.path()), "stopped at {stop_at}");
        for name in ["optimizer.safetensors", "masters.safetensors"] {
            let read = |root: &Path| std::fs::read(root.join("checkpoint-12").join(name)).unwrap();
            assert!(
                read(other.path()) == read(folder.path()),
                "{name}, stopped at {stop_at}"
            );
        }
    }
}

#[test]
fn a_frozen_block_is_as_it_was_bit_for_bit_whatever_the_decay() {
    let start = Tiny::new().values();
    let of_block = |values: &[(String, Vec<f32>, bool)], block: usize| -> Vec<Vec<f32>> {
        let own = values
            .iter()
            .filter(|(path, ..)| BLOCKS[block].contains(&path.as_str()));
        own.map(|(_, values, _)| values.clone()).collect()
    };
    for steps in [4, 8] {
        let folder = tempfile::tempdir().unwrap();
        let model = whole(
            folder.path(),
            &parse(&format!("max_steps = {steps}\nweight_decay = 0.5")),
        );
        let values = model.values();
        // In 4 steps only block 1 moved, in 8 both.
        assert_eq!(of_block(&values, 0) == of_block(&start, 0), steps == 4, "{steps}");
        assert_ne!(of_block(&values, 1), of_block(&start, 1), "{steps}");
        let trains: BTreeSet<String> = values
            .into_iter()
            .filter(|(.., trains)| *trains)
            .map(|(path, ..)| path)
            .collect();
        let wanted = BLOCKS[usize::from(steps == 4)].iter().copied().chain(["norm.weight"]);
        assert_eq!(trains, wanted.map(str::to_owned).collect());
    }
}

#[test]
fn only_what_trains_has_states_and_the_checkpoint_says_since_when() {
    let folder = tempfile::tempdir().unwrap();
    whole(folder.path(), &parse("max_steps = 5"));
    let checkpoint = folder.path().join("checkpoint-5");
    let names = |file: &str| -> BTreeSet<String> {
        let bytes = std::fs::read(checkpoint.join(file)).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        file.names().into_iter().map(std::borrow::ToOwned::to_owned).collect()
    };
    let trained = ["layers.0.bias", "layers.0.weight", "norm.weight"];
    let states = trained
        .iter()
        .flat_map(|path| ["exp_avg", "exp_avg_sq"].map(|state| format!("{path}.{state}")));
    assert_eq!(names("optimizer.safetensors"), states.collect());
    // What moved in round 0 and rests now is kept too.
    let moved = trained.iter().copied().chain(BLOCKS[1]).map(str::to_owned);
    assert_eq!(names("masters.safetensors"), moved.collect());
    let state: Value = serde_json::from_slice(&std::fs::read(checkpoint.join("state.json")).unwrap()).unwrap();
    assert_eq!(
        state["rounds"],
        json!({
            "round": 1,
            "origin": {"name": "turns"},
            "trained_since": {"layers.0.bias": 4, "layers.0.weight": 4, "norm.weight": 0},
            "set_aside": ["layers.1.bias", "layers.1.weight"],
        })
    );
}

struct Pair([Param; 2]);

impl Parameters for Pair {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        for (idx, param) in self.0.iter().enumerate() {
            visitor(&at.join(idx), param);
        }
    }
}

impl Pair {
    fn new() -> Self {
        let param = |value: f64| Param::trainable(&Tensor::full([3], value, (Kind::Float, Device::Cpu)), Role::Base);
        Self([param(1.0), param(2.0)])
    }

    /// One update of what trains by a gradient of its own value.
    fn step(&self, optimizer: &mut Optimizer) {
        for param in self.0.iter().filter(|param| param.is_trainable()) {
            (param.value().square() * 0.5).sum(Kind::Float).backward();
        }
        optimizer.update(0.1, 1.0);
    }

    fn values(&self) -> [Tensor; 2] {
        [0, 1].map(|idx: usize| self.0[idx].value().detach().copy())
    }
}

#[test]
fn what_begins_later_moves_as_a_fresh_optimiser_would_and_what_goes_on_as_if_nothing_were() {
    let config = TrainConfig {
        weight_decay: 0.1,
        ..TrainConfig::default()
    };
    let optimizer = |pair: &Pair| Optimizer::new(pair, &config, Box::<AdamW>::default()).unwrap();
    let frozen = |idx: &str| BTreeSet::from([ModulePath::from(idx)]);
    let none = BTreeSet::new();

    // Parameter 1 rests for three steps, then both train.
    let (pair, alone) = (Pair::new(), Pair::new());
    let mut later = optimizer(&pair);
    later.redraw(&pair, &frozen("1"), Kind::Float).unwrap();
    let start = pair.values();
    (0..3).for_each(|_| pair.step(&mut later));
    assert_eq!(pair.values()[1], start[1], "neither gradient nor decay");
    assert!(!pair.0[1].value().grad().defined(), "no gradient buffer");
    later.redraw(&pair, &none, Kind::Float).unwrap();
    (0..2).for_each(|_| pair.step(&mut later));
    let mut fresh = optimizer(&alone);
    (0..2).for_each(|_| alone.step(&mut fresh));
    assert_eq!(pair.values()[1], alone.values()[1]);
    (0..3).for_each(|_| alone.step(&mut fresh));
    assert_eq!(pair.values()[0], alone.values()[0]);

    // Freezing drops the states: training on begins with the master that was set aside, but anew.
    later.redraw(&pair, &frozen("0"), Kind::BFloat16).unwrap();
    assert_eq!(pair.0[0].value().kind(), Kind::BFloat16);
    assert_eq!(later.states().len(), 2);
    let master = &later.masters().into_iter().find(|(path, _)| path == "0").unwrap().1;
    assert_eq!(*master, alone.values()[0]);
    pair.step(&mut later);
    later.redraw(&pair, &none, Kind::BFloat16).unwrap();
    assert_eq!(pair.values()[0], alone.values()[0], "no update was lost to rounding");
    let again = Pair([
        Param::trainable(&alone.values()[0], Role::Base),
        Param::trainable(&alone.values()[1], Role::Base),
    ]);
    let mut fresh = optimizer(&again);
    again.step(&mut fresh);
    pair.step(&mut later);
    assert_eq!(pair.values()[0], again.values()[0]);
}

#[test]
fn what_cannot_go_on_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    whole(folder.path(), &parse("max_steps = 5"));
    let others: [(Option<&dyn Rounds>, &[&str]); 2] = [
        (
            Some(&Turns {
                every: 4,
                name: "others",
            }),
            &["others", "turns"],
        ),
        (None, &["without rounds", "turns"]),
    ];
    for (rounds, needles) in others {
        let place = (folder.path(), Start::Resume);
        let error = run_in(
            rounds,
            &Tiny::new(),
            &Formula::new(),
            &parse("max_steps = 6"),
            place,
            &mut |_, _| {},
        );
        let error = error.unwrap_err().to_string();
        assert!(needles.iter().all(|needle| error.contains(needle)), "{error}");
    }
    let config = parse("max_steps = 6\neval_strategy = \"steps\"\nload_best_model_at_end = true");
    let other = tempfile::tempdir().unwrap();
    let place = (other.path(), Start::New);
    let error = run_in(
        Some(&TURNS),
        &Tiny::new(),
        &Formula::new(),
        &config,
        place,
        &mut |_, _| {},
    )
    .unwrap_err();
    assert!(error.to_string().contains("load_best_model_at_end"), "{error}");
}
