//! `kind = "keep_zeros"`: what was pruned from the base is not trained back.

use anyhow::Result;

use super::{Kept, Patient};
use crate::zeros::Zeros;

pub(super) fn operate(patient: Patient, zeros: Option<Zeros>) -> Result<Patient> {
    let Patient { model, kept, mut what } = patient;
    let kept = match kept {
        Some(Kept::Adapter { config, targets, .. }) => Some(Kept::Adapter {
            config,
            targets,
            keeps_zeros: true,
        }),
        other => other,
    };
    let zeros = zeros.unwrap_or_default();
    let (count, share) = zeros.counts();
    what.push(format!("{:.1} % of {count} matrices stay zero", 100.0 * share));
    Ok(Patient {
        model: zeros.keep(model)?,
        kept,
        what,
    })
}
