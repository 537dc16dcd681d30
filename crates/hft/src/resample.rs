//! When a round ends and the next one draws.

use std::num::NonZeroUsize;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How long a round is: `"run"`, `"epoch"`, or a number of optimiser steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "Written", into = "Written")]
pub enum Resample {
    /// The whole run: the paper's rounds are stages of fine-tuning.
    #[default]
    Run,
    /// A pass over the data.
    Epoch,
    /// So many optimiser steps.
    Steps(NonZeroUsize),
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
enum Written {
    Steps(i64),
    #[schemars(extend("enum" = ["run", "epoch", "stage"]))]
    Word(String),
}

impl Resample {
    /// The round that optimiser step `step` (from 0) lies in.
    pub fn round_of(self, step: usize, num_steps_per_epoch: usize) -> usize {
        match self {
            Self::Run => 0,
            Self::Epoch => step / num_steps_per_epoch.max(1),
            Self::Steps(steps) => step / steps,
        }
    }
}

impl TryFrom<Written> for Resample {
    type Error = String;

    fn try_from(written: Written) -> Result<Self, String> {
        let found = match written {
            // "stage" is what other implementations call a run.
            Written::Word(word) if word == "run" || word == "stage" => return Ok(Self::Run),
            Written::Word(word) if word == "epoch" => return Ok(Self::Epoch),
            Written::Word(word) => word,
            Written::Steps(steps) => match usize::try_from(steps).ok().and_then(NonZeroUsize::new) {
                Some(steps) => return Ok(Self::Steps(steps)),
                None => steps.to_string(),
            },
        };
        Err(format!(
            "wanted \"run\", \"epoch\" or a number of steps above 0, found `{found}`"
        ))
    }
}

impl From<Resample> for Written {
    fn from(resample: Resample) -> Self {
        match resample {
            Resample::Run => Self::Word("run".into()),
            Resample::Epoch => Self::Word("epoch".into()),
            Resample::Steps(steps) => Self::Steps(steps.get() as i64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Table {
        resample: Resample,
    }

    #[test]
    fn a_round_is_a_run_an_epoch_or_some_steps() {
        for (written, rounds) in [("\"run\"", [0, 0, 0]), ("\"epoch\"", [0, 1, 2]), ("4", [0, 1, 3])] {
            let table: Table = toml::from_str(&format!("resample = {written}")).unwrap();
            assert_eq!(
                [3, 6, 12].map(|step| table.resample.round_of(step, 6)),
                rounds,
                "{written}"
            );
            assert_eq!(
                toml::from_str::<Table>(&toml::to_string(&table).unwrap()).unwrap(),
                table
            );
        }
        for wrong in ["0", "-3", "\"sometimes\""] {
            let error = toml::from_str::<Table>(&format!("resample = {wrong}"))
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("above 0") && error.contains(wrong.trim_matches('"')),
                "{error}"
            );
        }
    }
}
