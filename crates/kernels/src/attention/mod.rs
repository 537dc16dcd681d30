//! Causal attention within documents, without padding, masks or layout changes.
//!
//! `out_i = Σ_j softmax_j(scale · q_i·k_j) v_j` over the positions j ≤ i of the same document, of which a query with a
//! window w sees the last w. Groups of query heads share a key/value head without copies of it. On the CPU blocks of
//! keys go through on-line softmax, and the backward pass rebuilds the probabilities from the saved log-sum; f32 and
//! bf16 both sum in f32.
//!
//! Source: Dao et al. 2022, arXiv:2205.14135; Milakov and Gimelshein 2018, arXiv:1805.02867. Deviation: none.
//!
//! Shapes: t tokens, h query heads, g key/value heads, d head width, n documents.

mod backward;
mod decode;
mod forward;
pub mod reference;
mod work;

use half::bf16;
use tch::{Device, Kind, Tensor};
use tensor_core::tile::Number;
use tensor_core::tile::scratch::Plain;
use tensor_core::{Documents, autograd};

pub use decode::{SequenceKv, attend_past};

use work::Geometry;

/// Attends within each document: q `[t, h, d]`, k and v `[t, g, d]` to `[t, h, d]`, dtype of q.
///
/// The inputs may be views into wider rows, such as one of a fused projection: only a head's numbers must lie together.
/// `scale` multiplies the scores, usually `d^-1/2`. `window`: how many positions back a query sees, itself included;
/// none for all. On the CPU f32 and bf16 take the fused way, everything else [`reference::attention`].
///
/// # Panics
/// If the shapes do not belong together.
pub fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    documents: &Documents,
    scale: f64,
    window: Option<usize>,
) -> Tensor {
    let geometry = Geometry::of(q, k, v, scale, window);
    assert_eq!(
        geometry.num_tokens,
        documents.num_tokens(),
        "as many tokens as the documents have"
    );
    assert_eq!(k.size()[0], q.size()[0], "a key for every query");
    if q.numel() == 0 {
        return q.zeros_like();
    }
    match fused_kind([q, k, v], scale) {
        Some(Kind::Float) => fused::<f32>(q, k, v, documents, geometry),
        Some(_) => fused::<bf16>(q, k, v, documents, geometry),
        None => reference::attention(q, k, v, documents, scale, window),
    }
}

/// The dtype, where the fused kernels have this device and dtype.
fn fused_kind(inputs: [&Tensor; 3], scale: f64) -> Option<Kind> {
    let kind = inputs[0].kind();
    // The maximum of scaled scores is the scaled maximum only for a positive scale.
    let fits = scale > 0.0
        && inputs[0].numel() > 0
        && matches!(kind, Kind::Float | Kind::BFloat16)
        && inputs
            .iter()
            .all(|input| input.device() == Device::Cpu && input.kind() == kind);
    fits.then_some(kind)
}

fn fused<T: Number + Plain>(q: &Tensor, k: &Tensor, v: &Tensor, documents: &Documents, geometry: Geometry) -> Tensor {
    if !autograd::wants(&[q, k, v]) {
        return tch::no_grad(|| forward::attend::<T>(q, k, v, documents, geometry, false).0);
    }
    let (out, lse) = tch::no_grad(|| forward::attend::<T>(q, k, v, documents, geometry, true));
    let lse = lse.expect("asked for");
    let saved = [q, k, v, &out].map(Tensor::detach);
    let documents = documents.clone();
    autograd::attach(&[q, k, v], out, move |gradient| {
        let Some(gradient) = gradient else {
            return vec![None, None, None];
        };
        let [q, k, v, out] = &saved;
        backward::gradients::<T>([q, k, v, out], &gradient, &lse, &documents, geometry)
            .map(Some)
            .into()
    })
}

#[cfg(test)]
mod tests;
