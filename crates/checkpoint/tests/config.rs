//! Both generations of `config.json` mean the same, defaults are Transformers', and what is not done is refused.

use std::path::{Path, PathBuf};

use checkpoint::{Activation, Dialect, Error, Family, LayerKind, ModelConfig, Output, Rope, RopeScaling};
use serde_json::{Value, json};

fn families() -> Vec<PathBuf> {
    let entries = |name: &str| std::fs::read_dir(golden::vectors_dir().join(name)).unwrap();
    let mut all: Vec<PathBuf> = entries("families")
        .chain(entries("moe"))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .collect();
    all.sort();
    assert!(all.len() >= 15);
    all
}

/// All fields but the file itself.
fn meaning(config: &ModelConfig) -> String {
    let text = format!("{config:?}");
    text.split(", path: ").next().unwrap().to_owned()
}

fn parse(value: Value) -> Result<ModelConfig, Error> {
    let Value::Object(object) = value else {
        panic!("an object")
    };
    ModelConfig::from_object(Path::new("config.json"), object)
}

#[test]
fn both_generations_mean_the_same() {
    for folder in families() {
        let new = ModelConfig::open(&folder.join("config.json")).unwrap();
        let old = ModelConfig::open(&folder.join("config.v4.json")).unwrap();
        assert_eq!(meaning(&new), meaning(&old), "{}", folder.display());
        assert_eq!((new.dialect(), old.dialect()), (Dialect::V5, Dialect::V4));
    }
}

#[test]
fn a_configuration_is_written_back_as_it_came() {
    for folder in families() {
        for name in ["config.json", "config.v4.json"] {
            let text = std::fs::read_to_string(folder.join(name)).unwrap();
            let config = ModelConfig::open(&folder.join(name)).unwrap();
            let same: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(Value::Object(config.raw().clone()), same);
            if name == "config.json" {
                assert_eq!(config.to_json(), text);
            }
            let changed = config.with_dtype(tch::Kind::BFloat16);
            let key = if name == "config.json" { "dtype" } else { "torch_dtype" };
            let mut wanted = same;
            wanted[key] = json!("bfloat16");
            assert_eq!(Value::Object(changed.raw().clone()), wanted);
        }
    }
}

#[test]
fn gemma_has_two_ropes_and_its_own_scales() {
    let config = ModelConfig::open(&golden::vectors_dir().join("families/gemma3-rope-linear/config.json")).unwrap();
    assert_eq!((config.family, config.output), (Family::Gemma3, Output::LanguageModel));
    assert_eq!(
        config.rope,
        Rope {
            theta: 100.0,
            scaling: RopeScaling::Linear { factor: 8.0 }
        }
    );
    assert_eq!(
        config.rope_sliding,
        Rope {
            theta: 10_000.0,
            scaling: RopeScaling::Default
        }
    );
    assert_eq!(
        config.layer_types,
        [LayerKind::Sliding, LayerKind::Sliding, LayerKind::Full]
    );
    assert_eq!(config.sliding_window, Some(4));
    assert_eq!(config.hidden_act, Activation::GeluTanh);
    assert!((config.attention_scale - 12f64.powf(-0.5)).abs() < 1e-15);
    assert!((config.embedding_scale.unwrap() - 32f64.sqrt()).abs() < 1e-15);
    assert!(config.qk_norm && config.post_norms && config.tie_word_embeddings && config.norm_offset == 1.0);
}

#[test]
fn yarn_infers_what_the_file_leaves_open() {
    let scaling = |name: &str| {
        let path = golden::vectors_dir().join(format!("families/llama-rope-yarn{name}/config.json"));
        ModelConfig::open(&path).unwrap().rope.scaling
    };
    // 0.1 ln 4 + 1.
    let inferred = 0.1 * 4f64.ln() + 1.0;
    let RopeScaling::Yarn {
        factor,
        original_max_position_embeddings,
        attention_factor,
        beta_fast,
        beta_slow,
        truncate,
    } = scaling("")
    else {
        panic!("yarn")
    };
    assert_eq!(
        (factor, original_max_position_embeddings, beta_fast, beta_slow, truncate),
        (4.0, 32.0, 32.0, 1.0, true)
    );
    assert!((attention_factor - inferred).abs() < 1e-15);
    let RopeScaling::Yarn {
        beta_fast,
        beta_slow,
        truncate,
        ..
    } = scaling("-betas")
    else {
        panic!("yarn")
    };
    assert_eq!((beta_fast, beta_slow, truncate), (4.0, 0.5, false));
    let RopeScaling::Yarn { attention_factor, .. } = scaling("-mscale") else {
        panic!("yarn")
    };
    assert!((attention_factor - inferred).abs() > 1e-3);
}

#[test]
fn absent_keys_have_the_family_s_defaults() {
    let of = |architecture: &str| parse(json!({"architectures": [architecture]})).unwrap();
    let llama = of("LlamaForCausalLM");
    assert_eq!(
        (llama.hidden_size, llama.num_key_value_heads, llama.head_dim),
        (4096, 32, 128)
    );
    assert_eq!(
        (llama.bos_token_id, llama.eos_token_ids.as_slice()),
        (Some(1), [2].as_slice())
    );
    assert_eq!(
        llama.rope,
        Rope {
            theta: 10_000.0,
            scaling: RopeScaling::Default
        }
    );
    assert_eq!(
        (llama.sliding_window, llama.qkv_bias, llama.tie_word_embeddings),
        (None, false, false)
    );
    let mistral = of("MistralForCausalLM");
    assert_eq!((mistral.num_key_value_heads, mistral.sliding_window), (8, Some(4096)));
    assert!(mistral.layer_types.iter().all(|kind| *kind == LayerKind::Sliding));
    let qwen2 = of("Qwen2ForCausalLM");
    assert_eq!(
        (qwen2.vocab_size, qwen2.qkv_bias, qwen2.o_bias, qwen2.sliding_window),
        (151_936, true, false, None)
    );
    assert_eq!((qwen2.bos_token_id, qwen2.eos_token_ids.len()), (None, 0));
    let qwen3 = of("Qwen3ForCausalLM");
    assert_eq!((qwen3.head_dim, qwen3.qk_norm, qwen3.qkv_bias), (128, true, false));
    let gemma = of("Gemma3ForCausalLM");
    assert_eq!(
        (gemma.head_dim, gemma.num_key_value_heads, gemma.vocab_size),
        (256, 4, 262_208)
    );
    assert_eq!(
        gemma
            .layer_types
            .iter()
            .filter(|kind| **kind == LayerKind::Full)
            .count(),
        4
    );
    assert_eq!((gemma.rope.theta, gemma.rope_sliding.theta), (1e6, 1e4));
    let classifier = of("Qwen2ForSequenceClassification");
    assert_eq!(
        (classifier.output, classifier.num_labels()),
        (Output::SequenceClassifier, 2)
    );
    // Null is not absent.
    let none =
        parse(json!({"architectures": ["LlamaForCausalLM"], "bos_token_id": null, "eos_token_id": [5, 6]})).unwrap();
    assert_eq!(
        (none.bos_token_id, none.eos_token_ids.as_slice()),
        (None, [5, 6].as_slice())
    );
}

#[test]
fn a_multimodal_gemma_is_its_text_model() {
    let config = parse(json!({
        "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "torch_dtype": "bfloat16",
        "eos_token_id": [1, 106], "vision_config": {"hidden_size": 1152},
        "text_config": {"model_type": "gemma3_text", "hidden_size": 2560, "num_hidden_layers": 34, "sliding_window": 1024,
            "rope_scaling": {"factor": 8.0, "rope_type": "linear"}},
    }))
    .unwrap();
    assert_eq!(
        (config.family, config.hidden_size, config.num_hidden_layers),
        (Family::Gemma3, 2560, 34)
    );
    assert_eq!(
        config.rope,
        Rope {
            theta: 1e6,
            scaling: RopeScaling::Linear { factor: 8.0 }
        }
    );
    assert_eq!(config.rope_sliding.scaling, RopeScaling::Default);
    assert_eq!(config.eos_token_ids, [1, 106]);
    assert_eq!(config.dtype, Some(tch::Kind::BFloat16));
    assert_eq!(config.raw()["architectures"], json!(["Gemma3ForCausalLM"]));
}

#[test]
fn a_classifier_is_made_of_a_language_model_and_back() {
    let config = ModelConfig::open(&golden::vectors_dir().join("families/llama-tied/config.json")).unwrap();
    let classifier = config
        .clone()
        .with_labels(vec!["no".into(), "yes".into(), "maybe".into()]);
    let again = parse(Value::Object(classifier.raw().clone())).unwrap();
    assert_eq!(
        (again.output, again.labels.as_slice()),
        (
            Output::SequenceClassifier,
            ["no", "yes", "maybe"].map(String::from).as_slice()
        )
    );
    assert!(
        classifier.raw().keys().is_sorted(),
        "new keys go where a sorted file has them"
    );
    assert_eq!(
        classifier.tensors().last().unwrap(),
        &("score.weight".to_owned(), vec![3, 32])
    );
    assert_eq!(classifier.as_language_model().to_json(), config.to_json());
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let llama = |key: &str, value: Value| {
        let mut object = json!({"architectures": ["LlamaForCausalLM"]});
        object[key] = value;
        object
    };
    for (config, wanted) in [
        (
            json!({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}),
            vec!["`GPT2LMHeadModel`", "Llama, Mistral, Qwen2, Qwen3, Gemma3"],
        ),
        (json!({"model_type": "dbrx"}), vec!["`model_type` = \"dbrx\""]),
        (
            json!({"model_type": "mixtral", "num_experts_per_tok": 9}),
            vec!["`num_experts_per_tok`", "at most the 8 experts", "9"],
        ),
        (json!({}), vec!["names no `architectures`"]),
        (
            llama("rope_scaling", json!({"type": "dynamic", "factor": 2.0})),
            vec!["\"dynamic\"", "yarn"],
        ),
        (
            llama("rope_scaling", json!({"type": "linear"})),
            vec!["`rope_scaling.factor`", "wanted a number above 0"],
        ),
        (
            llama(
                "rope_parameters",
                json!({"rope_type": "default", "partial_rotary_factor": 0.5}),
            ),
            vec!["partial_rotary_factor` = 0.5"],
        ),
        (
            llama("hidden_act", json!("relu")),
            vec!["`hidden_act` = \"relu\"", "silu"],
        ),
        (
            llama("quantization_config", json!({"quant_method": "gptq"})),
            vec!["quantization_config", "unquantised"],
        ),
        (
            llama(
                "quantization_config",
                json!({"quant_method": "fp8", "weight_block_size": [128, 128]}),
            ),
            vec!["quantization_config", "fp8"],
        ),
        (
            llama("hidden_size", json!("wide")),
            vec!["`hidden_size`", "whole number", "\"wide\""],
        ),
        (
            llama("num_hidden_layers", json!(1i64 << 30)),
            vec!["`num_hidden_layers`", "at most 2048", "1073741824"],
        ),
        (
            json!({"architectures": ["MixtralForCausalLM"], "num_hidden_layers": 2, "num_local_experts": 1 << 17}),
            vec!["`num_local_experts`", "at most 65536", "131072"],
        ),
        (
            llama("num_key_value_heads", json!(5)),
            vec!["`num_key_value_heads`", "divisor of 32", "5"],
        ),
        (
            llama("final_logit_softcapping", json!(30.0)),
            vec!["final_logit_softcapping"],
        ),
        (
            json!({"architectures": ["Qwen3ForCausalLM"], "num_hidden_layers": 2, "layer_types": ["full_attention"]}),
            vec!["`layer_types`", "2 of them", "1"],
        ),
        (
            json!({"architectures": ["Qwen3ForCausalLM"], "num_hidden_layers": 1, "layer_types": ["chunked_attention"]}),
            vec!["layer_types", "chunked_attention"],
        ),
    ] {
        let text = parse(config.clone()).unwrap_err().to_string();
        for part in wanted {
            assert!(text.contains(part), "{config}: wanted {part:?} in {text:?}");
        }
        assert!(text.contains("config.json"), "{text}");
    }
}

#[test]
fn experts_are_as_wide_as_the_family_says_and_in_the_layers_it_says() {
    let of = |name: &str| ModelConfig::open(&golden::vectors_dir().join("moe").join(name).join("config.json")).unwrap();
    let (mixtral, qwen2, qwen3) = (of("mixtral"), of("qwen2-moe"), of("qwen3-moe"));
    let experts = |config: &ModelConfig| {
        let experts = config.experts.clone().unwrap();
        let widths = (experts.intermediate_size, experts.shared_intermediate_size);
        (
            experts.num_experts,
            experts.num_experts_per_tok,
            experts.norm_topk_prob,
            widths,
            experts.layers,
        )
    };
    assert_eq!(experts(&mixtral), (5, 2, true, (13, None), vec![true, true]));
    assert_eq!(experts(&qwen2), (4, 2, false, (9, Some(11)), vec![true, false, true]));
    assert_eq!(experts(&qwen3), (5, 3, true, (9, None), vec![false, true]));
    assert_eq!(
        (mixtral.feed_forward_name(0), qwen2.feed_forward_name(0)),
        ("block_sparse_moe", "mlp")
    );
    // 46.7 billion: Mixtral 8x7B by its defaults.
    let whole = parse(json!({"model_type": "mixtral"})).unwrap();
    assert_eq!(whole.num_parameters(), 46_702_792_704);
    assert_eq!((whole.rope.theta, whole.rms_norm_eps), (1e6, 1e-5));
}

#[test]
fn a_dense_configuration_with_experts_is_mixtral_s_of_the_same_numbers() {
    for name in ["llama-tied", "llama-untied", "mistral-window", "mistral-no-window"] {
        for file in ["config.json", "config.v4.json"] {
            let dense = ModelConfig::open(&golden::vectors_dir().join("families").join(name).join(file)).unwrap();
            let config = dense.clone().with_experts(6, 2).unwrap();
            assert_eq!(config.family, Family::Mixtral);
            assert_eq!(config.raw()["architectures"], json!(["MixtralForCausalLM"]));
            assert_eq!(config.experts.as_ref().unwrap().num_experts, 6);
            assert_eq!(config.with_num_experts(3).raw()["num_local_experts"], json!(3));
            let mixtral = parse(Value::Object(dense.with_experts(6, 2).unwrap().raw().clone())).unwrap();
            let same = |config: &ModelConfig| {
                let shape = (
                    config.hidden_size,
                    config.intermediate_size,
                    config.head_dim,
                    config.num_key_value_heads,
                );
                let other = (
                    config.rms_norm_eps,
                    config.rope.clone(),
                    config.layer_types.clone(),
                    config.sliding_window,
                );
                (
                    shape,
                    other,
                    config.tie_word_embeddings,
                    config.dialect(),
                    config.max_position_embeddings,
                )
            };
            let dense = ModelConfig::open(&golden::vectors_dir().join("families").join(name).join(file)).unwrap();
            assert_eq!(same(&mixtral), same(&dense), "{name} {file}");
        }
    }
    for name in ["llama-biases", "qwen2-tied", "gemma3"] {
        let path = golden::vectors_dir().join("families").join(name).join("config.json");
        let error = ModelConfig::open(&path)
            .unwrap()
            .with_experts(4, 2)
            .unwrap_err()
            .to_string();
        assert!(error.contains("experts"), "{error}");
    }
}

#[test]
fn broken_json_says_the_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("config.json");
    std::fs::write(&path, "{\n  \"hidden_size\": 32,\n  oops\n}").unwrap();
    let text = ModelConfig::open(&path).unwrap_err().to_string();
    assert!(text.contains("config.json") && text.contains("line 3"), "{text}");
}

#[test]
fn a_smaller_decoder_is_written_so_that_it_reads_back_as_itself() {
    for family in [
        "llama-tied",
        "llama-biases",
        "mistral-window",
        "qwen2-tied",
        "qwen2-window",
        "qwen3-tied",
        "gemma3",
    ] {
        let path = golden::vectors_dir().join("families").join(family).join("config.json");
        let whole = ModelConfig::open(&path).unwrap();
        // Without layers that a rule would count, and with layers of one kind gone.
        for raw in [whole.raw().clone(), {
            let mut raw = whole.raw().clone();
            raw.shift_remove("layer_types");
            raw
        }] {
            let whole = ModelConfig::from_object(&path, raw).unwrap();
            let last = whole.num_hidden_layers - 1;
            let left = whole
                .clone()
                .with_layers(&[last])
                .with_intermediate_size(24)
                .with_heads(2, 1);
            let again = ModelConfig::from_object(&path, serde_json::from_str(&left.to_json()).unwrap()).unwrap();
            assert_eq!(again, left, "{family}");
            assert_eq!(
                (again.num_hidden_layers, again.layer_types[0]),
                (1, whole.layer_types[last]),
                "{family}"
            );
            assert_eq!(
                (again.head_dim, again.attention_scale),
                (whole.head_dim, whole.attention_scale),
                "{family}"
            );
            assert!(again.num_parameters() < whole.num_parameters(), "{family}");
        }
    }
}
