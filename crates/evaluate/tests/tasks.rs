//! Tasks over a model whose every log-probability is known, so that each number can be worked out by hand.

use std::fs;
use std::path::Path;

use data::{SpecialTokens, Tokenizer};
use evaluate::{Result, Scorer, Suite, evaluate};
use tensor_core::{Documents, Mix};

/// Finds every token as likely as 1 in `id + 2`, and always answers with token 3.
struct Known;

impl Scorer for Known {
    fn log_probs(&self, tokens: &[u32], documents: &Documents) -> Result<Vec<f32>> {
        let mut scores: Vec<f32> = tokens.iter().map(|&id| -((id + 2) as f32).ln()).collect();
        for range in documents.ranges() {
            scores[range.start] = 0.0;
        }
        Ok(scores)
    }

    fn next_log_probs(&self, _: &[u32], documents: &Documents, candidates: &[u32]) -> Result<Vec<Vec<f32>>> {
        let row: Vec<f32> = candidates.iter().map(|&id| -((id + 2) as f32).ln()).collect();
        Ok(vec![row; documents.len()])
    }

    fn answer(&self, prompts: &[Vec<u32>], _: &[Mix], _: usize) -> Result<Vec<Vec<u32>>> {
        Ok(vec![vec![3]; prompts.len()])
    }
}

/// Words `a b c d …` are tokens 0, 1, 2, 3 …
fn tokenizer() -> Tokenizer {
    let json = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{"type":"WhitespaceSplit"},"post_processor":null,"decoder":null,
        "model":{"type":"WordLevel","vocab":{"a":0,"b":1,"c":2,"d":3,"e":4,"f":5},"unk_token":"f"}}"#;
    let inner = json.parse().expect("a tokenizer");
    Tokenizer::from_parts(inner, SpecialTokens::new([]), None).expect("a tokenizer")
}

fn run(dir: &Path, suite: &str) -> Result<evaluate::Report> {
    let path = dir.join("suite.toml");
    fs::write(&path, suite).unwrap();
    evaluate(&Suite::load(&path)?, "known", &Known, &tokenizer(), &mut |_, _, _| ())
}

#[test]
fn perplexity_is_that_of_the_tokens_after_the_first() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("t.txt"), "a b c d\na b\n").unwrap();
    let report = run(
        dir.path(),
        "[[task]]\nname = \"p\"\nkind = \"perplexity\"\ndata = \"t.txt\"\nmax_length = 3\n",
    )
    .unwrap();
    // Scored: b, c, d and b, at 1/3, 1/4, 1/5, 1/3; two texts of 7 and 3 bytes.
    let task = &report.tasks["p"];
    assert_eq!((task.tokens, task.bytes), (Some(4), Some(10)));
    assert!((task.perplexity.unwrap() - 180f64.powf(0.25)).abs() < 1e-5);
    assert!((task.bits_per_byte.unwrap() - 180f64.log2() / 10.0).abs() < 1e-6);
}

#[test]
fn the_likeliest_label_wins() {
    let dir = tempfile::tempdir().unwrap();
    let rows = "{\"prompt\":\"c d\",\"completion\":\" b\"}\n{\"prompt\":\"c\",\"completion\":\" e\"}\n{\"prompt\":\"d\",\"completion\":\" b\"}\n";
    fs::write(dir.path().join("t.jsonl"), rows).unwrap();
    let report = run(
        dir.path(),
        "[[task]]\nname = \"c\"\nkind = \"classification\"\ndata = \"t.jsonl\"\n",
    )
    .unwrap();
    // ` b` (1/3) beats ` e` (1/6) always: two of three right; F1 of b 4/5, of e 0.
    let task = &report.tasks["c"];
    assert!((task.accuracy.unwrap() - 2.0 / 3.0).abs() < 1e-12);
    assert!((task.macro_f1.unwrap() - 0.4).abs() < 1e-12);
    assert_eq!(task.confusion, Some(vec![vec![2, 0], vec![1, 0]]));
    let text = report.to_string();
    assert!(text.contains("66.7 ± 27.2 %") && text.contains("3 rows"), "{text}");
}

#[test]
fn labels_of_several_tokens_are_scored_whole() {
    let dir = tempfile::tempdir().unwrap();
    let rows = "{\"prompt\":\"c\",\"completion\":\" b b\"}\n{\"prompt\":\"c\",\"completion\":\" d\"}\n";
    fs::write(dir.path().join("t.jsonl"), rows).unwrap();
    let task = |normalise: &str| {
        let suite = format!(
            "[[task]]\nname = \"c\"\nkind = \"classification\"\ndata = \"t.jsonl\"\nnormalise = \"{normalise}\"\n"
        );
        run(dir.path(), &suite).unwrap().tasks["c"].confusion.clone().unwrap()
    };
    // ` b b` is 1/9 and ` d` 1/5; per token 1/3 beats 1/5.
    assert_eq!(task("sum"), [[0, 1], [0, 1]]);
    assert_eq!(task("per_token"), [[1, 0], [1, 0]]);
}

#[test]
fn a_label_that_is_not_listed_is_an_error_with_its_row() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("t.jsonl"),
        "{\"prompt\":\"c\",\"completion\":\" b\"}\n{\"prompt\":\"c\",\"completion\":\" e\"}\n",
    )
    .unwrap();
    let suite = "[[task]]\nname = \"c\"\nkind = \"classification\"\ndata = \"t.jsonl\"\nlabels = [\" b\", \" c\"]\n";
    let error = run(dir.path(), suite).unwrap_err().to_string();
    assert!(error.contains("t.jsonl`, row 2") && error.contains("\" e\""), "{error}");
}

#[test]
fn choices_without_a_chat_template_say_so() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("t.jsonl"),
        "{\"question\":\"c\",\"choices\":[\"a\",\"b\"],\"answer\":\"B\"}\n",
    )
    .unwrap();
    let error = run(
        dir.path(),
        "[[task]]\nname = \"m\"\nkind = \"multiple_choice\"\ndata = \"t.jsonl\"\n",
    )
    .unwrap_err();
    assert!(error.to_string().contains("row 1"), "{error}");
}
