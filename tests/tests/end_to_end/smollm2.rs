//! The small real model, where the local store holds it: `cargo xtask fetch smollm2-135m-instruct` puts it there.

use super::command::{Home, finetune, losses, root};

/// The model's path; none, with a message, where it was not fetched.
fn smollm2() -> Option<String> {
    let cache = checkpoint::cache_dir()?;
    let path = cache.join("models/smollm2-135m-instruct");
    if path.join("model.gguf").is_file() {
        return Some(path.display().to_string());
    }
    golden::skip!("needs `cargo xtask fetch smollm2-135m-instruct`");
    None
}

#[test]
fn its_perplexity_is_the_reference_one() {
    let Some(model) = smollm2() else { return };
    let home = Home::new();
    let text = "The Roman Empire was one of the largest empires in the ancient world. At its height it controlled most of \
                Europe, North Africa and the Middle East, and its capital city was Rome.";
    let data = home.file("roman.jsonl", &format!("{}\n", serde_json::json!({ "text": text })));
    let lines = finetune(
        &home,
        &["score", "--model", &model, "--data", &data, "--json", "--dtype", "f32"],
    )
    .works()
    .json_lines();
    assert_eq!(lines[0]["tokens"], 37);
    // A plain f32 forward pass over the dequantised file gives 8.2768.
    let perplexity = lines[1]["perplexity"].as_f64().unwrap();
    assert!((perplexity - 8.277).abs() < 0.01, "{perplexity}");
}

#[test]
fn it_knows_the_capital_of_france() {
    let Some(model) = smollm2() else { return };
    let home = Home::new();
    let args = [
        "generate",
        "--model",
        &model,
        "--prompt",
        "What is the capital of France?",
        "--max-new-tokens",
        "20",
        "--dtype",
        "f32",
    ];
    assert_eq!(
        finetune(&home, &args).works().stdout.trim(),
        "The capital of France is Paris."
    );
}

/// Losses of the first two steps below: f32 on one thread. Another machine sums in another order.
const FIRST_LOSSES: [f64; 2] = [7.669_192_8, 3.626_282_7];

#[test]
fn it_learns_headlines_from_the_shipped_recipe() {
    let Some(model) = smollm2() else { return };
    let rows = checkpoint::cache_dir().map(|cache| cache.join("data/sarcasm/train.jsonl"));
    let Some(rows) = rows.filter(|rows| rows.is_file()) else {
        return golden::skip!("needs `cargo xtask fetch sarcasm`");
    };
    let home = Home::new();
    let recipe = root().join("recipes/demo.toml").display().to_string();
    let mut args = vec![
        "train".to_owned(),
        recipe,
        "--dtype".into(),
        "f32".into(),
        "--device".into(),
        "cpu".into(),
    ];
    for setting in [
        format!("model.name_or_path={model}"),
        format!("data.train.0.path={}", rows.display()),
        format!("train.output_dir={}", home.at("run")),
        "train.max_steps=2".into(),
        "train.per_device_train_batch_size=2".into(),
        "train.logging_steps=1".into(),
        "train.lr_scheduler_type=constant".into(),
        "train.warmup_ratio=0.0".into(),
        "train.save_strategy=no".into(),
        "report.samples=0".into(),
    ] {
        args.extend(["--set".to_owned(), setting]);
    }
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    finetune(&home, &args).works();
    let found = losses(&home.path().join("run"));
    assert_eq!(found.len(), FIRST_LOSSES.len());
    let near = |(found, wanted): (&f64, f64)| (found / wanted - 1.0).abs() < 2e-3;
    assert!(
        found.iter().zip(FIRST_LOSSES).all(near),
        "{found:?}, recorded {FIRST_LOSSES:?}"
    );
}
