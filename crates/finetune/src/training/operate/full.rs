//! `kind = "full"`: the model's own parameters train.

use anyhow::{Context as _, Result, bail};
use regex::RegexSet;
use tensor_core::{ModulePath, Role};

use super::{Kept, Patient};
use crate::recipe::FullConfig;

pub(super) fn operate(patient: Patient, config: &FullConfig) -> Result<Patient> {
    let Patient { model, mut what, .. } = patient;
    let patterns =
        RegexSet::new(&config.unfrozen_parameters).context("`unfrozen_parameters` holds no regular expression")?;
    for pattern in &config.unfrozen_parameters {
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
            && !(config.freeze_embeddings && role == Role::Embedding);
        count += usize::from(chosen);
        chosen
    })?;
    what.push(format!("full fine-tuning of {count} tensors"));
    Ok(Patient {
        model,
        kept: Some(Kept::Whole),
        what,
    })
}
