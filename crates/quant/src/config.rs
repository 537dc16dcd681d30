//! From options to surgery: which projections are quantised, and how.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tensor_core::{Error as CoreError, Found, ModulePath, Projection};

use crate::codec::{BlockSize, Scheme};
use crate::{Error, Quantized, QuantizedWeight, Result};

/// What makes a [`Quantized`] of a projection. Names in brackets are those of `BitsAndBytesConfig`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct QuantizeConfig {
    /// `nf4`, `fp4`, `int4` or `int8` (`bnb_4bit_quant_type`).
    #[serde(alias = "bnb_4bit_quant_type")]
    #[schemars(extend("x-aliases" = ["bnb_4bit_quant_type"]))]
    pub scheme: Scheme,
    /// How many neighbouring numbers share a scale: a power of two from 32 to 4096.
    pub block_size: BlockSize,
    /// Whether the scales are held in 8 bits too (`bnb_4bit_use_double_quant`).
    #[serde(alias = "bnb_4bit_use_double_quant")]
    #[schemars(extend("x-aliases" = ["bnb_4bit_use_double_quant"]))]
    pub double_quant: bool,
    /// Modules that stay as they are: whole paths, or parts of them between dots.
    pub skip_modules: Vec<String>,
}

impl Default for QuantizeConfig {
    fn default() -> Self {
        Self {
            scheme: Scheme::Nf4,
            block_size: BlockSize::default(),
            double_quant: false,
            skip_modules: vec![OUTPUT.to_owned()],
        }
    }
}

/// The output layer, which is left out unless somebody says otherwise.
const OUTPUT: &str = "lm_head";

impl QuantizeConfig {
    /// Whether the module at `path` stays as it is.
    pub fn skips(&self, path: &ModulePath) -> bool {
        self.skip_modules.iter().any(|name| is_part(path.as_str(), name))
    }

    /// The weight of the module at `at`, quantised.
    pub fn quantize(&self, at: &ModulePath, base: Box<dyn Projection>) -> tensor_core::Result<Quantized> {
        let dense = base.into_dense().map_err(|Found(found)| CoreError::NotDense {
            at: at.clone(),
            found,
            hint: "quantise before anything else is done to the weights",
        })?;
        let param = dense.into_param();
        if param.is_trainable() {
            return Err(CoreError::NotDense {
                at: at.clone(),
                found: "a weight that trains",
                hint: "name it in `skip_modules`",
            });
        }
        let weight = QuantizedWeight::of(param.value(), self.scheme, self.block_size, self.double_quant);
        Ok(Quantized::new(weight.map_err(|error| error.at(at))?))
    }
}

/// A choice of modules and what is done to them: hand its surgeon to the loader.
#[derive(Debug)]
pub struct Quantizing {
    config: QuantizeConfig,
    chosen: BTreeSet<ModulePath>,
}

impl Quantizing {
    /// Chooses among the model's projections: `paths` with a mark at the output layer.
    ///
    /// Errors: a name in `skip_modules` that matches nothing (but for the default, `lm_head`), or nothing left.
    pub fn choose(config: QuantizeConfig, paths: &[(ModulePath, bool)]) -> Result<Self> {
        let matches = |name: &String| name == OUTPUT || paths.iter().any(|(path, _)| is_part(path.as_str(), name));
        if let Some(name) = config.skip_modules.iter().find(|name| !matches(name)) {
            let known: BTreeSet<&str> = paths.iter().map(|(path, _)| path.name()).collect();
            return Err(Error::NoModule {
                name: name.clone(),
                known: known.into_iter().collect::<Vec<_>>().join(", "),
            });
        }
        // A classifier's head is small, and what it was trained for.
        let is_small_head = |path: &ModulePath, is_output: bool| is_output && path.as_str() != OUTPUT;
        let chosen = paths
            .iter()
            .filter(|(path, is_output)| !config.skips(path) && !is_small_head(path, *is_output))
            .map(|(path, _)| path.clone());
        let chosen: BTreeSet<ModulePath> = chosen.collect();
        if chosen.is_empty() {
            return Err(Error::NothingLeft);
        }
        Ok(Self { config, chosen })
    }

    /// The options.
    pub fn config(&self) -> &QuantizeConfig {
        &self.config
    }

    /// The modules, in order.
    pub fn chosen(&self) -> impl Iterator<Item = &ModulePath> {
        self.chosen.iter()
    }

    /// Whether the module at `path` is quantised.
    pub fn contains(&self, path: &ModulePath) -> bool {
        self.chosen.contains(path)
    }

    /// What is done to the projection at `at`.
    pub fn projection(&self, at: &ModulePath, base: Box<dyn Projection>) -> tensor_core::Result<Box<dyn Projection>> {
        if self.contains(at) {
            Ok(Box::new(self.config.quantize(at, base)?))
        } else {
            Ok(base)
        }
    }
}

/// Whether `name` is `path`, or a run of its components.
fn is_part(path: &str, name: &str) -> bool {
    !name.is_empty() && format!(".{path}.").contains(&format!(".{name}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths() -> Vec<(ModulePath, bool)> {
        [
            "model.layers.0.self_attn.q_proj",
            "model.layers.0.mlp.up_proj",
            "model.layers.10.mlp.up_proj",
        ]
        .map(|path| (ModulePath::from(path), false))
        .into_iter()
        .chain([(ModulePath::from("lm_head"), true)])
        .collect()
    }

    fn chosen(skip: &[&str]) -> Result<Vec<String>> {
        let skip_modules = skip.iter().map(ToString::to_string).collect();
        let config = QuantizeConfig {
            skip_modules,
            ..QuantizeConfig::default()
        };
        let quantizing = Quantizing::choose(config, &paths())?;
        Ok(quantizing.chosen().map(ToString::to_string).collect())
    }

    #[test]
    fn skipped_names_are_runs_of_a_paths_components() {
        let all = [
            "model.layers.0.mlp.up_proj",
            "model.layers.0.self_attn.q_proj",
            "model.layers.10.mlp.up_proj",
        ];
        assert_eq!(chosen(&["lm_head"]).unwrap(), all);
        assert_eq!(chosen(&["lm_head", "self_attn"]).unwrap(), [all[0], all[2]]);
        assert_eq!(chosen(&["lm_head", "model.layers.0"]).unwrap(), [all[2]]);
        assert_eq!(chosen(&["up_proj"]).unwrap(), ["lm_head", all[1]]);
    }

    #[test]
    fn a_name_that_matches_nothing_is_an_error_with_the_names_there_are() {
        let error = chosen(&["up_pro"]).unwrap_err().to_string();
        assert!(
            error.contains("`up_pro`") && error.contains("lm_head, q_proj, up_proj"),
            "{error}"
        );
        assert!(matches!(chosen(&["model", "lm_head"]), Err(Error::NothingLeft)));
    }

    #[test]
    fn a_classifiers_head_is_never_quantised() {
        let mut paths = paths();
        paths[3].0 = "score".into();
        let config = QuantizeConfig {
            skip_modules: vec![],
            ..QuantizeConfig::default()
        };
        assert!(!Quantizing::choose(config, &paths).unwrap().contains(&"score".into()));
    }
}
