//! A `config.json` from GGUF metadata, in the words of Transformers 5.

use serde_json::{Map, Value, json};

use crate::{Error, Gguf, Result};

/// The object that a `config.json` of this model would hold.
pub fn config_json<B: AsRef<[u8]>>(file: &Gguf<B>) -> Result<Map<String, Value>> {
    let arch = file.architecture()?;
    let (name, model_type) = match arch {
        "llama" => ("Llama", "llama"),
        "qwen2" => ("Qwen2", "qwen2"),
        "qwen3" => ("Qwen3", "qwen3"),
        "gemma3" => ("Gemma3", "gemma3_text"),
        other => {
            return Err(Error::Unsupported {
                path: file.path().to_owned(),
                what: format!("`general.architecture` = \"{other}\""),
                hint: "supported are llama, qwen2, qwen3 and gemma3".into(),
            });
        }
    };
    let key = |name: &str| format!("{arch}.{name}");
    let count = |name: &str| file.count(&key(name)).ok_or_else(|| file.lacks(&key(name)));
    if file.count(&key("expert_count")).is_some_and(|experts| experts > 0) {
        return Err(unsupported(file, "a mixture of experts", "dense models are"));
    }
    let has = |tensor: &str| file.tensors().contains_key(tensor);
    let heads = count("attention.head_count")?;
    let hidden = count("embedding_length")?;
    let head_dim = file
        .count(&key("attention.key_length"))
        .or(file.count(&key("rope.dimension_count")))
        .unwrap_or(hidden / heads.max(1));
    if file
        .count(&key("rope.dimension_count"))
        .is_some_and(|rotated| rotated != head_dim)
    {
        return Err(unsupported(
            file,
            "a rotation of a part of each head",
            "whole heads are rotated",
        ));
    }
    let eps = key("attention.layer_norm_rms_epsilon");
    let token = |name: &str| file.count(&format!("tokenizer.ggml.{name}_token_id"));
    let mut config = json!({
        "architectures": [format!("{name}ForCausalLM")],
        "bos_token_id": token("bos"),
        "dtype": "float32",
        "eos_token_id": token("eos"),
        "head_dim": head_dim,
        "hidden_size": hidden,
        "intermediate_size": count("feed_forward_length")?,
        "max_position_embeddings": count("context_length")?,
        "model_type": model_type,
        "num_attention_heads": heads,
        "num_hidden_layers": count("block_count")?,
        "num_key_value_heads": file.count(&key("attention.head_count_kv")).unwrap_or(heads),
        "pad_token_id": token("padding"),
        "rms_norm_eps": file.number(&eps).ok_or_else(|| file.lacks(&eps))?,
        "rope_parameters": rope(file, arch, head_dim)?,
        "tie_word_embeddings": !has("output.weight"),
        "vocab_size": file.find("token_embd.weight")?.shape[0],
    });
    match arch {
        "llama" => {
            config["attention_bias"] = json!(has("blk.0.attn_q.bias"));
            config["mlp_bias"] = json!(has("blk.0.ffn_up.bias"));
            config["hidden_act"] = json!("silu");
        }
        "gemma3" => {
            // llama.cpp scales the 27B by its hidden width a head, all others by the head's own.
            let scalar = if count("block_count")? == 62 {
                hidden / heads
            } else {
                head_dim
            };
            config["query_pre_attn_scalar"] = json!(scalar);
            config["hidden_activation"] = json!("gelu_pytorch_tanh");
            config["sliding_window"] = json!(count("attention.sliding_window")?);
        }
        "qwen3" => config["attention_bias"] = json!(has("blk.0.attn_q.bias")),
        _ => {}
    }
    let Value::Object(config) = config else {
        unreachable!("made as an object")
    };
    // Transformers sorts its keys.
    let mut keys: Vec<(String, Value)> = config.into_iter().collect();
    keys.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(keys.into_iter().collect())
}

fn rope<B: AsRef<[u8]>>(file: &Gguf<B>, arch: &str, head_dim: i64) -> Result<Value> {
    let key = |name: &str| format!("{arch}.rope.{name}");
    let gemma = arch == "gemma3";
    let theta = file.number(&key("freq_base")).unwrap_or(if gemma { 1e6 } else { 1e4 });
    let number = |name: &str| file.number(&key(name)).ok_or_else(|| file.lacks(&key(name)));
    let mut full = match file.text(&key("scaling.type")) {
        None | Some("none") => match file.tensors().contains_key("rope_freqs.weight") {
            true => llama3(file, theta, head_dim)?,
            false => json!({"rope_type": "default"}),
        },
        Some("linear") => json!({"rope_type": "linear", "factor": number("scaling.factor")?}),
        Some("yarn") => {
            let original = key("scaling.original_context_length");
            let length = file.count(&original).ok_or_else(|| file.lacks(&original))?;
            json!({
                "rope_type": "yarn",
                "factor": number("scaling.factor")?,
                "original_max_position_embeddings": length,
            })
        }
        Some(other) => {
            let what = format!("`{}` = \"{other}\"", key("scaling.type"));
            return Err(unsupported(file, &what, "none, linear and yarn are"));
        }
    };
    full["rope_theta"] = json!(theta);
    if !gemma {
        return Ok(full);
    }
    // Older files leave out the base of the local layers; it is the same in every Gemma 3.
    let local = file.number(&key("freq_base_swa")).unwrap_or(1e4);
    Ok(json!({
        "full_attention": full,
        "sliding_attention": {"rope_type": "default", "rope_theta": local},
    }))
}

/// llama.cpp keeps Llama 3's stretch as one divisor a frequency; only the published constants can be told from it.
fn llama3<B: AsRef<[u8]>>(file: &Gguf<B>, theta: f64, head_dim: i64) -> Result<Value> {
    let divisors = file.numbers("rope_freqs.weight")?;
    let factor = divisors.iter().copied().fold(1.0f32, f32::max).round();
    let (low, high, length) = (1.0, 4.0, 8192.0);
    let wanted = (0..head_dim / 2).map(|idx| {
        let wavelength = 2.0 * std::f64::consts::PI * theta.powf(2.0 * idx as f64 / head_dim as f64);
        if wavelength < length / high {
            1.0
        } else if wavelength > length / low {
            f64::from(factor)
        } else {
            let smooth = (length / wavelength - low) / (high - low);
            1.0 / ((1.0 - smooth) / f64::from(factor) + smooth)
        }
    });
    let same = |(wanted, found): (f64, &f32)| (wanted - f64::from(*found)).abs() < 1e-3 * wanted;
    if divisors.len() as i64 != head_dim / 2 || !wanted.zip(&divisors).all(same) {
        let what = "`rope_freqs.weight` with other constants than Llama 3's";
        return Err(unsupported(file, what, "take the Hugging Face directory of this model"));
    }
    Ok(json!({
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": length as i64,
    }))
}

fn unsupported<B: AsRef<[u8]>>(file: &Gguf<B>, what: &str, hint: &str) -> Error {
    Error::Unsupported {
        path: file.path().to_owned(),
        what: what.to_owned(),
        hint: hint.to_owned(),
    }
}
