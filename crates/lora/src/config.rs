//! LoRA's options, under PEFT's names and with PEFT's meaning.

use std::collections::BTreeMap;

use fancy_regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tensor_core::{ModulePath, Modules, Targets};

use crate::{Error, Init, Result};

/// `target_modules` and its like: a list of names, or one string (a pattern, or `all-linear`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum TargetModules {
    /// `all-linear`, or a regular expression for whole paths.
    One(String),
    /// Whole paths or suffixes after a dot.
    Many(Vec<String>),
}

impl TargetModules {
    /// As the seam's targets.
    pub fn targets(&self) -> Targets {
        match self {
            Self::One(word) if word == "all-linear" => Targets::AllLinear,
            Self::One(pattern) => Targets::Pattern(pattern.clone()),
            Self::Many(names) => Targets::Names(names.clone()),
        }
    }
}

/// What makes a [`crate::Lora`] of a projection. The names and defaults are PEFT's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// Rank of the update: the width of its two factors. 8 to 64 are usual.
    pub r: i64,
    /// The update is scaled by `lora_alpha / r`.
    pub lora_alpha: f64,
    /// Probability of dropping an input of the update while training.
    pub lora_dropout: f64,
    /// Which modules get an update: names or path suffixes, a regular expression for whole paths, or `all-linear`.
    pub target_modules: TargetModules,
    /// Which of them get none; in the same form.
    pub exclude_modules: Option<TargetModules>,
    /// Whether the update is scaled by `lora_alpha / √r` instead (rank-stabilised LoRA).
    pub use_rslora: bool,
    /// How the factors A and B begin: true or `default`, `gaussian`, `pissa`, `pissa_niter_N`, `olora`, `loftq`;
    /// false draws both at random, for tests.
    pub init_lora_weights: Init,
    /// Other ranks for the modules whose path ends with the key (a regular expression).
    pub rank_pattern: BTreeMap<String, i64>,
    /// Other alphas, in the same way.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Update only the layers of these numbers, counted from 0; all by default.
    pub layers_to_transform: Option<Vec<usize>>,
    /// The module lists that count the layers; any if empty.
    pub layers_pattern: Vec<String>,
    /// Modules that are trained whole and saved with the adapter.
    pub modules_to_save: Vec<String>,
    /// The seed of the factor A.
    pub seed: u64,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: TargetModules::One("all-linear".into()),
            exclude_modules: None,
            use_rslora: false,
            init_lora_weights: Init::Default,
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            layers_to_transform: None,
            layers_pattern: Vec::new(),
            modules_to_save: Vec::new(),
            seed: 0,
        }
    }
}

impl LoraConfig {
    /// The choice of modules, with every pattern compiled; and a check of all options that training needs.
    pub fn modules(&self) -> Result<Modules> {
        if self.r < 1 {
            return Err(Error::Option {
                option: "r",
                found: format!("rank {}", self.r),
                hint: "a rank is at least 1; 8 to 64 are usual",
            });
        }
        for (key, rank) in &self.rank_pattern {
            if *rank < 1 {
                return Err(Error::Option {
                    option: "rank_pattern",
                    found: format!("rank {rank} for `{key}`"),
                    hint: "a rank is at least 1; a module without an update goes into `exclude_modules`",
                });
            }
        }
        let alphas = self.alpha_pattern.iter().map(|(key, alpha)| (*alpha, Some(key)));
        for (alpha, key) in alphas.chain([(self.lora_alpha, None)]) {
            // The update is multiplied by it, and so is every gradient.
            if !alpha.is_finite() || alpha <= 0.0 {
                let of = key.map_or_else(String::new, |key| format!(" for `{key}`"));
                return Err(Error::Option {
                    option: if key.is_some() { "alpha_pattern" } else { "lora_alpha" },
                    found: format!("{alpha}{of}: the update is scaled by it, so nothing could be learnt"),
                    hint: "wanted a number above 0; the rank or twice the rank are usual",
                });
            }
        }
        if !(0.0..1.0).contains(&self.lora_dropout) {
            let found = format!("{} is no probability below 1", self.lora_dropout);
            return Err(Error::Option {
                option: "lora_dropout",
                found,
                hint: "0 to 0.1 are usual",
            });
        }
        if !self.layers_pattern.is_empty() && self.layers_to_transform.is_none() {
            let found = "given without `layers_to_transform`".to_owned();
            return Err(Error::Option {
                option: "layers_pattern",
                found,
                hint: "name the layers, or remove the pattern",
            });
        }
        if matches!(self.target_modules, TargetModules::One(ref word) if word != "all-linear")
            && self.layers_to_transform.is_some()
        {
            let found = "given with a pattern in `target_modules`".to_owned();
            return Err(Error::Option {
                option: "layers_to_transform",
                found,
                hint: "write the layers into the pattern, or list the modules",
            });
        }
        self.choice()
    }

    /// The choice of modules, with every pattern compiled.
    pub(crate) fn choice(&self) -> Result<Modules> {
        let mut modules = Modules::new(self.target_modules.targets())?;
        if let Some(exclude) = &self.exclude_modules {
            modules = modules.excluding(exclude.targets())?;
        }
        if let Some(layers) = &self.layers_to_transform {
            modules = modules.in_layers(layers.clone(), &self.layers_pattern)?;
        }
        Ok(modules)
    }

    /// Rank and alpha of the module at `path`.
    pub(crate) fn rank_and_alpha(&self, path: &ModulePath) -> Result<(i64, f64)> {
        let rank = by_pattern("rank_pattern", &self.rank_pattern, path)?.unwrap_or(self.r);
        let alpha = by_pattern("alpha_pattern", &self.alpha_pattern, path)?.unwrap_or(self.lora_alpha);
        Ok((rank, alpha))
    }

    /// The alpha that gives rank `other` the scale that `alpha` gives `rank`.
    pub(crate) fn alpha_at(&self, rank: i64, alpha: f64, other: i64) -> f64 {
        let ratio = other as f64 / rank as f64;
        if rank == other {
            alpha
        } else if self.use_rslora {
            alpha * ratio.sqrt()
        } else {
            alpha * ratio
        }
    }

    /// Rank and scale of the module at `path`.
    pub fn rank_and_scale(&self, path: &ModulePath) -> Result<(i64, f64)> {
        let (rank, alpha) = self.rank_and_alpha(path)?;
        let scale = if self.use_rslora {
            alpha / (rank as f64).sqrt()
        } else {
            alpha / rank as f64
        };
        Ok((rank, scale))
    }

    /// Whether the module at `path` is trained whole (`modules_to_save`): its path or its end after a dot.
    pub fn is_saved_whole(&self, path: &ModulePath) -> bool {
        let path = path.as_str();
        self.modules_to_save
            .iter()
            .any(|name| path == name || path.strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.')))
    }
}

/// PEFT's rule: the first key that, as a regular expression, matches the whole path or its end after a dot.
fn by_pattern<T: Copy>(option: &'static str, patterns: &BTreeMap<String, T>, path: &ModulePath) -> Result<Option<T>> {
    for (pattern, value) in patterns {
        if matches_end(option, pattern, path)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

/// Whether `pattern`, as a regular expression, matches the whole path or its end after a dot.
pub(crate) fn matches_end(option: &'static str, pattern: &str, path: &ModulePath) -> Result<bool> {
    // Most keys are names or whole paths, and a file may have one for every module: those need no compiling.
    if pattern
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
    {
        return Ok(ends_with(path.as_str().as_bytes(), pattern.as_bytes()));
    }
    let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$")).map_err(|source| Error::Pattern {
        option,
        pattern: pattern.to_owned(),
        source: Box::new(source),
    })?;
    Ok(regex.is_match(path.as_str()).unwrap_or(false))
}

/// Whether `pattern`, whose dots stand for any character, is the whole path or its end after a dot.
fn ends_with(path: &[u8], pattern: &[u8]) -> bool {
    let Some(begin) = path.len().checked_sub(pattern.len()) else {
        return false;
    };
    let same = |(byte, wanted): (&u8, &u8)| wanted == &b'.' || byte == wanted;
    (begin == 0 || path[begin - 1] == b'.') && path[begin..].iter().zip(pattern).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_keys_match_as_the_regular_expressions_that_they_are() {
        let path = ModulePath::from("model.layers.1.self_attn.q_proj");
        for key in [
            "q_proj",
            "proj",
            "self_attn.q_proj",
            "self_attn_q_proj",
            ".q_proj",
            "",
            "model.layers.1.self_attn.q_proj",
            "x.model.layers.1.self_attn.q_proj",
            "layers.1.self-attn.q_proj",
            "layers.1.self.attn.q_proj",
            "odel.layers.1.self_attn.q_proj",
        ] {
            let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{key})$")).unwrap();
            let wanted = regex.is_match(path.as_str()).unwrap();
            assert_eq!(matches_end("rank_pattern", key, &path).unwrap(), wanted, "{key}");
        }
    }

    #[test]
    fn patterns_change_rank_and_alpha_of_their_modules() {
        let config = LoraConfig {
            r: 8,
            lora_alpha: 16.0,
            rank_pattern: BTreeMap::from([("q_proj".into(), 4)]),
            alpha_pattern: BTreeMap::from([(r"layers\.1\.self_attn\.q_proj".into(), 2.0)]),
            ..LoraConfig::default()
        };
        let of = |path: &str| config.rank_and_scale(&path.into()).unwrap();
        assert_eq!(of("model.layers.0.self_attn.q_proj"), (4, 4.0));
        assert_eq!(of("model.layers.1.self_attn.q_proj"), (4, 0.5));
        assert_eq!(of("model.layers.1.self_attn.k_proj"), (8, 2.0));
    }

    #[test]
    fn rank_stabilised_scale_divides_by_the_root() {
        let config = LoraConfig {
            r: 16,
            lora_alpha: 8.0,
            use_rslora: true,
            ..LoraConfig::default()
        };
        assert_eq!(config.rank_and_scale(&"lm_head".into()).unwrap(), (16, 2.0));
    }

    #[test]
    fn a_rank_of_nought_is_refused() {
        let error = LoraConfig {
            r: 0,
            ..LoraConfig::default()
        }
        .modules()
        .unwrap_err()
        .to_string();
        assert!(error.starts_with("`r`: rank 0"), "{error}");
    }
}
