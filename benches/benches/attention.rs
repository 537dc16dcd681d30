//! Attention within four documents of 512 tokens, and libtorch's, one document after the other.
#![allow(missing_docs, reason = "criterion's macros write a public function without one")]

use benches::{HEAD_DIM, HEADS, KV_HEADS, TOKENS, compare};
use criterion::{Criterion, criterion_group, criterion_main};
use kernels::attention;
use tch::Tensor;
use tensor_core::Documents;

fn attentions(criterion: &mut Criterion) {
    let documents = Documents::new(&[TOKENS as usize / 4; 4]);
    let scale = (HEAD_DIM as f64).powf(-0.5);
    let kv: &[i64] = &[TOKENS, KV_HEADS, HEAD_DIM];
    compare(
        criterion,
        "attention",
        &[&[TOKENS, HEADS, HEAD_DIM], kv, kv],
        &[
            ("fused", &|x| {
                vec![attention(&x[0], &x[1], &x[2], &documents, scale, None)]
            }),
            ("libtorch", &|x| vec![by_document(x, &documents, scale)]),
        ],
    );
}

/// libtorch's flash attention has no documents: one call each.
fn by_document(x: &[Tensor], documents: &Documents, scale: f64) -> Tensor {
    let outputs: Vec<Tensor> = documents
        .ranges()
        .map(|range| {
            let part = |x: &Tensor| {
                x.narrow(0, range.start as i64, range.len() as i64)
                    .transpose(0, 1)
                    .unsqueeze(0)
            };
            let out = Tensor::scaled_dot_product_attention(
                &part(&x[0]),
                &part(&x[1]),
                &part(&x[2]),
                None::<Tensor>,
                0.0,
                true,
                scale,
                true,
            );
            out.squeeze_dim(0).transpose(0, 1)
        })
        .collect();
    Tensor::cat(&outputs, 0)
}

criterion_group!(benches, attentions);
criterion_main!(benches);
