//! Queries turned alone, and queries, keys and values split from a fused row.
#![allow(missing_docs, reason = "criterion's macros write a public function without one")]

use benches::{HEAD_DIM, HEADS, KV_HEADS, TOKENS, compare};
use criterion::{Criterion, criterion_group, criterion_main};
use kernels::rope::frequencies::frequencies;
use kernels::rope::{RopeScaling, RopeTable};
use kernels::{reference, rope, rope_qkv};
use tensor_core::Documents;

fn rotations(criterion: &mut Criterion) {
    let table = RopeTable::new(frequencies(100_000.0, HEAD_DIM as usize, 1.0, &RopeScaling::Default));
    let rotation = table.rotation(&Documents::new(&[TOKENS as usize / 4; 4]));
    compare(
        criterion,
        "rope",
        &[&[TOKENS, HEADS, HEAD_DIM]],
        &[
            ("fused", &|x| vec![rope(&x[0], &rotation)]),
            ("libtorch", &|x| vec![reference::rope(&x[0], &rotation)]),
        ],
    );
    compare(
        criterion,
        "rope_qkv",
        &[&[TOKENS, (HEADS + 2 * KV_HEADS) * HEAD_DIM]],
        &[
            ("fused", &|x| {
                Vec::from(<[_; 3]>::from(rope_qkv(&x[0], HEADS, KV_HEADS, &rotation)))
            }),
            ("libtorch", &|x| {
                Vec::from(<[_; 3]>::from(reference::rope_qkv(&x[0], HEADS, KV_HEADS, &rotation)))
            }),
        ],
    );
}

criterion_group!(benches, rotations);
criterion_main!(benches);
