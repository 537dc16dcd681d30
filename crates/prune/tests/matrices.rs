//! One matrix at a time: the worked-out numbers, whole matrices against the equations in f64, and what must always hold.

use golden::{Vectors, assert_close};
use prune::{
    Counting, Factor, GlobalThreshold, Gram, InputNorms, Mask, Per, Reconstruction, SparseGptConfig, Sparsity,
    magnitude, sparse_gpt, wanda,
};
use tch::{Device, Kind, Tensor};

fn matrix(rows: i64, columns: i64, f: impl Fn(f64, f64) -> f64) -> Tensor {
    let values: Vec<f64> = (0..rows * columns)
        .map(|at| f((at / columns) as f64, (at % columns) as f64))
        .collect();
    Tensor::from_slice(&values).view([rows, columns])
}

/// The closed-form weight and inputs that every worked-out number is of.
fn small() -> (Tensor, Tensor) {
    (
        matrix(4, 8, |i, j| (0.7 * i + 1.3 * j + 0.1 * i * j + 0.2).sin()),
        matrix(16, 8, |t, j| (0.3 * t + 0.9 * j + 0.05 * t * j).cos() * (1.0 + 0.5 * j)),
    )
}

fn half() -> Sparsity {
    Sparsity::share(0.5).unwrap()
}

fn pattern(text: &str) -> Sparsity {
    Sparsity::Pattern(text.parse().unwrap())
}

fn norms(x: &Tensor) -> Tensor {
    let mut norms = InputNorms::new(x.size()[1]);
    for part in x.split(7, 0) {
        norms.add(&part);
    }
    assert_eq!(norms.num_tokens() as i64, x.size()[0]);
    norms.norms()
}

fn gram(x: &Tensor) -> Tensor {
    let mut gram = Gram::new(x.size()[1]);
    for part in x.split(7, 0) {
        gram.add(&part);
    }
    assert_eq!(gram.num_tokens() as i64, x.size()[0]);
    gram.hessian()
}

fn swept(weight: &Tensor, x: &Tensor, sparsity: Sparsity, config: SparseGptConfig) -> Reconstruction {
    let factor = Factor::of(&gram(x), 0.01).unwrap();
    sparse_gpt(weight, &factor, sparsity, &config).unwrap()
}

/// Columns that went, row by row.
fn removed(mask: &Mask) -> Vec<Vec<i64>> {
    let (out, width) = mask.kept().size2().unwrap();
    let is_gone = |i: i64, j: i64| mask.kept().int64_value(&[i, j]) == 0;
    (0..out)
        .map(|i| (0..width).filter(|&j| is_gone(i, j)).collect())
        .collect()
}

/// `‖X (W - W')ᵀ‖² / ‖X Wᵀ‖²`.
fn relative(x: &Tensor, weight: &Tensor, left: &Tensor) -> f64 {
    let square = |w: &Tensor| x.matmul(&w.tr()).square().sum(Kind::Double).double_value(&[]);
    square(&(weight - left)) / square(weight)
}

const THRESHOLD: SparseGptConfig = SparseGptConfig {
    block_size: 128,
    counting: Counting::UpToThreshold,
};

#[test]
fn the_numbers_worked_out_by_hand_come_out() {
    let (w, x) = small();
    let found = norms(&x);
    let wanted = [
        2.890551, 4.063072, 5.604515, 7.430674, 8.188098, 9.889535, 11.250075, 13.227533,
    ];
    assert_close("norms", &found, &Tensor::from_slice(&wanted), 0.0, 5e-7);
    let masks = [
        (
            "magnitude",
            magnitude(&w, half(), Per::Matrix),
            0.169124,
            vec![vec![0, 2, 5, 7], vec![2, 4, 6], vec![1, 3, 5, 7], vec![1, 2, 3, 4, 6]],
        ),
        ("magnitude by row", magnitude(&w, half(), Per::Row), 0.128680, vec![]),
        (
            "magnitude 2:4",
            magnitude(&w, pattern("2:4"), Per::Matrix),
            0.128680,
            vec![vec![0, 2, 5, 7], vec![1, 2, 4, 6], vec![1, 3, 5, 7], vec![1, 2, 4, 6]],
        ),
        (
            "wanda",
            wanda(&w, &found, half()),
            0.056836,
            vec![vec![0, 2, 5, 7], vec![0, 2, 4, 6], vec![0, 1, 3, 5], vec![0, 1, 2, 3]],
        ),
        (
            "wanda 2:4",
            wanda(&w, &found, pattern("2:4")),
            0.114374,
            vec![vec![0, 2, 5, 7], vec![0, 2, 4, 6], vec![1, 3, 5, 7], vec![0, 1, 4, 6]],
        ),
    ];
    for (name, mask, error, columns) in masks {
        let mask = mask.unwrap();
        assert_eq!(mask.num_zeros(), 16, "{name}");
        let found = relative(&x, &w, &mask.apply(&w));
        assert!((found - error).abs() < 5e-7, "{name}: {found}");
        if !columns.is_empty() {
            assert_eq!(removed(&mask), columns, "{name}");
        }
    }
    let blocks_of_4 = SparseGptConfig {
        block_size: 4,
        ..THRESHOLD
    };
    let sweeps = [
        (
            "up to the threshold",
            half(),
            THRESHOLD,
            17,
            0.021579,
            Some(71.403573),
            vec![
                vec![0, 1, 2, 3],
                vec![0, 1, 2, 4, 6],
                vec![0, 1, 3, 5],
                vec![0, 1, 2, 3],
            ],
        ),
        (
            "exactly",
            half(),
            SparseGptConfig::default(),
            16,
            0.020400,
            None,
            vec![],
        ),
        (
            "2:4",
            pattern("2:4"),
            SparseGptConfig::default(),
            16,
            0.047844,
            Some(138.614501),
            vec![vec![0, 2, 5, 7], vec![0, 2, 5, 6], vec![1, 3, 4, 5], vec![0, 1, 4, 5]],
        ),
        ("blocks of 4", half(), blocks_of_4, 18, 0.029180, None, vec![]),
    ];
    for (name, sparsity, config, zeros, error, loss, columns) in sweeps {
        let made = swept(&w, &x, sparsity, config);
        assert_eq!(made.mask.num_zeros(), zeros, "{name}");
        let found = relative(&x, &w, &made.weight);
        assert!((found - error).abs() < 5e-7, "{name}: {found}");
        if let Some(loss) = loss {
            assert!((made.loss - loss).abs() < 1e-6, "{name}: {}", made.loss);
        }
        if !columns.is_empty() {
            assert_eq!(removed(&made.mask), columns, "{name}");
        }
    }
}

#[test]
fn whole_matrices_are_those_of_the_equations() {
    let golden = Vectors::open("prune/layer");
    let (w, x) = (golden.get("weight"), golden.get("x"));
    let same = |name: &str, mask: &Mask| {
        let wanted = golden.get(name).ne(0);
        assert!(mask.kept().equal(&wanted), "{name}: another mask");
    };
    let share = |share: f64| Sparsity::share(share).unwrap();
    same("magnitude.matrix", &magnitude(&w, share(0.35), Per::Matrix).unwrap());
    same("magnitude.row", &magnitude(&w, share(0.35), Per::Row).unwrap());
    same("magnitude.2:4", &magnitude(&w, pattern("2:4"), Per::Row).unwrap());
    let halves = w.chunk(2, 0);
    let mut threshold = GlobalThreshold::find(0.35, |see| halves.iter().for_each(see)).unwrap();
    let masks: Vec<Tensor> = halves
        .iter()
        .map(|half| threshold.mask(half).kept().shallow_clone())
        .collect();
    same("magnitude.global", &Mask::new(Tensor::cat(&masks, 0)));
    let norms = norms(&x);
    for (name, sparsity) in [
        ("wanda.0.5", share(0.5)),
        ("wanda.0.3", share(0.3)),
        ("wanda.2:4", pattern("2:4")),
        ("wanda.4:8", pattern("4:8")),
        ("wanda.1:3", pattern("1:3")),
    ] {
        same(name, &wanda(&w, &norms, sparsity).unwrap());
    }
    let exact = |block_size| SparseGptConfig {
        block_size,
        ..SparseGptConfig::default()
    };
    for (name, sparsity, config, damping) in [
        ("exact", share(0.5), exact(128), 0.01),
        ("at_most", share(0.5), THRESHOLD, 0.01),
        ("blocks", share(0.4), exact(20), 0.01),
        ("2:4", pattern("2:4"), exact(16), 0.01),
        ("1:3", pattern("1:3"), exact(128), 0.1),
    ] {
        let factor = Factor::of(&gram(&x), damping).unwrap();
        let made = sparse_gpt(&w, &factor, sparsity, &config).unwrap();
        same(&format!("sparse_gpt.{name}.kept"), &made.mask);
        // f64 throughout, but by another route: the condition number times its rounding.
        assert_close(
            name,
            &made.weight,
            &golden.get(&format!("sparse_gpt.{name}.weight")),
            1e-9,
            1e-10,
        );
        let loss = golden.number(&format!("sparse_gpt.{name}.loss"));
        assert!((made.loss / loss - 1.0).abs() < 1e-9, "{name}: {} {loss}", made.loss);
    }
}

#[test]
fn the_factor_s_square_is_the_inverse_of_the_damped_hessian() {
    let golden = Vectors::open("prune/layer");
    let factor = Factor::of(&gram(&golden.get("x")), 0.01).unwrap();
    let upper = factor.upper();
    assert!(upper.equal(&upper.triu(0)));
    let one = upper.tr().matmul(upper).matmul(&golden.get("damped"));
    assert_close(
        "(UᵀU) H",
        &one,
        &Tensor::eye(48, (Kind::Double, Device::Cpu)),
        0.0,
        1e-8,
    );
    assert_eq!(
        Vec::<bool>::try_from(factor.dead())
            .unwrap()
            .iter()
            .position(|&dead| dead),
        Some(17)
    );
}

#[test]
fn counts_are_exact_whatever_the_ties() {
    // bf16 weights of a real model are mostly equal to some other one.
    let golden = Vectors::open("prune/layer");
    let w = (golden.get("weight") * 2.0).round().to_kind(Kind::BFloat16);
    let (out, width) = (24, 48);
    for share in [0.0, 0.01, 0.3, 0.5, 0.999] {
        let sparsity = Sparsity::share(share).unwrap();
        let whole = (share * f64::from(out * width)) as usize;
        let row = out as usize * (share * f64::from(width)) as usize;
        assert_eq!(
            magnitude(&w, sparsity, Per::Matrix).unwrap().num_zeros(),
            whole,
            "{share}"
        );
        assert_eq!(magnitude(&w, sparsity, Per::Row).unwrap().num_zeros(), row, "{share}");
        let norms = norms(&golden.get("x"));
        assert_eq!(wanda(&w, &norms, sparsity).unwrap().num_zeros(), row, "{share}");
        let halves = w.chunk(2, 0);
        let mut threshold = GlobalThreshold::find(share, |see| halves.iter().for_each(see)).unwrap();
        let found: usize = halves.iter().map(|half| threshold.mask(half).num_zeros()).sum();
        assert_eq!(found, whole, "{share}");
    }
    for text in ["2:4", "1:4", "4:8", "5:6"] {
        let Sparsity::Pattern(wanted) = pattern(text) else {
            panic!("a pattern")
        };
        let mask = magnitude(&w, pattern(text), Per::Row).unwrap();
        assert!(mask.has_pattern(wanted), "{text}");
        assert_eq!(mask.num_zeros(), 24 * 48 / wanted.of() * wanted.zeros(), "{text}");
    }
    assert!(
        !magnitude(&w, half(), Per::Row)
            .unwrap()
            .has_pattern("2:4".parse().unwrap())
    );
}

#[test]
fn inputs_of_equal_strength_make_wanda_magnitude_by_row() {
    let (w, _) = small();
    let even = Tensor::full([8], 3.0, (Kind::Double, Device::Cpu));
    for sparsity in [half(), pattern("2:4")] {
        let (ours, plain) = (wanda(&w, &even, sparsity), magnitude(&w, sparsity, Per::Row));
        assert_eq!(ours.unwrap().kept(), plain.unwrap().kept());
    }
}

#[test]
fn scaling_all_inputs_changes_no_mask() {
    let golden = Vectors::open("prune/layer");
    let (w, x) = (golden.get("weight"), golden.get("x"));
    // A power of two scales without rounding.
    let louder = &x * 16.0;
    for sparsity in [half(), pattern("2:4")] {
        let of = |x: &Tensor| wanda(&w, &norms(x), sparsity).unwrap();
        assert_eq!(of(&x).kept(), of(&louder).kept());
        // A dead input's diagonal is 1 however loud the others are.
        let narrow = w.index_select(1, &live());
        let of = |x: &Tensor| {
            swept(
                &narrow,
                &x.index_select(1, &live()),
                sparsity,
                SparseGptConfig::default(),
            )
        };
        let (plain, loud) = (of(&x), of(&louder));
        assert_eq!(plain.mask.kept(), loud.mask.kept());
        assert_close("weights", &loud.weight, &plain.weight, 1e-9, 1e-9);
    }
}

/// All inputs but the dead one and its group of four.
fn live() -> Tensor {
    let live: Vec<i64> = (0..48).filter(|j| !(16..20).contains(j)).collect();
    Tensor::from_slice(&live)
}

#[test]
fn on_correlated_inputs_each_method_beats_the_one_before() {
    let golden = Vectors::open("prune/layer");
    let (w, x) = (golden.get("weight"), golden.get("x"));
    for sparsity in [half(), pattern("2:4")] {
        let by_size = relative(&x, &w, &magnitude(&w, sparsity, Per::Row).unwrap().apply(&w));
        let by_wanda = relative(&x, &w, &wanda(&w, &norms(&x), sparsity).unwrap().apply(&w));
        let by_sweep = relative(&x, &w, &swept(&w, &x, sparsity, SparseGptConfig::default()).weight);
        assert!(
            by_sweep < by_wanda && by_wanda < by_size,
            "{by_sweep} {by_wanda} {by_size}"
        );
    }
}

#[test]
fn the_sweep_s_weights_beat_the_same_mask_without_them() {
    let golden = Vectors::open("prune/layer");
    let (w, x) = (golden.get("weight"), golden.get("x"));
    for sparsity in [half(), Sparsity::share(0.2).unwrap(), pattern("2:4"), pattern("4:8")] {
        let made = swept(&w, &x, sparsity, SparseGptConfig::default());
        let (with, without) = (relative(&x, &w, &made.weight), relative(&x, &w, &made.mask.apply(&w)));
        assert!(with <= without, "{sparsity}: {with} {without}");
        assert!(made.mask.apply(&made.weight).equal(&made.weight), "zeros are zeros");
    }
}

#[test]
fn independent_inputs_leave_the_other_weights_alone() {
    let (w, _) = small();
    let factor = Factor::of(&(Tensor::eye(8, (Kind::Double, Device::Cpu)) * 3.0), 0.01).unwrap();
    let made = sparse_gpt(
        &w,
        &factor,
        half(),
        &SparseGptConfig {
            block_size: 4,
            ..SparseGptConfig::default()
        },
    )
    .unwrap();
    assert!(made.weight.equal(&made.mask.apply(&w)));
    let blocks: Vec<Tensor> = w
        .chunk(2, 1)
        .iter()
        .map(|block| magnitude(block, half(), Per::Matrix).unwrap().kept().shallow_clone())
        .collect();
    assert!(
        made.mask.kept().equal(&Tensor::cat(&blocks, 1)),
        "magnitude block by block"
    );
}

#[test]
fn nothing_goes_at_a_sparsity_of_nought() {
    let (w, x) = small();
    for config in [SparseGptConfig::default(), THRESHOLD] {
        let made = swept(&w, &x, Sparsity::share(0.0).unwrap(), config);
        assert!(made.weight.equal(&w) && made.mask.num_zeros() == 0 && made.loss == 0.0);
    }
}

#[test]
fn what_does_not_fit_is_refused_in_words() {
    let (w, x) = small();
    let cases = [
        (
            magnitude(&w, pattern("1:3"), Per::Row).unwrap_err().to_string(),
            "3 divides, found 8",
        ),
        (
            wanda(&w, &norms(&x.narrow(1, 0, 7)), half()).unwrap_err().to_string(),
            "wanted shape [8], found [7]",
        ),
        (Factor::of(&x, 0.01).unwrap_err().to_string(), "the Hessian"),
        (Factor::of(&gram(&x), -1.0).unwrap_err().to_string(), "`damping`"),
        // Two inputs that are the same, and no damping.
        (
            Factor::of(&Tensor::ones([2, 2], (Kind::Double, Device::Cpu)), 0.0)
                .unwrap_err()
                .to_string(),
            "not positive definite",
        ),
        (
            GlobalThreshold::find(1.5, |_| ()).unwrap_err().to_string(),
            "`sparsity`",
        ),
    ];
    for (error, wanted) in cases {
        assert!(error.contains(wanted), "{error}");
    }
    let factor = Factor::of(&gram(&x), 0.01).unwrap();
    let error = sparse_gpt(&w.narrow(1, 0, 4), &factor, half(), &SparseGptConfig::default())
        .unwrap_err()
        .to_string();
    assert!(error.contains("wanted shape [4, 8], found [4, 4]"), "{error}");
    let config = SparseGptConfig {
        block_size: 3,
        ..SparseGptConfig::default()
    };
    let error = sparse_gpt(&w, &factor, pattern("2:4"), &config)
        .unwrap_err()
        .to_string();
    assert!(error.contains("`block_size`"), "{error}");
}
