//! An adapter of the text model of a multimodal one, under the names that Transformers gives its modules there.
//!
//! `model.layers…` lies below `model.language_model.layers…`, beside a vision tower with projections of the same last
//! names: so modules are listed by their whole paths.

use std::collections::BTreeSet;

use checkpoint::{PeftAdapter, PeftPart};
use tch::Tensor;
use tensor_core::ModulePath;

use crate::adapter::spelled_out;
use crate::{LoraConfig, Result, TargetModules};

/// Tensors by their names in the file.
pub type Tensors = Vec<(String, Tensor)>;

/// The options ([`crate::as_written`]) and tensors of an adapter under a multimodal model's names.
pub fn in_multimodal(config: LoraConfig, tensors: Tensors) -> Result<(LoraConfig, Tensors)> {
    let mut modules: BTreeSet<ModulePath> = BTreeSet::new();
    let mut renamed = Vec::with_capacity(tensors.len());
    for (key, tensor) in tensors {
        let Some((at, part)) = PeftPart::of(&key) else {
            renamed.push((key, tensor));
            continue;
        };
        renamed.push((part.key(&PeftAdapter::wrapped_name(&at)), tensor));
        if matches!(part, PeftPart::A | PeftPart::EmbeddingA) {
            modules.insert(at);
        }
    }
    let mut each = Vec::new();
    for at in &modules {
        let (rank, alpha) = config.rank_and_alpha(at)?;
        each.push((PeftAdapter::wrapped_name(at), rank, alpha));
    }
    let names = each.iter().map(|(at, _, _)| at.to_string()).collect();
    let config = LoraConfig {
        target_modules: TargetModules::Many(names),
        exclude_modules: None,
        layers_to_transform: None,
        layers_pattern: Vec::new(),
        ..config
    };
    Ok((spelled_out(config, each), renamed))
}
