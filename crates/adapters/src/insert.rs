//! From options to surgery: new adapters for a model.

use tch::{Device, Tensor};
use tensor_core::{ModulePath, Sublayer};

use crate::{Adapted, AdapterConfig, Bottleneck, Error, Result, Scaling, init};

/// Adapters for a model of one width: hand [`Self::sublayer`] to the model.
#[derive(Debug)]
pub struct Insertion {
    config: AdapterConfig,
    width: i64,
    device: Device,
}

impl Insertion {
    /// For a model of `layers` layers of width `width` on `device`.
    pub fn new(config: AdapterConfig, width: i64, layers: usize, device: Device) -> Result<Self> {
        if let Some(layer) = config.leave_out.iter().find(|layer| **layer >= layers) {
            return Err(Error::Option {
                option: "leave_out",
                found: format!("layer {layer}"),
                hint: format!("this model has layers 0 to {}", layers.saturating_sub(1)),
            });
        }
        let left = (0..layers).filter(|layer| !config.leave_out.contains(layer));
        if left.clone().count() == 0 {
            return Err(Error::Option {
                option: "leave_out",
                found: "every layer".into(),
                hint: "leave a layer in, or train nothing".into(),
            });
        }
        left.map(|layer| config.bottleneck(width, layer))
            .collect::<Result<Vec<_>>>()?;
        Ok(Self { config, width, device })
    }

    /// What is done to the sublayer at `at`: `….self_attn` or `….mlp`.
    pub fn sublayer(&self, at: &ModulePath, inner: Box<dyn Sublayer>) -> tensor_core::Result<Box<dyn Sublayer>> {
        let config = &self.config;
        let is_wanted = match at.name() {
            "self_attn" => config.mh_adapter,
            _ => config.output_adapter,
        };
        let layer = at.layer_idx().unwrap_or(0);
        if !is_wanted || config.leave_out.contains(&layer) {
            return Ok(inner);
        }
        refuse_second(at, &*inner)?;
        let bottleneck = config.bottleneck(self.width, layer).map_err(|error| error.at(at))?;
        let (down, up) = init::matrices(config.init_weights, self.width, bottleneck, config.seed ^ at.site());
        let adapter = Bottleneck::new(
            &down.to_device(self.device),
            &up.to_device(self.device),
            config.non_linearity,
        );
        let adapter = match config.scaling {
            Scaling::Fixed(scale) => adapter.with_scale(scale),
            Scaling::Learned(_) => adapter.with_learned_scale(&Tensor::from_slice(&[1.0f32]).to_device(self.device)),
        };
        Ok(Box::new(put(config, at, inner, adapter)))
    }
}

/// The adapter behind or beside `inner`.
pub(crate) fn put(config: &AdapterConfig, at: &ModulePath, inner: Box<dyn Sublayer>, adapter: Bottleneck) -> Adapted {
    let adapted = if config.is_parallel {
        Adapted::beside(inner, adapter)
    } else {
        Adapted::behind(inner, adapter)
    };
    adapted.with_dropout(config.dropout, at.site())
}

/// Two adapters of one sublayer would share their names in a file.
pub(crate) fn refuse_second(at: &ModulePath, inner: &dyn Sublayer) -> tensor_core::Result<()> {
    let mut adapted = false;
    inner.visit(&ModulePath::root(), &mut |path, _| {
        adapted |= path.as_str().contains(".adapter_");
    });
    if !adapted {
        return Ok(());
    }
    Err(Error::Option {
        option: "config",
        found: "a bottleneck adapter is there already".into(),
        hint: "continue training it, or start from the base model".into(),
    }
    .at(at))
}
