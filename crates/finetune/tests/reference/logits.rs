//! `score --logits` writes what Transformers says of the same texts.

use clap::Parser as _;
use events::Events;
use finetune::cli::Cli;
use golden::Vectors;

/// Relative, and of logits of about size 3 absolute: sums over at most 56 f32 terms.
const OF_A_LOGIT: f64 = 1e-4;

#[test]
fn written_logits_are_the_model_s_of_every_row() {
    let tiny = golden::vectors_dir().join("gguf/tiny");
    let folder = tempfile::tempdir().expect("a folder");
    let (rows, out) = (
        folder.path().join("rows.jsonl"),
        folder.path().join("logits.safetensors"),
    );
    // Texts whose tokens Transformers recorded; what it says of them is checked against the model's own logits, which
    // the golden documents of the same model vouch for.
    let texts = golden::json("gguf/texts");
    let texts: Vec<_> = texts
        .as_array()
        .expect("rows")
        .iter()
        .filter(|row| row["ids"] != serde_json::json!([]))
        .collect();
    let lines = texts
        .iter()
        .map(|row| serde_json::json!({ "text": row["text"] }).to_string());
    std::fs::write(&rows, lines.collect::<Vec<_>>().join("\n")).expect("a file");
    let path = |path: &std::path::Path| path.display().to_string();
    let args = [
        "finetune",
        "score",
        "--model",
        &path(&tiny),
        "--data",
        &path(&rows),
        "--logits",
        &path(&out),
    ];
    let args = args.iter().copied().chain(["--dtype", "f32", "--device", "cpu"]);
    Cli::try_parse_from(args)
        .expect("a command line")
        .verb
        .run()
        .expect("scores");
    let written = Vectors::open_file(&out);
    assert_eq!(written.names().count(), texts.len());
    let source = models::Source::open(&path(&tiny), &Events::none()).expect("a model");
    let machine = models::machine::Machine {
        device: tch::Device::Cpu,
        kind: tch::Kind::Float,
    };
    let model = source.decoder(machine).expect("weights");
    let logits = |tokens: &[i64]| {
        let documents = tensor_core::Documents::new(&[tokens.len()]);
        model.logits(&tch::Tensor::from_slice(tokens), &documents)
    };
    for (row, text) in texts.iter().enumerate() {
        let ids = text["ids"].as_array().expect("ids").iter();
        let ids: Vec<i64> = ids.map(|id| id.as_i64().expect("an id")).collect();
        assert_eq!(written.get(&row.to_string()), logits(&ids), "{}", text["text"]);
    }
    let golden = Vectors::open("gguf");
    for document in 0..3 {
        let tokens = golden.integers(&format!("tokens.{document}"));
        let wanted = golden.get(&format!("logits.{document}"));
        golden::assert_close("logits", &logits(&tokens), &wanted, OF_A_LOGIT, OF_A_LOGIT);
    }
}
