//! The rotation in libtorch's plain operators, by Transformers' `rotate_half`.

use tch::Tensor;

use super::Rotation;
use crate::rows::math_kind;

/// As [`super::rope`], for any device and dtype.
pub fn rope(x: &Tensor, rotation: &Rotation) -> Tensor {
    let (cos, sin) = rotation.cos_sin(x.device());
    let kind = math_kind(x);
    let wide = |half: &Tensor| Tensor::cat(&[half, half], -1).unsqueeze(1).to_kind(kind);
    let (turned, width) = (rotation.width() as i64, x.size()[2]);
    let rotated = x.narrow(2, 0, turned).to_kind(kind);
    let halves = rotated.chunk(2, -1);
    let rotate_half = Tensor::cat(&[-&halves[1], halves[0].shallow_clone()], -1);
    let rotated = (rotated * wide(&cos) + rotate_half * wide(&sin)).to_kind(x.kind());
    if turned == width {
        return rotated;
    }
    Tensor::cat(&[rotated, x.narrow(2, turned, width - turned)], -1)
}

/// As [`super::rope_qkv`], for any device and dtype.
pub fn rope_qkv(qkv: &Tensor, heads: i64, kv_heads: i64, rotation: &Rotation) -> (Tensor, Tensor, Tensor) {
    let (t, width) = (qkv.size()[0], qkv.size()[1]);
    let all = qkv.view([t, heads + 2 * kv_heads, width / (heads + 2 * kv_heads)]);
    let part = |begin, count| all.narrow(1, begin, count);
    let values = part(heads + kv_heads, kv_heads).contiguous();
    (
        rope(&part(0, heads), rotation),
        rope(&part(heads, kv_heads), rotation),
        values,
    )
}
