//! The suite of `docs/data.md` is one, and its questions are questions.

use std::fs;

use evaluate::{Kind, Normalise, Suite};

const PAGE: &str = include_str!("../../../docs/data.md");

#[test]
fn the_documented_suite_is_read_as_its_comments_say() {
    let text = PAGE
        .split("```toml suite\n")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap();
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("suite.toml");
    fs::write(&path, text).unwrap();
    let tasks = Suite::load(&path).unwrap().tasks;
    let kinds: Vec<Kind> = tasks.iter().map(|task| task.kind).collect();
    assert_eq!(
        kinds,
        [
            Kind::ExactMatch,
            Kind::MultipleChoice,
            Kind::Classification,
            Kind::Perplexity
        ]
    );
    assert_eq!(
        (tasks[0].columns["question"].as_str(), tasks[0].tolerance),
        ("country", 0.01)
    );
    assert_eq!((tasks[1].normalise, tasks[1].tolerance), (Normalise::PerByte, 0.02));
    assert_eq!((tasks[3].max_length, tasks[3].stride), (1024, Some(512)));
}

#[test]
fn the_suite_of_the_page_on_evaluation_is_read() {
    let page = include_str!("../../../docs/evaluation.md");
    let text = page.split("```toml suite\n").nth(1).unwrap();
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("suite.toml");
    fs::write(&path, text.split("```").next().unwrap()).unwrap();
    let kinds: Vec<Kind> = Suite::load(&path).unwrap().tasks.iter().map(|task| task.kind).collect();
    assert_eq!(kinds, [Kind::Classification, Kind::Perplexity]);
    // The table names every kind.
    for kind in [
        "perplexity",
        "classification",
        "multiple_choice",
        "exact_match",
        "pairs",
        "replies",
    ] {
        assert!(page.contains(&format!("| `{kind}` |")), "{kind}");
    }
}
