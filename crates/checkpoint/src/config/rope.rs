//! Rotary positions: `rope_theta` + `rope_scaling` of Transformers 4, `rope_parameters` of Transformers 5.
//!
//! Source: `modeling_rope_utils.py` of Transformers 5.23.

use serde_json::{Value, json};

use super::fields::Fields;
use super::{Family, LayerKind};
use crate::Result;

/// Rotary position embedding of one kind of layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// The base of the wavelengths.
    pub theta: f64,
    /// How the wavelengths are stretched.
    pub scaling: RopeScaling,
}

/// How rotary wavelengths are stretched beyond the length that a model was trained for.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// All by the same factor.
    Linear {
        /// The stretch.
        factor: f64,
    },
    /// Long ones by the factor, short ones not, those between by interpolation.
    Llama3 {
        /// The stretch of long wavelengths.
        factor: f64,
        /// Wavelengths above `original_max_position_embeddings / low_freq_factor` are long.
        low_freq_factor: f64,
        /// Wavelengths below `original_max_position_embeddings / high_freq_factor` are short.
        high_freq_factor: f64,
        /// The training length in tokens.
        original_max_position_embeddings: f64,
    },
    /// YaRN, arXiv:2309.00071.
    Yarn {
        /// The stretch.
        factor: f64,
        /// The training length in tokens.
        original_max_position_embeddings: f64,
        /// What cosines and sines are multiplied by, inferred where the file leaves it open.
        attention_factor: f64,
        /// Rotations in the training length above which a dimension is left alone.
        beta_fast: f64,
        /// Rotations below which it is stretched in full.
        beta_slow: f64,
        /// Whether the two bounds are rounded outwards to whole dimensions.
        truncate: bool,
    },
}

/// The RoPE of a kind of layer.
pub(super) fn read(fields: Fields<'_>, family: Family, kind: LayerKind, max_positions: i64) -> Result<Rope> {
    fields.refuse(
        "partial_rotary_factor",
        &[json!(1.0), json!(1)],
        "whole heads are rotated",
    )?;
    let parameters = fields.object("rope_parameters", "rope_parameters.")?;
    let scaling = fields.object("rope_scaling", "rope_scaling.")?;
    let (theta_key, default_theta) = match (family, kind) {
        (Family::Gemma3, LayerKind::Sliding) => ("rope_local_base_freq", 10_000.0),
        (Family::Gemma3, LayerKind::Full) | (Family::Mixtral, _) => ("rope_theta", 1_000_000.0),
        _ => ("rope_theta", 10_000.0),
    };
    let key = match kind {
        LayerKind::Full => "full_attention",
        LayerKind::Sliding => "sliding_attention",
    };
    // Transformers 5 nests one object a layer kind where they differ.
    let nested = match parameters {
        Some(all) if all.object.contains_key("full_attention") || all.object.contains_key("sliding_attention") => all
            .object(
            key,
            if kind == LayerKind::Full {
                "rope_parameters.full_attention."
            } else {
                "rope_parameters.sliding_attention."
            },
        )?,
        // As in Transformers, Gemma's are nested or not read.
        _ if family == Family::Gemma3 => None,
        other => other,
    };
    // Gemma's sliding layers are not stretched by the file's one `rope_scaling`.
    let scaling = scaling.filter(|_| family != Family::Gemma3 || kind == LayerKind::Full);
    let own = match (family, scaling, nested) {
        (Family::Gemma3, Some(scaling), _) => Some(scaling),
        (_, Some(scaling), _) if !scaling.object.is_empty() => Some(scaling),
        (_, _, nested) => nested,
    };
    let theta = match own.map(|own| own.number("rope_theta")).transpose()?.flatten() {
        Some(theta) => theta,
        None => fields.number(theta_key)?.unwrap_or(default_theta),
    };
    let scaling = own.map_or(Ok(RopeScaling::Default), |own| stretch(own, max_positions))?;
    Ok(Rope { theta, scaling })
}

fn stretch(rope: Fields<'_>, max_positions: i64) -> Result<RopeScaling> {
    rope.refuse(
        "partial_rotary_factor",
        &[json!(1.0), json!(1)],
        "whole heads are rotated",
    )?;
    let kind = rope.text("rope_type")?.or(rope.text("type")?).unwrap_or("default");
    let original = || -> Result<f64> {
        let written = rope.number("original_max_position_embeddings")?;
        Ok(written.unwrap_or(max_positions as f64))
    };
    match kind {
        "default" => Ok(RopeScaling::Default),
        "linear" => Ok(RopeScaling::Linear {
            factor: rope.positive("factor")?,
        }),
        "llama3" => Ok(RopeScaling::Llama3 {
            factor: rope.positive("factor")?,
            low_freq_factor: rope.positive("low_freq_factor")?,
            high_freq_factor: rope.positive("high_freq_factor")?,
            original_max_position_embeddings: original()?,
        }),
        "yarn" => {
            let original_max_position_embeddings = original()?;
            let factor = match rope.number("factor")? {
                Some(factor) => factor,
                None => max_positions as f64 / original_max_position_embeddings,
            };
            let or = |key, default| -> Result<f64> {
                let written = rope.number(key)?.filter(|number| *number != 0.0);
                Ok(written.unwrap_or(default))
            };
            let truncate = rope.get("truncate").is_none_or(|value| *value != Value::Bool(false));
            Ok(RopeScaling::Yarn {
                factor,
                original_max_position_embeddings,
                attention_factor: attention_factor(rope, factor)?,
                beta_fast: or("beta_fast", 32.0)?,
                beta_slow: or("beta_slow", 1.0)?,
                truncate,
            })
        }
        _ => Err(rope.unsupported("rope_type", &json!(kind), "default, linear, llama3 and yarn are")),
    }
}

/// YaRN's scale of cosines and sines: as written, else from `mscale`, else `0.1 ln(factor) + 1`.
fn attention_factor(rope: Fields<'_>, factor: f64) -> Result<f64> {
    let scale = |mscale: f64| {
        if factor <= 1.0 {
            1.0
        } else {
            0.1 * mscale * factor.ln() + 1.0
        }
    };
    let set = |key| Ok::<_, crate::Error>(rope.number(key)?.filter(|number| *number != 0.0));
    if let Some(written) = rope.number("attention_factor")? {
        return Ok(written);
    }
    Ok(match (set("mscale")?, set("mscale_all_dim")?) {
        (Some(mscale), Some(all)) => scale(mscale) / scale(all),
        _ => scale(1.0),
    })
}
