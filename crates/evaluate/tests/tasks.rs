//! Tasks over a model whose every log-probability is known, so that each number can be worked out by hand.

use std::fs;
use std::path::Path;

use data::{SpecialTokens, Tokenizer};
use evaluate::{Answer, Drawing, Judge, Result, Said, Scorer, Suite, Task, Verdict, evaluate};
use tensor_core::{AdapterRouting, Documents};

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

    fn answer(&self, prompts: &[Vec<u32>], _: &[AdapterRouting], _: &Drawing) -> Result<Vec<Answer>> {
        let answer = Answer {
            tokens: vec![3],
            ended: true,
        };
        Ok(vec![answer; prompts.len()])
    }

    fn judge(&self) -> Option<&dyn Judge> {
        Some(self)
    }
}

impl Judge for Known {
    /// The base finds every token twice as likely.
    fn base_log_probs(&self, tokens: &[u32], documents: &Documents) -> Result<Option<Vec<f32>>> {
        let mut scores = self.log_probs(tokens, documents)?;
        for score in &mut scores {
            *score += 2f32.ln();
        }
        Ok(Some(scores))
    }

    /// One reward: how many letters a reply has.
    fn verdicts(&self, _: &Task, replies: &[Said]) -> Result<Vec<Verdict>> {
        let verdict = |said: &Said| {
            let letters = said.reply.chars().filter(|c| c.is_alphabetic()).count() as f64;
            assert_eq!(said.tokens.len() - said.num_tokens, said.prompt.split(' ').count());
            assert!(said.extra["completion"].is_string());
            Verdict {
                parts: [("letters".to_owned(), letters)].into(),
                score: Some(letters),
            }
        };
        Ok(replies.iter().map(verdict).collect())
    }
}

/// Words `a b c d …` are tokens 0, 1, 2, 3 …
fn tokenizer() -> Tokenizer {
    let inner = tokenizer_json().parse().expect("a tokenizer");
    Tokenizer::from_parts(inner, SpecialTokens::new([]), None).expect("a tokenizer")
}

fn tokenizer_json() -> &'static str {
    r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{"type":"WhitespaceSplit"},"post_processor":null,"decoder":null,
        "model":{"type":"WordLevel","vocab":{"a":0,"b":1,"c":2,"d":3,"e":4,"f":5},"unk_token":"f"}}"#
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
    // Scored: b, c, d and b, at 1/3, 1/4, 1/5, 1/3; of two texts of 7 and 3 bytes, all but the two `a`.
    let task = &report.tasks["p"];
    assert_eq!((task.tokens, task.bytes), (Some(4), Some(8)));
    assert!((task.perplexity.unwrap() - 180f64.powf(0.25)).abs() < 1e-5);
    assert!((task.bits_per_byte.unwrap() - 180f64.log2() / 8.0).abs() < 1e-6);
}

#[test]
fn bits_per_byte_are_of_the_bytes_that_are_predicted_with_a_bos_token_and_without() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("t.txt"), "bb é d\n").unwrap();
    let suite = "[[task]]\nname = \"p\"\nkind = \"perplexity\"\ndata = \"t.txt\"\n";
    let json = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
        "pre_tokenizer":{"type":"WhitespaceSplit"},"post_processor":null,"decoder":null,
        "model":{"type":"WordLevel","vocab":{"a":0,"bb":1,"é":2,"d":3},"unk_token":"a"}}"#;
    // What the post-processor puts in front is the BOS token.
    let first = r#"{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"a","type_id":0}},
        {"Sequence":{"id":"A","type_id":0}}],"pair":[{"Sequence":{"id":"A","type_id":0}},
        {"Sequence":{"id":"B","type_id":1}}],"special_tokens":{"a":{"id":"a","ids":[0],"tokens":["a"]}}}"#;
    let bytes = |json: &str| {
        let special = SpecialTokens::new([("bos_token", "a")]);
        let tokenizer = Tokenizer::from_parts(json.parse().unwrap(), special, None).unwrap();
        let path = dir.path().join("suite.toml");
        fs::write(&path, suite).unwrap();
        let report = evaluate(
            &Suite::load(&path).unwrap(),
            "known",
            &Known,
            &tokenizer,
            &mut |_, _, _| (),
        )
        .unwrap();
        let task = report.tasks["p"].clone();
        (task.bytes, task.tokens, task.bits_per_byte.unwrap())
    };
    let (without, tokens, bits) = bytes(json);
    // `bb` is given; ` é d` are 5 bytes.
    assert_eq!((without, tokens), (Some(5), Some(2)));
    assert!((bits - 20f64.log2() / 5.0).abs() < 1e-6);
    let (with, tokens, bits) = bytes(&json.replace("\"post_processor\":null", &format!("\"post_processor\":{first}")));
    assert_eq!((with, tokens), (Some(7), Some(3)));
    assert!((bits - 60f64.log2() / 7.0).abs() < 1e-6);
}

#[test]
fn an_answer_is_divided_by_its_length_once_whatever_the_task_normalises_by() {
    let dir = tempfile::tempdir().unwrap();
    // `a` is 1/2 over one byte: -0.69. `e f` is 1/42 over three: -1.25 a byte, which divided again would be -0.42.
    // `c d` is 1/20 over three: -1.0 a byte, -1.5 a token, where `b` is 1/3: -1.1.
    let rows = "{\"question\":\"c\",\"choices\":[\"a\",\"e f\"],\"answer\":\"a\"}\n{\"question\":\"c\",\"choices\":[\"b\",\"c d\"],\"answer\":\"c d\"}\n";
    fs::write(dir.path().join("t.jsonl"), rows).unwrap();
    let template = "{% for message in messages %}{{ message.content }} {% endfor %}";
    let json = tokenizer_json();
    let tokenizer = Tokenizer::from_parts(json.parse().unwrap(), SpecialTokens::new([]), Some(template)).unwrap();
    for (normalise, accuracy) in [("sum", 0.5), ("per_token", 0.5), ("per_byte", 1.0)] {
        let suite = format!(
            "[[task]]\nname = \"m\"\nkind = \"multiple_choice\"\ndata = \"t.jsonl\"\nnormalise = \"{normalise}\"\n"
        );
        let path = dir.path().join("suite.toml");
        fs::write(&path, suite).unwrap();
        let report = evaluate(
            &Suite::load(&path).unwrap(),
            "known",
            &Known,
            &tokenizer,
            &mut |_, _, _| (),
        )
        .unwrap();
        let task = &report.tasks["m"];
        assert_eq!(
            (task.accuracy, task.accuracy_norm),
            (Some(accuracy), Some(1.0)),
            "{normalise}"
        );
    }
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
    assert!(
        error.contains("t.jsonl`, row 2") && error.contains("found ` e`"),
        "{error}"
    );
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

#[test]
fn of_two_replies_the_likelier_one_wins_and_the_margin_is_in_nats() {
    let dir = tempfile::tempdir().unwrap();
    // Replies `a` and `d`: ln 1/2 and ln 1/5; then `e f` and `b`: ln 1/6 + ln 1/7 and ln 1/3.
    let rows = "{\"prompt\": \"c \", \"chosen\": \"a\", \"rejected\": \"d\"}\n{\"prompt\": \"c \", \"chosen\": \"e f\", \"rejected\": \"b\"}\n";
    fs::write(dir.path().join("t.jsonl"), rows).unwrap();
    let report = |more: &str| {
        let suite = format!("[[task]]\nname = \"p\"\nkind = \"pairs\"\ndata = \"t.jsonl\"\n{more}");
        run(dir.path(), &suite).unwrap().tasks["p"].clone()
    };
    let task = report("");
    assert_eq!((task.rows, task.accuracy), (2, Some(0.5)));
    let near = |found: Option<f64>, wanted: f64| assert!((found.unwrap() - wanted).abs() < 1e-6, "{found:?} {wanted}");
    near(task.margin, f64::midpoint((5f64 / 2.0).ln(), (3f64 / 42.0).ln()));
    near(task.chosen_log_prob, -(2f64.ln() + 42f64.ln()) / 2.0);
    near(
        report("normalise = \"per_token\"\n").chosen_log_prob,
        -(2f64.ln() + 42f64.ln() / 2.0) / 2.0,
    );
    assert_eq!((task.cut, task.alike), (None, None));
    // Cut to four tokens, the second pair is one and the same reply, and the third loses an end that does not matter.
    let long = "{\"prompt\": \"c \", \"chosen\": \"a b c d\", \"rejected\": \"a b c e\"}\n{\"prompt\": \"c \", \"chosen\": \"d e f f f\", \"rejected\": \"b\"}\n";
    let first = rows.lines().next().unwrap();
    fs::write(dir.path().join("t.jsonl"), format!("{first}\n{long}")).unwrap();
    let task = report("max_length = 4\n");
    assert_eq!(
        (task.rows, task.accuracy, task.cut, task.alike),
        (2, Some(0.5), Some(2), Some(1))
    );
    fs::write(dir.path().join("t.jsonl"), long.lines().next().unwrap()).unwrap();
    let suite = "[[task]]\nname = \"p\"\nkind = \"pairs\"\ndata = \"t.jsonl\"\nmax_length = 4\n";
    let error = run(dir.path(), suite).unwrap_err().to_string();
    assert!(error.contains("none of 1 pairs has two different replies"), "{error}");
    fs::write(
        dir.path().join("t.jsonl"),
        "{\"prompt\": \"c\", \"completion\": \"a\"}\n",
    )
    .unwrap();
    let error = run(
        dir.path(),
        "[[task]]\nname = \"p\"\nkind = \"pairs\"\ndata = \"t.jsonl\"\n",
    )
    .unwrap_err()
    .to_string();
    assert!(error.contains("row 1") && error.contains("two replies"), "{error}");
}

#[test]
fn replies_are_rewarded_held_against_the_rows_own_and_against_the_base() {
    let dir = tempfile::tempdir().unwrap();
    // The model always says `d`: one letter, where the rows say one, two and none.
    let rows = "{\"prompt\": \"a b\", \"completion\": \"c\"}\n{\"prompt\": \"a\", \"completion\": \"b c\"}\n";
    fs::write(dir.path().join("t.jsonl"), rows).unwrap();
    let suite = "[[task]]\nname = \"r\"\nkind = \"replies\"\ndata = \"t.jsonl\"\nrewards = [{ kind = \"letters\" }]\n";
    let task = &run(dir.path(), suite).unwrap().tasks["r"];
    assert_eq!(
        (task.mean_length, task.ended, task.reward),
        (Some(1.0), Some(1.0), Some(1.0))
    );
    assert_eq!((task.win_rate, task.rewards["letters"]), (Some(0.25), 1.0));
    // Of greedy replies the mean is a log-ratio, and negative here; of drawn ones it estimates the divergence.
    assert!(
        (task.log_ratio.unwrap() + 2f64.ln()).abs() < 1e-6,
        "{:?}",
        task.log_ratio
    );
    assert_eq!(task.kl, None);
    let drawn = &run(dir.path(), &format!("{suite}temperature = 1.0\n")).unwrap().tasks["r"];
    assert_eq!((drawn.kl, drawn.log_ratio), (task.log_ratio, None));
    let wrong = suite.replace("replies", "pairs");
    let error = run(dir.path(), &wrong).unwrap_err().to_string();
    assert!(error.contains("`rewards`, of another kind"), "{error}");
}
