//! Readers of text: rows, templates, recipes, answers of reward programs.

use std::path::Path;
use std::sync::LazyLock;

use align_dpo_ppo::reward::Answers;
use data::{Chat, ChatTemplate, Dataset, EncodeConfig, Ending, Message, ReadConfig, SpecialTokens, Tokenizer, encode};
use methods::recipe::Recipe;

const EXTENSIONS: [&str; 6] = ["jsonl", "json", "csv", "tsv", "parquet", "txt"];

static TOKENIZER: LazyLock<Tokenizer> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/golden/vectors/gguf/tiny");
    Tokenizer::from_dir(&folder).expect("the tiny model's tokenizer")
});

/// A data file; its first byte says of which kind.
pub fn rows(bytes: &[u8]) {
    let [kind, bytes @ ..] = bytes else { return };
    let name = format!("rows.{}", EXTENSIONS[usize::from(*kind) % EXTENSIONS.len()]);
    let Ok(rows) = Dataset::parse(Path::new(&name), bytes, &ReadConfig::default()) else {
        return;
    };
    let config = EncodeConfig::default();
    for row in rows.rows().take(16) {
        let _ = encode(row, &TOKENIZER, &config);
    }
}

/// A chat template, rendered with and without a question at the end.
pub fn template(bytes: &[u8]) {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    let Ok(template) = ChatTemplate::new("fuzzed", source) else {
        return;
    };
    // Loops end at their bound, whatever it is: with a small one, more inputs are seen in the time.
    let template = template.with_fuel(50_000);
    let special = SpecialTokens::new([("bos_token", "<s>"), ("eos_token", "</s>")]);
    let turns = [
        ("system", "Be brief."),
        ("user", "What is it?"),
        ("assistant", "A cat."),
        ("user", "Why?"),
    ];
    let messages = turns.map(|(role, content)| Message::new(role, content)).to_vec();
    let chat = Chat {
        messages,
        ..Chat::default()
    };
    let _ = template.render(&chat, &special, Ending::GenerationPrompt);
    let _ = template.render_marked(&chat, &special);
}

/// A recipe.
pub fn recipe(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(recipe) = Recipe::parse(Path::new("recipe.toml"), text.to_owned(), &[]) {
        let again = recipe.to_toml().expect("what was read can be written");
        Recipe::parse(Path::new("recipe.toml"), again, &[]).expect("what was written can be read");
    }
}

/// What a reward program writes; the first byte says how many replies it was asked about.
pub fn answers(bytes: &[u8]) {
    let [count, bytes @ ..] = bytes else { return };
    let count = usize::from(*count);
    let mut answers = Answers::new(count);
    let text = String::from_utf8_lossy(bytes);
    let taken = text.lines().try_for_each(|line| answers.take(line).map(drop));
    let Ok(scores) = taken.and_then(|()| answers.finish()) else {
        return;
    };
    assert_eq!(scores.len(), count, "one answer for each reply");
    assert!(scores.iter().flatten().all(|score| score.is_finite()));
}
