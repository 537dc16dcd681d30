//! PEFT's DoRA adapters: read with its logits and gradients, written with its bytes.

use checkpoint::ModelDir;
use decoder::Decoder;
use dora::{DoraConfig, Placement, Wrapping, from_peft_config, still_factors, targeted, to_peft_config};
use golden::{Vectors, assert_close, vectors_dir};
use lora::{LoraConfig, TargetModules};
use serde_json::{Map, Value};
use tch::{Device, Kind, Tensor};
use tensor_core::{
    Checkpointing, CheckpointingPolicy, Documents, DropoutKey, LanguageModel, Loss, ModelPass, ModulePath, named_params,
};

const NAMES: [&str; 2] = ["all-linear", "patterns"];

fn base() -> Decoder {
    let dir = ModelDir::open(&vectors_dir().join("families/llama-biases")).expect("vectors open");
    Decoder::load(&dir, Device::Cpu, Kind::Float).expect("loaded")
}

fn file(name: &str) -> Map<String, Value> {
    let value = golden::json(&format!("dora/{name}/adapter_config"));
    value.as_object().expect("an object").clone()
}

fn tensors(name: &str) -> Vec<(String, Tensor)> {
    let path = vectors_dir().join("dora").join(name).join("adapter_model.safetensors");
    Vectors::open_file(&path).under("").into_iter().collect()
}

fn placed(name: &str, tensors: Vec<(String, Tensor)>) -> lora::Result<Decoder> {
    let (config, use_dora) = from_peft_config(&file(name))?;
    assert!(use_dora);
    let placement = Placement::new(config, use_dora, tensors)?;
    let core = |error| match error {
        decoder::Error::Core(error) => lora::Error::Core(error),
        other => panic!("{other}"),
    };
    let model = base()
        .map_projections(&mut |at, base| placement.projection(at, base))
        .map_err(core)?
        .map_embedding(&mut |at, base| placement.table(at, base))
        .map_err(core)?;
    placement.finish()?;
    Ok(model)
}

fn logits(model: &Decoder, tokens: &Tensor) -> Tensor {
    model.logits(tokens, &Documents::new(&[tokens.size()[0] as usize]))
}

/// Logits of size ten after two layers of sums in f32.
const NEAR: f64 = 2e-4;

#[test]
fn an_adapter_of_peft_has_peft_s_logits_alone_and_merged() {
    for name in NAMES {
        let golden = Vectors::open(&format!("dora/{name}"));
        let model = placed(name, tensors(name)).expect("placed");
        let merged = placed(name, tensors(name)).expect("placed").merge().expect("merged");
        for n in 0..3 {
            let tokens = golden.get(&format!("tokens.{n}"));
            let wanted = golden.get(&format!("logits.{n}"));
            assert_close(&format!("{name} {n}"), &logits(&model, &tokens), &wanted, NEAR, NEAR);
            let wanted = golden.get(&format!("merged.logits.{n}"));
            assert_close(
                &format!("{name} {n} merged"),
                &logits(&merged, &tokens),
                &wanted,
                NEAR,
                NEAR,
            );
        }
        let held: std::collections::BTreeMap<_, _> = merged.named_tensors().expect("plain").into_iter().collect();
        let wanted = golden.under("merged.model.");
        assert_eq!(wanted.len(), 14);
        for (path, wanted) in wanted {
            assert_close(&path, &held[&format!("model.{path}")], &wanted, 1e-6, 1e-6);
        }
    }
}

#[test]
fn its_loss_and_gradients_are_peft_s() {
    for name in NAMES {
        let golden = Vectors::open(&format!("dora/{name}"));
        let model = placed(name, tensors(name)).expect("placed");
        for treatment in [Checkpointing::Keep, Checkpointing::Recompute] {
            let plan = CheckpointingPolicy::uniform(treatment, model.num_blocks());
            let mut total = 0.0;
            for n in 0..3 {
                let policy = ModelPass::train(&model, &plan, DropoutKey(1));
                let tokens = golden.get(&format!("tokens.{n}"));
                // The last position has no next token.
                let targets = tokens.roll([-1i64].as_slice(), [0i64].as_slice());
                let _ = targets.get(tokens.size()[0] - 1).fill_(-100);
                let documents = Documents::new(&[tokens.size()[0] as usize]);
                let sum = decoder::loss::language_model_loss(&policy, &tokens, &targets, &documents).expect("fits");
                total += sum.double_value(&[]);
                policy.backward(&Loss::of(sum), 1.0, 1.0).expect("a backward pass");
            }
            let wanted = golden.number("loss");
            assert!(
                (total / wanted - 1.0).abs() < 1e-5,
                "{name}: {total} instead of {wanted}"
            );
            let mut met = 0;
            for (at, param) in named_params(&model).iter().filter(|(_, param)| param.is_trainable()) {
                let wanted = golden.get(&format!("grad.base_model.model.{at}"));
                // Sums over thirty positions of products through two layers.
                let largest = wanted.abs().max().double_value(&[]);
                assert_close(
                    at.as_str(),
                    &param.value().grad(),
                    &wanted,
                    1e-3,
                    1e-4 * largest.max(1.0),
                );
                param.value().shallow_clone().zero_grad();
                met += 1;
            }
            assert_eq!(met, golden.under("grad.").len(), "{name}");
        }
    }
}

#[test]
fn what_was_read_is_written_as_peft_wrote_it() {
    for name in NAMES {
        let (lora, _) = from_peft_config(&file(name)).expect("read");
        let model = placed(name, tensors(name)).expect("placed");
        let written = lora::adapter_tensors(&model);
        // PEFT keeps a copy of an output layer's base beside its update.
        let mut read = tensors(name);
        read.retain(|(key, _)| !key.ends_with(".base_layer.weight"));
        assert_eq!(written.len(), read.len());
        for (key, wanted) in read {
            let (_, ours) = written.iter().find(|(found, _)| *found == key).expect("the same names");
            assert_eq!(*ours, wanted, "{name} {key}");
        }
        let config = DoraConfig {
            lora,
            ..DoraConfig::default()
        };
        let ours = to_peft_config(&config, None, "CAUSAL_LM", &[]);
        let theirs = file(name);
        for key in [
            "use_dora",
            "r",
            "lora_alpha",
            "target_modules",
            "rank_pattern",
            "alpha_pattern",
            "use_rslora",
        ] {
            assert_eq!(ours[key], theirs[key], "{name} {key}");
        }
    }
}

#[test]
fn magnitudes_alone_are_written_so_that_peft_reads_them() {
    let config = DoraConfig {
        lora: LoraConfig {
            r: 2,
            target_modules: TargetModules::Many(vec!["q_proj".into()]),
            layers_to_transform: Some(vec![1]),
            ..LoraConfig::default()
        },
        magnitude_only_modules: Some(TargetModules::Many(vec!["up_proj".into(), "lm_head".into()])),
        ..DoraConfig::default()
    };
    let model = base();
    let wrapping = Wrapping::choose(&config, &model.projection_paths(), &[]).expect("modules match");
    assert_eq!(
        (wrapping.decomposed().count(), wrapping.magnitude_only().count()),
        (1, 3)
    );
    let model = model
        .map_projections(&mut |at, base| wrapping.projection(at, base))
        .expect("wrapped");
    // A step moves every magnitude.
    tch::no_grad(|| {
        for (at, param) in named_params(&model).iter().filter(|(_, param)| param.is_trainable()) {
            let _ = param
                .value()
                .shallow_clone()
                .g_mul_scalar_(1.0 + 0.01 * at.as_str().len() as f64);
        }
    });
    let mut written = lora::adapter_tensors(&model);
    assert_eq!(written.len(), 3 + 3);
    let shapes = [
        ("model.layers.0.mlp.up_proj", [56, 32]),
        ("model.layers.1.mlp.up_proj", [56, 32]),
        ("lm_head", [97, 32]),
    ];
    for (at, shape) in shapes {
        written.extend(still_factors(&ModulePath::from(at), 2, shape));
    }
    let targets: Vec<_> = wrapping
        .decomposed()
        .chain(wrapping.magnitude_only())
        .cloned()
        .collect();
    let config = DoraConfig {
        lora: lora::as_written(&targeted(&config, &targets), &written).expect("patterns compile"),
        ..config
    };
    let file = to_peft_config(&config, None, "CAUSAL_LM", &targets);
    assert_eq!(
        (
            file["target_modules"].as_array().map(Vec::len),
            &file["layers_to_transform"]
        ),
        (Some(4), &Value::Null)
    );
    let (read, use_dora) = from_peft_config(&file).expect("its own file");
    let placement = Placement::new(read, use_dora, written).expect("fits");
    let again = base()
        .map_projections(&mut |at, base| placement.projection(at, base))
        .expect("placed");
    placement.finish().expect("all placed");
    let tokens = Tensor::from_slice(&[5i64, 40, 33, 21, 90]);
    assert_eq!(logits(&again, &tokens), logits(&model, &tokens));
    assert_ne!(logits(&again, &tokens), logits(&base(), &tokens));
    let trained = |model: &Decoder| {
        named_params(model)
            .iter()
            .filter(|(_, param)| param.is_trainable())
            .count()
    };
    assert_eq!(trained(&again), trained(&model), "zero factors are not trained");
}

#[test]
fn half_an_adapter_and_another_model_s_are_refused() {
    let without = |part: &str| {
        let all = tensors("all-linear").into_iter();
        all.filter(|(key, _)| !key.contains(&format!("layers.1.mlp.up_proj.{part}")))
            .collect::<Vec<_>>()
    };
    let error = |tensors| placed("all-linear", tensors).expect_err("refused").to_string();
    let found = error(without("lora_magnitude"));
    assert!(found.contains("without lora_magnitude_vector"), "{found}");
    let mut longer = tensors("all-linear");
    for (key, value) in &mut longer {
        if key.ends_with("layers.0.mlp.up_proj.lora_magnitude_vector") {
            *value = Tensor::cat(&[&*value, &*value], 0);
        }
    }
    let found = error(longer);
    assert!(found.contains("[112]") && found.contains("[56]"), "{found}");
    let mut elsewhere = tensors("all-linear");
    elsewhere.push((
        "base_model.model.model.layers.9.mlp.up_proj.lora_magnitude_vector".into(),
        Tensor::from_slice(&[1.0f32]),
    ));
    let found = error(elsewhere);
    assert!(found.contains("`model.layers.9.mlp.up_proj`"), "{found}");
    // Magnitudes in an adapter that does not speak of DoRA.
    let plain = Placement::new(LoraConfig::default(), false, tensors("all-linear"));
    assert!(plain.unwrap_err().to_string().contains("lora_magnitude_vector"));
}

#[test]
fn options_that_cannot_be_are_refused_with_a_hint() {
    let model = base();
    let choose = |config: DoraConfig, tables: &[ModulePath]| {
        Wrapping::choose(&config, &model.projection_paths(), tables)
            .expect_err("refused")
            .to_string()
    };
    let table = ModulePath::from("model.embed_tokens");
    let many = |name: &str| TargetModules::Many(vec![name.into()]);
    let found = choose(
        DoraConfig {
            lora: LoraConfig {
                target_modules: many("embed_tokens"),
                ..LoraConfig::default()
            },
            ..DoraConfig::default()
        },
        &[table],
    );
    assert!(
        found.contains("`model.embed_tokens`") && found.contains("hint"),
        "{found}"
    );
    let magnitude_only = |modules: TargetModules, saved: &[&str]| DoraConfig {
        lora: LoraConfig {
            modules_to_save: saved.iter().map(ToString::to_string).collect(),
            ..LoraConfig::default()
        },
        magnitude_only_modules: Some(modules),
        ..DoraConfig::default()
    };
    let found = choose(magnitude_only(many("up_prj"), &[]), &[]);
    assert!(
        found.contains("`magnitude_only_modules`") && found.contains("did you mean `up_proj`"),
        "{found}"
    );
    let found = choose(magnitude_only(many("lm_head"), &["lm_head"]), &[]);
    assert!(found.contains("`lm_head`") && found.contains("trains whole"), "{found}");
    let found = choose(magnitude_only(TargetModules::Many(vec![]), &[]), &[]);
    assert!(found.contains("an empty list"), "{found}");
}
