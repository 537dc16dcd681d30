//! `kind = "memory"`: a mixture of memory experts beside frozen projections.

use anyhow::{Context as _, Result, ensure};
use memory_tuning::{MemoryConfig, Wrapping};

use super::{Kept, Patient};
use crate::memories::Memories;

pub(super) fn operate(patient: Patient, config: &MemoryConfig) -> Result<Patient> {
    let Patient { model, mut what, .. } = patient;
    let (model, bank) = if let Some(folder) = &config.continue_from {
        let saved = Memories::open(folder).context("`continue_from`")?;
        let there = MemoryConfig {
            continue_from: config.continue_from.clone(),
            ..saved.config().clone()
        };
        ensure!(
            there == *config,
            "`continue_from`: the memory in `{}` was made with other options\nhint: repeat those of its `memory_config.json`, its seed too",
            folder.display()
        );
        saved.place(model)?
    } else {
        let wrapping = Wrapping::choose(config.clone(), &model.projection_paths())?;
        let model = model.map_projections(&mut |at, base| wrapping.projection(at, base))?;
        (model, wrapping.bank())
    };
    what.push(format!(
        "memories of {} experts on {} projections, {} of a token",
        config.num_experts,
        bank.len(),
        config.top_k
    ));
    Ok(Patient {
        model,
        kept: Some(Kept::Memory(bank)),
        what,
    })
}
