//! A model's adapter in PEFT's form: the tensors of `adapter_model.safetensors` and `adapter_config.json`.
//!
//! Adapters that were taken out of the base weight (PiSSA, OLoRA) are written as an ordinary update of the original
//! base, of twice the rank: `s (B A - B₀ A₀) = s [B, -B₀] [A; A₀]`. What the configuration says of a module's rank and
//! scale is derived from the tensors that are written ([`as_written`]), so the two files cannot disagree.

use std::collections::{BTreeMap, BTreeSet};

use checkpoint::{InitLoraWeights, NamesOrPattern, PeftConfig, PeftPart};
use serde_json::{Map, Value, json};
use tch::{Kind, Tensor};
use tensor_core::{ModulePath, Parameters};

use crate::{Error, Init, LoraConfig, Result, TargetModules};

/// What PEFT puts before every path.
pub const PREFIX: &str = "base_model.model.";

/// Everything of `model` that an adapter file holds, f32, under PEFT's names, in the model's order.
pub fn adapter_tensors(model: &(impl Parameters + ?Sized)) -> Vec<(String, Tensor)> {
    let mut tensors: Vec<(String, Tensor)> = Vec::new();
    let mut initial: BTreeMap<String, Tensor> = BTreeMap::new();
    model.visit(&ModulePath::root(), &mut |at, param| {
        let path = at.as_str();
        // Only what is written is fetched from a device.
        let value = || {
            let value = param.value().detach().to_device(tch::Device::Cpu);
            value.to_kind(Kind::Float).contiguous()
        };
        if let Some(factor) = path.strip_suffix(".initial") {
            initial.insert(format!("{PREFIX}{factor}.weight"), value());
        } else if param.is_trainable() {
            tensors.push((format!("{PREFIX}{}", path.replace(".modules_to_save.", ".")), value()));
        }
    });
    for (name, value) in &mut tensors {
        let Some(first) = initial.get(name) else { continue };
        *value = if name.ends_with("lora_A.weight") {
            Tensor::cat(&[&*value, first], 0)
        } else {
            Tensor::cat(&[&*value, &first.neg()], 1).contiguous()
        };
    }
    tensors
}

/// The options that `adapter_config.json` has to hold beside these tensors, which a run with `config` has made.
///
/// Each module's rank is its tensors', its scale what it was trained with; what was done to the base to begin with is
/// not to be done again by whoever loads the adapter.
pub fn as_written(config: &LoraConfig, tensors: &[(String, Tensor)]) -> Result<LoraConfig> {
    let mut modules = Vec::new();
    for (key, tensor) in tensors {
        let Some((at, PeftPart::A | PeftPart::EmbeddingA)) = PeftPart::of(key) else {
            continue;
        };
        let (rank, alpha) = config.rank_and_alpha(&at)?;
        let found = tensor.size()[0];
        modules.push((at, found, config.alpha_at(rank, alpha, found), found == 2 * rank));
    }
    let taken = config.init_lora_weights.takes_from_base();
    let began = if taken || config.init_lora_weights == Init::Loftq {
        Init::Default
    } else {
        config.init_lora_weights
    };
    let plain = LoraConfig {
        init_lora_weights: began,
        ..config.clone()
    };
    let fits = |written: &LoraConfig| -> Result<bool> {
        for (at, rank, alpha, _) in &modules {
            if written.rank_and_alpha(at)? != (*rank, *alpha) {
                return Ok(false);
            }
        }
        Ok(true)
    };
    if fits(&plain)? {
        return Ok(plain);
    }
    let doubled = |rank: i64, alpha: f64| (2 * rank, config.alpha_at(rank, alpha, 2 * rank));
    let (r, lora_alpha) = match modules.iter().any(|(_, _, _, is_doubled)| *is_doubled) {
        true => doubled(config.r, config.lora_alpha),
        false => (config.r, config.lora_alpha),
    };
    let all_doubled = LoraConfig {
        r,
        lora_alpha,
        rank_pattern: plain.rank_pattern.iter().map(|(key, r)| (key.clone(), 2 * r)).collect(),
        alpha_pattern: plain
            .alpha_pattern
            .iter()
            .map(|(key, alpha)| (key.clone(), doubled(1, *alpha).1))
            .collect(),
        ..plain.clone()
    };
    if fits(&all_doubled)? {
        return Ok(all_doubled);
    }
    // Modules of several kinds, such as a token table beside projections: each that differs by its whole path.
    let paths = modules.into_iter().map(|(at, rank, alpha, _)| (at, rank, alpha));
    Ok(spelled_out(LoraConfig { r, lora_alpha, ..plain }, paths))
}

/// The options with each module's rank and alpha by its whole path, where they are not the common ones.
pub(crate) fn spelled_out(config: LoraConfig, modules: impl IntoIterator<Item = (ModulePath, i64, f64)>) -> LoraConfig {
    let (mut rank_pattern, mut alpha_pattern) = (BTreeMap::new(), BTreeMap::new());
    for (at, rank, alpha) in modules {
        if rank != config.r {
            rank_pattern.insert(at.to_string(), rank);
        }
        if alpha != config.lora_alpha {
            alpha_pattern.insert(at.to_string(), alpha);
        }
    }
    LoraConfig {
        rank_pattern,
        alpha_pattern,
        ..config
    }
}

/// `adapter_config.json` as PEFT 0.21 writes it, keys sorted. `targets` are the wrapped modules; `config` says of them
/// what the tensors are ([`as_written`]).
pub fn to_peft_config<'a>(
    config: &LoraConfig,
    base_model: Option<&str>,
    task_type: &str,
    targets: impl IntoIterator<Item = &'a ModulePath>,
) -> Map<String, Value> {
    let names = |of: &TargetModules| match of {
        TargetModules::One(pattern) => NamesOrPattern::Pattern(pattern.clone()),
        TargetModules::Many(names) => NamesOrPattern::Names(names.clone()),
    };
    let mut file = PeftConfig::default();
    file.task_type = Some(task_type.to_owned());
    file.base_model_name_or_path = base_model.map(str::to_owned);
    file.r = config.r;
    file.lora_alpha = config.lora_alpha;
    file.lora_dropout = config.lora_dropout;
    // A list of whole paths is exact whatever pattern chose them; plain suffixes are shorter and usual.
    file.target_modules = Some(match &config.target_modules {
        TargetModules::One(word) if word == "all-linear" => {
            let names: BTreeSet<&str> = targets.into_iter().map(ModulePath::name).collect();
            NamesOrPattern::Names(names.into_iter().map(str::to_owned).collect())
        }
        other => names(other),
    });
    file.exclude_modules = config.exclude_modules.as_ref().map(names);
    file.modules_to_save = (!config.modules_to_save.is_empty()).then(|| config.modules_to_save.clone());
    file.init_lora_weights = match config.init_lora_weights {
        Init::Default => InitLoraWeights::Default(true),
        Init::Random => InitLoraWeights::Default(false),
        other => InitLoraWeights::Named(other.name()),
    };
    file.use_rslora = config.use_rslora;
    file.rank_pattern = config
        .rank_pattern
        .iter()
        .map(|(key, rank)| (key.clone(), json!(rank)))
        .collect();
    file.alpha_pattern = config
        .alpha_pattern
        .iter()
        .map(|(key, alpha)| (key.clone(), number(*alpha)))
        .collect();
    file.set_layers(config.layers_to_transform.clone(), config.layers_pattern.clone());
    file.to_object()
}

/// The options of an `adapter_config.json`; options that are on and not supported are refused by name.
pub fn from_peft_config(file: &Map<String, Value>) -> Result<LoraConfig> {
    let file = PeftConfig::from_object("adapter_config.json".as_ref(), file.clone())?;
    if file.use_dora {
        return Err(Error::Unsupported {
            key: "use_dora".to_owned(),
            found: "true".to_owned(),
            hint: "read the adapter as DoRA's, or merge it with the library that made it",
        });
    }
    of_peft(&file)
}

/// The options of LoRA in a configuration that was read.
///
/// `init_lora_weights` is kept where it changed the base under the adapter: [`crate::Placement`] takes the same update
/// out of it again. How other factors began does not matter once they are read.
pub fn of_peft(file: &PeftConfig) -> Result<LoraConfig> {
    let names = |of: &NamesOrPattern| match of {
        NamesOrPattern::Pattern(pattern) => TargetModules::One(pattern.clone()),
        NamesOrPattern::Names(names) => TargetModules::Many(names.clone()),
    };
    let rank = |(key, rank): (&String, &Value)| Some((key.clone(), rank.as_i64()?));
    let alpha = |(key, alpha): (&String, &Value)| Some((key.clone(), alpha.as_f64()?));
    let init_lora_weights = match &file.init_lora_weights {
        InitLoraWeights::Named(name) if name.eq_ignore_ascii_case("olora") => Init::Olora,
        // PEFT draws the iterations' start anew at each load; what they run towards is the exact decomposition.
        InitLoraWeights::Named(name) if name.starts_with("pissa") => Init::Pissa,
        _ => Init::Default,
    };
    Ok(LoraConfig {
        r: file.r,
        lora_alpha: file.lora_alpha,
        lora_dropout: file.lora_dropout,
        target_modules: file
            .target_modules
            .as_ref()
            .map_or_else(|| LoraConfig::default().target_modules, names),
        exclude_modules: file.exclude_modules.as_ref().map(names),
        use_rslora: file.use_rslora,
        init_lora_weights,
        rank_pattern: file.rank_pattern.iter().filter_map(rank).collect(),
        alpha_pattern: file.alpha_pattern.iter().filter_map(alpha).collect(),
        // An empty list is none, as in PEFT.
        layers_to_transform: file.layers_to_transform().filter(|layers| !layers.is_empty()),
        layers_pattern: file.layers_pattern(),
        modules_to_save: file.modules_to_save.clone().unwrap_or_default(),
        seed: 0,
    })
}

/// The options of an adapter on disk for its own modules, and the keys of its patterns that decide nothing of them.
///
/// `modules`: each as the model names it, and as the file does, which is the name that the patterns are about. As in
/// PEFT the first key of the file that matches decides.
pub fn of_saved<'a>(
    file: &PeftConfig,
    modules: impl IntoIterator<Item = (&'a ModulePath, ModulePath)>,
) -> Result<(LoraConfig, Vec<String>)> {
    let config = of_peft(file)?;
    let (mut decisive, mut found) = (BTreeSet::new(), Vec::new());
    let mut first =
        |option: &'static str, patterns: &Map<String, Value>, named: &ModulePath| -> Result<Option<Value>> {
            for (pattern, value) in patterns {
                if crate::config::matches_end(option, pattern, named)? {
                    decisive.insert((option, pattern.clone()));
                    return Ok(Some(value.clone()));
                }
            }
            Ok(None)
        };
    let targets = match (&file.target_modules, &config.target_modules) {
        // Without a list PEFT takes each architecture's own; `all-linear` is every projection.
        (None, _) => None,
        (_, TargetModules::One(word)) if word.eq_ignore_ascii_case("all-linear") => None,
        _ => Some(config.choice()?),
    };
    for (at, named) in modules {
        if targets.as_ref().is_some_and(|targets| !targets.contains(&named, false)) {
            return Err(Error::Untargeted { at: named });
        }
        let rank = first("rank_pattern", &file.rank_pattern, &named)?.and_then(|rank| rank.as_i64());
        let alpha = first("alpha_pattern", &file.alpha_pattern, &named)?.and_then(|alpha| alpha.as_f64());
        found.push((at.clone(), rank.unwrap_or(config.r), alpha.unwrap_or(config.lora_alpha)));
    }
    let all = [
        ("rank_pattern", &file.rank_pattern),
        ("alpha_pattern", &file.alpha_pattern),
    ];
    let idle = all.into_iter().flat_map(|(option, patterns)| {
        let idle = patterns
            .keys()
            .filter(|key| !decisive.contains(&(option, (*key).clone())));
        idle.map(move |key| format!("`{key}` in `{option}`"))
            .collect::<Vec<_>>()
    });
    let idle = idle.collect();
    Ok((spelled_out(config, found), idle))
}

/// Whole numbers as integers, as PEFT writes them.
fn number(value: f64) -> Value {
    if value.fract() == 0.0 && value.abs() < 1e15 {
        json!(value as i64)
    } else {
        json!(value)
    }
}
