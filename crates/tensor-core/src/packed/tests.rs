//! Every unit of this machine against libtorch's products.

use super::*;
use crate::unit::on_each;

fn random(seed: i64, shape: [i64; 2]) -> Tensor {
    tch::manual_seed(seed);
    Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(Kind::BFloat16)
}

/// Sums are in f32 in another order and rounded to bf16 once: an error of 2^-8 of the largest value, and of the
/// low-rank part's own rounding.
fn check(ours: &Tensor, plain: &Tensor, what: &str) {
    let far = (ours.to_kind(Kind::Float) - plain.to_kind(Kind::Float))
        .abs()
        .max()
        .double_value(&[]);
    let largest = plain.abs().max().double_value(&[]).max(1.0);
    assert!(far <= largest / 100.0, "{what}: {far} apart at values up to {largest}");
}

fn term<'a>(x: &'a Tensor, matrix: &'a PackedMatrix) -> Term<'a> {
    Term {
        x,
        matrix,
        low_rank: None,
    }
}

#[test]
fn packed_products_equal_plain_ones() {
    for (out, input) in [(32, 64), (96, 32), (576, 192), (64, 1536), (2048, 576)] {
        let weight = random(1, [out, input]);
        let (forward, transposed) = (PackedMatrix::pack(&weight), PackedMatrix::pack(&weight.tr()));
        for rows in [1, 7, 16, 27, 31, 32, 33, 130, 517] {
            let (x, y) = (random(2, [rows, input]), random(3, [rows, out]));
            let (plain, plain_back) = (x.matmul(&weight.tr()), y.matmul(&weight) + &x);
            on_each(|unit| {
                let what = format!("{unit:?}: {rows} x {input} -> {out}");
                check(&product(&[term(&x, &forward)], None).0, &plain, &what);
                let back = product(&[term(&y, &transposed)], Some(&x)).0;
                check(&back, &plain_back, &format!("{what}, back and added"));
            });
        }
    }
}

#[test]
fn terms_and_low_rank_parts_are_summed() {
    let (w1, w2) = (random(1, [64, 96]), random(2, [64, 32]));
    let (p1, p2) = (PackedMatrix::pack(&w1), PackedMatrix::pack(&w2));
    for (rows, rank) in [(1, 1), (16, 16), (29, 5), (45, 8), (64, 16), (70, 17), (300, 40)] {
        let (x1, x2) = (random(3, [rows, 96]), random(4, [rows, 32]));
        // Both factors as a backward pass has them: one as it is, one turned.
        let (p, q) = (random(5, [rank, 96]), random(6, [rank, 64]).tr());
        let low_rank = LowRankTerm {
            inner: &p,
            outer: &q,
            scale: 0.5,
            packed: None,
        };
        let first = Term {
            low_rank: Some(low_rank),
            ..term(&x1, &p1)
        };
        let onto = random(7, [rows, 64]);
        let (plain, plain_inner) = reference::product(&[(&x1, &w1, Some(low_rank)), (&x2, &w2, None)], Some(&onto));
        on_each(|unit| {
            let (y, inner) = product(&[first, term(&x2, &p2)], Some(&onto));
            check(&y, &plain, &format!("{unit:?}: {rows} rows, rank {rank}"));
            assert!(inner[1].is_none());
            let packed = [&p, &q].map(PackedMatrix::pack);
            let kept = LowRankTerm {
                packed: Some(&packed),
                ..low_rank
            };
            let again = Term {
                low_rank: Some(kept),
                ..first
            };
            let (y_again, _) = product(&[again, term(&x2, &p2)], Some(&onto));
            assert!(y_again.equal(&y), "{unit:?}: factors that were packed before");
            check(
                inner[0].as_ref().unwrap(),
                plain_inner[0].as_ref().unwrap(),
                &format!("{unit:?}: the inner product of {rows} rows, rank {rank}"),
            );
        });
    }
}

#[test]
fn outer_products_equal_plain_ones() {
    for (tokens, rank, width) in [
        (1, 1, 32),
        (45, 8, 64),
        (64, 16, 96),
        (129, 5, 32),
        (517, 17, 576),
        (100, 40, 160),
        (2048, 16, 192),
    ] {
        // Columns of a wider row, as a fused projection's gradient has them.
        let (left, wide) = (random(3, [tokens, rank]), random(4, [tokens, width + 16]));
        let right = wide.narrow(1, 16, width);
        let plain = left.to_kind(Kind::Float).tr().matmul(&right.to_kind(Kind::Float));
        on_each(|unit| {
            let far = (outer::fused(&left, &right) - &plain).abs().max().double_value(&[]);
            // f32 sums of products of bf16 numbers, in another order.
            assert!(far <= 1e-3, "{unit:?}: {tokens} x {rank} x {width}: {far}");
        });
    }
}

#[test]
fn packing_loses_nothing() {
    for (out, input) in [(96, 64), (17, 70), (1, 1), (300, 5)] {
        let weight = random(7, [out, input]);
        on_each(|unit| {
            for matrix in [&weight, &weight.tr()] {
                let what = format!("{unit:?}: {:?}", matrix.size());
                assert!(PackedMatrix::pack(matrix).unpack().equal(matrix), "{what}");
            }
        });
    }
}

#[test]
fn rows_of_a_wider_buffer_are_read_in_place() {
    let weight = random(1, [32, 64]);
    let matrix = PackedMatrix::pack(&weight);
    let wide = random(2, [40, 160]);
    let x = wide.narrow(1, 48, 64);
    let plain = x.matmul(&weight.tr());
    on_each(|unit| {
        check(
            &product(&[term(&x, &matrix)], None).0,
            &plain,
            &format!("{unit:?}: a view"),
        );
    });
}

#[test]
fn the_best_unit_packs_where_that_pays() {
    let weight = random(1, [64, 96]);
    on_each(|unit| {
        assert_eq!(PackedMatrix::of(&weight).is_some(), unit != Unit::Portable, "{unit:?}");
        assert!(PackedMatrix::of(&weight.to_kind(Kind::Float)).is_none());
        assert!(PackedMatrix::of(&weight.narrow(0, 0, 63)).is_none());
    });
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let (w, x) = (random(1, [64, 96]), random(2, [5, 96]));
    let matrix = PackedMatrix::pack(&w);
    let (p, q) = (random(3, [8, 96]), random(4, [64, 8]));
    let refused = |what: &str, call: &dyn Fn()| {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(call));
        assert!(caught.is_err(), "{what}: was computed");
    };
    for (what, x) in [
        ("a narrow row", random(5, [5, 64])),
        ("a wide row", random(5, [5, 128])),
        ("f32", x.to_kind(Kind::Float)),
        ("a row alone", x.get(0)),
    ] {
        refused(what, &|| drop(product(&[term(&x, &matrix)], None)));
    }
    refused("no term", &|| drop(product(&[], None)));
    for (what, onto) in [
        ("another shape", random(6, [5, 96])),
        ("f32", random(6, [5, 64]).to_kind(Kind::Float)),
    ] {
        refused(what, &|| drop(product(&[term(&x, &matrix)], Some(&onto))));
    }
    let with = |inner: &Tensor, outer: &Tensor, packed: Option<&[PackedMatrix; 2]>| {
        let low_rank = Some(LowRankTerm {
            inner,
            outer,
            scale: 1.0,
            packed,
        });
        let term = Term {
            x: &x,
            matrix: &matrix,
            low_rank,
        };
        drop(product(&[term], None));
    };
    with(&p, &q, None);
    for (what, inner, outer) in [
        ("a short first factor", random(7, [8, 64]), q.shallow_clone()),
        ("a short second factor", p.shallow_clone(), random(7, [32, 8])),
        ("factors of two ranks", p.shallow_clone(), random(7, [64, 4])),
        ("no rank", random(7, [0, 96]), random(7, [64, 0])),
        ("factors in f32", p.to_kind(Kind::Float), q.to_kind(Kind::Float)),
    ] {
        refused(what, &|| with(&inner, &outer, None));
    }
    let pack = |p: &Tensor, q: &Tensor| [p, q].map(PackedMatrix::pack);
    with(&p, &q, Some(&pack(&p, &q)));
    for (what, packed) in [
        ("a short packed factor", pack(&random(8, [8, 32]), &q)),
        ("a narrow packed factor", pack(&p, &random(8, [32, 8]))),
        (
            "packed factors of another rank",
            pack(&random(8, [4, 96]), &random(8, [64, 4])),
        ),
    ] {
        refused(what, &|| with(&p, &q, Some(&packed)));
    }
    for (what, left, right) in [
        ("fewer tokens right", random(9, [64, 8]), random(9, [3, 64])),
        ("fewer tokens left", random(9, [3, 8]), random(9, [64, 64])),
        ("a vector", random(9, [64, 8]).get(0), random(9, [64, 64])),
    ] {
        refused(what, &|| drop(outer(&left, &right)));
    }
    assert_eq!(outer(&random(9, [0, 8]), &random(9, [0, 64])).size(), [8, 64]);
}
