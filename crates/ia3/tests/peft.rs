//! PEFT's IA3 adapters: read with its logits and gradients, merged to its weights, written with its bytes.

use std::collections::BTreeMap;

use checkpoint::ModelDir;
use decoder::Decoder;
use golden::{Vectors, assert_close, vectors_dir};
use ia3::{Ia3Config, Placement, Side, Wrapping, adapter_tensors, from_peft_config, in_multimodal, to_peft_config};
use serde_json::{Map, Value, json};
use tch::{Device, Kind, Tensor};
use tensor_core::{
    Checkpointing, CheckpointingPolicy, Documents, DropoutKey, LanguageModel, Loss, ModelPass, named_params,
};

const NAMES: [&str; 3] = ["default", "everything", "pattern"];

/// Logits of size ten after two layers of sums in f32.
const NEAR: f64 = 2e-4;

fn base() -> Decoder {
    let dir = ModelDir::open(&vectors_dir().join("families/llama-biases")).expect("vectors open");
    Decoder::load(&dir, Device::Cpu, Kind::Float).expect("loaded")
}

fn file(name: &str) -> Map<String, Value> {
    let value = golden::json(&format!("ia3/{name}/adapter_config"));
    value.as_object().expect("an object").clone()
}

fn tensors(name: &str) -> Vec<(String, Tensor)> {
    let path = vectors_dir().join("ia3").join(name).join("adapter_model.safetensors");
    Vectors::open_file(&path).under("").into_iter().collect()
}

fn placed(config: &Ia3Config, tensors: Vec<(String, Tensor)>) -> ia3::Result<Decoder> {
    let placement = Placement::new(config, tensors)?;
    let model = base().map_projections(&mut |at, base| placement.projection(at, base));
    let model = model.map_err(|error| match error {
        decoder::Error::Core(error) => ia3::Error::Core(error),
        other => panic!("{other}"),
    })?;
    placement.finish()?;
    Ok(model)
}

fn read(name: &str) -> Decoder {
    placed(&from_peft_config(&file(name)).expect("read"), tensors(name)).expect("placed")
}

fn logits(model: &Decoder, tokens: &Tensor) -> Tensor {
    model.logits(tokens, &Documents::new(&[tokens.size()[0] as usize]))
}

#[test]
fn an_adapter_of_peft_has_peft_s_logits_alone_and_merged() {
    for name in NAMES {
        let golden = Vectors::open(&format!("ia3/{name}"));
        let (model, merged) = (read(name), read(name).merge().expect("merged"));
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
        let held: BTreeMap<_, _> = merged.named_tensors().expect("plain").into_iter().collect();
        let wanted = golden.under("merged.model.");
        assert!(wanted.len() > 14, "weights and biases");
        for (path, wanted) in wanted {
            assert_close(&path, &held[&format!("model.{path}")], &wanted, 1e-6, 1e-6);
        }
    }
}

#[test]
fn its_loss_and_gradients_are_peft_s() {
    for name in NAMES {
        let (golden, model) = (Vectors::open(&format!("ia3/{name}")), read(name));
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
        let config = from_peft_config(&file(name)).expect("read");
        let written = adapter_tensors(&read(name));
        let theirs = tensors(name);
        assert_eq!(written.len(), theirs.len());
        for (key, wanted) in theirs {
            let (_, ours) = written.iter().find(|(found, _)| *found == key).expect("the same names");
            assert_eq!(*ours, wanted, "{name} {key}");
        }
        let wrapping = Wrapping::choose(config.clone(), &base().projection_paths()).expect("chosen");
        let ours = to_peft_config(&config, None, "CAUSAL_LM", wrapping.chosen());
        assert_eq!(Value::Object(ours), Value::Object(file(name)), "{name}");
    }
}

#[test]
fn options_alone_choose_what_peft_chooses() {
    let wrapping = Wrapping::choose(Ia3Config::default(), &base().projection_paths()).expect("chosen");
    let ours: Vec<String> = wrapping
        .chosen()
        .map(|(at, _)| format!("base_model.model.{at}.ia3_l"))
        .collect();
    let theirs: Vec<String> = tensors("default").into_iter().map(|(key, _)| key).collect();
    assert_eq!(ours, theirs);
    let file = to_peft_config(&Ia3Config::default(), None, "CAUSAL_LM", wrapping.chosen());
    assert_eq!(Value::Object(file), Value::Object(self::file("default")));
    // Targets without `down_proj` leave no feed-forward module, which PEFT has to be told.
    let config = Ia3Config {
        target_modules: ia3::TargetModules::Many(vec!["q_proj".into()]),
        ..Ia3Config::default()
    };
    let wrapping = Wrapping::choose(config.clone(), &base().projection_paths()).expect("chosen");
    let file = to_peft_config(&config, None, "CAUSAL_LM", wrapping.chosen());
    assert_eq!(file["feedforward_modules"], json!([]));
    let again = from_peft_config(&file).expect("read");
    assert_eq!(
        again.side(&"model.layers.0.mlp.down_proj".into()).expect("compiles"),
        Side::Outputs
    );
}

#[test]
fn a_multimodal_model_s_names_are_read_and_written() {
    let config = from_peft_config(&file("default")).expect("read");
    let renamed = in_multimodal(tensors("default"));
    let first = "base_model.model.model.language_model.layers.0.mlp.down_proj.ia3_l";
    assert!(renamed.iter().any(|(key, _)| key == first), "{renamed:?}");
    placed(&config, renamed).expect("placed");
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let config = from_peft_config(&file("default")).expect("read");
    let error = |config: &Ia3Config, tensors| format!("{}", placed(config, tensors).expect_err("refused"));
    let mut foreign = tensors("default");
    foreign.push((
        "base_model.model.model.layers.0.mlp.up_proj.lora_A.weight".into(),
        Tensor::zeros([1, 1], (Kind::Float, Device::Cpu)),
    ));
    let text = error(&config, foreign);
    assert!(text.contains("lora_A") && text.contains("no `ia3_l`"), "{text}");
    let elsewhere = |from: &str, to: &str| {
        tensors("default")
            .into_iter()
            .map(|(key, one)| (key.replace(from, to), one))
            .collect()
    };
    let text = error(&config, elsewhere("layers.1", "layers.7"));
    assert!(text.contains("layers.7") && text.contains("no place"), "{text}");
    let text = error(&config, elsewhere("k_proj", "q_proj"));
    assert!(text.contains("q_proj") && text.contains("target_modules"), "{text}");
    let outputs = Ia3Config {
        feedforward_modules: Some(ia3::TargetModules::Many(Vec::new())),
        ..config.clone()
    };
    let text = format!("{:?}", placed(&outputs, tensors("default")).expect_err("refused"));
    assert!(text.contains("Shape") && text.contains("down_proj"), "{text}");

    let mut unknown = file("default");
    unknown.insert("fan_in_fan_out".into(), json!(true));
    let text = from_peft_config(&unknown).expect_err("refused").to_string();
    assert!(text.contains("`fan_in_fan_out` is true"), "{text}");
    let mut lora = file("default");
    lora.insert("peft_type".into(), json!("LORA"));
    let text = from_peft_config(&lora).expect_err("refused").to_string();
    assert!(text.contains("`peft_type` is \"LORA\""), "{text}");
}

#[test]
fn a_name_that_scales_nothing_is_refused() {
    let choose = |inputs: &str| {
        let config = Ia3Config {
            feedforward_modules: Some(ia3::TargetModules::One(inputs.into())),
            ..Ia3Config::default()
        };
        Wrapping::choose(config, &base().projection_paths()).map(drop)
    };
    choose(".*down_proj").expect("chosen");
    let text = choose(".*up_proj").expect_err("refused").to_string();
    assert!(
        text.contains("`feedforward_modules`") && text.contains("up_proj"),
        "{text}"
    );
}

#[test]
fn random_vectors_are_of_their_seed() {
    let numbers = |seed: u64| {
        let config = Ia3Config {
            init_ia3_weights: false,
            seed,
            ..Ia3Config::default()
        };
        let wrapping = Wrapping::choose(config, &base().projection_paths()).expect("chosen");
        let model = base()
            .map_projections(&mut |at, base| wrapping.projection(at, base))
            .expect("wrapped");
        adapter_tensors(&model)
    };
    let (one, again, other) = (numbers(1), numbers(1), numbers(2));
    assert_eq!(one, again);
    assert!(one.iter().zip(&other).all(|((_, a), (_, b))| a != b));
    let first: Vec<&Tensor> = one
        .iter()
        .map(|(_, tensor)| tensor)
        .filter(|tensor| tensor.size() == [1, 56])
        .collect();
    assert_ne!(first[0], first[1], "each module has numbers of its own");
}
