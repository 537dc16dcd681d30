//! PEFT's own numbers: every type of `add_weighted_adapter`, with the masks that PEFT drew.
//!
//! Tolerance: sums of a few f32 products of size one, 1e-5; PEFT's SVD is f32 and dense, ours f64 on the factors.

use std::collections::{BTreeMap, BTreeSet};

use golden::{Vectors, assert_close};
use serde_json::Value;

use super::*;
use crate::from_peft_config;

fn adapter(name: &str, weight: f64) -> Weighted {
    let config = golden::json(&format!("combine/{name}/adapter_config"));
    let tensors = Vectors::open(&format!("combine/{name}/adapter_model")).under("");
    Weighted {
        name: name.to_owned(),
        config: from_peft_config(config.as_object().unwrap()).unwrap(),
        tensors: tensors.into_iter().collect(),
        weight,
    }
}

/// The adapters and options of a case; its other keys are the options under our names too.
fn read(case: &Value) -> (Vec<Weighted>, CombineConfig) {
    let names = case["adapters"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap());
    let weights = case["weights"]
        .as_array()
        .unwrap()
        .iter()
        .map(|weight| weight.as_f64().unwrap());
    let adapters = names.zip(weights).map(|(name, weight)| adapter(name, weight)).collect();
    let mut options = case.as_object().unwrap().clone();
    options.retain(|key, _| !["adapters", "weights"].contains(&key.as_str()));
    (adapters, serde_json::from_value(Value::Object(options)).unwrap())
}

fn factors(combination: &Combination, at: &str) -> (Tensor, Tensor) {
    let get = |endings: [&str; 2]| {
        let names = endings.map(|ending| format!("base_model.model.{at}.{ending}"));
        let found = combination.tensors.iter().find(|(name, _)| names.contains(name));
        found
            .unwrap_or_else(|| panic!("`{at}`: no {endings:?}"))
            .1
            .shallow_clone()
    };
    (
        get(["lora_A.weight", "lora_embedding_A"]),
        get(["lora_B.weight", "lora_embedding_B"]),
    )
}

fn modules(vectors: &Vectors, name: &str) -> BTreeSet<String> {
    vectors.under(&format!("{name}.A.")).into_keys().collect()
}

#[test]
fn every_type_gives_what_peft_gives() {
    let vectors = Vectors::open("combine");
    let cases = golden::json("combine/cases");
    let mut seen = BTreeSet::new();
    for (name, case) in cases.as_object().unwrap() {
        let (adapters, options) = read(case);
        seen.insert(options.combination_type.name());
        let mut drawn: BTreeMap<String, usize> = BTreeMap::new();
        let mut draw = |at: &ModulePath, shape: &[i64]| {
            let so_far = drawn.entry(at.to_string()).or_default();
            let mask = vectors.get(&format!("{name}.mask.{at}.{so_far}")).to_kind(Kind::Float);
            // PEFT forms the update of a table as the table lies, the other way round than that of a matrix.
            let mask = if at.name() == "embed_tokens" && name.ends_with("_svd") {
                mask.tr()
            } else {
                mask
            };
            assert_eq!(mask.size(), shape, "{name} {at}");
            *so_far += 1;
            mask
        };
        let combination = combine_drawing(&adapters, &options, &mut draw, &mut |_, _| ()).unwrap();
        let ours: BTreeSet<String> = combination.modules.iter().map(|module| module.at.to_string()).collect();
        assert_eq!(ours, modules(&vectors, name), "{name}");
        let masks = vectors.under(&format!("{name}.mask.")).len();
        assert_eq!(drawn.values().sum::<usize>(), masks, "{name}: every mask was drawn");
        for at in &ours {
            let (a, b) = factors(&combination, at);
            let (their_a, their_b) = (
                vectors.get(&format!("{name}.A.{at}")),
                vectors.get(&format!("{name}.B.{at}")),
            );
            let apart = matches!(options.combination_type.way(), Way::Factors(_) | Way::Cat);
            if apart {
                // PEFT pads the ranks of `cat` with zeros to the sum of all.
                let rank = a.size()[0];
                assert_close(&format!("{name} {at} A"), &a, &their_a.narrow(0, 0, rank), 1e-5, 1e-6);
                assert_close(&format!("{name} {at} B"), &b, &their_b.narrow(1, 0, rank), 1e-5, 1e-6);
            }
            if options.svd_clamp.is_none() {
                assert_close(
                    &format!("{name} {at}"),
                    &b.matmul(&a),
                    &their_b.matmul(&their_a),
                    1e-5,
                    1e-5,
                );
            }
        }
    }
    let missing: Vec<_> = CombinationType::ALL
        .iter()
        .filter(|(_, name)| !seen.contains(name))
        .collect();
    assert_eq!(
        missing,
        [&(CombinationType::Sum, "sum")],
        "all of PEFT's types are compared"
    );
}

#[test]
fn clamping_holds_both_factors_within_peft_s_quantile() {
    let vectors = Vectors::open("combine");
    let case = &golden::json("combine/cases")["svd-clamp"];
    let (adapters, options) = read(case);
    let quantile = options.svd_clamp.unwrap();
    let combination = combine(&adapters, &options, &mut |_, _| ()).unwrap();
    for at in modules(&vectors, "clamp") {
        let get = |name: &str, factor: &str| vectors.get(&format!("{name}.{factor}.{at}"));
        // The quantile depends on the signs of singular vectors, so PEFT's own are clamped.
        let before = Pair {
            a: get("clamp", "A"),
            b: get("clamp", "B"),
        };
        let clamped = before.clamp(quantile);
        assert_close(&format!("{at} A"), &clamped.a, &get("svd-clamp", "A"), 1e-6, 1e-7);
        assert_close(&format!("{at} B"), &clamped.b, &get("svd-clamp", "B"), 1e-6, 1e-7);
        let (a, b) = factors(&combination, &at);
        let largest = a.abs().max().double_value(&[]).max(b.abs().max().double_value(&[]));
        let at_most = (0..2)
            .map(|side| [&a, &b][side].eq(largest).sum(Kind::Int64).int64_value(&[]))
            .sum::<i64>();
        assert!(
            at_most > 1,
            "{at}: a tenth of the numbers is held at the quantile, {at_most} were found there"
        );
    }
}

#[test]
fn the_sum_is_peft_s_cat_at_no_more_than_its_rank() {
    let vectors = Vectors::open("combine");
    let (adapters, _) = read(&golden::json("combine/cases")["cat"]);
    let combination = combine(&adapters, &CombineConfig::default(), &mut |_, _| ()).unwrap();
    for at in modules(&vectors, "cat") {
        let (a, b) = factors(&combination, &at);
        let (their_a, their_b) = (vectors.get(&format!("cat.A.{at}")), vectors.get(&format!("cat.B.{at}")));
        assert_close(&at, &b.matmul(&a), &their_b.matmul(&their_a), 1e-5, 1e-5);
        assert!(a.size()[0] <= their_a.size()[0]);
    }
    assert!(
        combination
            .modules
            .iter()
            .all(|module| module.distance < 1e-6 && module.explained >= 1.0)
    );
}
