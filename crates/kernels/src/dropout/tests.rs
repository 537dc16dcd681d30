//! One mask for every device, dtype and instruction set, and the mask is fair.

use tch::{Kind, Tensor};
use tensor_core::DropoutKey;

use super::{dropout, kernel, reference};
use crate::twins::{check, draw};

const KEY: DropoutKey = DropoutKey(0x1234_5678_9abc_def0);

#[test]
fn dropping_and_its_gradient_equal_the_plain_ones() {
    for shape in [vec![7, 37], vec![1], vec![3, 40_000]] {
        for kind in [Kind::Float, Kind::BFloat16] {
            // Below 1, so that no scaled number needs a second rounding beyond bf16's own.
            check(
                &format!("{shape:?} {kind:?}"),
                &[draw(&shape, kind, 1.0, 1)],
                &|x| vec![dropout(&x[0], 0.3, KEY)],
                &|x| vec![reference::dropout(&x[0], 0.3, KEY)],
            );
        }
    }
}

fn kept(n: i64, p: f64, key: DropoutKey) -> Vec<bool> {
    let y = dropout(&Tensor::ones([n], (Kind::Float, tch::Device::Cpu)), p, key);
    Vec::try_from(y.ne(0.0)).unwrap()
}

#[test]
fn one_key_is_one_mask() {
    assert_eq!(kept(1000, 0.5, KEY), kept(1000, 0.5, KEY));
    assert_ne!(kept(1000, 0.5, KEY), kept(1000, 0.5, DropoutKey(KEY.0 ^ 1)));
    assert_ne!(kept(1000, 0.5, KEY), kept(1000, 0.5, DropoutKey(KEY.0 ^ (1 << 40))));
    // A longer tensor begins with the shorter one's mask.
    assert_eq!(kept(100_000, 0.5, KEY)[..1000], kept(1000, 0.5, KEY));
}

#[test]
fn the_mask_is_fair() {
    // Five standard deviations of the mean of n fair draws.
    let n = 1 << 20;
    for p in [0.05, 0.1, 0.5, 0.9] {
        let allowed = 5.0 * (p * (1.0 - p) / f64::from(n)).sqrt();
        let kept = kept(i64::from(n), p, KEY);
        let dropped = kept.iter().filter(|&&kept| !kept).count() as f64 / f64::from(n);
        assert!((dropped - p).abs() < allowed, "{dropped} dropped, wanted {p}");
        for distance in [1, 2, 16, 64, 576, 1024, 16_384] {
            let pairs = kept.iter().zip(&kept[distance..]).filter(|&(&a, &b)| !a && !b).count() as f64;
            let share = pairs / (kept.len() - distance) as f64;
            let allowed = 5.0 * (p * p * (1.0 - p * p) / f64::from(n)).sqrt() * 2.0;
            assert!(
                (share - p * p).abs() < allowed,
                "p {p}: pairs at distance {distance} dropped {share}"
            );
        }
    }
}

#[test]
fn neighbouring_keys_draw_unrelated_masks() {
    let n = 1 << 18;
    for key in 0..16 {
        let (a, b) = (kept(n, 0.5, DropoutKey(key)), kept(n, 0.5, DropoutKey(key + 1)));
        let same = a.iter().zip(&b).filter(|(a, b)| a == b).count() as f64 / n as f64;
        assert!(
            (same - 0.5).abs() < 5.0 * 0.5 / (n as f64).sqrt(),
            "keys {key} and {}: {same}",
            key + 1
        );
    }
}

#[test]
fn indices_beyond_32_bits_do_not_repeat() {
    let far = |begin: u64| (begin..begin + 64).map(|i| kernel::hash(i, KEY)).collect::<Vec<_>>();
    assert_ne!(far(0), far(1 << 32));
}

#[test]
fn nothing_is_dropped_with_probability_zero() {
    let x = draw(&[5, 5], Kind::Float, 1.0, 2);
    assert_eq!(dropout(&x, 0.0, KEY), x);
}

#[test]
#[should_panic(expected = "dropout with probability 1, wanted 0 to below 1")]
fn dropping_everything_is_refused() {
    let _ = dropout(&draw(&[5], Kind::Float, 1.0, 3), 1.0, KEY);
}
