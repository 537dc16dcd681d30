//! The laws of combining: sums are exact, cuts are the best there are, and what cannot be combined is refused.

use std::collections::BTreeMap;

use golden::assert_close;
use lora::combine::{Combination, CombinationType, CombineConfig, Weighted, combine};
use lora::{Error, LoraConfig, Placement, TargetModules};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tch::{Device, Kind, Tensor};
use tensor_core::{Dense, ModulePath, Param, Role};

const OUT: i64 = 11;
const IN: i64 = 17;
const MODULES: [&str; 2] = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"];

fn random(seed: u64, shape: [i64; 2]) -> Tensor {
    let mut rng = StdRng::seed_from_u64(seed);
    let values: Vec<f32> = (0..shape[0] * shape[1]).map(|_| rng.random_range(-1.0..1.0)).collect();
    Tensor::from_slice(&values).view(shape)
}

fn named(at: &str, rank: i64, seed: u64) -> [(String, Tensor); 2] {
    [
        (format!("base_model.model.{at}.lora_A.weight"), random(seed, [rank, IN])),
        (
            format!("base_model.model.{at}.lora_B.weight"),
            random(seed + 1000, [OUT, rank]),
        ),
    ]
}

/// An adapter of every module, alpha ≠ rank.
fn adapter(name: &str, weight: f64, rank: i64, seed: u64) -> Weighted {
    let modules = MODULES.iter().zip([0, 100]);
    Weighted {
        name: name.to_owned(),
        config: LoraConfig {
            r: rank,
            lora_alpha: 2.5 * rank as f64 + 1.0,
            target_modules: TargetModules::Many(vec!["q_proj".into(), "up_proj".into()]),
            ..LoraConfig::default()
        },
        tensors: modules.flat_map(|(at, more)| named(at, rank, seed + more)).collect(),
        weight,
    }
}

fn of(combination_type: CombinationType) -> CombineConfig {
    CombineConfig {
        combination_type,
        ..CombineConfig::default()
    }
}

fn pruning(combination_type: CombinationType, density: f64) -> CombineConfig {
    CombineConfig {
        density: Some(density),
        ..of(combination_type)
    }
}

fn combined(adapters: &[Weighted], options: &CombineConfig) -> Combination {
    combine(adapters, options, &mut |_, _| ()).unwrap_or_else(|error| panic!("{options:?}: {error}"))
}

fn refused(adapters: &[Weighted], options: &CombineConfig) -> Error {
    combine(adapters, options, &mut |_, _| ()).expect_err("refused")
}

/// `s B A` of each module, by the road that a model takes: [`Placement`] on a zero weight.
fn updates(config: &LoraConfig, tensors: &[(String, Tensor)]) -> BTreeMap<String, Tensor> {
    let copies = tensors
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
    let placement = Placement::new(config.clone(), copies).unwrap();
    let found = MODULES.map(|at| {
        let zero = Tensor::zeros([OUT, IN], (Kind::Float, Device::Cpu));
        let base = Box::new(Dense::new(Param::frozen(zero, Role::Base)));
        (
            at.to_owned(),
            placement.projection(&ModulePath::from(at), base).unwrap().weight(),
        )
    });
    placement.finish().unwrap();
    found.into()
}

fn updates_of(combination: &Combination) -> BTreeMap<String, Tensor> {
    updates(&combination.config, &combination.tensors)
}

/// `Σ w ΔW` of each module.
fn weighted_sum(adapters: &[Weighted]) -> BTreeMap<String, Tensor> {
    let mut sum: BTreeMap<String, Tensor> = BTreeMap::new();
    for adapter in adapters {
        for (at, update) in updates(&adapter.config, &adapter.tensors) {
            let weighted = update.to_kind(Kind::Double) * adapter.weight;
            let before = sum.remove(&at).unwrap_or_else(|| weighted.zeros_like());
            sum.insert(at, before + weighted);
        }
    }
    sum
}

#[track_caller]
fn same(name: &str, ours: &BTreeMap<String, Tensor>, theirs: &BTreeMap<String, Tensor>) {
    assert!(ours.keys().eq(theirs.keys()), "{name}");
    for (at, update) in ours {
        assert_close(&format!("{name} {at}"), update, &theirs[at], 1e-5, 1e-5);
    }
}

#[test]
fn sum_cat_and_svd_of_full_rank_are_the_weighted_sum_of_updates() {
    let adapters = [
        adapter("a", 0.7, 3, 1),
        adapter("b", -1.3, 4, 2),
        adapter("c", 0.25, 2, 3),
    ];
    let wanted = weighted_sum(&adapters);
    let full = CombineConfig {
        svd_rank: Some(9),
        ..of(CombinationType::Svd)
    };
    for options in [of(CombinationType::Sum), of(CombinationType::Cat), full] {
        let found = combined(&adapters, &options);
        same(options.combination_type.name(), &updates_of(&found), &wanted);
        for module in &found.modules {
            assert_eq!(
                (module.rank, module.explained),
                (9, 1.0),
                "{:?}",
                options.combination_type
            );
            assert!(module.distance < 1e-6, "{}", module.distance);
        }
        assert_eq!((found.config.r, found.config.lora_alpha), (9, 9.0));
    }
}

#[test]
fn a_sum_has_the_smallest_rank_that_holds_it() {
    // The second is twice the first, and the third shares its A with it: one more column space, no more rows.
    let mut adapters = [
        adapter("a", 1.0, 3, 1),
        adapter("b", 0.5, 3, 1),
        adapter("c", 0.5, 3, 9),
    ];
    for at in 0..2 {
        adapters[1].tensors[2 * at + 1].1 = &adapters[0].tensors[2 * at + 1].1 * 2.0;
        adapters[2].tensors[2 * at].1 = adapters[0].tensors[2 * at].1.shallow_clone();
    }
    let found = combined(&adapters, &CombineConfig::default());
    assert!(
        found.modules.iter().all(|module| module.rank == 3),
        "{:?}",
        found.modules
    );
    same("sum", &updates_of(&found), &weighted_sum(&adapters));
    // Nine columns would be more than a cut to 2 keeps; it says how much that is.
    let cut = combined(
        &adapters,
        &CombineConfig {
            svd_rank: Some(2),
            ..CombineConfig::default()
        },
    );
    assert!(
        cut.modules
            .iter()
            .all(|module| module.rank == 2 && module.explained < 1.0)
    );
}

#[test]
fn a_cut_is_the_best_of_its_rank_and_says_what_it_left_out() {
    let adapters = [adapter("a", 0.7, 3, 1), adapter("b", 0.6, 3, 2)];
    let wanted = weighted_sum(&adapters);
    let error = |found: &Combination| -> Vec<f64> {
        let updates = updates_of(found);
        let apart = wanted
            .iter()
            .map(|(at, sum)| (updates[at].to_kind(Kind::Double) - sum).norm().double_value(&[]));
        apart.collect()
    };
    for rank in 1..6 {
        let cut = combined(
            &adapters,
            &CombineConfig {
                svd_rank: Some(rank),
                ..of(CombinationType::Svd)
            },
        );
        for ((module, error), sum) in cut.modules.iter().zip(error(&cut)).zip(wanted.values()) {
            let (_, values, _) = sum.svd(true, true);
            let values = Vec::<f64>::try_from(&values).unwrap();
            let tail: f64 = values[rank as usize..].iter().map(|value| value * value).sum();
            let all: f64 = values.iter().map(|value| value * value).sum();
            // Eckart and Young: the error is the root of the values left out.
            assert!(
                (error - tail.sqrt()).abs() < 1e-5,
                "rank {rank}: {error} {}",
                tail.sqrt()
            );
            // The wanted sum is added up in f32.
            assert!((module.explained - (1.0 - tail / all)).abs() < 1e-6);
            assert!((module.distance - (tail / all).sqrt()).abs() < 1e-6);
        }
    }
    let cut = combined(
        &adapters,
        &CombineConfig {
            svd_rank: Some(3),
            ..of(CombinationType::Svd)
        },
    );
    let linear = combined(&adapters, &of(CombinationType::Linear));
    assert!(
        error(&cut)
            .iter()
            .zip(error(&linear))
            .all(|(cut, linear)| *cut < linear)
    );
}

#[test]
fn linear_has_cross_terms_and_says_how_far_off_they_are() {
    let adapters = [adapter("a", 0.7, 4, 1), adapter("b", 0.3, 4, 2)];
    let found = combined(&adapters, &of(CombinationType::Linear));
    let wanted = weighted_sum(&adapters);
    for module in &found.modules {
        let at = module.at.to_string();
        let apart = updates_of(&found)[&at].to_kind(Kind::Double) - &wanted[&at];
        let relative = apart.norm().double_value(&[]) / wanted[&at].norm().double_value(&[]);
        assert!(
            (module.distance - relative).abs() < 1e-5,
            "{} {relative}",
            module.distance
        );
        // Independent factors: √(2·0.7·0.3 / (0.7² + 0.3²)) = 0.85 on average.
        assert!((0.7..1.0).contains(&relative), "{relative}");
    }
    // With rows of A and columns of B of their own, there is nothing to cross.
    let mut apart = [adapter("a", 0.7, 4, 1), adapter("b", 0.3, 4, 2)];
    for (adapter, low) in apart.iter_mut().zip([true, false]) {
        for (name, tensor) in &mut adapter.tensors {
            let keep = if name.contains("lora_A") { [4, 1] } else { [1, 4] };
            let ranks = Tensor::arange(4, (Kind::Int64, Device::Cpu)).lt(2).to_kind(Kind::Float);
            let ranks = if low { ranks } else { 1.0 - ranks };
            *tensor = &*tensor * ranks.view(keep);
        }
    }
    same(
        "linear",
        &updates_of(&combined(&apart, &of(CombinationType::Linear))),
        &weighted_sum(&apart),
    );
}

#[test]
fn a_single_adapter_of_weight_1_is_reproduced_by_every_type() {
    let one = [adapter("a", 1.0, 3, 1)];
    for (kind, _) in CombinationType::ALL {
        let prunes = !matches!(
            kind,
            CombinationType::Sum | CombinationType::Cat | CombinationType::Svd | CombinationType::Linear
        );
        let options = if prunes { pruning(kind, 0.5) } else { of(kind) };
        let found = combined(&one, &options);
        same(kind.name(), &updates_of(&found), &weighted_sum(&one));
        assert_eq!(found.config.r, 3);
    }
    // A rank that is asked for is kept to, whatever the type.
    let cut = CombineConfig {
        svd_rank: Some(1),
        ..pruning(CombinationType::TiesSvd, 0.5)
    };
    assert!(combined(&one, &cut).modules.iter().all(|module| module.rank == 1));
}

#[test]
fn a_negative_weight_takes_an_adapter_out() {
    let pair = [adapter("a", 1.0, 3, 1), adapter("a again", -1.0, 3, 1)];
    for kind in [
        CombinationType::Sum,
        CombinationType::Cat,
        CombinationType::Svd,
        CombinationType::Linear,
    ] {
        for (at, update) in updates_of(&combined(&pair, &of(kind))) {
            let left = update.abs().max().double_value(&[]);
            assert!(left < 1e-6, "{kind} {at}: {left}");
        }
    }
}

#[test]
fn pruning_at_density_1_keeps_everything() {
    let adapters = [adapter("a", 0.7, 3, 1), adapter("b", -0.3, 3, 2)];
    let linear = updates_of(&combined(&adapters, &of(CombinationType::Linear)));
    for kind in [CombinationType::DareLinear, CombinationType::MagnitudePrune] {
        same(
            kind.name(),
            &updates_of(&combined(&adapters, &pruning(kind, 1.0))),
            &linear,
        );
    }
    let sum = weighted_sum(&adapters);
    for kind in [CombinationType::DareLinearSvd, CombinationType::MagnitudePruneSvd] {
        let options = CombineConfig {
            svd_rank: Some(OUT),
            ..pruning(kind, 1.0)
        };
        same(kind.name(), &updates_of(&combined(&adapters, &options)), &sum);
    }
}

#[test]
fn dare_is_the_unpruned_sum_on_average_and_repeats_with_its_seed() {
    let adapters = [adapter("a", 0.7, 3, 1), adapter("b", -0.3, 3, 2)];
    let options = CombineConfig {
        svd_rank: Some(OUT),
        ..pruning(CombinationType::DareLinearSvd, 0.5)
    };
    let at_seed = |seed: u64| {
        updates_of(&combined(
            &adapters,
            &CombineConfig {
                seed,
                ..options.clone()
            },
        ))
    };
    let (first, other) = (at_seed(0), at_seed(1));
    same("the same seed", &at_seed(0), &first);
    let at = MODULES[0];
    assert!(
        (&first[at] - &other[at]).abs().max().double_value(&[]) > 0.1,
        "another seed"
    );
    let draws = 400;
    let mean = (0..draws)
        .map(|seed| at_seed(seed).remove(at).unwrap())
        .reduce(|a, b| a + b)
        .unwrap()
        / draws as f64;
    let wanted = &weighted_sum(&adapters)[at];
    // A number x is 0 or 2x, so its deviation is |x| at most 10 here; of the mean, a twentieth of that, times 4.
    let sizes: Tensor = adapters.iter().fold(wanted.zeros_like(), |sum, one| {
        sum + (updates(&one.config, &one.tensors)[at].to_kind(Kind::Double) * one.weight).square()
    });
    let deviations = (&mean - wanted).abs() / (sizes.sqrt() / f64::from(20) + 1e-6);
    let most = deviations.max().double_value(&[]);
    assert!(most < 5.0, "{most} standard deviations");
    let spread = deviations.square().mean(Kind::Double).double_value(&[]);
    assert!(
        (0.6..1.5).contains(&spread),
        "{spread}: neither biased nor better than chance"
    );
}

#[test]
fn ranks_and_scales_are_read_module_by_module_and_written_at_scale_1() {
    let mut a = adapter("a", 0.5, 3, 1);
    a.config.use_rslora = true;
    a.config.alpha_pattern = BTreeMap::from([("q_proj".into(), 5.0)]);
    let mut b = adapter("b", 2.0, 2, 2);
    b.config.rank_pattern = BTreeMap::from([("up_proj".into(), 4)]);
    b.tensors.truncate(2);
    b.tensors.extend(named(MODULES[1], 4, 77));
    let adapters = [a, b];
    let found = combined(&adapters, &CombineConfig::default());
    same("sum", &updates_of(&found), &weighted_sum(&adapters));
    assert!(!found.config.use_rslora);
    let ranks: Vec<i64> = found.modules.iter().map(|module| module.rank).collect();
    assert_eq!(ranks, [5, 7]);
    // The larger of two equally common ranks is `r`; the other stands under its path.
    assert_eq!((found.config.r, found.config.lora_alpha), (7, 7.0));
    assert_eq!(found.config.rank_pattern, BTreeMap::from([(MODULES[0].to_owned(), 5)]));
    assert_eq!(
        found.config.alpha_pattern,
        BTreeMap::from([(MODULES[0].to_owned(), 5.0)])
    );
    let scale = |at: &str| found.config.rank_and_scale(&at.into()).unwrap().1;
    assert!(MODULES.iter().all(|at| (scale(at) - 1.0).abs() < 1e-12));
}

#[test]
fn tables_keep_their_names_and_are_combined_like_matrices() {
    let table = |seed: u64, weight| {
        let mut table = adapter("table", weight, 2, seed);
        table.tensors = vec![
            (
                "base_model.model.model.embed_tokens.lora_embedding_A".into(),
                random(seed, [2, 31]),
            ),
            (
                "base_model.model.model.embed_tokens.lora_embedding_B".into(),
                random(seed + 1, [6, 2]),
            ),
            (
                "base_model.model.model.embed_tokens.base_layer.weight".into(),
                random(9, [31, 6]),
            ),
        ];
        table
    };
    let adapters = [table(1, 0.5), table(5, 2.0)];
    let found = combined(&adapters, &CombineConfig::default());
    let names: Vec<&str> = found.tensors.iter().map(|(name, _)| name.as_str()).collect();
    let prefix = "base_model.model.model.embed_tokens.lora_embedding";
    assert_eq!(names, [format!("{prefix}_A"), format!("{prefix}_B")]);
    // s = (2.5 · 2 + 1) / 2 = 3
    let update = |one: &Weighted| one.tensors[1].1.matmul(&one.tensors[0].1) * (3.0 * one.weight);
    let ours = found.tensors[1].1.matmul(&found.tensors[0].1);
    assert_close(
        "table",
        &ours,
        &(update(&adapters[0]) + update(&adapters[1])),
        1e-5,
        1e-5,
    );
}

#[test]
fn a_module_trained_whole_is_kept_once_and_refused_otherwise() {
    let whole = |name: &str, weight| {
        let mut one = adapter(name, weight, 2, 1);
        one.config.modules_to_save = vec!["lm_head".into()];
        one.tensors
            .push(("base_model.model.lm_head.weight".into(), random(3, [5, OUT])));
        one
    };
    let kept = combined(&[whole("a", 1.0), adapter("b", 0.5, 2, 7)], &CombineConfig::default());
    let (name, tensor) = kept.tensors.last().unwrap();
    assert_eq!(
        (name.as_str(), kept.config.modules_to_save.as_slice()),
        ("base_model.model.lm_head.weight", ["lm_head".to_owned()].as_slice())
    );
    assert!(tensor.equal(&random(3, [5, OUT])));
    let mut over = adapter("b", 1.0, 2, 7);
    over.tensors.extend(named("lm_head", 2, 8));
    for (adapters, parts) in [
        (
            [whole("a", 0.5), adapter("b", 1.0, 2, 7)],
            ["`a`", "lm_head.weight", "weight 1"],
        ),
        (
            [whole("a", 1.0), whole("b", 1.0)],
            ["`b`", "lm_head.weight", "another adapter trained whole"],
        ),
        (
            [whole("a", 1.0), over],
            ["`b`", "lm_head", "another adapter trained whole"],
        ),
    ] {
        let error = refused(&adapters, &CombineConfig::default()).to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}

#[test]
fn what_cannot_be_combined_is_refused_by_name() {
    let with = |key: &str, tensor: Tensor| {
        let mut one = adapter("odd", 1.0, 2, 1);
        one.tensors
            .push((format!("base_model.model.{}.{key}", MODULES[0]), tensor));
        [one, adapter("b", 1.0, 2, 2)]
    };
    let check = |adapters: &[Weighted], options: &CombineConfig, parts: &[&str]| {
        let error = refused(adapters, options).to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    let sum = CombineConfig::default();
    check(
        &with("lora_magnitude_vector", random(1, [1, OUT])),
        &sum,
        &["`odd`", "lora_magnitude_vector", "DoRA", "hint"],
    );
    check(
        &with("lora_B.bias", random(1, [1, OUT])),
        &sum,
        &["`odd`", "lora_B.bias", "lora_bias", "hint"],
    );
    check(
        &[adapter("a", f64::NAN, 2, 1), adapter("b", 1.0, 2, 2)],
        &sum,
        &["`weights`", "NaN", "`a`"],
    );
    let mut broken = adapter("broken", 1.0, 2, 1);
    broken.tensors[1].1 = &broken.tensors[1].1 / 0.0;
    check(&[broken], &sum, &["`broken`", "lora_B", "not finite"]);
    let unequal = [adapter("a", 1.0, 2, 1), adapter("b", 1.0, 3, 2)];
    check(
        &unequal,
        &of(CombinationType::Linear),
        &[MODULES[0], "`linear`", "2 in `a`, 3 in `b`", "`sum`"],
    );
    let mut other = adapter("other", 1.0, 2, 2);
    other.tensors[0].1 = random(1, [2, IN + 1]);
    check(
        &[adapter("a", 1.0, 2, 1), other],
        &sum,
        &[MODULES[0], "`a`", "`other`", "11 × 18", "11 × 17"],
    );
    let mut lying = adapter("a", 1.0, 2, 1);
    lying.config.r = 5;
    check(&[lying], &sum, &[MODULES[0], "rank 2", "says 5"]);
}

#[test]
fn targets_are_joined_lists_or_whole_paths() {
    let list = [adapter("a", 1.0, 2, 1), adapter("b", 1.0, 2, 2)];
    let targets = |adapters: &[Weighted]| combined(adapters, &CombineConfig::default()).config.target_modules;
    assert_eq!(
        targets(&list),
        TargetModules::Many(vec!["q_proj".into(), "up_proj".into()])
    );
    let paths = TargetModules::Many(MODULES.map(str::to_owned).to_vec());
    for change in [
        |config: &mut LoraConfig| config.target_modules = TargetModules::One(".*(q|up)_proj".into()),
        |config: &mut LoraConfig| config.exclude_modules = Some(TargetModules::Many(vec!["k_proj".into()])),
        |config: &mut LoraConfig| config.layers_to_transform = Some(vec![0, 1]),
    ] {
        let mut adapters = [adapter("a", 1.0, 2, 1), adapter("b", 1.0, 2, 2)];
        change(&mut adapters[1].config);
        assert_eq!(targets(&adapters), paths);
    }
}
