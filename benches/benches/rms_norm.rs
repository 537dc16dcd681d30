//! The norm alone, and after the residual sum; the gain trains, as in full fine-tuning.
#![allow(missing_docs, reason = "criterion's macros write a public function without one")]

use benches::{HIDDEN, TOKENS, compare};
use criterion::{Criterion, criterion_group, criterion_main};
use kernels::{Gain, add_rms_norm, reference, rms_norm};

fn norms(criterion: &mut Criterion) {
    let (stream, gain): (&[i64], &[i64]) = (&[TOKENS, HIDDEN], &[HIDDEN]);
    compare(
        criterion,
        "rms_norm",
        &[stream, gain],
        &[
            ("fused", &|x| vec![rms_norm(&x[0], &x[1], 1e-5, Gain::Plain)]),
            ("libtorch", &|x| {
                vec![reference::rms_norm(&x[0], &x[1], 1e-5, Gain::Plain)]
            }),
        ],
    );
    compare(
        criterion,
        "add_rms_norm",
        &[stream, stream, gain],
        &[
            ("fused", &|x| {
                Vec::from(<[_; 2]>::from(add_rms_norm(&x[0], &x[1], &x[2], 1e-5, Gain::Plain)))
            }),
            ("libtorch", &|x| {
                Vec::from(<[_; 2]>::from(reference::add_rms_norm(
                    &x[0],
                    &x[1],
                    &x[2],
                    1e-5,
                    Gain::Plain,
                )))
            }),
        ],
    );
}

criterion_group!(benches, norms);
criterion_main!(benches);
