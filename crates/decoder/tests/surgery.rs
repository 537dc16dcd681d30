//! Surgery and its laws: what is wrapped, merged, trained, replaced and saved.

mod parts;

use checkpoint::{ModelDir, SaveOptions};
use decoder::{Decoder, Error, HeadKind, projection_paths};
use parts::{RankOne, load, load_dir};
use tch::{Device, Kind, Tensor};
use tensor_core::{
    Checkpointing, CheckpointingPolicy, Dense, Documents, DropoutKey, LanguageModel, Loss, ModelPass, ModulePath,
    Param, Parameters, Projection, Role, named_params, num_params,
};

const TOKENS: [i64; 9] = [5, 40, 33, 21, 90, 7, 64, 12, 3];

fn logits(model: &Decoder) -> Tensor {
    model.logits(&Tensor::from_slice(&TOKENS), &Documents::new(&[5, 4]))
}

fn paths(model: &Decoder) -> Vec<String> {
    named_params(model).iter().map(|(at, _)| at.to_string()).collect()
}

fn wrapped(model: Decoder) -> Decoder {
    model
        .map_projections(&mut |_, projection| Ok(Box::new(RankOne::beside(projection))))
        .expect("plain matrices")
}

#[test]
fn surgery_meets_every_projection_in_order_and_the_head_last() {
    for name in ["llama-tied", "qwen2-tied", "gemma3", "llama-classifier-3"] {
        let mut met = Vec::new();
        let model = load(name)
            .map_projections(&mut |at, projection| {
                met.push(at.clone());
                Ok(projection)
            })
            .expect("nothing refused");
        let (wanted, outputs): (Vec<_>, Vec<_>) = model.projection_paths().into_iter().unzip();
        assert_eq!(met, wanted);
        assert_eq!(met.len(), model.num_blocks() * 7 + 1);
        assert_eq!(outputs.iter().filter(|output| **output).count(), 1);
        assert_eq!(outputs.last(), Some(&true));
    }
}

#[test]
fn paths_are_the_checkpoints_own_and_each_storage_is_shown_once() {
    for name in [
        "llama-tied",
        "llama-untied",
        "llama-biases",
        "qwen3-tied",
        "gemma3",
        "llama-scalar",
    ] {
        let model = load(name);
        let mut ours = paths(&model);
        let mut theirs: Vec<String> = model.config().tensors().into_iter().map(|(name, _)| name).collect();
        ours.sort();
        theirs.sort();
        assert_eq!(ours, theirs, "{name}");
    }
}

#[test]
fn sublayers_are_replaced_under_their_paths() {
    let mut met = Vec::new();
    let model = load("llama-tied");
    let before = logits(&model);
    let model = model
        .map_sublayers(&mut |at, sublayer| {
            met.push(at.to_string());
            Ok(sublayer)
        })
        .expect("nothing refused");
    assert_eq!(met[..2], ["model.layers.0.self_attn", "model.layers.0.mlp"]);
    assert_eq!(met.len(), 4);
    assert_eq!(logits(&model), before);
}

#[test]
fn merging_changes_nothing_and_unties_what_differs() {
    let model = wrapped(load("llama-tied"));
    let before = logits(&model);
    assert!(matches!(model.named_tensors(), Err(Error::NotMerged { .. })));
    let merged = model.merge().expect("merged");
    golden::assert_close("merged", &logits(&merged), &before, 1e-4, 1e-4);
    assert!(!merged.is_tied() && !merged.saved_config().tie_word_embeddings);
    assert_eq!(
        merged.named_tensors().expect("plain").last().expect("tensors").0,
        "lm_head.weight"
    );
}

#[test]
fn adapters_off_equal_the_base_bit_for_bit() {
    let base = load("qwen2-tied");
    let tokens = Tensor::from_slice(&TOKENS);
    let documents = Documents::new(&[5, 4]);
    let plan = CheckpointingPolicy::uniform(Checkpointing::Keep, base.num_blocks());
    let wanted = ModelPass::evaluate(&base, &plan).hidden(&tokens, &documents);
    let model = wrapped(base);
    assert_eq!(
        ModelPass::evaluate(&model, &plan).reference_hidden(&tokens, &documents),
        wanted
    );
    assert_ne!(ModelPass::evaluate(&model, &plan).hidden(&tokens, &documents), wanted);
}

#[test]
fn a_gain_beside_a_norm_s_own_goes_with_the_adapters_and_merges() {
    for (name, count) in [("llama-tied", 5), ("gemma3", 13)] {
        let base = load(name);
        let tokens = Tensor::from_slice(&TOKENS);
        let documents = Documents::new(&[5, 4]);
        let plan = CheckpointingPolicy::uniform(Checkpointing::Keep, base.num_blocks());
        let wanted = ModelPass::evaluate(&base, &plan).hidden(&tokens, &documents);
        let stored = paths(&base);
        let mut met = Vec::new();
        let model = base
            .map_norms(&mut |at, norm| {
                met.push(at.join("weight").to_string());
                let gain = norm.weight().value() * 1.5;
                Ok(norm.with_trained(Param::trainable(&gain, Role::Adapter)))
            })
            .expect("nothing refused");
        // Every norm of the stream; those of queries and keys belong to their layer.
        let norms = stored.into_iter().filter(|at| at.ends_with("norm.weight"));
        let mut theirs: Vec<String> = norms.filter(|at| !at.contains("self_attn")).collect();
        met.sort();
        theirs.sort();
        assert_eq!((&met, met.len()), (&theirs, count), "{name}");
        let policy = ModelPass::evaluate(&model, &plan);
        assert_eq!(policy.reference_hidden(&tokens, &documents), wanted, "{name}");
        assert_ne!(policy.hidden(&tokens, &documents), wanted, "{name}");
        let beside = paths(&model)
            .into_iter()
            .filter(|at| at.contains("norm.modules_to_save."));
        assert_eq!(beside.count(), met.len(), "{name}");
        assert!(matches!(model.named_tensors(), Err(Error::NotMerged { .. })));
        let before = logits(&model);
        let merged = model.merge().expect("merged");
        assert_eq!(logits(&merged), before, "{name}");
        assert!(merged.named_tensors().is_ok() && num_params(&merged).1 == 0, "{name}");
    }
}

#[test]
fn what_trains_is_chosen_by_path_and_role() {
    let model = load("llama-tied")
        .train_where(|_, role| role == Role::Norm)
        .expect("norms");
    let trained: Vec<String> = named_params(&model)
        .into_iter()
        .filter(|(_, param)| param.is_trainable())
        .map(|(at, _)| at.to_string())
        .collect();
    assert_eq!(trained.len(), 5);
    assert!(trained.iter().all(|at| at.ends_with("norm.weight")), "{trained:?}");

    let model = load("llama-tied").train_where(|at, _| at.name() == "nothing");
    assert!(
        model
            .unwrap_err()
            .to_string()
            .contains("such as `model.embed_tokens.weight`")
    );
}

#[test]
fn a_tied_head_stays_tied_when_it_trains() {
    let model = load("llama-tied")
        .train_where(|_, role| role == Role::Embedding)
        .expect("an embedding");
    assert!(model.is_tied());
    let table = 97 * 32;
    assert_eq!(num_params(&model).1, table);
    // A step moves the embedding and the head alike.
    tch::no_grad(|| {
        model.visit(&ModulePath::root(), &mut |_, param| {
            if param.is_trainable() {
                let _ = param.value().shallow_clone().g_mul_scalar_(2.0);
            }
        });
    });
    let golden = load("llama-tied").embedding().weight();
    assert_eq!(model.embedding().weight(), &golden * 2.0);
    assert_eq!(model.head().projection().weight(), golden * 2.0);
    assert!(model.is_tied() && model.saved_config().tie_word_embeddings);
}

#[test]
fn recomputing_equals_keeping_bit_for_bit() {
    for name in ["llama-tied", "mistral-window", "gemma3"] {
        let gradients = |treatment| {
            let model = load(name).train_where(|_, _| true).expect("all");
            let plan = CheckpointingPolicy::uniform(treatment, model.num_blocks());
            let policy = ModelPass::train(&model, &plan, DropoutKey(1));
            let tokens = Tensor::from_slice(&TOKENS);
            let targets = tokens.roll([-1i64].as_slice(), [0i64].as_slice());
            let sum =
                decoder::loss::language_model_loss(&policy, &tokens, &targets, &Documents::new(&[9])).expect("fits");
            policy.backward(&Loss::of(sum), 0.25, 1.0).expect("a backward pass");
            let params = named_params(&model).into_iter();
            params.map(|(at, param)| (at, param.value().grad())).collect::<Vec<_>>()
        };
        let (kept, recomputed) = (gradients(Checkpointing::Keep), gradients(Checkpointing::Recompute));
        assert!(kept.len() > 15);
        for ((at, kept), (_, recomputed)) in kept.iter().zip(&recomputed) {
            assert!(kept.abs().sum(Kind::Double).double_value(&[]) > 0.0, "{name} {at}");
            assert_eq!(kept, recomputed, "{name} {at}");
        }
    }
}

#[test]
fn a_new_head_trains_and_is_the_same_for_the_same_seed() {
    let labels = || HeadKind::Classification {
        labels: vec!["no".into(), "yes".into()],
    };
    let head = |seed| {
        let model = load("llama-tied").replace_head(labels(), seed).expect("replaced");
        model.head().projection().weight()
    };
    assert_eq!(head(3), head(3));
    assert_ne!(head(3), head(4));
    let model = load("llama-tied").replace_head(labels(), 3).expect("replaced");
    assert_eq!(num_params(&model).1, 2 * 32);
    assert_eq!(paths(&model).last().map(String::as_str), Some("score.weight"));
    let scores = model.classify(&Tensor::from_slice(&TOKENS), &Documents::new(&[5, 4]));
    assert_eq!(scores.size(), [2, 2]);
    let config = model.saved_config();
    assert_eq!(config.labels, ["no", "yes"]);
    assert_eq!(config.raw()["architectures"][0], "LlamaForSequenceClassification");

    let none = HeadKind::Classification { labels: vec![] };
    assert!(matches!(load("llama-tied").replace_head(none, 0), Err(Error::NoLabels)));
    let back = model.replace_head(HeadKind::LanguageModel, 0).expect("replaced");
    assert_eq!(
        (back.head().projection().weight().size(), back.is_tied()),
        (vec![97, 32], false)
    );
}

#[test]
fn a_surgeon_meets_each_projection_while_loading() {
    let dir = ModelDir::open(&golden::vectors_dir().join("families/llama-untied")).expect("vectors open");
    let mut met = Vec::new();
    let model = Decoder::load_with(&dir, Device::Cpu, Kind::Float, &mut |at, projection| {
        met.push(at.clone());
        Ok(Box::new(RankOne::beside(projection)))
    })
    .expect("loaded");
    let wanted: Vec<ModulePath> = projection_paths(dir.config()).into_iter().map(|(at, _)| at).collect();
    assert_eq!(met, wanted);
    assert_eq!(logits(&model), logits(&wrapped(load("llama-untied"))));
}

#[test]
fn a_source_makes_projections_before_they_are_read() {
    let dir = ModelDir::open(&golden::vectors_dir().join("families/llama-biases")).expect("vectors open");
    let mut asked = Vec::new();
    let mut doubled = |at: &ModulePath| {
        asked.push(at.clone());
        if at.name() != "up_proj" {
            return Ok(None);
        }
        let weight = dir.tensor(at.join("weight").as_str())? * 2.0;
        Ok(Some(
            Box::new(Dense::new(Param::frozen(weight, Role::Base))) as Box<dyn Projection>
        ))
    };
    let mut met = Vec::new();
    let mut meet = |at: &ModulePath, projection: Box<dyn Projection>| {
        met.push((at.clone(), projection.weight()));
        Ok(projection)
    };
    let model = Decoder::load_from(&dir, Device::Cpu, Kind::Float, &mut doubled, &mut meet).expect("loaded");
    assert_eq!(
        asked.iter().collect::<Vec<_>>(),
        met.iter().map(|(at, _)| at).collect::<Vec<_>>()
    );
    for (at, weight) in &met {
        let read = dir.tensor(at.join("weight").as_str()).expect("it is there");
        let wanted = if at.name() == "up_proj" { read * 2.0 } else { read };
        assert!(weight.equal(&wanted), "{at}");
    }
    // The bias is the slot's, wherever the projection comes from.
    assert_ne!(logits(&model), logits(&load("llama-biases")));
    let biases = named_params(&model)
        .iter()
        .filter(|(at, _)| at.name() == "bias")
        .count();
    let all = named_params(&load("llama-biases"))
        .iter()
        .filter(|(at, _)| at.name() == "bias")
        .count();
    assert_eq!(biases, all);
}

#[test]
fn a_saved_model_loads_again_bit_for_bit() {
    for name in ["llama-tied", "llama-biases", "qwen2-window", "gemma3", "llama-scalar"] {
        let model = load(name);
        let folder = tempfile::tempdir().expect("a temporary folder");
        model.save(folder.path(), &SaveOptions::default()).expect("saved");
        let again = load_dir(folder.path(), Kind::Float);
        assert_eq!(logits(&again), logits(&model), "{name}");
        assert_eq!(
            (again.head_kind(), again.is_tied()),
            (model.head_kind(), model.is_tied())
        );
    }
    // A tied model whose head was adapted is no longer tied.
    let merged = wrapped(load("llama-tied")).merge().expect("merged");
    let folder = tempfile::tempdir().expect("a temporary folder");
    merged.save(folder.path(), &SaveOptions::default()).expect("saved");
    assert_eq!(logits(&load_dir(folder.path(), Kind::Float)), logits(&merged));
    let taken = merged
        .save(folder.path(), &SaveOptions::default())
        .unwrap_err()
        .to_string();
    assert!(taken.contains("is there already"), "{taken}");
}

#[test]
fn bf16_stays_near_f32() {
    for name in ["llama-biases", "qwen3-tied", "gemma3"] {
        let folder = golden::vectors_dir().join("families").join(name);
        let (wide, narrow) = (load_dir(&folder, Kind::Float), load_dir(&folder, Kind::BFloat16));
        let (wide, narrow) = (logits(&wide), logits(&narrow));
        let similarity = wide.flatten(0, -1).dot(&narrow.flatten(0, -1)) / (wide.norm() * narrow.norm());
        // Eight bits of mantissa through three layers.
        assert!(similarity.double_value(&[]) > 0.999, "{name}: {similarity:?}");
    }
}
