//! A model of two blocks over a table of tokens, next-token data made from a formula, and a run of them.
//!
//! Shapes: t tokens, d = 6 model width, v = 11 vocabulary.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use tch::{Device, Kind, Tensor};
use tensor_core::{
    Dense, Documents, Embedding, LanguageModel, Linear, Loss, ModelPass, ModulePath, Objective, Param, Parameters,
    Pass, Role, Table,
};
use train::{Batches, BoxError, Entry, Error, Hooks, Report, Rounds, Row, RunDir, Start, TrainConfig, fit};

pub(crate) const WIDTH: i64 = 6;
pub(crate) const VOCABULARY: i64 = 11;
/// The token whose row of the table makes block 1 lose its numbers.
pub(crate) const POISON: i64 = 10;

pub(crate) struct Tiny {
    table: Table,
    blocks: Vec<(Linear, bool)>,
    gain: Param,
    unused: Option<Param>,
    head: Linear,
    dropout: bool,
}

/// Values from a formula: the same in every run, unlike in every place.
pub(crate) fn filled(shape: &[i64], salt: f64) -> Tensor {
    let count: i64 = shape.iter().product();
    let values = Tensor::arange(count, (Kind::Double, Device::Cpu)) * 0.7 + salt;
    (values.sin() * 0.4).to_kind(Kind::Float).view(shape)
}

impl Tiny {
    pub(crate) fn new() -> Self {
        let table = filled(&[VOCABULARY, WIDTH], 1.0);
        let _ = table.select(0, POISON).fill_(1000.0);
        let block = |role, salt: f64| {
            let weight = Param::trainable(&filled(&[WIDTH, WIDTH], salt), role);
            let bias = Param::trainable(&filled(&[WIDTH], salt + 0.5), Role::Norm);
            Linear::new(Dense::new(weight), Some(bias))
        };
        Self {
            table: Table::new(Param::frozen(table, Role::Embedding)),
            blocks: vec![(block(Role::Adapter, 2.0), false), (block(Role::AdapterOut, 3.0), true)],
            gain: Param::trainable(&Tensor::ones([WIDTH], (Kind::Float, Device::Cpu)), Role::Norm),
            unused: None,
            head: Linear::new(
                Dense::new(Param::frozen(filled(&[VOCABULARY, WIDTH], 4.0), Role::Head)),
                None,
            ),
            dropout: true,
        }
    }

    pub(crate) fn without_dropout(self) -> Self {
        Self { dropout: false, ..self }
    }

    pub(crate) fn with_unused(self) -> Self {
        Self {
            unused: Some(Param::trainable(&filled(&[3], 0.0), Role::Adapter)),
            ..self
        }
    }

    pub(crate) fn frozen(self) -> Self {
        let freeze = |linear: Linear| {
            let (dense, _) = linear.into_dense(&ModulePath::root()).unwrap();
            Linear::new(Dense::new(dense.into_param().with_training(false, Kind::Float)), None)
        };
        Self {
            blocks: self
                .blocks
                .into_iter()
                .map(|(linear, wild)| (freeze(linear), wild))
                .collect(),
            gain: self.gain.with_training(false, Kind::Float),
            ..self
        }
    }

    pub(crate) fn values(&self) -> Vec<(String, Vec<f32>, bool)> {
        tensor_core::named_params(self)
            .into_iter()
            .map(|(path, param)| {
                let values = Vec::try_from(param.value().detach().reshape([-1])).unwrap();
                (path.to_string(), values, param.is_trainable())
            })
            .collect()
    }
}

impl Parameters for Tiny {
    fn visit(&self, at: &ModulePath, visitor: &mut dyn FnMut(&ModulePath, &Param)) {
        self.table.visit(&at.join("table"), visitor);
        for (idx, (linear, _)) in self.blocks.iter().enumerate() {
            linear.visit(&at.join("layers").join(idx), visitor);
        }
        visitor(&at.join("norm.weight"), &self.gain);
        if let Some(unused) = &self.unused {
            visitor(&at.join("unused"), unused);
        }
        self.head.visit(&at.join("head"), visitor);
    }
}

impl LanguageModel for Tiny {
    fn num_blocks(&self) -> usize {
        self.blocks.len()
    }

    fn embed(&self, tokens: &Tensor, pass: &Pass) -> Tensor {
        self.table.forward(tokens, Kind::Float, pass)
    }

    fn block(&self, idx: usize, hidden: &Tensor, pass: &Pass) -> Tensor {
        let (linear, loses_numbers) = &self.blocks[idx];
        let added = linear.forward(hidden, pass).tanh();
        let added = match pass.dropout(idx as u64).filter(|_| self.dropout) {
            Some(key) => {
                let mask: Vec<f32> = (0..WIDTH).map(|i| 2.0 * (key.at(i as u64).0 & 1) as f32).collect();
                added * Tensor::from_slice(&mask)
            }
            None => added,
        };
        // 0 / 0 for a row that holds the poison.
        let sane = hidden.lt(500.0).all().to_kind(Kind::Float);
        if *loses_numbers {
            (hidden + added) * &sane / sane
        } else {
            hidden + added
        }
    }

    fn norm(&self, hidden: &Tensor, _: &Pass) -> Tensor {
        hidden * self.gain.value()
    }

    fn head(&self) -> &Linear {
        &self.head
    }
}

/// One packed row: the next token is the target, none (-100) at each document's end.
pub(crate) struct Batch {
    pub(crate) tokens: Tensor,
    pub(crate) documents: Documents,
    pub(crate) targets: Tensor,
}

pub(crate) struct NextToken;

impl Objective for NextToken {
    type Batch = Batch;

    fn weight(&self, batch: &Batch) -> f64 {
        batch.targets.ge(0).sum(Kind::Int64).int64_value(&[]) as f64
    }

    fn loss(&self, policy: &ModelPass, batch: &Batch) -> tensor_core::Result<Loss> {
        let hidden = policy.hidden(&batch.tokens, &batch.documents);
        let logits = policy.head().forward(&hidden, &policy.pass(&batch.documents));
        let hits = logits.argmax(-1, false).eq_tensor(&batch.targets).sum(Kind::Int64);
        let sum = logits.cross_entropy_loss::<Tensor>(&batch.targets, None, tch::Reduction::Sum, -100, 0.0);
        Ok(Loss {
            metrics: vec![("accuracy", hits.int64_value(&[]) as f64)],
            ratios: vec![
                ("documents_a_row", batch.documents.len() as f64, 1.0),
                ("never", 0.0, 0.0),
            ],
            ..Loss::of(sum)
        })
    }
}

/// 24 documents of 3 to 8 tokens; a step takes four of them, in rows of `documents_per_row`.
pub(crate) struct Formula {
    pub(crate) documents_per_row: usize,
    pub(crate) poisoned_step: Option<usize>,
}

impl Formula {
    pub(crate) fn new() -> Self {
        Self {
            documents_per_row: 2,
            poisoned_step: None,
        }
    }

    fn document(idx: usize) -> Vec<i64> {
        (0..3 + idx % 6)
            .map(|i| ((idx * 3 + i * i * 5 + i) % POISON as usize) as i64)
            .collect()
    }

    fn row(documents: &[Vec<i64>]) -> Row<Batch> {
        let lengths: Vec<usize> = documents.iter().map(Vec::len).collect();
        let tokens = documents.concat();
        let targets: Vec<i64> = documents
            .iter()
            .flat_map(|document| document[1..].iter().copied().chain([-100]))
            .collect();
        Row {
            num_tokens: tokens.len(),
            batch: Batch {
                tokens: Tensor::from_slice(&tokens),
                documents: Documents::new(&lengths),
                targets: Tensor::from_slice(&targets),
            },
        }
    }
}

impl Batches<Batch> for Formula {
    fn num_steps_per_epoch(&self) -> usize {
        6
    }

    fn rows(&self, step: usize) -> Result<Vec<Row<Batch>>, BoxError> {
        let (epoch, idx) = (step / 6, step % 6);
        let mut documents: Vec<Vec<i64>> = (0..4)
            .map(|i| Self::document((idx * 4 + i) * (epoch + 5) % 24))
            .collect();
        if self.poisoned_step == Some(step) {
            documents[2][1] = POISON;
        }
        Ok(documents.chunks(self.documents_per_row).map(Self::row).collect())
    }

    fn longest_row(&self) -> usize {
        32
    }

    fn input<'b>(&self, batch: &'b Batch) -> Option<(&'b Tensor, &'b Documents)> {
        Some((&batch.tokens, &batch.documents))
    }
}

pub(crate) fn parse(text: &str) -> TrainConfig {
    toml::from_str(&format!("learning_rate = 0.05\nlogging_steps = 1\n{text}")).unwrap()
}

/// Mean loss over the first epoch's rows, without dropout.
pub(crate) fn evaluate(model: &Tiny) -> f64 {
    let plan = tensor_core::CheckpointingPolicy::uniform(tensor_core::Checkpointing::Keep, 2);
    let rows: Vec<_> = (0..6).flat_map(|step| Formula::new().rows(step).unwrap()).collect();
    let (sum, weight) = rows.iter().fold((0.0, 0.0), |(sum, weight), row| {
        let loss = NextToken.loss(&ModelPass::evaluate(model, &plan), &row.batch).unwrap();
        (sum + loss.sum.double_value(&[]), weight + NextToken.weight(&row.batch))
    });
    sum / weight
}

pub(crate) fn save_model(model: &Tiny, folder: &Path) -> Result<(), BoxError> {
    let text: Vec<String> = model
        .values()
        .iter()
        .map(|(path, values, _)| format!("{path} {values:?}\n"))
        .collect();
    Ok(std::fs::write(folder.join("model.txt"), text.concat())?)
}

/// Trains `model` in `folder`; evaluations give its loss; `heard` may set the flag that stops the run.
pub(crate) fn run(
    model: &Tiny,
    batches: &Formula,
    config: &TrainConfig,
    (folder, start): (&Path, Start),
    heard: &mut dyn FnMut(&Entry, &AtomicBool),
) -> Result<Report, Error> {
    run_in(None, model, batches, config, (folder, start), heard)
}

/// As [`run`], perhaps in rounds.
pub(crate) fn run_in(
    rounds: Option<&dyn Rounds>,
    model: &Tiny,
    batches: &Formula,
    config: &TrainConfig,
    (folder, start): (&Path, Start),
    heard: &mut dyn FnMut(&Entry, &AtomicBool),
) -> Result<Report, Error> {
    let dir = RunDir::open(folder, "kind = \"test\"\n", start)?;
    let stop = AtomicBool::new(false);
    let save = |folder: &Path| save_model(model, folder);
    let mut measure = |_: usize| Ok(vec![("loss".to_owned(), evaluate(model))]);
    let mut listen = |entry: &Entry| heard(entry, &stop);
    let hooks = Hooks::new(&dir, &save)
        .with_evaluation(&mut measure)
        .with_listener(&mut listen)
        .with_stop(&stop);
    let hooks = match rounds {
        Some(rounds) => hooks.with_rounds(rounds),
        None => hooks,
    };
    fit(model, &NextToken, batches, config, hooks)
}

/// [`run`] from the beginning with nobody listening.
pub(crate) fn run_new(model: &Tiny, batches: &Formula, config: &TrainConfig, folder: &Path) -> Result<Report, Error> {
    run(model, batches, config, (folder, Start::New), &mut |_, _| {})
}
