//! `kind = "full"`: the model's own parameters train.

use anyhow::{Context as _, Result, bail};
use regex::RegexSet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tensor_core::{ModulePath, Role};

use super::{Adaptation, Adapting, Context, Cost, Method, ModelShape, Options, Saved, Trains};
use crate::recipe::Surgery;

pub(super) static METHOD: Method = Method {
    kind: "full",
    summary: "Trains the model's own parameters, all or those that regular expressions choose",
    schema: FullConfig::json_schema,
    example: "",
    trains: Trains::Weights,
    reshapes: false,
    parse,
    rules: &[],
    format: None,
};

/// Options of `full`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FullConfig {
    /// Regular expressions; a parameter trains if one of them is found in its path. Everything trains by default.
    pub unfrozen_parameters: Vec<String>,
    /// Whether the token embedding (and a head tied to it) stays as it is.
    pub freeze_embeddings: bool,
}

impl Default for FullConfig {
    fn default() -> Self {
        Self {
            unfrozen_parameters: vec![".*".to_owned()],
            freeze_embeddings: false,
        }
    }
}

fn parse(options: &Options) -> Result<Surgery> {
    Ok(Surgery::new(options.read::<FullConfig>()?))
}

impl Adaptation for FullConfig {
    fn method(&self) -> &'static Method {
        &METHOD
    }

    fn apply(&self, adapting: Adapting, _: &mut Context) -> Result<Adapting> {
        let Adapting { model, mut what, .. } = adapting;
        let patterns =
            RegexSet::new(&self.unfrozen_parameters).context("`unfrozen_parameters` holds no regular expression")?;
        for pattern in &self.unfrozen_parameters {
            let single = regex::Regex::new(pattern)?;
            let mut met = false;
            tensor_core::Parameters::visit(&model, &ModulePath::root(), &mut |at, _| {
                met |= single.is_match(at.as_str());
            });
            if !met {
                bail!(
                    "`{pattern}` in `unfrozen_parameters` matches no parameter of this model\nhint: `finetune inspect MODEL` lists them"
                );
            }
        }
        let mut count = 0;
        let model = model.train_where(|at, role| {
            let chosen = role != Role::Balance
                && patterns.is_match(at.as_str())
                && !(self.freeze_embeddings && role == Role::Embedding);
            count += usize::from(chosen);
            chosen
        })?;
        what.push(format!("full fine-tuning of {count} tensors"));
        Ok(Adapting {
            model,
            saved: Some(Saved::Whole),
            what,
        })
    }

    fn cost(&self, shape: &ModelShape) -> Result<Cost> {
        let chosen = RegexSet::new(&self.unfrozen_parameters)?;
        let trains =
            |name: &str| chosen.is_match(name) && !(self.freeze_embeddings && name.starts_with("model.embed_tokens"));
        Ok(Cost {
            unfrozen: shape.numbers(trains),
            ..Cost::default()
        })
    }
}
