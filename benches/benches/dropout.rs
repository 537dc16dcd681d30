//! Dropout with masks from a key, and libtorch's with stored masks.
#![allow(missing_docs, reason = "criterion's macros write a public function without one")]

use benches::{HIDDEN, TOKENS, compare};
use criterion::{Criterion, criterion_group, criterion_main};
use kernels::dropout::dropout;
use tensor_core::DropoutKey;

fn drops(criterion: &mut Criterion) {
    compare(
        criterion,
        "dropout",
        &[&[TOKENS, HIDDEN]],
        &[
            ("fused", &|x| vec![dropout(&x[0], 0.1, DropoutKey(7))]),
            ("libtorch", &|x| vec![x[0].dropout(0.1, true)]),
        ],
    );
}

criterion_group!(benches, drops);
criterion_main!(benches);
