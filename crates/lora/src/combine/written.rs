//! The combined adapter as PEFT reads it: every module at scale 1.

use std::collections::BTreeMap;

use tch::Tensor;
use tensor_core::ModulePath;

use super::spectrum::Pair;
use super::terms::Slot;
use super::{Combined, Weighted};
use crate::adapter::PREFIX;
use crate::{Init, LoraConfig, TargetModules};

/// The largest rank that any adapter was given, for any module.
pub(super) fn largest_rank(adapters: &[Weighted]) -> i64 {
    let ranks = adapters
        .iter()
        .flat_map(|adapter| adapter.config.rank_pattern.values().chain([&adapter.config.r]));
    ranks.copied().max().unwrap_or(1)
}

/// The options: the commonest rank, others by their whole paths, and alpha equal to the rank everywhere.
pub(super) fn config(adapters: &[Weighted], modules: &[Combined]) -> LoraConfig {
    let mut counts: BTreeMap<i64, usize> = BTreeMap::new();
    for module in modules {
        *counts.entry(module.rank).or_default() += 1;
    }
    let r = counts
        .iter()
        .max_by_key(|(rank, count)| (**count, **rank))
        .map_or(1, |(rank, _)| *rank);
    let others = || modules.iter().filter(|module| module.rank != r);
    let of_all = |list: fn(&LoraConfig) -> &[String]| {
        let mut names: Vec<String> = adapters
            .iter()
            .flat_map(|adapter| list(&adapter.config))
            .cloned()
            .collect();
        names.sort();
        names.dedup();
        names
    };
    LoraConfig {
        r,
        lora_alpha: r as f64,
        lora_dropout: adapters.first().map_or(0.0, |adapter| adapter.config.lora_dropout),
        target_modules: TargetModules::Many(targets(adapters, modules)),
        init_lora_weights: Init::Default,
        rank_pattern: others().map(|module| (module.at.to_string(), module.rank)).collect(),
        alpha_pattern: others()
            .map(|module| (module.at.to_string(), module.rank as f64))
            .collect(),
        modules_to_save: of_all(|config| &config.modules_to_save),
        ..LoraConfig::default()
    }
}

/// The adapters' own lists together, where plain lists are all that chose; otherwise the modules' whole paths.
fn targets(adapters: &[Weighted], modules: &[Combined]) -> Vec<String> {
    let mut names = Vec::new();
    for Weighted { config, .. } in adapters {
        match &config.target_modules {
            TargetModules::Many(list) if config.exclude_modules.is_none() && config.layers_to_transform.is_none() => {
                names.extend(list.iter().cloned());
            }
            _ => {
                names = modules.iter().map(|module| module.at.to_string()).collect();
                break;
            }
        }
    }
    names.sort();
    names.dedup();
    names
}

/// The tensors under their names.
pub(super) fn tensors(
    pairs: Vec<(ModulePath, Slot, Pair)>,
    whole: BTreeMap<ModulePath, Tensor>,
) -> Vec<(String, Tensor)> {
    let mut tensors = Vec::with_capacity(2 * pairs.len() + whole.len());
    for (at, slot, Pair { a, b }) in pairs {
        let [name_a, name_b] = match slot {
            Slot::Projection => ["lora_A.weight", "lora_B.weight"],
            Slot::Table => ["lora_embedding_A", "lora_embedding_B"],
        };
        tensors.push((format!("{PREFIX}{at}.{name_a}"), a));
        tensors.push((format!("{PREFIX}{at}.{name_b}"), b));
    }
    tensors.extend(
        whole
            .into_iter()
            .map(|(path, tensor)| (format!("{PREFIX}{path}"), tensor)),
    );
    tensors
}
