//! Weights in 8 bits with scales beside them, as other tools store them: read as what they stand for, or refused.
//!
//! bitsandbytes' int8: `module.weight` i8 `[out, in]` and `module.SCB` f32 `[out]`, `ŵ = code · SCB / 127`.
//! fp8 (compressed-tensors, DeepSeek): `module.weight` in E4M3 or E5M2 and `module.weight_scale` or `module.weight_scale_inv`,
//! one for all, one a row, or one a block (128 × 128 unless the shape says otherwise); `ŵ = code · scale` for both names.

use tch::{Kind, Tensor};

use super::{Safetensors, header::Entry};
use crate::{Error, Result};

/// Where the scale of an 8-bit weight stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scaled {
    scale: String,
}

/// What stands beside an 8-bit weight and belongs to it.
const BESIDE: [&str; 5] = [
    "SCB",
    "weight_format",
    "weight_scale",
    "weight_scale_inv",
    "input_scale",
];

/// The scale of the entry `name`, if it is one of 8 bits that has one.
pub(super) fn find(file: &Safetensors, name: &str, entry: &Entry) -> Option<Scaled> {
    let module = name.strip_suffix(".weight")?;
    let names: &[&str] = match entry.dtype {
        "I8" => &["SCB"],
        "F8_E4M3" | "F8_E5M2" => &["weight_scale", "weight_scale_inv"],
        _ => return None,
    };
    names
        .iter()
        .map(|own| format!("{module}.{own}"))
        .find(|scale| file.entries.contains_key(scale))
        .map(|scale| Scaled { scale })
}

/// The entries beside the weight `name` that are part of it.
pub(super) fn parts(name: &str) -> impl Iterator<Item = String> {
    let module = name.strip_suffix(".weight").unwrap_or(name).to_owned();
    BESIDE.into_iter().map(move |own| format!("{module}.{own}"))
}

impl Scaled {
    /// The weight `name` in f32.
    pub(super) fn dequantise(&self, file: &Safetensors, name: &str) -> Result<Tensor> {
        let entry = file.entry(name)?;
        let scale_entry = file.entry(&self.scale)?;
        let wrong = |found: String| {
            Error::Unsupported {
            path: file.path.clone(),
            what: format!("tensor `{}` of {found} as the scale of `{name}` {:?}", self.scale, entry.shape),
            hint: "floating-point scales are: one for all, one a row, or one a block of 128 × 128; else dequantise the model with the tool that packed it".into(),
        }
        };
        let scale = file
            .stored(&self.scale)
            .map_err(|_| wrong(format!("dtype {}", scale_entry.dtype)))?;
        if !matches!(scale.kind(), Kind::Float | Kind::Half | Kind::BFloat16 | Kind::Double) {
            return Err(wrong(format!("dtype {}", scale_entry.dtype)));
        }
        let scale = scale.to_kind(Kind::Float);
        let &[out, input] = entry.shape.as_slice() else {
            return Err(wrong(format!("shape {:?}", scale_entry.shape)));
        };
        let codes = match entry.dtype {
            "I8" => file.stored(name)?.to_kind(Kind::Float) / 127.0,
            dtype => {
                let levels = levels(dtype == "F8_E5M2");
                let numbers: Vec<f32> = file
                    .bytes(entry)
                    .iter()
                    .map(|&byte| levels[usize::from(byte)])
                    .collect();
                Tensor::from_slice(&numbers).view([out, input])
            }
        };
        let scale = match *scale_entry.shape.as_slice() {
            [] | [1] | [1, 1] => scale.view([1, 1]),
            [rows] | [rows, 1] if rows == out => scale.view([out, 1]),
            [rows, columns] if rows > 0 && columns > 0 => {
                let fits = |size: i64, blocks: i64| (size + 127) / 128 == blocks;
                let blocks = if fits(out, rows) && fits(input, columns) {
                    Some((128, 128))
                } else {
                    (out % rows == 0 && input % columns == 0).then(|| (out / rows, input / columns))
                };
                let Some((high, wide)) = blocks else {
                    return Err(wrong(format!("shape {:?}", scale_entry.shape)));
                };
                let each = scale.repeat_interleave_self_int(high, 0, None);
                let each = each.repeat_interleave_self_int(wide, 1, None);
                each.narrow(0, 0, out).narrow(1, 0, input)
            }
            _ => return Err(wrong(format!("shape {:?}", scale_entry.shape))),
        };
        Ok((codes * scale).contiguous())
    }
}

/// What each byte stands for: E4M3 without infinities, or E5M2.
fn levels(is_e5m2: bool) -> [f32; 256] {
    let (mantissa_bits, bias) = if is_e5m2 { (2, 15) } else { (3, 7) };
    std::array::from_fn(|byte| {
        let sign = if byte >= 128 { -1.0 } else { 1.0 };
        let (exponent, mantissa) = ((byte & 127) >> mantissa_bits, byte & ((1 << mantissa_bits) - 1));
        let share = mantissa as f32 / (1 << mantissa_bits) as f32;
        let is_last = exponent == (127 >> mantissa_bits);
        let value = match (exponent, is_last) {
            (0, _) => share * 2f32.powi(1 - bias),
            (_, true) if is_e5m2 && mantissa == 0 => f32::INFINITY,
            (_, true) if is_e5m2 || mantissa == 7 => f32::NAN,
            _ => (1.0 + share) * 2f32.powi(exponent as i32 - bias),
        };
        sign * value
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stand_for_the_numbers_of_the_formats() {
        let e4m3 = levels(false);
        // 2^-9, the least; 1; 448, the largest; the one NaN.
        assert_eq!(
            (e4m3[1], e4m3[0x38], e4m3[0x7e], e4m3[0xb8]),
            (0.001953125, 1.0, 448.0, -1.0)
        );
        assert!(e4m3[0x7f].is_nan() && e4m3[0xff].is_nan());
        let e5m2 = levels(true);
        // 2^-16, 1, 57344, infinity.
        assert_eq!((e5m2[1], e5m2[0x3c], e5m2[0x7b]), (1.5258789e-5, 1.0, 57344.0));
        assert!(e5m2[0x7c].is_infinite() && e5m2[0x7d].is_nan());
    }
}
