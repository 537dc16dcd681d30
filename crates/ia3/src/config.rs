//! IA3's options, under PEFT's names and with PEFT's meaning.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tensor_core::{ModulePath, Modules, Targets};

use crate::{Error, Result, Side};

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
    fn targets(&self) -> Targets {
        match self {
            Self::One(word) if word == "all-linear" => Targets::AllLinear,
            Self::One(pattern) => Targets::Pattern(pattern.clone()),
            Self::Many(names) => Targets::Names(names.clone()),
        }
    }
}

/// What makes [`crate::Ia3`] of a model's projections.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Ia3Config {
    /// Which modules are scaled. PEFT's choice for a Llama by default: keys, values and the second matrix of the
    /// feed-forward.
    pub target_modules: TargetModules,
    /// Which of them are not scaled; in the same form.
    pub exclude_modules: Option<TargetModules>,
    /// Which of them are scaled by their inputs, and not by their outputs: names, or one regular expression for whole
    /// paths. `down_proj` if none.
    pub feedforward_modules: Option<TargetModules>,
    /// Whether the vectors begin as ones; otherwise as random numbers, which only tests want.
    pub init_ia3_weights: bool,
    /// Seeds vectors that begin as random numbers.
    pub seed: u64,
}

impl Default for Ia3Config {
    fn default() -> Self {
        let names = ["k_proj", "v_proj", "down_proj"].map(str::to_owned);
        Self {
            target_modules: TargetModules::Many(names.into()),
            exclude_modules: None,
            feedforward_modules: None,
            init_ia3_weights: true,
            seed: 0,
        }
    }
}

impl Ia3Config {
    /// The choice of modules, with every pattern compiled; and a check of all options.
    pub fn modules(&self) -> Result<Modules> {
        if let (Some(TargetModules::Many(inputs)), TargetModules::Many(targets)) =
            (&self.feedforward_modules, &self.target_modules)
            && let Some(name) = inputs.iter().find(|name| !targets.contains(name))
        {
            return Err(Error::Option {
                option: "feedforward_modules",
                found: format!("`{name}`, which is not among the `target_modules`"),
                hint: "name it in both, or in neither",
            });
        }
        self.inputs()?;
        let modules = Modules::new(self.target_modules.targets())?;
        Ok(match &self.exclude_modules {
            Some(exclude) => modules.excluding(exclude.targets())?,
            None => modules,
        })
    }

    /// Which side of the module at `path` is scaled.
    pub fn side(&self, path: &ModulePath) -> Result<Side> {
        let scales_inputs = self.inputs()?.contains(path, false);
        Ok(if scales_inputs { Side::Inputs } else { Side::Outputs })
    }

    /// The modules that are scaled by their inputs. As in PEFT, one string is always a regular expression.
    fn inputs(&self) -> Result<Modules> {
        let targets = match &self.feedforward_modules {
            None => Targets::Names(vec!["down_proj".to_owned()]),
            Some(TargetModules::One(pattern)) => Targets::Pattern(pattern.clone()),
            Some(TargetModules::Many(names)) => Targets::Names(names.clone()),
        };
        Ok(Modules::new(targets)?)
    }
}

#[cfg(test)]
mod tests {
    use Side::{Inputs, Outputs};

    use super::*;

    fn names(names: &[&str]) -> TargetModules {
        TargetModules::Many(names.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn the_side_is_that_of_peft() {
        let sides = |config: &Ia3Config| {
            ["k_proj", "down_proj", "up_proj"]
                .map(|name| config.side(&format!("model.layers.0.x.{name}").into()).unwrap())
        };
        assert_eq!(sides(&Ia3Config::default()), [Outputs, Inputs, Outputs]);
        let of = |feedforward_modules| Ia3Config {
            feedforward_modules: Some(feedforward_modules),
            ..Ia3Config::default()
        };
        assert_eq!(sides(&of(names(&[]))), [Outputs, Outputs, Outputs]);
        assert_eq!(
            sides(&of(TargetModules::One(".*_proj".into()))),
            [Inputs, Inputs, Inputs]
        );
        assert_eq!(
            sides(&of(TargetModules::One("down_proj".into()))),
            [Outputs, Outputs, Outputs]
        );
    }

    #[test]
    fn inputs_of_what_is_no_target_are_refused() {
        let config = Ia3Config {
            target_modules: names(&["k_proj"]),
            feedforward_modules: Some(names(&["down_proj"])),
            ..Ia3Config::default()
        };
        let error = config.modules().unwrap_err().to_string();
        assert!(error.contains("`feedforward_modules`: `down_proj`"), "{error}");
        let error = Ia3Config {
            feedforward_modules: Some(TargetModules::One("(".into())),
            ..Ia3Config::default()
        };
        assert!(error.modules().is_err());
    }
}
