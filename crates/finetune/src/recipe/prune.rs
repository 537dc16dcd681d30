//! `kind = "prune"`: weights that become zero before the model trains.

use anyhow::Result;
use prune::PruneConfig;
use serde::Serialize;

use super::Document;
use super::places::Places;
use crate::pruning::CalibrationConfig;

/// Options of `prune`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PruneSurgery {
    /// What goes.
    #[serde(flatten)]
    pub rule: PruneConfig,
    /// What is looked at.
    #[serde(flatten)]
    pub text: CalibrationConfig,
}

const TEXT: [&str; 4] = ["calibration", "nsamples", "max_length", "seed"];

/// The table at `at`; without a seed of its own it takes the run's.
pub(super) fn read(document: &Document, at: &str, seed: u64, places: &Places) -> Result<PruneSurgery> {
    let Some(rule) = document.part::<PruneConfig>(at, |key| key != "kind" && !TEXT.contains(&key))? else {
        return Err(document.error(at, "is missing", None));
    };
    let mut text: CalibrationConfig = document.part(at, |key| TEXT.contains(&key))?.unwrap_or_default();
    let has_seed = document
        .part::<toml::Table>(at, |key| key == "seed")?
        .is_some_and(|table| !table.is_empty());
    if !has_seed {
        text.seed = seed;
    }
    if let Some(path) = &mut text.calibration {
        let wanted = path.display().to_string();
        *path = places
            .data(&wanted)
            .ok_or_else(|| document.error(&format!("{at}.calibration"), &format!("no such file: `{wanted}`"), None))?;
    }
    let plan = rule
        .plan()
        .map_err(|error| document.error(at, &error.to_string(), None))?;
    match (plan.needs_calibration(), &text.calibration) {
        (true, None) => {
            let what = "`calibration` is missing: this method looks at text\nhint: name a file of the kind of text that the model will read";
            Err(document.error(at, what, None))
        }
        (false, Some(_)) => {
            let what = "this method looks at no text\nhint: remove it";
            Err(document.error(&format!("{at}.calibration"), what, None))
        }
        _ => Ok(PruneSurgery { rule, text }),
    }
}
