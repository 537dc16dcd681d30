//! What does not fit is refused with a message before any memory is touched; empty and scattered tensors are computed.

use std::panic::{AssertUnwindSafe, catch_unwind};

use kernels::adamw::{Moving, Step, adamw, grad_norm};
use kernels::dropout::dropout;
use kernels::rope::frequencies::{RopeScaling, frequencies};
use kernels::{
    Activation, Gain, RopeTable, SequenceKv, add_rms_norm, attend_past, attention, gated, gated_packed,
    linear_cross_entropy, rms_norm, rope, rope_qkv, scale_columns, token_log_probs, token_log_probs_and_entropies,
};
use tch::{Device, Kind, Tensor};
use tensor_core::{Documents, DropoutKey};

const CPU: Device = Device::Cpu;

fn zeros(shape: &[i64]) -> Tensor {
    Tensor::zeros(shape, (Kind::Float, CPU))
}

fn of(shape: &[i64], kind: Kind) -> Tensor {
    Tensor::zeros(shape, (kind, CPU))
}

/// What a call that must panic says.
fn said<R>(what: &str, call: impl FnOnce() -> R) -> String {
    let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(call()))) else {
        panic!("{what}: was computed");
    };
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
        .unwrap_or_else(|| panic!("{what}: no message"))
}

type Call = Box<dyn FnOnce()>;

fn call<R>(
    what: &'static str,
    wanted: &'static str,
    call: impl FnOnce() -> R + 'static,
) -> (&'static str, &'static str, Call) {
    (what, wanted, Box::new(move || drop(call())))
}

fn rotation(tokens: usize) -> kernels::Rotation {
    let table = RopeTable::new(frequencies(1e4, 8, 1.0, &RopeScaling::Default));
    let lengths = [tokens];
    table.rotation(&Documents::new(if tokens > 0 { &lengths } else { &[] }))
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table: a line or two for each call")]
fn what_does_not_fit_is_refused() {
    let documents = |tokens: usize| Documents::new(&[tokens]);
    let norm = |x: &[i64], kind, gain: &[i64]| {
        let (x, gain) = (of(x, kind), zeros(gain));
        move || rms_norm(&x, &gain, 1e-5, Gain::Plain)
    };
    let attend = |q: &[i64], k: &[i64], v: &[i64], tokens: usize| {
        let (q, k, v) = (zeros(q), zeros(k), zeros(v));
        move || attention(&q, &k, &v, &Documents::new(&[tokens]), 1.0, None)
    };
    let loss = |hidden: Tensor, weight: Tensor, targets: Tensor| move || token_log_probs(&hidden, &weight, &targets);
    let targets = |values: &[i64]| Tensor::from_slice(values);
    for (what, wanted, call) in [
        call("a short gain", "one gain a column", norm(&[2, 8], Kind::Float, &[7])),
        call("a long gain", "one gain a column", norm(&[2, 8], Kind::BFloat16, &[9])),
        call("an empty gain", "one gain a column", norm(&[2, 8], Kind::Float, &[0])),
        call("a residual of another width", "residual stream", || {
            add_rms_norm(&zeros(&[2, 8]), &zeros(&[2, 9]), &zeros(&[8]), 1e-5, Gain::Plain)
        }),
        call("a residual of another dtype", "residual stream", || {
            add_rms_norm(
                &zeros(&[2, 8]),
                &of(&[2, 8], Kind::BFloat16),
                &zeros(&[8]),
                1e-5,
                Gain::Plain,
            )
        }),
        call("gate and up of two widths", "a gate and what it gates", || {
            gated(Activation::Silu, &zeros(&[2, 8]), &zeros(&[2, 4096]))
        }),
        call("gate and up of two dtypes", "a gate and what it gates", || {
            gated(Activation::Silu, &zeros(&[2, 8]), &of(&[2, 8], Kind::Double))
        }),
        call("an odd row", "is 7 wide", || {
            gated_packed(Activation::Silu, &zeros(&[2, 7]))
        }),
        call("too few factors", "one factor a column", || {
            scale_columns(zeros(&[2, 8]), &zeros(&[7]))
        }),
        call("factors in f64", "factors are f32", || {
            scale_columns(zeros(&[2, 8]), &of(&[8], Kind::Double))
        }),
        call("dropout of all", "probability 1", || {
            dropout(&zeros(&[4]), 1.0, DropoutKey(0))
        }),
        call("dropout of NaN", "probability NaN", || {
            dropout(&zeros(&[4]), f64::NAN, DropoutKey(0))
        }),
        call("a rotation for fewer tokens", "as many tokens", || {
            rope(&zeros(&[3, 2, 8]), &rotation(2))
        }),
        call("a rotation of more numbers", "a rotation of 8", || {
            rope(&zeros(&[3, 2, 6]), &rotation(3))
        }),
        call("flat queries", "[t, h, d]", || rope(&zeros(&[3, 16]), &rotation(3))),
        call("rows that do not divide", "rows of 33", || {
            rope_qkv(&zeros(&[3, 33]), 2, 1, &rotation(3))
        }),
        call("no heads", "heads", || rope_qkv(&zeros(&[3, 32]), 0, 0, &rotation(3))),
        call(
            "keys of another width",
            "keys as wide",
            attend(&[4, 2, 8], &[4, 2, 16], &[4, 2, 16], 4),
        ),
        call(
            "fewer values",
            "values like the keys",
            attend(&[4, 2, 8], &[4, 2, 8], &[3, 2, 8], 4),
        ),
        call(
            "fewer keys",
            "a key for every query",
            attend(&[4, 2, 8], &[3, 2, 8], &[3, 2, 8], 4),
        ),
        call(
            "heads that do not divide",
            "3 query heads",
            attend(&[4, 3, 8], &[4, 2, 8], &[4, 2, 8], 4),
        ),
        call(
            "longer documents",
            "as many tokens",
            attend(&[4, 2, 8], &[4, 2, 8], &[4, 2, 8], 5),
        ),
        call(
            "two dimensions",
            "[tokens, heads, width]",
            attend(&[4, 16], &[4, 16], &[4, 16], 4),
        ),
        call("a short past", "holds its new tokens", move || {
            let (keys, values) = (&zeros(&[3, 2, 8]), &zeros(&[3, 2, 8]));
            attend_past(
                &zeros(&[4, 2, 8]),
                &[SequenceKv { keys, values }],
                &documents(4),
                1.0,
                None,
            )
        }),
        call("a past of another width", "keys as wide", move || {
            let (keys, values) = (&zeros(&[9, 2, 4]), &zeros(&[9, 2, 4]));
            attend_past(
                &zeros(&[4, 2, 8]),
                &[SequenceKv { keys, values }],
                &documents(4),
                1.0,
                None,
            )
        }),
        call("no past", "one sequence a document", move || {
            attend_past(&zeros(&[4, 2, 8]), &[], &documents(4), 1.0, None)
        }),
        call(
            "a head of another width",
            "as wide as",
            loss(zeros(&[2, 8]), zeros(&[30, 9]), targets(&[1, 2])),
        ),
        call(
            "a head of another dtype",
            "dtype",
            loss(zeros(&[2, 8]), of(&[30, 8], Kind::BFloat16), targets(&[1, 2])),
        ),
        call(
            "too few targets",
            "a target for every token",
            loss(zeros(&[2, 8]), zeros(&[30, 8]), targets(&[1])),
        ),
        call(
            "a target beyond",
            "do not lie",
            loss(zeros(&[2, 8]), zeros(&[30, 8]), targets(&[1, 30])),
        ),
        call(
            "a negative target",
            "do not lie",
            loss(zeros(&[2, 8]), zeros(&[30, 8]), targets(&[1, -1])),
        ),
        call(
            "an empty vocabulary",
            "a head of 0",
            loss(zeros(&[2, 8]), zeros(&[0, 8]), targets(&[0, 0])),
        ),
    ] {
        let said = said(what, call);
        assert!(said.contains(wanted), "{what}: {said}");
    }
}

#[test]
fn parameters_that_share_memory_do_not_move() {
    let step = Step {
        number: 1,
        beta1: 0.9,
        beta2: 0.999,
        eps: 1e-8,
        gradient_scale: 1.0,
    };
    let moving = |tensors: [&Tensor; 4]| {
        let param = Moving {
            value: tensors[0],
            gradient: tensors[1],
            first: tensors[2],
            second: tensors[3],
            learning_rate: 0.1,
            weight_decay: 0.0,
        };
        adamw(&[param], &step);
    };
    let all = Tensor::ones([64], (Kind::Float, CPU));
    let part = |begin: i64| all.narrow(0, begin, 16);
    moving([&part(0), &part(16), &part(32), &part(48)]);
    let before = all.copy();
    for (what, begins, wanted) in [
        ("value and mean overlap", [0, 48, 8, 24], "share no memory"),
        ("mean and square are one", [0, 48, 16, 16], "share no memory"),
        ("gradient and value overlap", [0, 15, 32, 48], "share no memory"),
    ] {
        let parts = begins.map(part);
        let said = said(what, || moving(parts.each_ref()));
        assert!(said.contains(wanted), "{what}: {said}");
    }
    let good = || [part(0), part(16), part(32), part(48)];
    for (place, wrong) in [
        (0, of(&[16], Kind::BFloat16)),
        (1, zeros(&[15])),
        (2, zeros(&[4, 4])),
        (3, zeros(&[17])),
    ] {
        let mut parts = good();
        parts[place] = wrong;
        said("tensors of another form", || moving(parts.each_ref()));
    }
    said("a value with gaps", || {
        moving([
            &zeros(&[4, 8]).narrow(1, 0, 4),
            &zeros(&[4, 4]),
            &zeros(&[4, 4]),
            &zeros(&[4, 4]),
        ]);
    });
    assert_eq!(all, before);
    assert_eq!(grad_norm(&[]), 0.0);
}

#[test]
fn empty_tensors_give_empty_ones() {
    for kind in [Kind::Float, Kind::BFloat16, Kind::Double] {
        let none = |shape: &[i64]| of(shape, kind);
        let documents = Documents::new(&[]);
        let sizes = [
            rms_norm(&none(&[0, 8]), &none(&[8]), 1e-5, Gain::Plain).size(),
            rms_norm(&none(&[3, 0]), &none(&[0]), 1e-5, Gain::Plain).size(),
            gated(Activation::Silu, &none(&[0, 8]), &none(&[0, 8])).size(),
            gated_packed(Activation::Silu, &none(&[0, 8])).size(),
            gated_packed(Activation::Silu, &none(&[3, 0])).size(),
            dropout(&none(&[0]), 0.5, DropoutKey(0)).size(),
            rope(&none(&[0, 2, 8]), &rotation(0)).size(),
            attention(
                &none(&[0, 2, 8]),
                &none(&[0, 1, 8]),
                &none(&[0, 1, 8]),
                &documents,
                1.0,
                None,
            )
            .size(),
            attend_past(&none(&[0, 2, 8]), &[], &documents, 1.0, None).size(),
            token_log_probs(&none(&[0, 8]), &none(&[30, 8]), &of(&[0], Kind::Int64)).size(),
            scale_columns(none(&[0, 8]), &zeros(&[8])).size(),
        ];
        let wanted: [&[i64]; 11] = [
            &[0, 8],
            &[3, 0],
            &[0, 8],
            &[0, 4],
            &[3, 0],
            &[0],
            &[0, 2, 8],
            &[0, 2, 8],
            &[0, 2, 8],
            &[0],
            &[0, 8],
        ];
        for (place, (got, want)) in sizes.iter().zip(wanted).enumerate() {
            assert_eq!(got, want, "{kind:?}, call {place}");
        }
        let loss = linear_cross_entropy(&none(&[0, 8]), &none(&[30, 8]), &of(&[0], Kind::Int64));
        assert_eq!(loss.double_value(&[]), 0.0);
    }
}

/// The same numbers with gaps between rows, with rows turned, and repeated without memory of their own.
fn scattered(x: &Tensor) -> [Tensor; 2] {
    let last = x.dim() as i64 - 1;
    let gaps = Tensor::cat(&[x, x], last).narrow(last, 0, x.size()[last as usize]);
    let turned = x.transpose(0, last).contiguous().transpose(0, last);
    [gaps, turned]
}

#[test]
fn scattered_tensors_give_what_contiguous_ones_give() {
    tch::manual_seed(3);
    for kind in [Kind::Float, Kind::BFloat16] {
        let random = |shape: &[i64]| Tensor::randn(shape, (Kind::Float, CPU)).to_kind(kind);
        let (x, other, gain) = (random(&[5, 24]), random(&[5, 24]), random(&[24]));
        let (heads, keys) = (random(&[5, 3, 8]), random(&[5, 1, 8]));
        let (weight, targets) = (random(&[40, 24]), Tensor::from_slice(&[1i64, 7, 39, 0, -100]));
        let (documents, turns) = (Documents::new(&[2, 3]), rotation(5));
        let all = |x: &Tensor, other: &Tensor, gain: &Tensor, heads: &Tensor, keys: &Tensor, weight: &Tensor| {
            let (sum, norm) = add_rms_norm(x, other, gain, 1e-5, Gain::PlusOne);
            let (log_probs, entropies) = token_log_probs_and_entropies(x, weight, &targets);
            let (q, k, v) = rope_qkv(x, 1, 1, &turns);
            vec![
                rms_norm(x, gain, 1e-5, Gain::Plain),
                sum,
                norm,
                gated(Activation::Silu, x, other),
                gated_packed(Activation::GeluTanh, x),
                dropout(x, 0.25, DropoutKey(9)),
                rope(heads, &turns),
                attention(heads, keys, keys, &documents, 0.5, Some(2)),
                log_probs,
                entropies,
                q,
                k,
                v,
            ]
        };
        let want = all(&x, &other, &gain, &heads, &keys, &weight);
        for form in 0..2 {
            let [x, other, heads, keys, weight] =
                [&x, &other, &heads, &keys, &weight].map(|x| scattered(x)[form].shallow_clone());
            let gain = Tensor::stack(&[&gain, &gain], 1).select(1, 0);
            let got = all(&x, &other, &gain, &heads, &keys, &weight);
            for (place, (got, want)) in got.iter().zip(&want).enumerate() {
                assert!(got.equal(want), "{kind:?}, form {form}, result {place}");
            }
        }
    }
}
