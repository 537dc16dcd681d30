//! The product by libtorch's own operators, for any device and dtype.

use tch::Tensor;

use crate::rows::math_kind;

/// As [`super::scale_columns`], keeping `x`.
pub fn scale_columns(x: &Tensor, gain: &Tensor) -> Tensor {
    let math = math_kind(x);
    (x.to_kind(math) * gain.to_kind(math)).to_kind(x.kind())
}
