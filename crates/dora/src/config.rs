//! DoRA's options: LoRA's, and two of its own.

use lora::{Error, LoraConfig, Result, TargetModules};
use schemars::JsonSchema;
use serde::Serialize;
use tensor_core::Modules;

/// What makes a [`crate::Dora`] of a projection.
#[derive(Clone, Debug, Default, PartialEq, Serialize, JsonSchema)]
#[schemars(default)]
pub struct DoraConfig {
    /// The update's options.
    #[serde(flatten)]
    pub lora: LoraConfig,
    /// Whether the gradient goes through the norms; the paper and PEFT hold them constant.
    pub exact_norm: bool,
    /// Modules whose magnitudes alone train, whether or not `target_modules` names them.
    pub magnitude_only_modules: Option<TargetModules>,
}

impl DoraConfig {
    /// The modules whose magnitudes alone train, with every pattern compiled; and a check of all options.
    pub fn magnitude_only(&self) -> Result<Option<Modules>> {
        self.lora.modules()?;
        let Some(named) = &self.magnitude_only_modules else {
            return Ok(None);
        };
        if matches!(named, TargetModules::Many(names) if names.is_empty()) {
            return Err(Error::Option {
                option: "magnitude_only_modules",
                found: "an empty list".into(),
                hint: "name modules, or remove the option",
            });
        }
        Ok(Some(Modules::new(named.targets())?))
    }
}
