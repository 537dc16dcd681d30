//! `kind = "quantize"`: frozen weights in 4 or 8 bits, packed one by one as the model is read.

use anyhow::Result;
use quant::{QuantizeConfig, Quantizing};
use schemars::JsonSchema as _;
use tensor_core::ModulePath;

use super::{Adaptation, Adapting, Context, Cost, Method, ModelShape, Options, Packed, Trains};
use crate::recipe::Surgery;
use crate::recipe::combinations::Rule;

pub(super) static METHOD: Method = Method {
    kind: "quantize",
    summary: "Packs the frozen weights in 4 or 8 bits while the model is read, under an adapter (QLoRA)",
    schema: QuantizeConfig::json_schema,
    example: "",
    trains: Trains::Nothing,
    reshapes: false,
    parse,
    rules: RULES,
    format: None,
};

/// What it cannot go together with.
const RULES: &[Rule] = &[
    Rule {
        name: "quantize-later",
        combination: "`quantize` behind another surgery",
        why: "`quantize` is done while the model is read, and once",
        hint: "make it the first `[[surgery]]`",
        meets: |c| c.kind_where("quantize", |before| !before.is_empty()),
    },
    Rule {
        name: "quantize-packed",
        combination: "`quantize` over a model that is in 4 bits already",
        why: "the model is in 4 bits already",
        hint: "remove `kind = \"quantize\"`, or take the dense model",
        meets: |c| c.kind_where("quantize", |_| c.is_packed()),
    },
];

fn parse(options: &Options) -> Result<Surgery> {
    Ok(Surgery::new(options.read::<QuantizeConfig>()?))
}

impl Adaptation for QuantizeConfig {
    fn method(&self) -> &'static Method {
        &METHOD
    }

    /// What [`super::load`] has done, in words.
    fn apply(&self, mut adapting: Adapting, _: &mut Context) -> Result<Adapting> {
        let paths = adapting.model.projection_paths();
        let (scheme, block) = (self.scheme, self.block_size);
        adapting.what.push(format!(
            "{scheme} in blocks of {} ({:.2} bits a weight) under {} of {} projections",
            block.get(),
            scheme.bits_per_parameter(block, self.double_quant),
            paths.iter().filter(|(path, _)| !self.skips(path)).count(),
            paths.len(),
        ));
        Ok(adapting)
    }

    fn cost(&self, shape: &ModelShape) -> Result<Cost> {
        let quantizing = Quantizing::choose(self.clone(), &decoder::projection_paths(shape.config))?;
        let bits = self.scheme.bits_per_parameter(self.block_size, self.double_quant);
        let mut packed = Packed::default();
        for (name, shape) in shape.tensors {
            let module = name.strip_suffix(".weight").map(ModulePath::from);
            if module.is_some_and(|module| quantizing.contains(&module)) {
                let numbers = shape.iter().product::<i64>() as f64;
                packed.numbers += numbers;
                packed.bytes += numbers * bits / 8.0;
                packed.largest = packed.largest.max(numbers);
            }
        }
        Ok(Cost {
            packed,
            ..Cost::default()
        })
    }

    fn packs(&self) -> Option<&QuantizeConfig> {
        Some(self)
    }

    fn makes_zeros(&self) -> bool {
        true
    }
}
