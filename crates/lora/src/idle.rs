//! Options that name modules: each key and entry must have one, or it was misspelt and would do nothing.

use std::collections::BTreeSet;

use tensor_core::{ModulePath, Modules};

use crate::config::matches_end;
use crate::{Error, LoraConfig, Result, TargetModules};

/// An error that names the first key or entry without a module.
///
/// `all`: every module of the model, with a mark at the output layer and at tables; `chosen`: those with an update.
pub(crate) fn refuse(config: &LoraConfig, all: &[(&ModulePath, bool)], chosen: &BTreeSet<ModulePath>) -> Result<()> {
    patterns("rank_pattern", config.rank_pattern.keys(), chosen)?;
    patterns("alpha_pattern", config.alpha_pattern.keys(), chosen)?;
    exclusions(config, all)?;
    layers(config, all)
}

/// Each key decides for a module with an update: matches it, and is the first that does.
fn patterns<'a>(
    option: &'static str,
    keys: impl Iterator<Item = &'a String>,
    chosen: &BTreeSet<ModulePath>,
) -> Result<()> {
    let mut taken: BTreeSet<&ModulePath> = BTreeSet::new();
    for key in keys {
        let mut matched = Vec::new();
        for path in chosen {
            if matches_end(option, key, path)? {
                matched.push(path);
            }
        }
        let decides = matched.iter().any(|path| !taken.contains(*path));
        if !decides {
            let (of, hint) = match matched.first() {
                None => (" with an update", names(chosen)),
                Some(path) => (
                    " that an earlier key does not match",
                    format!(
                        "of several keys the first in alphabetical order decides, as PEFT reads its file: `{path}` has one before it"
                    ),
                ),
            };
            return Err(Error::Idle {
                option,
                name: key.clone(),
                of,
                hint,
            });
        }
        taken.extend(matched);
    }
    Ok(())
}

fn exclusions(config: &LoraConfig, all: &[(&ModulePath, bool)]) -> Result<()> {
    let entries: Vec<TargetModules> = match &config.exclude_modules {
        None => return Ok(()),
        Some(TargetModules::Many(names)) => names
            .iter()
            .map(|name| TargetModules::Many(vec![name.clone()]))
            .collect(),
        Some(pattern) => vec![pattern.clone()],
    };
    for entry in entries {
        let one = Modules::new(entry.targets())?;
        if !all.iter().any(|(path, is_output)| one.contains(path, *is_output)) {
            let name = match entry {
                TargetModules::One(pattern) => pattern,
                TargetModules::Many(names) => names.concat(),
            };
            return Err(Error::Idle {
                option: "exclude_modules",
                name,
                of: " of this model",
                hint: names(all.iter().map(|(path, _)| *path)),
            });
        }
    }
    Ok(())
}

fn layers(config: &LoraConfig, all: &[(&ModulePath, bool)]) -> Result<()> {
    let Some(wanted) = &config.layers_to_transform else {
        return Ok(());
    };
    for layer in wanted {
        let alone = LoraConfig {
            layers_to_transform: Some(vec![*layer]),
            exclude_modules: None,
            ..config.clone()
        };
        let alone = alone.modules()?;
        if !all
            .iter()
            .any(|(path, is_output)| path.layer_idx().is_some() && alone.contains(path, *is_output))
        {
            let there = all.iter().filter_map(|(path, _)| path.layer_idx()).max();
            let hint = match there {
                Some(last) => format!(
                    "this model has layers 0 to {last}, and `target_modules` must name a module in each that is listed"
                ),
                None => "this model has no layers".to_owned(),
            };
            return Err(Error::Idle {
                option: "layers_to_transform",
                name: layer.to_string(),
                of: " of this model that `target_modules` names",
                hint,
            });
        }
    }
    Ok(())
}

fn names<'a>(paths: impl IntoIterator<Item = &'a ModulePath>) -> String {
    let names: BTreeSet<&str> = paths.into_iter().map(ModulePath::name).collect();
    let names: Vec<&str> = names.into_iter().collect();
    format!("there are {}", names.join(", "))
}
