//! Numbers that are none: NaN and infinities are found where tensors are read and written, and named.

use tch::{Kind, Tensor};

use crate::{Error, Result};

/// Numbers that are summed at a time.
const PIECE: i64 = 1 << 22;

/// How many numbers of a tensor are NaN, and how many infinite; none if all are finite.
fn counts(tensor: &Tensor) -> Option<(i64, i64)> {
    let sum_in = match tensor.kind() {
        Kind::Double => Kind::Double,
        Kind::Float | Kind::Half | Kind::BFloat16 => Kind::Float,
        _ => return None,
    };
    // One pass, in pieces because a sum in another dtype copies: a sum is finite only if every term is. The sum of large
    // numbers may overflow, so the rest is counted.
    let flat = tensor.reshape([-1]);
    let count = flat.size()[0];
    let mut pieces = (0..count).step_by(PIECE as usize);
    if pieces.all(|begin| {
        let piece = flat.narrow(0, begin, PIECE.min(count - begin));
        piece.sum(sum_in).double_value(&[]).is_finite()
    }) {
        return None;
    }
    let count = |mask: Tensor| mask.to_kind(Kind::Int64).sum(Kind::Int64).int64_value(&[]);
    let found = (count(tensor.isnan()), count(tensor.isinf()));
    (found != (0, 0)).then_some(found)
}

/// An error that names the tensor if it was read with NaN or infinities; `at` is the file or folder.
///
/// `as_stored` reads it in the file's own dtype: numbers that are finite there have outgrown the dtype that was asked for.
pub(crate) fn read(
    at: &std::path::Path,
    name: &str,
    tensor: Tensor,
    as_stored: impl FnOnce() -> Option<Tensor>,
) -> Result<Tensor> {
    let Some((nan, infinite)) = tch::no_grad(|| counts(&tensor)) else {
        return Ok(tensor);
    };
    let has_outgrown = as_stored().is_some_and(|stored| tch::no_grad(|| counts(&stored)).is_none());
    let hint = if has_outgrown {
        "the file holds larger numbers than this dtype: compute in float32, `--dtype f32` or `model.dtype = \"f32\"`"
    } else {
        "the file is damaged, or the run that wrote it diverged: fetch it again, or take an earlier checkpoint"
    };
    Err(Error::NotFinite {
        place: format!("`{}`: tensor `{name}`", at.display()),
        nan,
        infinite,
        numbers: tensor.numel() as i64,
        hint: hint.into(),
    })
}

/// An error that names the tensor if it holds NaN or infinities and so cannot be written.
pub fn finite(name: &str, tensor: &Tensor) -> Result<()> {
    let Some((nan, infinite)) = tch::no_grad(|| counts(tensor)) else {
        return Ok(());
    };
    let hint = match (tensor.kind(), nan) {
        (Kind::Half, 0) => "float16 ends at 65504: write it in another dtype, `--dtype bf16` or `--dtype f32`",
        _ => "what it was computed from diverged or overflowed; nothing was written",
    };
    Err(Error::NotFinite {
        place: format!("tensor `{name}`, which is to be written"),
        nan,
        infinite,
        numbers: tensor.numel() as i64,
        hint: hint.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_none_are_counted_and_large_ones_pass() {
        let of = |values: &[f32]| counts(&Tensor::from_slice(values));
        assert_eq!(of(&[1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY]), Some((1, 2)));
        // The sum overflows, the numbers do not.
        assert_eq!(of(&[f32::MAX, f32::MAX]), None);
        assert_eq!(counts(&Tensor::from_slice(&[1i64, 2])), None);
        let half = Tensor::from_slice(&[70_000.0f32]).to_kind(Kind::Half);
        let error = finite("w", &half).unwrap_err().to_string();
        assert!(
            error.contains("`w`") && error.contains("1 of 1") && error.contains("--dtype bf16"),
            "{error}"
        );
    }
}
