//! `kind = "adapter"`: bottleneck adapters behind or beside frozen sublayers.

use adapters::{AdapterConfig, Insertion};
use anyhow::Result;
use tensor_core::{LanguageModel as _, Role};

use super::{Kept, Patient};

pub(super) fn operate(patient: Patient, config: &AdapterConfig) -> Result<Patient> {
    let Patient { model, mut what, .. } = patient;
    let (width, layers) = (model.config().hidden_size, model.num_blocks());
    let insertion = Insertion::new(config.clone(), width, layers, model.device())?;
    let mut model = model.map_sublayers(&mut |at, inner| insertion.sublayer(at, inner))?;
    let count = config.num_parameters(width, layers);
    what.push(format!("bottleneck adapters of {count} numbers in {layers} layers"));
    if config.train_norms {
        model = model.train_where(|at, role| role == Role::Norm && at.as_str().ends_with("norm.weight"))?;
        what.push("norms".to_owned());
    }
    Ok(Patient {
        model,
        kept: Some(Kept::Bottleneck(config.clone())),
        what,
    })
}
