//! Rotary position embedding: each pair of a head's numbers turns by an angle that grows with the position.
//!
//! Shapes: t tokens, h heads, k key/value heads, d numbers a head, r ≤ d of them rotated (r/2 pairs).
//! Pair i is `(x_i, x_{i + r/2})` ("half-split", as Transformers stores it); it becomes
//! `(x₁ cos - x₂ sin, x₂ cos + x₁ sin)`. The backward pass turns back: the same with `-sin`.
//!
//! Source: Su et al. 2021, arXiv:2104.09864. Deviation: cosines and sines stay f32 where Transformers rounds them to
//! bf16 first.

pub mod frequencies;
mod kernel;
pub mod reference;
mod table;
#[cfg(test)]
mod tests;

use half::bf16;
use tch::{Kind, Tensor};
use tensor_core::autograd;

use crate::rows::{Rows, fresh, in_rows, is_fused};
use tensor_core::vector::Scalar;

pub use frequencies::{Frequencies, RopeScaling};
pub use table::{RopeTable, Rotation};

use kernel::{Direction, Target};

/// `x` (`[t, h, d]`, f32 or bf16) with each token's heads turned to its position; contiguous.
///
/// `x` may be a part of wider rows.
///
/// # Panics
/// If `rotation` is not for t tokens, or turns more than d numbers.
pub fn rope(x: &Tensor, rotation: &Rotation) -> Tensor {
    let (t, _, d) = x.size3().expect("queries or keys are [t, h, d]");
    rotation.check(t, d);
    if !is_fused(x) {
        return reference::rope(x, rotation);
    }
    let y = tch::no_grad(|| turned(&x.detach(), rotation, Direction::Forth));
    if !autograd::wants(&[x]) {
        return y;
    }
    let (rotation, kind) = (rotation.clone(), x.kind());
    autograd::attach(&[x], y, move |dy| {
        vec![dy.map(|dy| turned(&dy.to_kind(kind), &rotation, Direction::Back))]
    })
}

/// Queries `[t, h, d]`, keys `[t, k, d]` and values `[t, k, d]` from fused rows `[t, (h + 2k)·d]`, the first two turned.
///
/// The three are contiguous; their gradients meet in one row again without a copy between.
///
/// # Panics
/// If the rows have another width, or as [`rope`].
pub fn rope_qkv(qkv: &Tensor, heads: i64, kv_heads: i64, rotation: &Rotation) -> (Tensor, Tensor, Tensor) {
    let (t, width) = qkv.size2().expect("fused queries, keys and values are [t, (h + 2k) d]");
    let all = heads + 2 * kv_heads;
    assert!(
        all > 0 && width % all == 0,
        "rows of {width} numbers for {heads} + 2 × {kv_heads} heads"
    );
    rotation.check(t, width / all);
    if !is_fused(qkv) {
        return reference::rope_qkv(qkv, heads, kv_heads, rotation);
    }
    match qkv.kind() {
        Kind::BFloat16 => split::<bf16>(qkv, [heads, kv_heads], rotation),
        _ => split::<f32>(qkv, [heads, kv_heads], rotation),
    }
}

fn turned(x: &Tensor, rotation: &Rotation, direction: Direction) -> Tensor {
    match x.kind() {
        Kind::BFloat16 => turned_as::<bf16>(x, rotation, direction),
        _ => turned_as::<f32>(x, rotation, direction),
    }
}

fn turned_as<T: Scalar>(x: &Tensor, rotation: &Rotation, direction: Direction) -> Tensor {
    let x = in_rows(x);
    let size = x.size();
    let mut y = Tensor::empty(&size, (x.kind(), x.device()));
    let (heads, width) = (size[1] as usize, size[2] as usize);
    kernel::turn(
        Rows::<T>::of(&x).heads_of(heads, width),
        &Target::whole(fresh(&mut y), heads, width),
        rotation,
        direction,
    );
    y
}

fn split<T: Scalar>(qkv: &Tensor, [heads, kv_heads]: [i64; 2], rotation: &Rotation) -> (Tensor, Tensor, Tensor) {
    let size = qkv.size();
    let (t, d) = (size[0], size[1] / (heads + 2 * kv_heads));
    let options = (qkv.kind(), qkv.device());
    let counts = [heads as usize, kv_heads as usize, kv_heads as usize];
    let (width, begins) = (d as usize, [0, counts[0], counts[0] + counts[1]]);
    let outputs = tch::no_grad(|| {
        let qkv = in_rows(&qkv.detach());
        let mut outputs = counts.map(|count| Tensor::empty([t, count as i64, d], options));
        let rows = Rows::<T>::of(&qkv);
        for (part, output) in outputs.iter_mut().enumerate() {
            let from = rows.columns(begins[part] * width, counts[part], width);
            let to = Target::whole(fresh(output), counts[part], width);
            if part < 2 {
                kernel::turn(from, &to, rotation, Direction::Forth);
            } else {
                kernel::copy(from, &to, t as usize);
            }
        }
        Vec::from(outputs)
    });
    let outputs = if autograd::wants(&[qkv]) {
        let rotation = rotation.clone();
        autograd::attach_many(&[qkv], outputs, move |gradients| {
            let mut dqkv = Tensor::empty(&size, options);
            let row = size[1] as usize;
            for (part, gradient) in gradients.into_iter().enumerate() {
                let (begin, count) = (begins[part] * width, counts[part]);
                let Some(gradient) = gradient else {
                    let _ = dqkv.narrow(1, begin as i64, (count * width) as i64).zero_();
                    continue;
                };
                let gradient = in_rows(&gradient.to_kind(options.0));
                let from = Rows::<T>::of(&gradient).heads_of(count, width);
                let to = Target::columns(fresh(&mut dqkv), row, begin, count * width);
                if part < 2 {
                    kernel::turn(from, &to, &rotation, Direction::Back);
                } else {
                    kernel::copy(from, &to, t as usize);
                }
            }
            vec![Some(dqkv)]
        })
    } else {
        outputs
    };
    let [q, k, v] = outputs.try_into().expect("three outputs in, three out");
    (q, k, v)
}
