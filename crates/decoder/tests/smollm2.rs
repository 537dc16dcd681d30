//! A real model, where it lies in the local store: perplexity, next tokens and a greedy answer as Transformers gives.

use checkpoint::ModelDir;
use decoder::{Decoder, GenerateOptions};
use tch::{Device, Kind, Tensor};
use tensor_core::Documents;

fn ids(value: &serde_json::Value) -> Vec<u32> {
    let list = value.as_array().expect("a list");
    list.iter().map(|id| id.as_u64().expect("a token") as u32).collect()
}

fn numbers(value: &serde_json::Value) -> Vec<f64> {
    let list = value.as_array().expect("a list");
    list.iter().map(|number| number.as_f64().expect("a number")).collect()
}

#[test]
fn smollm2_says_what_transformers_says() {
    let Ok(path) = checkpoint::resolve("smollm2-135m-instruct") else {
        return golden::skip!("needs `cargo xtask fetch smollm2-135m-instruct`");
    };
    let golden = golden::json("smollm2");
    let dir = ModelDir::open(&path).expect("the store's model opens");
    let model = Decoder::load(&dir, Device::Cpu, Kind::Float).expect("the store's model loads");

    let tokens = ids(&golden["tokens"]);
    let log_probs = model
        .token_log_probs(&tokens, &Documents::new(&[tokens.len()]))
        .expect("scored");
    for (ours, theirs) in log_probs[1..].iter().zip(numbers(&golden["token_log_probs"])) {
        assert!((f64::from(*ours) - theirs).abs() < 2e-3, "{ours} {theirs}");
    }
    let mean = log_probs[1..].iter().copied().map(f64::from).sum::<f64>() / (tokens.len() - 1) as f64;
    assert!(((-mean).exp() - 8.277).abs() < 0.01, "perplexity {}", (-mean).exp());

    let row: Vec<i64> = tokens.iter().map(|&id| i64::from(id)).collect();
    let logits = model.logits(&Tensor::from_slice(&row), &Documents::new(&[row.len()]));
    let (top, best) = logits.get(-1).topk(10, -1, true, true);
    assert_eq!(
        Vec::<i64>::try_from(best).expect("ten ids"),
        ids(&golden["top"]["ids"])
            .into_iter()
            .map(i64::from)
            .collect::<Vec<_>>()
    );
    let wanted = Tensor::from_slice(&numbers(&golden["top"]["logits"]));
    golden::assert_close("top logits", &top, &wanted, 1e-4, 1e-3);

    let answer = ids(&golden["chat"]["answer"]);
    let options = GenerateOptions {
        max_new_tokens: 40,
        ..GenerateOptions::default()
    };
    let answers = model
        .generate(&[ids(&golden["chat"]["prompt"])], &options, &mut |_, _| ())
        .expect("generated");
    assert_eq!(answers[0].tokens, answer);
}
