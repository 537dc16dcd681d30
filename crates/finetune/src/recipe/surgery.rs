//! `[[surgery]]`: what is put into the model before training, in order.

use anyhow::{Result, bail};
use lora::LoraConfig;
use serde::{Deserialize, Serialize};

use super::Document;

/// One change to the model.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Surgery {
    /// Low-rank updates beside frozen weights.
    Lora(LoraConfig),
    /// The model's own parameters train.
    Full(FullConfig),
}

/// Options of `full`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
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

const KINDS: &[&str] = &["lora", "full"];

/// All surgeries of a recipe; a LoRA without a seed of its own takes the run's.
pub(super) fn read(document: &Document, seed: u64) -> Result<Vec<Surgery>> {
    let count = document.count("surgery")?;
    if count == 0 {
        bail!(
            "`{}`: no `[[surgery]]`, so nothing would train\nhint: add `[[surgery]]` with `kind = \"lora\"` for an adapter, or `kind = \"full\"` for all parameters",
            document.path().display()
        );
    }
    (0..count)
        .map(|idx| {
            let at = format!("surgery.{idx}");
            Ok(match document.kind(&at, KINDS)? {
                "lora" => {
                    let mut config: LoraConfig = document.section(&at, Some("kind"))?.unwrap_or_default();
                    let own = document
                        .section::<toml::Table>(&at, None)?
                        .is_some_and(|table| table.contains_key("seed"));
                    config.seed = if own { config.seed } else { seed };
                    config
                        .modules()
                        .map_err(|error| document.error(&at, &error.to_string(), None))?;
                    Surgery::Lora(config)
                }
                _ => Surgery::Full(document.section(&at, Some("kind"))?.unwrap_or_default()),
            })
        })
        .collect()
}
