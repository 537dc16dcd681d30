//! The small real model, where the local store holds it: `cargo xtask fetch smollm2-135m-instruct` puts it there.

use super::command::{Home, finetune};

/// The model's path; none, with a message, where it was not fetched.
fn smollm2() -> Option<String> {
    let cache = checkpoint::cache_dir()?;
    let path = cache.join("models/smollm2-135m-instruct");
    if path.join("model.gguf").is_file() {
        return Some(path.display().to_string());
    }
    eprintln!("skipped: `cargo xtask fetch smollm2-135m-instruct` has not been run");
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
