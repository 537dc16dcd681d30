//! Columns times their factors: in place with one pass back, and by libtorch's operators.
#![allow(missing_docs, reason = "criterion's macros write a public function without one")]

use benches::{FEED_FORWARD, TOKENS, compare};
use criterion::{Criterion, criterion_group, criterion_main};
use kernels::{reference, scale_columns};
use tch::Kind;

fn scales(criterion: &mut Criterion) {
    // Both begin with the same copy: the fused one writes into the memory that it is given.
    compare(
        criterion,
        "scale_columns",
        &[&[TOKENS, FEED_FORWARD], &[FEED_FORWARD]],
        &[
            ("fused", &|x| {
                vec![scale_columns(&x[0] * 1.0, &x[1].to_kind(Kind::Float))]
            }),
            ("libtorch", &|x| {
                vec![reference::scale_columns(&(&x[0] * 1.0), &x[1].to_kind(Kind::Float))]
            }),
        ],
    );
}

criterion_group!(benches, scales);
criterion_main!(benches);
