//! `kind = "hft"`: each round a half of the model trains.

use schemars::JsonSchema as _;
use std::collections::BTreeSet;

use anyhow::Result;
use checkpoint::{ModelConfig, Output};
use decoder::Decoder;
use hft::{Halves, HftConfig, Piece, Resample, pieces_of};
use serde_json::{Value, json};
use tch::Kind;
use tensor_core::{ModulePath, Role};
use train::Rounds;

use super::{Adaptation, Adapting, Context, Cost, Method, ModelShape, Options, Saved, Trains};
use crate::recipe::combinations::Rule;
use crate::recipe::{Recipe, Surgery};

pub(super) static METHOD: Method = Method {
    kind: "hft",
    summary: "Trains a random half of the model's own parameters, drawn anew each round",
    schema: HftConfig::json_schema,
    example: "",
    trains: Trains::Weights,
    reshapes: false,
    parse,
    rules: RULES,
    format: None,
};

/// What it cannot go together with.
const RULES: &[Rule] = &[
    Rule {
        name: "hft-with-full",
        combination: "`hft` with `full`",
        why: "`kind = \"hft\"` and `kind = \"full\"` each decide what trains",
        hint: "leave one of the two out; `freeze_embeddings` and `freeze_head` of `hft` decide about both ends",
        meets: |c| c.kind_where("hft", |_| c.has_kind("full")),
    },
    Rule {
        name: "hft-twice",
        combination: "`hft` twice",
        why: "`hft` decides alone what trains, found it before",
        hint: "keep one of the two",
        meets: |c| c.kind_where("hft", |before| before.iter().any(|one| one.kind() == "hft")),
    },
];

fn parse(options: &Options) -> Result<Surgery> {
    let mut config: HftConfig = options.read()?;
    if !options.gives(&["seed", "hft_seed"])? {
        config.seed = options.seed;
    }
    config.check().map_err(|error| options.error(&error.to_string()))?;
    Ok(Surgery::new(config))
}

impl Adaptation for HftConfig {
    fn method(&self) -> &'static Method {
        &METHOD
    }

    fn apply(&self, adapting: Adapting, _: &mut Context) -> Result<Adapting> {
        let Adapting { model, mut what, .. } = adapting;
        let selection = Halves::new(self, &pieces_of(&model))?.draw(0);
        let model = model.train_where(|at, _| selection.trains(at))?;
        what.push(format!(
            "half fine-tuning by {}, {} of the numbers train, {}",
            self.granularity.name(),
            percent(selection.trained_share()),
            drawn(self.rounds())
        ));
        Ok(Adapting {
            model,
            saved: Some(Saved::Whole),
            what,
        })
    }

    fn cost(&self, shape: &ModelShape) -> Result<Cost> {
        let halves = Halves::new(self, &pieces_of_config(shape.config))?;
        Ok(Cost {
            unfrozen: halves.draw(0).trained_numbers() as f64,
            ..Cost::default()
        })
    }

    fn halves(&self, model: &Decoder) -> Result<Option<Half>> {
        Ok(Some(Half {
            halves: Halves::new(self, &pieces_of(model))?,
            config: self.clone(),
            kind: model.kind(),
        }))
    }
}

/// The halves of a model that trains by them, round by round.
#[derive(Debug)]
pub struct Half {
    halves: Halves,
    config: HftConfig,
    kind: Kind,
}

impl Half {
    /// That of `recipe`, if it trains halves of `model`.
    pub fn of(model: &Decoder, recipe: &Recipe) -> Result<Option<Self>> {
        let rounds = recipe.surgery.iter().map(|surgery| surgery.halves(model).transpose());
        rounds.flatten().next().transpose()
    }

    /// What `report.md` says of a run of `num_steps`: how often it drew, and how much of each category trained.
    pub fn settings(&self, num_steps: usize, num_steps_per_epoch: usize) -> Vec<(String, String)> {
        let last = self.round_of(num_steps.saturating_sub(1), num_steps_per_epoch);
        let rounds: Vec<_> = (0..=last).map(|round| self.halves.draw(round)).collect();
        let mean = |shares: &mut dyn Iterator<Item = f64>| shares.sum::<f64>() / rounds.len() as f64;
        let mut settings = vec![
            ("seed of the halves".to_owned(), self.config.seed.to_string()),
            (
                "rounds".into(),
                format!("{}, {}", rounds.len(), drawn(self.config.rounds())),
            ),
            (
                "trained".into(),
                format!(
                    "{} of the numbers",
                    percent(mean(&mut rounds.iter().map(hft::HalfSelection::trained_share)))
                ),
            ),
        ];
        for (idx, share) in rounds[0].shares().iter().enumerate() {
            let tensors = mean(&mut rounds.iter().map(|round| round.shares()[idx].trained_tensors as f64));
            let numbers = mean(&mut rounds.iter().map(|round| round.shares()[idx].trained_share()));
            settings.push((
                format!("trained of {}", share.category),
                format!(
                    "{} of the numbers, {} of {} tensors",
                    percent(numbers),
                    format!("{tensors:.1}").trim_end_matches(".0"),
                    share.tensors
                ),
            ));
        }
        settings
    }
}

impl Rounds for Half {
    fn round_of(&self, step: usize, num_steps_per_epoch: usize) -> usize {
        self.config.rounds().round_of(step, num_steps_per_epoch)
    }

    fn frozen(&self, round: usize) -> BTreeSet<ModulePath> {
        self.halves.draw(round).frozen().clone()
    }

    fn frozen_kind(&self) -> Kind {
        self.kind
    }

    fn origin(&self) -> Value {
        json!(self.config)
    }
}

/// The pieces of a model of this configuration, without its weights.
pub fn pieces_of_config(config: &ModelConfig) -> Vec<Piece> {
    let paths = decoder::projection_paths(config);
    let is_output = |name: &str| {
        paths
            .iter()
            .any(|(path, output)| *output && name == format!("{path}.weight"))
    };
    let role = |name: &str, shape: &[i64]| match (name, config.output) {
        ("model.embed_tokens.weight", _) => Role::Embedding,
        (name, _) if config.is_router(name) && shape.len() == 1 => Role::Balance,
        (name, _) if config.is_router(name) => Role::Router,
        (name, Output::SequenceClassifier) if is_output(name) => Role::Head,
        _ if shape.len() == 1 => Role::Norm,
        _ => Role::Base,
    };
    let pieces = config.tensors().into_iter().map(|(name, shape)| Piece {
        role: role(&name, &shape),
        path: ModulePath::from(name),
        shape,
    });
    pieces.collect()
}

fn drawn(resample: Resample) -> String {
    match resample {
        Resample::Run => "drawn once".into(),
        Resample::Epoch => "drawn anew every epoch".into(),
        Resample::Steps(steps) => format!("drawn anew every {steps} steps"),
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

#[cfg(test)]
mod tests {
    use checkpoint::ModelDir;
    use tch::Device;

    use super::*;

    #[test]
    fn a_configuration_and_its_model_have_the_same_pieces() {
        let vectors = concat!(env!("CARGO_MANIFEST_DIR"), "/../golden/vectors/families");
        for family in [
            "llama-tied",
            "llama-untied",
            "llama-biases",
            "qwen3-tied",
            "gemma3",
            "llama-classifier-3",
        ] {
            let dir = ModelDir::open(&std::path::Path::new(vectors).join(family)).unwrap();
            let model = Decoder::load(&dir, Device::Cpu, Kind::Float).unwrap();
            let sorted = |mut pieces: Vec<Piece>| {
                pieces.sort_by(|a, b| a.path.cmp(&b.path));
                pieces
            };
            assert_eq!(
                sorted(pieces_of_config(dir.config())),
                sorted(pieces_of(&model)),
                "{family}"
            );
        }
    }
}
