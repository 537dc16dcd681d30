//! Tokenised sets: the cache file, rows left out, and what the report says of them.

mod support;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use data::{EncodeConfig, ReadConfig, Reject, TokenSet, Tokenizer};

fn lines() -> String {
    let row = |i: usize| {
        format!(
            "{{\"prompt\": \"Count to {i}\", \"completion\": \"{}\"}}",
            "one and ".repeat(i % 7 + 1)
        )
    };
    (0..41).map(row).collect::<Vec<_>>().join("\n")
}

fn contents(set: &TokenSet) -> Vec<(Vec<data::Tokenized>, usize, Option<i64>)> {
    (0..set.len())
        .map(|i| (set.sample(i).unwrap(), set.row(i), set.label(i)))
        .collect()
}

fn build(text: &str, tokenizer: &Tokenizer, config: &EncodeConfig, cache: Option<&Path>) -> (TokenSet, usize) {
    let calls = AtomicUsize::new(0);
    let count = |_| {
        calls.fetch_add(1, Ordering::Relaxed);
    };
    let set = TokenSet::build(&support::rows(text), tokenizer, config, cache, &count).unwrap();
    (set, calls.into_inner())
}

#[test]
fn cached_tokens_are_the_tokens() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = support::tokenizer();
    let config = EncodeConfig::default();
    let (plain, _) = build(&lines(), &tokenizer, &config, None);
    let (first, worked) = build(&lines(), &tokenizer, &config, Some(dir.path()));
    let (second, found) = build(&lines(), &tokenizer, &config, Some(dir.path()));
    assert_eq!(
        (worked, found),
        (41, 1),
        "rows tokenised, then one report that all are there"
    );
    assert_eq!(contents(&plain), contents(&first));
    assert_eq!(contents(&plain), contents(&second));
    assert_eq!(plain.report(), second.report());
    let lengths: usize = (0..second.len()).map(|i| second.sample_len(i)).sum();
    assert_eq!(lengths, second.report().tokens);
}

#[test]
fn a_cache_belongs_to_the_data_the_tokenizer_and_the_options() {
    let dir = tempfile::tempdir().unwrap();
    let config = EncodeConfig::default();
    let files = || fs::read_dir(dir.path()).unwrap().count();
    build(&lines(), &support::tokenizer(), &config, Some(dir.path()));
    assert_eq!(files(), 1);
    build(
        &(lines() + "\n{\"prompt\": \"a\", \"completion\": \"b\"}"),
        &support::tokenizer(),
        &config,
        Some(dir.path()),
    );
    assert_eq!(files(), 2);
    build(&lines(), &support::with_template("qwen2_5"), &config, Some(dir.path()));
    assert_eq!(files(), 3);
    let longer = EncodeConfig {
        max_length: Some(512),
        ..config
    };
    build(&lines(), &support::tokenizer(), &longer, Some(dir.path()));
    assert_eq!(files(), 4);
}

#[test]
fn a_damaged_cache_is_built_again() {
    let dir = tempfile::tempdir().unwrap();
    let (tokenizer, config) = (support::tokenizer(), EncodeConfig::default());
    let (whole, _) = build(&lines(), &tokenizer, &config, Some(dir.path()));
    let wanted = contents(&whole);
    let path = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let good = fs::read(&path).unwrap();
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    for (name, bad) in [
        ("empty", Vec::new()),
        ("cut off", good[..good.len() / 2].to_vec()),
        ("other magic", flipped(0)),
        ("absurd header length", flipped(15)),
        ("damaged header", flipped(20)),
        ("damaged tokens", flipped(good.len() - 40)),
        ("damaged mask", flipped(good.len() - 1)),
    ] {
        fs::write(&path, bad).unwrap();
        let (set, worked) = build(&lines(), &tokenizer, &config, Some(dir.path()));
        assert_eq!((contents(&set), worked), (wanted.clone(), 41), "{name}");
        assert_eq!(fs::read(&path).unwrap(), good, "{name}");
    }
}

#[test]
fn a_file_in_the_cache_need_not_be_parsed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.jsonl");
    fs::write(&file, lines()).unwrap();
    let (tokenizer, config, read) = (support::tokenizer(), EncodeConfig::default(), ReadConfig::default());
    let cache = dir.path().join("cache");
    let cached = || TokenSet::cached(&file, &read, &tokenizer, &config, &cache).unwrap();
    assert!(cached().is_none());
    let set = data::Dataset::read(&file, &read).unwrap();
    let built = TokenSet::build(&set, &tokenizer, &config, Some(&cache), &|_| {}).unwrap();
    assert_eq!(contents(&cached().unwrap()), contents(&built));
}

#[test]
fn rows_that_teach_nothing_stop_the_run_or_are_counted() {
    let text = "{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"a\", \"completion\": \"\"}\n\
        {\"prompt\": \"The capital of France is Paris. What is the capital of Spain?\", \"completion\": \"c\"}";
    let tokenizer = support::tokenizer();
    let strict = EncodeConfig {
        max_length: Some(4),
        ..EncodeConfig::default()
    };
    let failed = TokenSet::build(&support::rows(text), &tokenizer, &strict, None, &|_| {})
        .unwrap_err()
        .to_string();
    assert!(
        failed.starts_with("`rows.jsonl` line 2: the completion is empty"),
        "{failed}"
    );
    let drop = EncodeConfig {
        on_empty: Reject::Drop,
        ..strict.clone()
    };
    let failed = TokenSet::build(&support::rows(text), &tokenizer, &drop, None, &|_| {})
        .unwrap_err()
        .to_string();
    assert!(failed.starts_with("`rows.jsonl` line 3: the prompt has "), "{failed}");
    let drop = EncodeConfig {
        on_too_long: Reject::Drop,
        ..drop
    };
    let (set, _) = build(text, &tokenizer, &drop, None);
    let report = set.report();
    assert_eq!(
        (
            report.rows,
            report.samples,
            report.dropped_empty,
            report.dropped_too_long
        ),
        (3, 1, 1, 1)
    );
    assert!(
        report.dropped[0].starts_with("`rows.jsonl` line 2: "),
        "{:?}",
        report.dropped
    );
    let tiny = EncodeConfig {
        max_length: Some(2),
        ..EncodeConfig::default()
    };
    let failed = TokenSet::build(&support::rows(text), &tokenizer, &tiny, None, &|_| {})
        .unwrap_err()
        .to_string();
    assert_eq!(failed, "`max_length`: wanted at least 3, found 2");
    let only_bad = "{\"prompt\": \"a\", \"completion\": \"\"}";
    assert!(TokenSet::build(&support::rows(only_bad), &tokenizer, &drop, None, &|_| {}).is_err());
}

#[test]
fn the_report_counts_what_never_teaches_to_stop() {
    let chat = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    let endless = data::ChatTemplate::new("endless", "{% for m in messages %}{{ m.content }}{% endfor %}").unwrap();
    let (set, _) = build(
        chat,
        &support::tokenizer().with_template(endless),
        &EncodeConfig::default(),
        None,
    );
    assert_eq!(set.report().unterminated, 1);
    let (set, _) = build(chat, &support::tokenizer(), &EncodeConfig::default(), None);
    assert_eq!(set.report().unterminated, 0);
}

#[test]
fn classes_and_pairs_survive_the_cache() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = support::tokenizer();
    let config = EncodeConfig {
        labels: vec!["ham".to_owned(), "spam".to_owned()],
        ..EncodeConfig::default()
    };
    let labelled = "{\"text\": \"a\", \"label\": \"spam\"}\n{\"text\": \"b\", \"label\": 0}";
    for _ in 0..2 {
        let (set, _) = build(labelled, &tokenizer, &config, Some(dir.path()));
        assert_eq!((set.label(0), set.label(1)), (Some(1), Some(0)));
    }
    let pairs = "{\"prompt\": \"a\", \"chosen\": \" b\", \"rejected\": \" c d\"}";
    for _ in 0..2 {
        let (set, _) = build(pairs, &tokenizer, &config, Some(dir.path()));
        let documents = set.sample(0).unwrap();
        assert_eq!(documents.len(), 2);
        assert_eq!(set.sample_len(0), documents[0].tokens.len() + documents[1].tokens.len());
    }
}
