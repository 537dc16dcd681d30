//! Each layer's reach, as the families write it.

use super::fields::Fields;
use super::{Family, LayerKind};
use crate::Result;

/// Each layer's reach, and the window if any layer slides.
pub(super) fn layers_of(fields: Fields<'_>, family: Family, layers: usize) -> Result<(Vec<LayerKind>, Option<i64>)> {
    // Transformers writes 0 or null into what mixtures of Qwen do not use.
    let unused = matches!(family, Family::Qwen2Moe | Family::Qwen3Moe) && !fields.flag("use_sliding_window")?;
    let is_default = fields.object.get("sliding_window").is_none() && family != Family::Mixtral;
    let window = match unused {
        true => None,
        false => fields.count("sliding_window")?.or(is_default.then_some(4096)),
    };
    let kinds = match family {
        Family::Llama => vec![LayerKind::Full; layers],
        // Deviation from nothing: Transformers' Mistral ignores `layer_types`, so alternating layers are refused.
        Family::Mistral | Family::Mixtral | Family::Qwen3Moe => {
            let kind = if window.is_some() {
                LayerKind::Sliding
            } else {
                LayerKind::Full
            };
            let kinds = vec![kind; layers];
            match written_layers(fields, layers)? {
                Some(written) if written != kinds => {
                    let value = &fields.object["layer_types"];
                    return Err(fields.unsupported("layer_types", value, "layers of this family are all alike"));
                }
                _ => kinds,
            }
        }
        Family::Qwen2 | Family::Qwen3 => {
            let used = fields.flag("use_sliding_window")? && window.is_some();
            let first = fields.number("max_window_layers")?.unwrap_or(28.0);
            written_layers(fields, layers)?.unwrap_or_else(|| {
                let slides = |idx: usize| used && idx as f64 >= first;
                (0..layers)
                    .map(|idx| {
                        if slides(idx) {
                            LayerKind::Sliding
                        } else {
                            LayerKind::Full
                        }
                    })
                    .collect()
            })
        }
        Family::Qwen2Moe => {
            let most = fields.number("max_window_layers")?.unwrap_or(28.0);
            written_layers(fields, layers)?.unwrap_or_else(|| {
                let slides = |idx: usize| window.is_some() && idx.is_multiple_of(2) && (idx as f64) < most;
                (0..layers)
                    .map(|idx| match slides(idx) {
                        true => LayerKind::Sliding,
                        false => LayerKind::Full,
                    })
                    .collect()
            })
        }
        Family::Gemma3 => {
            let pattern = fields.count_or("sliding_window_pattern", 6)? as usize;
            written_layers(fields, layers)?.unwrap_or_else(|| {
                let slides = |idx: usize| !(idx + 1).is_multiple_of(pattern);
                (0..layers)
                    .map(|idx| {
                        if slides(idx) {
                            LayerKind::Sliding
                        } else {
                            LayerKind::Full
                        }
                    })
                    .collect()
            })
        }
    };
    let slides = kinds.contains(&LayerKind::Sliding);
    if slides && window.is_none() {
        return Err(fields.wrong("sliding_window", "a number of tokens, since some layers slide", "null"));
    }
    Ok((kinds, window.filter(|_| slides)))
}

fn written_layers(fields: Fields<'_>, layers: usize) -> Result<Option<Vec<LayerKind>>> {
    let Some(value) = fields.get("layer_types") else {
        return Ok(None);
    };
    let kinds: Option<Vec<LayerKind>> = value.as_array().and_then(|kinds| {
        kinds
            .iter()
            .map(|kind| match kind.as_str()? {
                "full_attention" => Some(LayerKind::Full),
                "sliding_attention" => Some(LayerKind::Sliding),
                _ => None,
            })
            .collect()
    });
    let kinds =
        kinds.ok_or_else(|| fields.unsupported("layer_types", value, "full_attention and sliding_attention are"))?;
    if kinds.len() != layers {
        return Err(fields.wrong("layer_types", &format!("{layers} of them"), &kinds.len().to_string()));
    }
    Ok(Some(kinds))
}
