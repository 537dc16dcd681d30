//! `[[surgery]]`: what is put into the model before training, in order.

use std::any::Any;
use std::ops::Deref;
use std::sync::Arc;

use anyhow::{Result, bail};
use serde::ser::{Error as _, SerializeMap as _};
use serde::{Serialize, Serializer};
use serde_json::Value;

use super::Document;
use crate::{self as methods, Adaptation, Options, Trains};
use ::recipe::Places;

/// One configured method of [`methods::METHODS`].
///
/// It is written as a table of `kind` and the resolved options, and two are equal if they are written alike.
#[derive(Clone, Debug)]
pub struct Surgery(Arc<dyn Adaptation>);

impl Surgery {
    /// Of a method's options.
    pub fn new(adaptation: impl Adaptation) -> Self {
        Self(Arc::new(adaptation))
    }

    /// Its name in a recipe.
    pub fn kind(&self) -> &'static str {
        self.method().kind
    }

    /// The options, if they are a `T`.
    pub fn configured<T: Adaptation>(&self) -> Option<&T> {
        let options: &dyn Any = &*self.0;
        options.downcast_ref()
    }

    /// What it makes train.
    pub fn trains(&self) -> Trains {
        self.method().trains
    }

    /// Whether it makes anything train.
    pub fn makes_something_train(&self) -> bool {
        self.trains() != Trains::Nothing
    }

    /// Whether what it makes is kept beside its base.
    pub fn is_adapter(&self) -> bool {
        self.trains().is_adapter()
    }

    /// Whether the model says something else once it is made, before any step.
    pub fn changes_the_model(&self) -> bool {
        self.method().reshapes || self.packs().is_some()
    }
}

impl Deref for Surgery {
    type Target = dyn Adaptation;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl PartialEq for Surgery {
    fn eq(&self, other: &Self) -> bool {
        let resolved = |surgery: &Self| surgery.resolved().ok();
        self.kind() == other.kind() && resolved(self) == resolved(other)
    }
}

impl Serialize for Surgery {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Value::Object(options) = self.resolved().map_err(S::Error::custom)? else {
            return Err(S::Error::custom(format!("`{}`: options are no table", self.kind())));
        };
        let mut table = serializer.serialize_map(Some(1 + options.len()))?;
        table.serialize_entry("kind", self.kind())?;
        for (name, value) in &options {
            // TOML leaves out what is none, and knows no null.
            table.serialize_entry(name, &Some(value).filter(|value| !value.is_null()))?;
        }
        table.end()
    }
}

/// All surgeries of a recipe; one without a seed of its own takes the run's.
pub(super) fn read(document: &Document, seed: u64, places: &Places) -> Result<Vec<Surgery>> {
    let count = document.count("surgery")?;
    if count == 0 {
        bail!(
            "`{}`: no `[[surgery]]`, so nothing would train\nhint: add `[[surgery]]` with `kind = \"lora\"` for an adapter, or `kind = \"full\"` for all parameters",
            document.path().display()
        );
    }
    let kinds = methods::kinds();
    let surgery = |idx| {
        let at = &format!("surgery.{idx}");
        let kind = document.kind(at, &kinds)?;
        let options = Options {
            document,
            at,
            seed,
            places,
        };
        let Some(method) = methods::find(kind) else {
            bail!("`{kind}` is no method")
        };
        (method.parse)(&options)
    };
    (0..count).map(surgery).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use ::lora::LoraConfig;
    use memory_tuning::MemoryConfig;
    use moe::UpcycleConfig;
    use quant::QuantizeConfig;

    use super::*;
    use crate::{FullConfig, KeepZerosConfig, PruneOptions};

    /// The table that serde makes of an enum of the options, tagged by `kind`.
    #[derive(Serialize)]
    #[serde(tag = "kind", rename_all = "snake_case")]
    enum Tagged {
        Quantize(QuantizeConfig),
        Lora(LoraConfig),
        Full(FullConfig),
        Upcycle(UpcycleConfig),
        Prune(PruneOptions),
        KeepZeros(KeepZerosConfig),
        Memory(MemoryConfig),
    }

    fn document(table: &str) -> Document {
        Document::parse(Path::new("r.toml"), format!("[[surgery]]\n{table}\n"), &[]).unwrap()
    }

    fn surgery(table: &str) -> Surgery {
        read(&document(table), 1 << 62, &Places::of(Path::new("r.toml")))
            .unwrap()
            .remove(0)
    }

    #[test]
    fn a_surgery_is_written_as_a_table_that_is_tagged_by_its_kind() {
        #[derive(Serialize)]
        struct Recipe<T> {
            surgery: [T; 1],
            seed: u64,
        }

        fn configured<T: Adaptation + Clone>(table: &str) -> T {
            surgery(table).configured::<T>().unwrap().clone()
        }

        let lora =
            "kind = 'lora'\nr = 3\nlora_alpha = 1e-7\nrank_pattern = { q_proj = 2 }\nmodules_to_save = ['lm_head']";
        let prune = "kind = 'prune'\nmethod = 'magnitude'\nsparsity = 0.1";
        let cases = [
            ("kind = 'quantize'", Tagged::Quantize(configured("kind = 'quantize'"))),
            (lora, Tagged::Lora(configured(lora))),
            ("kind = 'full'", Tagged::Full(configured("kind = 'full'"))),
            ("kind = 'upcycle'", Tagged::Upcycle(configured("kind = 'upcycle'"))),
            (prune, Tagged::Prune(configured(prune))),
            (
                "kind = 'keep_zeros'",
                Tagged::KeepZeros(configured("kind = 'keep_zeros'")),
            ),
            ("kind = 'memory'", Tagged::Memory(configured("kind = 'memory'"))),
        ];
        for (table, tagged) in cases {
            let (wanted, found) = (
                Recipe {
                    surgery: [tagged],
                    seed: 1,
                },
                Recipe {
                    surgery: [surgery(table)],
                    seed: 1,
                },
            );
            assert_eq!(
                toml::to_string_pretty(&found).unwrap(),
                toml::to_string_pretty(&wanted).unwrap()
            );
            assert_eq!(
                serde_json::to_string(&found).unwrap(),
                serde_json::to_string(&wanted).unwrap()
            );
        }
    }

    #[test]
    fn surgeries_are_equal_if_kind_and_options_are() {
        let lora = || surgery("kind = 'lora'\nr = 4");
        assert_eq!(lora(), lora());
        assert_ne!(lora(), surgery("kind = 'lora'\nr = 5"));
        assert_ne!(surgery("kind = 'full'"), surgery("kind = 'keep_zeros'"));
    }
}
