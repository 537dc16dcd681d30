//! Fused against plain, and frequencies against Transformers'.

use tch::{Device, Kind, Tensor};
use tensor_core::{Documents, autograd};

use super::frequencies::frequencies;
use super::{Frequencies, RopeScaling, RopeTable, Rotation, reference, rope, rope_qkv};
use crate::twins::{assert_close, check, draw, golden};

fn rotation(head_dim: usize, part: f64, documents: &Documents) -> Rotation {
    let mut frequencies = frequencies(10_000.0, head_dim, part, &RopeScaling::Default);
    frequencies.attention_factor = 1.125;
    RopeTable::new(frequencies).rotation(documents)
}

#[test]
fn rotations_and_their_gradients_equal_the_plain_ones() {
    let documents = Documents::continuing(&[5, 1, 3], &[0, 900, 7]);
    for (heads, width, part) in [(3, 10, 1.0), (9, 64, 1.0), (2, 80, 0.4), (1, 2, 1.0)] {
        let rotation = rotation(width, part, &documents);
        for kind in [Kind::Float, Kind::BFloat16] {
            check(
                &format!("{heads} heads of {width}, {part} of them, {kind:?}"),
                &[draw(&[9, heads, width as i64], kind, 1.0, 1)],
                &|x| vec![rope(&x[0], &rotation)],
                &|x| vec![reference::rope(&x[0], &rotation)],
            );
        }
    }
}

#[test]
fn fused_rows_are_split_and_turned_as_the_plain_ones() {
    let documents = Documents::new(&[4, 3]);
    let triple = |(q, k, v)| vec![q, k, v];
    for (heads, kv_heads, width) in [(9, 3, 64), (2, 1, 6), (3, 3, 16)] {
        let rotation = rotation(width, 1.0, &documents);
        for kind in [Kind::Float, Kind::BFloat16] {
            let qkv = draw(&[7, (heads + 2 * kv_heads) * width as i64], kind, 1.0, 2);
            check(
                &format!("{heads}/{kv_heads} heads of {width}, {kind:?}"),
                &[qkv],
                &|x| triple(rope_qkv(&x[0], heads, kv_heads, &rotation)),
                &|x| triple(reference::rope_qkv(&x[0], heads, kv_heads, &rotation)),
            );
        }
    }
}

#[test]
fn a_part_that_nobody_used_has_no_gradient() {
    let rotation = rotation(4, 1.0, &Documents::new(&[3]));
    let qkv = draw(&[3, 16], Kind::Float, 1.0, 3).set_requires_grad(true);
    let (_, keys, _) = rope_qkv(&qkv, 2, 1, &rotation);
    autograd::backward(&[&keys], &[&keys.ones_like()]).unwrap();
    let used: Vec<bool> = Vec::try_from(qkv.grad().get(2).ne(0.0)).unwrap();
    assert_eq!(
        used,
        (0..16).map(|column| (8..12).contains(&column)).collect::<Vec<_>>()
    );
}

#[test]
fn queries_inside_a_wider_row_are_read_where_they_lie() {
    let rotation = rotation(8, 1.0, &Documents::new(&[5]));
    let queries = |x: &Tensor| x.narrow(1, 8, 24).view([5, 3, 8]);
    check(
        "a view",
        &[draw(&[5, 40], Kind::Float, 1.0, 4)],
        &|x| vec![rope(&queries(&x[0]), &rotation)],
        &|x| vec![reference::rope(&queries(&x[0]), &rotation)],
    );
}

#[test]
fn the_rotation_equals_the_golden_vectors() {
    let golden = golden("kernels/rope");
    let inverse: Vec<f64> = Vec::try_from(&golden["inv_freq"]).unwrap();
    let positions: Vec<i64> = Vec::try_from(&golden["positions"]).unwrap();
    let frequencies = Frequencies {
        inverse: inverse.iter().map(|&f| f as f32).collect(),
        attention_factor: golden["factor"].double_value(&[]),
    };
    let starts: Vec<usize> = positions.iter().map(|&p| p as usize).collect();
    let documents = Documents::continuing(&vec![1; starts.len()], &starts);
    let rotation = RopeTable::new(frequencies).rotation(&documents);
    let x = golden["x"].to_kind(Kind::Float).set_requires_grad(true);
    let y = rope(&x, &rotation);
    autograd::backward(&[&y], &[&golden["dy"].to_kind(Kind::Float)]).unwrap();
    // An angle below 1001 in f32 is off by up to 2^-15, which the golden f64 angle is not.
    for (name, got) in [("y", y.detach()), ("d_x", x.grad())] {
        let error = (got.to_kind(Kind::Double) - &golden[name]).abs();
        let scale = golden[name].abs().max().double_value(&[]);
        let by_token = error.amax([1i64, 2].as_slice(), false) / scale;
        for (t, &position) in positions.iter().enumerate() {
            let allowed = 1e-6 + position as f64 * f64::powi(2.0, -24);
            assert!(
                by_token.double_value(&[t as i64]) <= allowed,
                "{name}, token {t} at {position}"
            );
        }
    }
}

#[test]
fn position_zero_is_not_turned_and_norms_stay() {
    let plain = frequencies(10_000.0, 12, 1.0, &RopeScaling::Default);
    let rotation = RopeTable::new(plain).rotation(&Documents::new(&[40]));
    let x = draw(&[40, 2, 12], Kind::Float, 1.0, 5);
    let y = rope(&x, &rotation);
    assert_eq!(y.get(0), x.get(0));
    let norm = |x: &Tensor| x.to_kind(Kind::Double).square().sum_dim_intlist(2, false, None::<Kind>);
    assert_close("norms", &norm(&y).to_kind(Kind::Float), &norm(&x));
}

#[test]
fn a_longer_document_lengthens_the_table_and_changes_nothing() {
    let table = RopeTable::new(frequencies(10_000.0, 12, 1.0, &RopeScaling::Default));
    let x = draw(&[3, 2, 12], Kind::Float, 1.0, 6);
    let short = rope(&x, &table.rotation(&Documents::new(&[3])));
    let _ = table.rotation(&Documents::new(&[5000]));
    assert_eq!(rope(&x, &table.rotation(&Documents::new(&[3]))), short);
    let (cos, _) = table
        .rotation(&Documents::continuing(&[1], &[4999]))
        .cos_sin(Device::Cpu);
    assert!((cos.double_value(&[0, 0]) - f64::cos(4999.0)).abs() < 1e-7);
}

#[test]
#[should_panic(expected = "a rotation for as many tokens as there are")]
fn a_rotation_for_another_row_is_refused() {
    let rotation = rotation(4, 1.0, &Documents::new(&[3]));
    let _ = rope(&draw(&[4, 1, 4], Kind::Float, 1.0, 7), &rotation);
}

/// Against the numbers of Transformers 5.23's `ROPE_INIT_FUNCTIONS` (and of Llama's default), to three units of the last
/// place: its powers are f32 powers, ours are rounded once.
fn check_frequencies(got: &Frequencies, inverse: &[f32], factor: f64) {
    assert_eq!(got.inverse.len(), inverse.len());
    for (got, want) in got.inverse.iter().zip(inverse) {
        assert!((got - want).abs() <= want * 3.6e-7, "{got} is not {want}");
    }
    assert!(
        (got.attention_factor - factor).abs() < 1e-12,
        "{} is not {factor}",
        got.attention_factor
    );
}

#[test]
fn plain_linear_and_llama3_frequencies_are_those_of_transformers() {
    check_frequencies(
        &frequencies(10_000.0, 12, 1.0, &RopeScaling::Default),
        &[
            1.0,
            0.215_443_45,
            0.046_415_884,
            0.01,
            0.002_154_434_3,
            0.000_464_158_95,
        ],
        1.0,
    );
    check_frequencies(
        &frequencies(10_000.0, 12, 1.0, &RopeScaling::Linear { factor: 2.5 }),
        &[
            0.4,
            0.086_177_38,
            0.018_566_353,
            0.004,
            0.000_861_773_73,
            0.000_185_663_58,
        ],
        1.0,
    );
    let llama3 = RopeScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_max_position_embeddings: 8192,
    };
    check_frequencies(
        &frequencies(500_000.0, 24, 1.0, &llama3),
        &[
            1.0,
            0.335_031_63,
            0.112_246_19,
            0.037_606_03,
            0.012_599_208,
            0.004_221_135,
            0.000_524_846,
            5.922_58e-5,
            1.984_250_8e-5,
            6.647_869_7e-6,
            2.227_247_5e-6,
            7.461_979_4e-7,
        ],
        1.0,
    );
}

#[test]
fn yarn_frequencies_are_those_of_transformers() {
    let yarn = |factor, original_max_position_embeddings| RopeScaling::Yarn {
        factor,
        original_max_position_embeddings,
        beta_fast: 32.0,
        beta_slow: 1.0,
        mscale: None,
        mscale_all_dim: None,
        attention_factor: None,
        truncate: true,
    };
    check_frequencies(
        &frequencies(1_000_000.0, 24, 1.0, &yarn(4.0, 32_768)),
        &[
            1.0,
            0.316_227_76,
            0.1,
            0.031_622_78,
            0.009_999_999,
            0.002_569_351,
            0.000_625_000_04,
            0.000_138_349_69,
            2.499_999_2e-5,
            7.905_694e-6,
            2.500_000_8e-6,
            7.905_692e-7,
        ],
        1.138_629_436_111_989,
    );
    let deepseek = RopeScaling::Yarn {
        factor: 40.0,
        original_max_position_embeddings: 4096,
        beta_fast: 16.0,
        beta_slow: 2.0,
        mscale: Some(1.0),
        mscale_all_dim: Some(0.7),
        attention_factor: None,
        truncate: false,
    };
    check_frequencies(
        &frequencies(10_000.0, 20, 1.0, &deepseek),
        &[
            1.0,
            0.398_107_17,
            0.158_489_32,
            0.063_095_726,
            0.025_118_863,
            0.005_790_105_6,
            0.000_585_853_9,
            3.962_233_3e-5,
            1.577_393_2e-5,
            6.279_717_6e-6,
        ],
        1.087_954_607_506_612_2,
    );
    let given = RopeScaling::Yarn {
        factor: 2.0,
        original_max_position_embeddings: 512,
        beta_fast: 32.0,
        beta_slow: 1.0,
        mscale: None,
        mscale_all_dim: None,
        attention_factor: Some(1.25),
        truncate: true,
    };
    check_frequencies(
        &frequencies(10_000.0, 40, 0.4, &given),
        &[
            1.0,
            0.276_699_27,
            0.075,
            0.019_764_237,
            0.005,
            0.001_581_138_9,
            0.000_5,
            0.000_158_113_9,
        ],
        1.25,
    );
}
