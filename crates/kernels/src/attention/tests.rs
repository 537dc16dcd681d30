//! Attention against its plain twin and the equations in f64.

use tch::IndexOp;
use tensor_core::unit::on_each;

use super::*;

/// Largest distance, as a part of the reference's largest number or of 1, which is what inputs are like.
fn distance(got: &Tensor, want: &Tensor) -> f64 {
    let (got, want) = (got.to_kind(Kind::Double), want.to_kind(Kind::Double));
    let largest = want.abs().max().double_value(&[]).max(1.0);
    (got - want).abs().max().double_value(&[]) / largest
}

/// f32 sums of a few hundred products; the order differs.
const F32: f64 = 3e-6;
/// bf16 keeps 8 bits: operands are exact, probabilities, their gradients and the results are rounded once (2^-9 each),
/// and δ comes from the rounded output, whose error all keys of a row share.
const BF16: f64 = 1.6e-2;

struct Case {
    lengths: &'static [usize],
    /// Query heads, key/value heads, head width.
    heads: [i64; 3],
    window: Option<usize>,
}

fn cases() -> Vec<Case> {
    let case = |lengths, heads, window| Case { lengths, heads, window };
    vec![
        case(&[1], [1, 1, 8], None),
        case(&[1, 5, 1, 33], [3, 1, 16], None),
        case(&[37], [4, 4, 8], Some(1)),
        case(&[70, 3], [8, 2, 64], Some(9)),
        case(&[129, 64, 200], [9, 3, 64], None),
        case(&[300], [3, 3, 80], Some(50)),
        case(&[65, 31], [4, 1, 128], None),
        case(&[90], [2, 1, 256], Some(1000)),
        case(&[513], [6, 2, 32], None),
        case(&[47], [1, 1, 5], Some(33)),
        // Long enough to be cut into several tasks.
        case(&[700], [2, 2, 24], Some(130)),
    ]
}

/// q, k, v as views into one row, as a fused projection gives them, and a gradient for the output.
fn inputs(case: &Case, kind: Kind) -> ([Tensor; 3], Tensor) {
    tch::manual_seed(11);
    let [h, g, d] = case.heads;
    let t = case.lengths.iter().sum::<usize>() as i64;
    let options = (Kind::Float, Device::Cpu);
    let row = (Tensor::randn([t, (h + 2 * g) * d], options) * 1.5).to_kind(kind);
    let part = |from: i64, heads: i64| row.narrow(1, from * d, heads * d).view([t, heads, d]);
    let gradient = Tensor::randn([t, h, d], options).to_kind(kind);
    ([part(0, h), part(h, g), part(h + g, g)], gradient)
}

type Function = fn(&Tensor, &Tensor, &Tensor, &Documents, f64, Option<usize>) -> Tensor;

fn run(function: Function, case: &Case, inputs: &[Tensor; 3], gradient: &Tensor) -> [Tensor; 4] {
    let [q, k, v] = inputs.each_ref().map(|x| x.detach().set_requires_grad(true));
    let scale = 1.3 / (case.heads[2] as f64).sqrt();
    let out = function(&q, &k, &v, &Documents::new(case.lengths), scale, case.window);
    autograd::backward(&[&out], &[gradient]).unwrap();
    [out.detach(), q.grad(), k.grad(), v.grad()]
}

fn check(case: &Case, kind: Kind, tolerance: f64) {
    let (inputs, gradient) = inputs(case, kind);
    let exact = inputs.each_ref().map(|x| x.to_kind(Kind::Double));
    let want = run(reference::attention, case, &exact, &gradient.to_kind(Kind::Double));
    on_each(|unit| {
        let got = run(attention, case, &inputs, &gradient);
        for ((name, got), want) in ["out", "dq", "dk", "dv"].iter().zip(&got).zip(&want) {
            assert_eq!(got.kind(), kind);
            assert_eq!(got.size(), want.size());
            let far = distance(got, want);
            let Case { lengths, heads, window } = case;
            assert!(
                far < tolerance,
                "{unit:?} {kind:?} {lengths:?} {heads:?} {window:?}: {name} is {far:.1e} off"
            );
        }
    });
}

#[test]
fn attention_and_its_gradients_equal_the_reference_in_f64() {
    for case in cases() {
        check(&case, Kind::Float, F32);
        check(&case, Kind::BFloat16, BF16);
    }
}

#[test]
fn the_same_call_gives_the_same_bits() {
    let case = &cases()[4];
    let (inputs, gradient) = inputs(case, Kind::BFloat16);
    let first = run(attention, case, &inputs, &gradient);
    for _ in 0..3 {
        let again = run(attention, case, &inputs, &gradient);
        assert!(first.iter().zip(&again).all(|(a, b)| a.equal(b)));
    }
}

#[test]
fn a_document_does_not_see_its_neighbours() {
    let case = &cases()[4];
    let (inputs, gradient) = inputs(case, Kind::BFloat16);
    let together = run(attention, case, &inputs, &gradient);
    let mut start = 0;
    for &length in case.lengths {
        let part = |x: &Tensor| x.narrow(0, start, length as i64);
        let alone = Case {
            lengths: Box::leak(Box::new([length])),
            ..*case
        };
        let got = run(attention, &alone, &inputs.each_ref().map(part), &part(&gradient));
        for (got, want) in got.iter().zip(&together) {
            // Alone it may be cut into other tasks, whose sums of dK and dV round differently.
            assert!(distance(got, &part(want)) < BF16);
        }
        assert!(got[0].equal(&part(&together[0])));
        start += length as i64;
    }
}

#[test]
fn equal_keys_give_the_mean_of_the_values() {
    // Scores are all alike, so query i weighs the values of positions 0..=i by 1 / (i + 1).
    let options = (Kind::Float, Device::Cpu);
    let (q, k) = (Tensor::ones([40, 2, 8], options), Tensor::ones([40, 1, 8], options));
    let v = Tensor::arange(40, options).view([40, 1, 1]).expand([40, 1, 8], false);
    let out = attention(&q, &k, &v, &Documents::new(&[40]), 0.5, None);
    for i in 0..40 {
        let mean = i as f64 / 2.0;
        assert!((out.i((i, 1, 3)).double_value(&[]) - mean).abs() < 1e-5 * (1.0 + mean));
    }
}

#[test]
fn a_nan_stays_in_its_document() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let case = Case {
            lengths: &[40, 50],
            heads: [3, 1, 64],
            window: None,
        };
        let (inputs, gradient) = inputs(&case, kind);
        let k = inputs[1].copy();
        let _ = k.i((7, 0, 3)).fill_(f64::NAN);
        let [q, _, v] = inputs;
        let [out, dq, dk, _] = run(attention, &case, &[q, k, v], &gradient);
        assert!(
            out.i(39).isnan().all().int64_value(&[]) == 1,
            "queries behind a NaN are NaN"
        );
        assert!(out.narrow(0, 40, 50).isnan().any().int64_value(&[]) == 0);
        assert!(dq.narrow(0, 40, 50).isnan().any().int64_value(&[]) == 0);
        assert!(dk.i(7).isnan().any().int64_value(&[]) == 1);
    }
}

#[test]
fn no_graph_is_kept_without_gradients() {
    let (inputs, _) = inputs(&cases()[1], Kind::Float);
    let [q, k, v] = &inputs;
    let documents = Documents::new(cases()[1].lengths);
    assert!(!attention(q, k, v, &documents, 0.3, None).requires_grad());
    let q = q.detach().set_requires_grad(true);
    assert!(attention(&q, k, v, &documents, 0.3, None).requires_grad());
    assert!(!tch::no_grad(|| attention(&q, k, v, &documents, 0.3, None)).requires_grad());
}

#[test]
fn cached_keys_give_what_the_whole_row_gives() {
    for (new, window) in [
        (1, None),
        (2, Some(7)),
        (40, None),
        (1, Some(3)),
        (130, Some(20)),
        (5, Some(1)),
    ] {
        for (kind, tolerance) in [(Kind::Float, F32), (Kind::BFloat16, BF16)] {
            let case = Case {
                lengths: &[130, 300],
                heads: [6, 2, 40],
                window,
            };
            let ([q, k, v], _) = inputs(&case, kind);
            let whole = [&q, &k, &v].map(|x| x.to_kind(Kind::Double));
            let [wq, wk, wv] = &whole;
            let want = reference::attention(wq, wk, wv, &Documents::new(case.lengths), 0.2, window);
            let ends = [130, 430];
            let last = |x: &Tensor| Tensor::cat(&ends.map(|end| x.narrow(0, end - new, new)), 0);
            let parts = [(0, 130), (130, 300)].map(|(start, len)| [&k, &v].map(|x| x.narrow(0, start, len)));
            let sequences: Vec<SequenceKv> = parts.iter().map(|[keys, values]| SequenceKv { keys, values }).collect();
            let n = new as usize;
            let documents = Documents::continuing(&[n, n], &[130 - n, 300 - n]);
            on_each(|unit| {
                let got = attend_past(&last(&q), &sequences, &documents, 0.2, window);
                let far = distance(&got, &last(&want));
                assert!(
                    far < tolerance,
                    "{unit:?} {kind:?}, {new} new, window {window:?}: {far:.1e}"
                );
            });
        }
    }
}

#[test]
#[should_panic(expected = "do not divide among")]
fn heads_that_do_not_divide_are_refused() {
    let zeros = |heads| Tensor::zeros([4, heads, 8], (Kind::Float, Device::Cpu));
    let _ = attention(&zeros(5), &zeros(2), &zeros(2), &Documents::new(&[4]), 1.0, None);
}
