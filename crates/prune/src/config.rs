//! The options of pruning weights one by one, and what cannot go together.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tensor_core::{Modules, Targets};

use crate::{Error, Pattern, Per, Result, SparseGptConfig, Sparsity};

/// By what weights are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Their size: needs no text.
    Magnitude,
    /// Their size times their input's strength.
    Wanda,
    /// What their loss costs when the others make up for it.
    SparseGpt,
}

impl Method {
    /// Its name in recipes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Magnitude => "magnitude",
            Self::Wanda => "wanda",
            Self::SparseGpt => "sparsegpt",
        }
    }
}

/// Within what magnitudes are compared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Each matrix.
    #[default]
    Matrix,
    /// Each row, which is one output.
    Row,
    /// All matrices together.
    Global,
}

/// What makes a [`Plan`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PruneConfig {
    /// By what the weights that become zero are chosen.
    pub method: Method,
    /// The share of each matrix that goes; or
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<f64>,
    /// so many of every so many consecutive inputs: `2:4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pattern: Option<Pattern>,
    /// For `magnitude`: within what sizes are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per: Option<Scope>,
    /// For `sparsegpt`: this share of the mean is added to the diagonal of the inputs' products. 0.01 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damping: Option<f64>,
    /// For `sparsegpt`: columns whose mask is chosen at once. 128 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<usize>,
    /// Names of the modules that are pruned; all projections of the blocks if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub target_modules: Vec<String>,
    /// Names of those that are not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude_modules: Vec<String>,
}

/// What is done to each matrix, checked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rule {
    /// By size, within a matrix or a row.
    Magnitude(Per),
    /// By size, over all matrices; this share goes.
    GlobalMagnitude(f64),
    /// By Wanda's score.
    Wanda,
    /// By the sweep, with this damping.
    SparseGpt(SparseGptConfig, f64),
}

/// A checked choice of modules and of what is done to them.
#[derive(Debug)]
pub struct Plan {
    pub(crate) rule: Rule,
    pub(crate) sparsity: Sparsity,
    pub(crate) modules: Modules,
}

impl PruneConfig {
    /// All projections of the blocks by `method`.
    pub fn new(method: Method, sparsity: Sparsity) -> Self {
        let (share, pattern) = match sparsity {
            Sparsity::Share(share) => (Some(share), None),
            Sparsity::Pattern(pattern) => (None, Some(pattern)),
        };
        Self {
            method,
            sparsity: share,
            pattern,
            per: None,
            damping: None,
            block_size: None,
            target_modules: Vec::new(),
            exclude_modules: Vec::new(),
        }
    }

    /// Refuses what cannot be, and what would be ignored.
    pub fn plan(&self) -> Result<Plan> {
        let sparsity = match (self.sparsity, self.pattern) {
            (Some(share), None) => Sparsity::share(share)?,
            (None, Some(pattern)) => Sparsity::Pattern(pattern),
            (None, None) => {
                return wrong(
                    "sparsity",
                    "is missing",
                    "0.5 takes half of the weights; or `pattern` 2:4",
                );
            }
            (Some(_), Some(_)) => return wrong("sparsity", "stands beside `pattern`", "keep one of the two"),
        };
        if self.per.is_some() && self.method != Method::Magnitude {
            return wrong(
                "per",
                "is magnitude's",
                "Wanda compares within rows, SparseGPT within blocks of columns",
            );
        }
        if self.method != Method::SparseGpt && (self.damping.is_some() || self.block_size.is_some()) {
            let option = if self.damping.is_some() {
                "damping"
            } else {
                "block_size"
            };
            return wrong(option, "is SparseGPT's", "remove it, or set `method` to sparsegpt");
        }
        let rule = match (self.method, self.per.unwrap_or_default()) {
            (Method::Magnitude, Scope::Global) => match sparsity {
                Sparsity::Share(share) => Rule::GlobalMagnitude(share),
                Sparsity::Pattern(_) => return wrong("per", "global has no patterns", "give a `sparsity`"),
            },
            (Method::Magnitude, Scope::Row) => Rule::Magnitude(Per::Row),
            (Method::Magnitude, Scope::Matrix) => Rule::Magnitude(Per::Matrix),
            (Method::Wanda, _) => Rule::Wanda,
            (Method::SparseGpt, _) => {
                let usual = SparseGptConfig::default();
                let block_size = self.block_size.unwrap_or(usual.block_size);
                Rule::SparseGpt(SparseGptConfig { block_size, ..usual }, self.damping.unwrap_or(0.01))
            }
        };
        let targets = match self.target_modules.as_slice() {
            [] => Targets::AllLinear,
            names => Targets::Names(names.to_vec()),
        };
        let mut modules = Modules::new(targets)?;
        if !self.exclude_modules.is_empty() {
            modules = modules.excluding(Targets::Names(self.exclude_modules.clone()))?;
        }
        Ok(Plan {
            rule,
            sparsity,
            modules,
        })
    }
}

impl Plan {
    /// Whether the inputs must be seen.
    pub fn needs_calibration(&self) -> bool {
        matches!(self.rule, Rule::Wanda | Rule::SparseGpt(..))
    }
}

fn wrong<T>(option: &'static str, found: &str, hint: &'static str) -> Result<T> {
    Err(Error::Option {
        option,
        found: found.to_owned(),
        hint,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_ignored_is_refused() {
        let base = PruneConfig::new(Method::Wanda, Sparsity::Share(0.5));
        let cases = [
            (
                PruneConfig {
                    sparsity: None,
                    ..base.clone()
                },
                "`sparsity`: is missing",
            ),
            (
                PruneConfig {
                    pattern: Some("2:4".parse().unwrap()),
                    ..base.clone()
                },
                "beside `pattern`",
            ),
            (
                PruneConfig {
                    per: Some(Scope::Row),
                    ..base.clone()
                },
                "`per`",
            ),
            (
                PruneConfig {
                    damping: Some(0.1),
                    ..base.clone()
                },
                "`damping`",
            ),
            (
                PruneConfig {
                    method: Method::Magnitude,
                    block_size: Some(4),
                    ..base.clone()
                },
                "`block_size`",
            ),
            (
                PruneConfig {
                    sparsity: Some(1.0),
                    ..base.clone()
                },
                "`sparsity`: 1 is no share",
            ),
            (
                PruneConfig {
                    method: Method::Magnitude,
                    per: Some(Scope::Global),
                    sparsity: None,
                    pattern: Some("2:4".parse().unwrap()),
                    ..base.clone()
                },
                "global has no patterns",
            ),
        ];
        for (config, wanted) in cases {
            let error = config.plan().unwrap_err().to_string();
            assert!(error.contains(wanted), "{error}");
        }
        assert!(base.plan().unwrap().needs_calibration());
    }
}
