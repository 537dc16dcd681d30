//! A model of 1.1 billion parameters through the command: trained in 4 bits in less memory than its weights take in 16.

use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::command::{Home, finetune, tiny};

const LAYERS: usize = 22;
const HIDDEN: usize = 2048;
const INTERMEDIATE: usize = 5632;
const KEYS: usize = 256;
const VOCABULARY: usize = 32000;
/// What a step may take.
const ALLOWED: u64 = 2_500_000_000;

fn tensors() -> Vec<(String, Vec<usize>)> {
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
        ("lm_head.weight".to_owned(), vec![VOCABULARY, HIDDEN]),
    ];
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("input_layernorm", vec![HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.k_proj", vec![KEYS, HIDDEN]),
            ("self_attn.v_proj", vec![KEYS, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
            ("mlp.gate_proj", vec![INTERMEDIATE, HIDDEN]),
            ("mlp.up_proj", vec![INTERMEDIATE, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, INTERMEDIATE]),
        ] {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    tensors
}

/// Writes the checkpoint in bf16, numbers of deviation 0.02 from a block that is repeated; returns the weights' bytes.
fn write(folder: &Path) -> std::io::Result<u64> {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS,
        "num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": VOCABULARY,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": false, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2,
    });
    fs::write(folder.join("config.json"), config.to_string())?;
    for name in ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"] {
        if tiny().join(name).exists() {
            fs::copy(tiny().join(name), folder.join(name))?;
        }
    }
    let (mut header, mut end) = (Map::new(), 0);
    for (name, shape) in tensors() {
        let begin = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(
            name,
            json!({"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}),
        );
    }
    let mut text = Value::Object(header).to_string();
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    let mut file = BufWriter::with_capacity(1 << 22, File::create(folder.join("model.safetensors"))?);
    file.write_all(&(text.len() as u64).to_le_bytes())?;
    file.write_all(text.as_bytes())?;
    let block = block();
    for (name, shape) in tensors() {
        let bytes = 2 * shape.iter().product::<usize>();
        if name.contains("norm") {
            file.write_all(&bf16(1.0).repeat(bytes / 2))?;
            continue;
        }
        let mut left = bytes;
        while left > 0 {
            let part = left.min(block.len());
            file.write_all(&block[..part])?;
            left -= part;
        }
    }
    file.flush()?;
    Ok(end as u64)
}

/// A number cut to bf16.
fn bf16(number: f32) -> [u8; 2] {
    ((number.to_bits() >> 16) as u16).to_le_bytes()
}

/// Nearly normal numbers: the sum of twelve uniform ones. A prime length, so that no two rows are the same.
fn block() -> Vec<u8> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 24) as f32
    };
    (0..1_000_003)
        .flat_map(|_| {
            let sum: f32 = (0..12).map(|_| uniform()).sum();
            bf16(0.02 * (sum - 6.0))
        })
        .collect()
}

#[test]
fn a_model_of_a_billion_parameters_takes_a_qlora_step_in_less_memory_than_its_weights_have_in_16_bits() {
    let home = Home::new();
    let folder = home.path().join("large");
    fs::create_dir(&folder).unwrap();
    let bytes = match write(&folder) {
        Ok(bytes) => bytes,
        Err(error) => {
            return golden::skip!("needs 2.2 GB for a checkpoint in the folder of temporary files: {error}");
        }
    };
    assert_eq!(bytes / 2, 1_100_048_384, "the size of TinyLlama");
    let recipe = home.recipe("");
    let settings = [
        format!("model.name_or_path={}", folder.display()),
        "surgery=[{kind=\"quantize\",double_quant=true},{kind=\"lora\",r=16,lora_alpha=32,target_modules=\"all-linear\"}]".into(),
        "train.max_steps=1".into(),
        // It is the weights' memory that counts, so few tokens do.
        "train.per_device_train_batch_size=1".into(),
        "data.max_length=40".into(),
    ];
    // In bf16 a processor without instructions for it needs minutes.
    let mut args = vec!["train", &recipe, "--dtype", "auto"];
    for setting in &settings {
        args.extend(["--set", setting]);
    }
    finetune(&home, &args).works();
    let metrics = fs::read_to_string(home.path().join("run/metrics.jsonl")).unwrap();
    let line: Value = serde_json::from_str(metrics.lines().next().unwrap()).unwrap();
    let loss = line["loss"].as_f64().unwrap();
    assert!(loss.is_finite() && loss > 0.0, "{line}");
    let peak = line["peak_memory_bytes"].as_u64().unwrap();
    println!(
        "peak {:.2} GB, the weights in bf16 {:.2} GB",
        peak as f64 / 1e9,
        bytes as f64 / 1e9
    );
    assert!(peak < ALLOWED && peak < bytes, "{peak} bytes");
}
