//! Adapters in whole models: where they stand, what they hold, and that they come back from their files.

use adapters::{AdapterConfig, Insertion, Placement, adapter_tensors};
use checkpoint::ModelDir;
use decoder::Decoder;
use tch::{Device, Kind, Tensor};
use tensor_core::{Documents, LanguageModel, ModulePath, Role, named_params, num_params};

fn base(name: &str) -> Decoder {
    let dir = ModelDir::open(&golden::vectors_dir().join("families").join(name)).expect("vectors open");
    Decoder::load(&dir, Device::Cpu, Kind::Float).expect("loaded")
}

fn config(text: &str) -> AdapterConfig {
    serde_json::from_str(text).expect("options")
}

fn adapted(model: Decoder, config: &AdapterConfig) -> Decoder {
    let (width, layers) = (model.config().hidden_size, model.num_blocks());
    let insertion = Insertion::new(config.clone(), width, layers, Device::Cpu).expect("fits");
    model
        .map_sublayers(&mut |at, inner| insertion.sublayer(at, inner))
        .expect("nothing refused")
}

fn logits(model: &Decoder) -> Tensor {
    let tokens = Tensor::from_slice(&[5i64, 40, 33, 21, 90, 7, 64, 12, 3]);
    model.logits(&tokens, &Documents::new(&[5, 4]))
}

const PLACEMENTS: [&str; 4] = [
    r#"{"config": "double_seq_bn", "reduction_factor": 5}"#,
    r#"{"config": "seq_bn", "reduction_factor": {"default": 4, "1": 7}, "scaling": "learned"}"#,
    r#"{"config": "par_bn"}"#,
    r#"{"config": "par_bn", "mh_adapter": true, "leave_out": [0], "non_linearity": "gelu"}"#,
];

#[test]
fn logits_at_step_0_are_the_base_s_and_the_count_is_the_formula_s() {
    for name in ["llama-tied", "qwen2-tied", "gemma3"] {
        for text in PLACEMENTS {
            let config = config(text);
            let model = adapted(base(name), &config);
            assert_eq!(logits(&model), logits(&base(name)), "{name} {text}");
            let wanted = config.num_parameters(model.config().hidden_size, model.num_blocks());
            assert_eq!(num_params(&model).1, wanted, "{name} {text}");
        }
    }
}

/// Moves everything that trains, as steps would.
fn moved(model: Decoder) -> Decoder {
    tch::no_grad(|| {
        for (at, param) in named_params(&model).iter().filter(|(_, param)| param.is_trainable()) {
            let mut value = param.value().shallow_clone();
            let noise = Tensor::arange(value.numel() as i64, (Kind::Float, Device::Cpu)) + at.as_str().len() as f64;
            value += noise.sin().view(value.size().as_slice()) * 0.2;
        }
    });
    model
}

#[test]
fn saved_adapters_come_back_bit_for_bit() {
    for text in PLACEMENTS {
        let config = config(text);
        let mut model = adapted(base("llama-untied"), &config);
        let trains_norms = text.contains("double");
        if trains_norms {
            model = model
                .train_where(|at, role| role == Role::Norm && at.as_str().ends_with("norm.weight"))
                .expect("norms");
        }
        let model = moved(model);
        let saved = adapter_tensors(&model);
        assert!(
            saved
                .iter()
                .all(|(name, _)| name.contains("_adapters.adapters.default.") || trains_norms)
        );
        let placement = Placement::new(config.clone(), saved, Device::Cpu);
        let width = model.config().hidden_size;
        let mut again = base("llama-untied")
            .map_sublayers(&mut |at, inner| placement.sublayer(at, inner, width))
            .expect("placed");
        let others: Vec<String> = placement.others().map(str::to_owned).collect();
        assert_eq!(others.len(), if trains_norms { 5 } else { 0 });
        if trains_norms {
            let named = |at: &ModulePath| others.iter().any(|name| name == at.as_str());
            again = again.train_where(|at, _| named(at)).expect("norms");
        }
        placement.fill(&again).expect("filled");
        placement.finish().expect("all placed");
        assert_eq!(logits(&again), logits(&model), "{text}");
        assert_ne!(logits(&again), logits(&base("llama-untied")), "{text}");
    }
}

#[test]
fn files_that_do_not_fit_are_refused() {
    let options = config(r#"{"config": "seq_bn", "reduction_factor": 4}"#);
    let saved = || adapter_tensors(&adapted(base("llama-untied"), &options));
    let place = |tensors: Vec<(String, Tensor)>| {
        let placement = Placement::new(options.clone(), tensors, Device::Cpu);
        let placed = base("llama-untied").map_sublayers(&mut |at, inner| placement.sublayer(at, inner, 32));
        let error = placed.map_err(|error| error.to_string()).err();
        error.or_else(|| placement.finish().map_err(|error| error.to_string()).err())
    };
    assert_eq!(place(saved()), None);
    let without: Vec<_> = saved()
        .into_iter()
        .filter(|(name, _)| !name.ends_with("1.output_adapters.adapters.default.adapter_up.bias"))
        .collect();
    let error = place(without).expect("refused");
    assert!(
        error.contains("`model.layers.1.mlp`") && error.contains("adapter_up.bias"),
        "{error}"
    );
    let mut other = saved();
    other[0].1 = Tensor::zeros([9, 32], (Kind::Float, Device::Cpu));
    let error = place(other).expect("refused");
    assert!(error.contains("[9, 32]") && error.contains("[8, 32]"), "{error}");
    let renamed = saved()
        .into_iter()
        .map(|(name, value)| (name.replace("layers.1", "layers.7"), value));
    let error = place(renamed.collect()).expect("refused");
    assert!(error.contains("`model.layers.7.mlp`"), "{error}");
}
