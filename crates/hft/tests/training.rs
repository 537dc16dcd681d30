//! Real models, in both dtypes: what is frozen stays bit for bit, and runs in rounds resume bit for bit.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use checkpoint::ModelDir;
use decoder::Decoder;
use decoder::loss::{SupervisedLoss, TokenRow};
use hft::{Granularity, Halves, HftConfig, Piece, Resample, pieces_of};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};
use tensor_core::{Documents, ModulePath, named_params};
use train::{Batches, BoxError, Entry, Hooks, Report, Rounds, Row, RunDir, Start, TrainConfig};

/// Two rows of two documents a step, from a formula.
struct Formula;

impl Batches<TokenRow> for Formula {
    fn num_steps_per_epoch(&self) -> usize {
        3
    }

    fn rows(&self, step: usize) -> Result<Vec<Row<TokenRow>>, BoxError> {
        let row = |row: usize| {
            let tokens: Vec<i64> = (0..11)
                .map(|i| ((i * i * 7 + 13 * row + 5 * step + i) % 90) as i64)
                .collect();
            let targets: Vec<i64> = tokens[1..5]
                .iter()
                .chain(&[-100])
                .chain(&tokens[6..])
                .chain(&[-100])
                .copied()
                .collect();
            Row {
                num_tokens: tokens.len(),
                batch: TokenRow {
                    tokens: Tensor::from_slice(&tokens),
                    targets: Tensor::from_slice(&targets),
                    documents: Documents::new(&[5, 6]),
                },
            }
        };
        Ok(vec![row(0), row(1)])
    }

    fn longest_row(&self) -> usize {
        11
    }

    fn input<'b>(&self, batch: &'b TokenRow) -> Option<(&'b Tensor, &'b Documents)> {
        Some((&batch.tokens, &batch.documents))
    }
}

struct InRounds {
    halves: Halves,
    resample: Resample,
    kind: Kind,
}

impl Rounds for InRounds {
    fn round_of(&self, step: usize, num_steps_per_epoch: usize) -> usize {
        self.resample.round_of(step, num_steps_per_epoch)
    }

    fn frozen(&self, round: usize) -> BTreeSet<ModulePath> {
        self.halves.draw(round).frozen().clone()
    }

    fn frozen_kind(&self) -> Kind {
        self.kind
    }

    fn origin(&self) -> Value {
        json!("test")
    }
}

fn load(kind: Kind) -> Decoder {
    let dir = ModelDir::open(&golden::vectors_dir().join("families/llama-biases")).unwrap();
    Decoder::load(&dir, Device::Cpu, kind).unwrap()
}

/// Every parameter's numbers as they are held, and whether it trains.
fn values(model: &Decoder) -> BTreeMap<String, (Tensor, bool)> {
    let held = named_params(model).into_iter();
    held.map(|(path, param)| (path.to_string(), (param.value().detach().copy(), param.is_trainable())))
        .collect()
}

/// Trains a fresh model's halves in `folder`, stopped after step `stop_at`; the model, and what its rounds were.
fn train(
    config: &HftConfig,
    kind: Kind,
    (folder, start): (&Path, Start),
    steps: usize,
    stop_at: usize,
) -> (Decoder, InRounds, Report) {
    let model = load(kind);
    let halves = Halves::new(config, &pieces_of(&model)).unwrap();
    let selection = halves.draw(0);
    let model = model.train_where(|at, _| selection.trains(at)).unwrap();
    let rounds = InRounds {
        halves,
        resample: config.rounds(),
        kind,
    };
    let settings: TrainConfig = toml::from_str(&format!(
        "max_steps = {steps}\nlearning_rate = 2e-3\nweight_decay = 0.5\nlogging_steps = 1\nsave_steps = 100\nreport_to = []"
    ))
    .unwrap();
    let dir = RunDir::open(folder, "kind = \"test\"\n", start).unwrap();
    let stop = AtomicBool::new(false);
    let save = |_: &Path| Ok(());
    let mut listen = |entry: &Entry| {
        stop.fetch_or(entry.step == stop_at, Ordering::Relaxed);
    };
    let hooks = Hooks::new(&dir, &save)
        .with_listener(&mut listen)
        .with_stop(&stop)
        .with_rounds(&rounds);
    let report = train::fit(&model, &SupervisedLoss, &Formula, &settings, hooks).unwrap();
    (model, rounds, report)
}

#[test]
fn what_is_frozen_stays_bit_for_bit_and_has_no_gradient_and_no_state() {
    for kind in [Kind::BFloat16, Kind::Float] {
        let before = values(&load(kind));
        for granularity in [
            Granularity::Category,
            Granularity::Stratified,
            Granularity::Layer,
            Granularity::Model,
        ] {
            let folder = tempfile::tempdir().unwrap();
            let config = HftConfig {
                granularity,
                freeze_embeddings: Some(true),
                ..HftConfig::default()
            };
            let (model, rounds, _) = train(&config, kind, (folder.path(), Start::New), 5, 100);
            let selection = rounds.halves.draw(0);
            let mut trained = BTreeSet::new();
            for (path, param) in named_params(&model) {
                let name = path.to_string();
                let start = &before[&name].0;
                if selection.trains(&path) {
                    assert!(param.is_trainable() && param.value().kind() == Kind::Float, "{name}");
                    assert_ne!(
                        param.value().detach(),
                        start.to_kind(Kind::Float),
                        "{kind:?} {granularity:?} {name}"
                    );
                    trained.insert(name);
                } else {
                    assert!(
                        param.value().kind() == kind && param.value().equal(start),
                        "{kind:?} {granularity:?} {name}"
                    );
                    assert!(!param.value().grad().defined(), "{name}: a gradient buffer");
                }
            }
            let states = std::fs::read(folder.path().join("checkpoint-5/optimizer.safetensors")).unwrap();
            let states = safetensors::SafeTensors::deserialize(&states).unwrap();
            let of: BTreeSet<String> = states
                .names()
                .into_iter()
                .map(|name| name.rsplit_once('.').unwrap().0.to_owned())
                .collect();
            assert_eq!(of, trained, "{granularity:?}");
            assert_eq!(states.len(), 2 * trained.len());
        }
    }
}

#[test]
fn a_run_stopped_before_at_or_after_a_redraw_and_resumed_equals_one_that_never_stopped() {
    let config = HftConfig {
        resample: Resample::Steps(2.try_into().unwrap()),
        seed: 3,
        ..HftConfig::default()
    };
    for kind in [Kind::BFloat16, Kind::Float] {
        let whole = tempfile::tempdir().unwrap();
        let (model, ..) = train(&config, kind, (whole.path(), Start::New), 7, 100);
        let wanted = values(&model);
        for stop_at in [1, 2, 3, 4, 5, 6] {
            let folder = tempfile::tempdir().unwrap();
            train(&config, kind, (folder.path(), Start::New), 7, stop_at);
            let (resumed, _, report) = train(&config, kind, (folder.path(), Start::Resume), 7, 100);
            assert_eq!(report.num_steps, 7);
            let found = values(&resumed);
            for (name, (value, trains)) in &wanted {
                let (other, also) = &found[name];
                assert!(
                    value.equal(other) && value.kind() == other.kind() && trains == also,
                    "{kind:?} {stop_at} {name}"
                );
            }
            for file in ["optimizer.safetensors", "masters.safetensors"] {
                let read = |root: &Path| std::fs::read(root.join("checkpoint-7").join(file)).unwrap();
                assert!(
                    read(folder.path()) == read(whole.path()),
                    "{kind:?} {file}, stopped at {stop_at}"
                );
            }
        }
    }
}

#[test]
fn after_two_complementary_rounds_everything_has_moved() {
    let config = HftConfig {
        resample: Resample::Epoch,
        complement: true,
        ..HftConfig::default()
    };
    for kind in [Kind::BFloat16, Kind::Float] {
        let before = values(&load(kind));
        for (steps, all) in [(3, false), (6, true)] {
            let folder = tempfile::tempdir().unwrap();
            let (model, ..) = train(&config, kind, (folder.path(), Start::New), steps, 100);
            let after = values(&model);
            let same = |name: &String| {
                after[name]
                    .0
                    .to_kind(Kind::Float)
                    .equal(&before[name].0.to_kind(Kind::Float))
            };
            let unmoved: Vec<&String> = before.keys().filter(|name| same(name)).collect();
            // Norm gains begin at one, where a step may be less than half of bf16's last place.
            let unmoved: Vec<_> = unmoved.into_iter().filter(|name| !name.contains("norm")).collect();
            assert_eq!(unmoved.is_empty(), all, "{kind:?} after {steps} steps: {unmoved:?}");
        }
    }
}

#[test]
fn lisa_frees_what_it_no_longer_trains() {
    let config: HftConfig = toml::from_str(
        "granularity = \"lisa\"\nlisa_n_layers = 1\nlisa_step_interval = 1\nfreeze_embeddings = true\nfreeze_head = true",
    )
    .unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (model, rounds, _) = train(&config, Kind::BFloat16, (folder.path(), Start::New), 6, 100);
    let last = rounds.halves.draw(5);
    let pieces: Vec<Piece> = pieces_of(&model);
    let layers: BTreeSet<Option<usize>> = pieces
        .iter()
        .filter(|piece| last.trains(&piece.path))
        .map(|piece| piece.path.layer_idx())
        .collect();
    assert_eq!(layers.len(), 1);
    for (path, param) in named_params(&model) {
        assert_eq!(param.is_trainable(), last.trains(&path), "{path}");
        assert_eq!(param.value().grad().defined(), last.trains(&path), "{path}");
        assert_eq!(param.value().kind() == Kind::BFloat16, !last.trains(&path), "{path}");
    }
}
