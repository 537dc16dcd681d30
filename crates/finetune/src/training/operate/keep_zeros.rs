//! `kind = "keep_zeros"`: what was pruned from the base is not trained back.

use anyhow::{Result, bail};

use super::{Kept, Patient};
use crate::zeros::Zeros;

pub(super) fn operate(patient: Patient, zeros: Option<Zeros>) -> Result<Patient> {
    let Patient { model, kept, mut what } = patient;
    let kept = match kept {
        Some(Kept::Adapter { config, targets, .. }) => Kept::Adapter {
            config,
            targets,
            keeps_zeros: true,
        },
        Some(Kept::Whole) => Kept::Whole,
        Some(Kept::Decomposed { .. }) => {
            bail!("DoRA's magnitudes scale whole directions, which a mask would change\nhint: use `kind = \"lora\"`")
        }
        Some(Kept::Bottleneck(_) | Kept::Memory(_)) => bail!(
            "bottleneck adapters and memories leave the base as it is, so its zeros stay without it\nhint: remove `kind = \"keep_zeros\"`"
        ),
        None => bail!("nothing trains before it\nhint: put `kind = \"keep_zeros\"` behind the surgery that trains"),
    };
    let zeros = zeros.unwrap_or_default();
    let (count, share) = zeros.counts();
    what.push(format!("{:.1} % of {count} matrices stay zero", 100.0 * share));
    Ok(Patient {
        model: zeros.keep(model)?,
        kept: Some(kept),
        what,
    })
}
