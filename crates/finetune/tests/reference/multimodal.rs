//! Adapters of the text model of a multimodal Gemma 3, as PEFT names their modules: read, and written so.

use checkpoint::{PeftConfig, Safetensors};
use events::Events;
use golden::Vectors;
use lora::{LoraConfig, TargetModules};
use methods::peft::Adapter;
use methods::peft::save_adapter;
use models::Source;
use models::machine::Machine;
use tch::{Device, Kind};
use tensor_core::{Documents, ModulePath};

const MACHINE: Machine = Machine {
    device: Device::Cpu,
    kind: Kind::Float,
};

fn base() -> Source {
    let path = golden::vectors_dir().join("multimodal/base");
    Source::open(&path.display().to_string(), &Events::none()).expect("a multimodal model")
}

fn check(adapter: &Adapter, golden: &Vectors) {
    let model = adapter
        .place(base().decoder(MACHINE).expect("weights"))
        .expect("placed");
    for n in 0..3 {
        let tokens = golden.get(&format!("tokens.{n}"));
        let ours = model.logits(&tokens, &Documents::new(&[tokens.size()[0] as usize]));
        let theirs = golden.get(&format!("logits.{n}"));
        golden::assert_close(&format!("logits.{n}"), &ours, &theirs, 1e-4, 1e-4);
    }
}

#[test]
fn an_adapter_of_a_multimodal_model_s_text_model_computes_what_peft_computes() {
    let adapter = Adapter::open(&golden::vectors_dir().join("multimodal/text")).expect("an adapter");
    assert!(adapter.remarks().is_empty(), "{:?}", adapter.remarks());
    check(&adapter, &Vectors::open("multimodal/text"));
}

#[test]
fn updates_of_the_vision_tower_are_told_and_change_no_text() {
    let adapter = Adapter::open(&golden::vectors_dir().join("multimodal/everything")).expect("an adapter");
    let told = adapter.remarks().concat();
    assert!(told.contains("tensors of the vision tower are left out"), "{told}");
    check(&adapter, &Vectors::open("multimodal/everything"));
}

#[test]
fn an_adapter_for_a_multimodal_model_is_written_under_the_names_that_peft_looks_for() {
    assert!(base().dir().config().is_of_multimodal);
    let theirs = golden::vectors_dir().join("multimodal/text");
    let names = |folder: &std::path::Path| -> Vec<String> {
        let file = Safetensors::open(&folder.join("adapter_model.safetensors")).expect("weights");
        file.names().map(str::to_owned).collect()
    };
    // The same adapter under the text model's own names, as training holds it.
    let adapter = Adapter::open(&theirs).expect("an adapter");
    let tensors = adapter.tensors().iter();
    let plain: lora::Tensors = tensors
        .map(|(name, tensor)| (name.replace("model.language_model.", "model."), tensor.shallow_clone()))
        .collect();
    let config = LoraConfig {
        target_modules: TargetModules::Many(vec!["q_proj".into(), "up_proj".into()]),
        ..adapter.config().clone()
    };
    let (config, tensors) = lora::in_multimodal(config, plain).expect("renamed");
    let targets: Vec<ModulePath> = Vec::new();
    let folder = tempfile::tempdir().expect("a folder");
    let file = lora::to_peft_config(&config, None, "CAUSAL_LM", &targets);
    save_adapter(folder.path(), file, &tensors).expect("written");
    assert_eq!(names(folder.path()), names(&theirs));
    let written = PeftConfig::open(&folder.path().join("adapter_config.json")).expect("read");
    let text = written.to_json();
    // Whole paths, so that the vision tower's projections of the same name are not chosen.
    assert!(
        text.contains("\"model.language_model.layers.0.self_attn.q_proj\"") && !text.contains("\"q_proj\""),
        "{text}"
    );
    let again = Adapter::open(folder.path()).expect("read again");
    check(&again, &Vectors::open("multimodal/text"));
}
