//! Whole models: against the same procedure in f64, and what a pruned model must be.

use checkpoint::ModelDir;
use decoder::Decoder;
use golden::{Vectors, assert_close, vectors_dir};
use prune::{Calibration, Error, Method, PruneConfig, Scope, Sparsity, Thinned, prune};
use tch::{Device, Kind, Tensor};
use tensor_core::{Documents, Parameters};

fn model() -> Decoder {
    let dir = ModelDir::open(&vectors_dir().join("families/llama-untied")).unwrap();
    Decoder::load(&dir, Device::Cpu, Kind::Float).unwrap()
}

/// The vectors' documents in two rows.
fn calibration(model: &Decoder, golden: &Vectors) -> Calibration {
    let lengths: Vec<usize> = golden
        .integers("lengths")
        .iter()
        .map(|&length| length as usize)
        .collect();
    let tokens = golden.get("tokens");
    let (first, rest) = lengths.split_at(2);
    let cut: usize = first.iter().sum();
    let rows = tokens.split_with_sizes([cut as i64, tokens.size()[0] - cut as i64], 0);
    let rows: Vec<_> = rows
        .into_iter()
        .zip([Documents::new(first), Documents::new(rest)])
        .collect();
    Calibration::new(model, rows)
}

fn pruned(config: &PruneConfig, golden: &Vectors) -> Result<(Decoder, Vec<Thinned>), Error> {
    let model = model();
    let calibration = calibration(&model, golden);
    let plan = config.plan()?;
    let calibration = plan.needs_calibration().then_some(calibration);
    let mut operate =
        |model: Decoder, surgeon: &mut tensor_core::ProjectionSurgeon| Ok(model.map_projections(surgeon)?);
    prune(model, &plan, calibration, &mut operate, &mut |_| ())
}

fn weights(model: &Decoder) -> Vec<(String, Tensor)> {
    let mut held = Vec::new();
    model.visit(&tensor_core::ModulePath::root(), &mut |at, param| {
        if let Some(module) = at.as_str().strip_suffix(".weight") {
            held.push((module.to_owned(), param.value().detach().copy()));
        }
    });
    held
}

#[test]
fn each_block_is_pruned_on_what_the_pruned_blocks_before_it_give() {
    let golden = Vectors::open("prune/model");
    let pattern = Sparsity::Pattern("2:4".parse().unwrap());
    let before = weights(&model());
    for (name, method, sparsity) in [
        ("wanda", Method::Wanda, Sparsity::Share(0.5)),
        ("wanda_2:4", Method::Wanda, pattern),
        ("sparse_gpt", Method::SparseGpt, pattern),
    ] {
        let (model, thinned) = pruned(&PruneConfig::new(method, sparsity), &golden).unwrap();
        let (after, wanted) = (weights(&model), golden.under(&format!("{name}.")));
        assert_eq!((thinned.len(), wanted.len()), (14, 14));
        for ((path, before), (_, after)) in before.iter().zip(&after) {
            let Some(wanted) = wanted.get(path) else {
                assert!(before.equal(after), "{path} is none of the blocks' projections");
                continue;
            };
            if method == Method::SparseGpt {
                // f32 forward passes and products against f64 ones, through a damped inverse.
                assert_close(path, after, wanted, 1e-3, 1e-4);
                assert!(after.ne(0.0).equal(&wanted.ne(0.0)), "{path}: another mask");
            } else {
                assert!(after.equal(&(before * wanted)), "{name} {path}: another mask");
            }
            let reported = thinned.iter().find(|one| one.at.as_str() == path).unwrap();
            assert_eq!(reported.num_zeros * 2, after.numel(), "{path}");
            assert_eq!(reported.shape.to_vec(), after.size());
        }
    }
}

#[test]
fn magnitudes_of_all_matrices_share_one_threshold() {
    let golden = Vectors::open("prune/model");
    let config = PruneConfig {
        per: Some(Scope::Global),
        exclude_modules: vec!["v_proj".into()],
        ..PruneConfig::new(Method::Magnitude, Sparsity::Share(0.3))
    };
    let (model, thinned) = pruned(&config, &golden).unwrap();
    let (zeros, all) = thinned.iter().fold((0, 0), |(zeros, all), one| {
        (zeros + one.num_zeros, all + (one.shape[0] * one.shape[1]) as usize)
    });
    assert_eq!((thinned.len(), zeros), (12, (0.3 * all as f64) as usize));
    let of = |path: &str| weights(&model).into_iter().find(|(at, _)| at == path).unwrap().1;
    let least = |weight: Tensor| weight.abs().masked_select(&weight.ne(0.0)).min().double_value(&[]);
    let most_gone = thinned
        .iter()
        .map(|one| least(of(one.at.as_str())))
        .fold(f64::INFINITY, f64::min);
    let zeros = model_weights_below(most_gone, &config);
    assert_eq!(zeros, thinned.iter().map(|one| one.num_zeros).sum::<usize>());
}

/// How many weights of the chosen matrices were smaller than `limit`.
fn model_weights_below(limit: f64, config: &PruneConfig) -> usize {
    let is_chosen = |at: &str| {
        at.starts_with("model.layers")
            && at.ends_with("_proj")
            && !config.exclude_modules.iter().any(|name| at.ends_with(name))
    };
    let chosen = weights(&model()).into_iter().filter(|(at, _)| is_chosen(at));
    chosen
        .map(|(_, weight)| weight.abs().lt(limit).sum(Kind::Int64).int64_value(&[]) as usize)
        .sum()
}

#[test]
fn a_recipe_s_words_make_a_config() {
    let config: PruneConfig = toml::from_str("method = \"sparsegpt\"\npattern = \"2:4\"\ndamping = 0.1").unwrap();
    let plain = PruneConfig::new(Method::SparseGpt, Sparsity::Pattern("2:4".parse().unwrap()));
    assert_eq!(
        config,
        PruneConfig {
            damping: Some(0.1),
            ..plain
        }
    );
    assert!(toml::from_str::<PruneConfig>("method = \"wanda\"\nsparsty = 0.5").is_err());
    let error = toml::from_str::<PruneConfig>("method = \"wanda\"\npattern = \"4:2\"")
        .unwrap_err()
        .to_string();
    assert!(error.contains("4 zeros in every 2 inputs"), "{error}");
}

#[test]
fn what_cannot_be_pruned_says_where_and_why() {
    let golden = Vectors::open("prune/model");
    let of = |config: PruneConfig| pruned(&config, &golden).unwrap_err().to_string();
    let wanda = PruneConfig::new(Method::Wanda, Sparsity::Pattern("2:5".parse().unwrap()));
    let error = of(wanda);
    assert!(
        error.contains("`model.layers.0.self_attn.q_proj`") && error.contains("5 divides, found 32"),
        "{error}"
    );
    let config = PruneConfig {
        target_modules: vec!["q_prj".into()],
        ..PruneConfig::new(Method::Magnitude, Sparsity::Share(0.5))
    };
    let error = of(config);
    assert!(error.contains("did you mean `q_proj`"), "{error}");
    let plan = PruneConfig::new(Method::Wanda, Sparsity::Share(0.5)).plan().unwrap();
    let mut operate =
        |model: Decoder, surgeon: &mut tensor_core::ProjectionSurgeon| Ok(model.map_projections(surgeon)?);
    let error = prune(model(), &plan, None, &mut operate, &mut |_| ())
        .unwrap_err()
        .to_string();
    assert!(error.contains("`calibration`: is missing"), "{error}");
}
