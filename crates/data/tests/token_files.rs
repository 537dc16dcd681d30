//! Tokens, templates and what stands around a text, as Transformers reads them from a tokenizer's files; and what is said
//! where these files disagree.

use std::fs;
use std::path::Path;

use data::{Chat, Message, NamedEnds, Surroundings, Tokenizer};
use serde_json::{Value, json};
use tokenizers::processors::template::TemplateProcessing;

/// Made by `crates/golden/generate/token_files.py`.
const GOLDEN: &str = include_str!("../../golden/vectors/token_files.json");

const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}\
                      {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

/// A folder with the tests' tokenizer, `post` around its texts, and `files`.
fn folder(post: Option<&str>, files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut inner = tokenizers::Tokenizer::from_bytes(include_bytes!("vectors/tokenizer.json")).unwrap();
    if let Some(post) = post {
        let special = |token: &str| (token.to_owned(), inner.token_to_id(token).unwrap());
        let around = post
            .split(' ')
            .filter(|part| *part != "$A")
            .map(special)
            .collect::<Vec<_>>();
        let template = TemplateProcessing::builder()
            .try_single(post)
            .unwrap()
            .special_tokens(around)
            .build()
            .unwrap();
        inner.with_post_processor(Some(template));
    }
    inner.save(folder.path().join("tokenizer.json"), false).unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

fn read(folder: &Path, surroundings: Surroundings) -> Tokenizer {
    Tokenizer::read(&folder, surroundings).unwrap()
}

fn named(place: &str, ids: &[u32]) -> NamedEnds {
    NamedEnds {
        place: place.to_owned(),
        ids: ids.to_vec(),
    }
}

fn config(value: &Value) -> String {
    value.to_string()
}

#[test]
fn every_layout_of_files_gives_the_tokens_of_transformers() {
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 20, "{} cases", cases.len());
    for case in cases {
        let name = case["name"].as_str().unwrap();
        let files: Vec<(&str, &str)> = case["files"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str().unwrap()))
            .collect();
        let folder = folder(case["post"].as_str(), &files);
        let tokenizer = read(folder.path(), Surroundings::default());
        assert_eq!(json!(tokenizer.vocab_size()), case["size"], "{name}");
        assert_eq!(json!(tokenizer.bos()), case["bos"], "{name}");
        assert_eq!(json!(tokenizer.eos()), case["eos"], "{name}");
        for row in case["texts"].as_array().unwrap() {
            let text = row["text"].as_str().unwrap();
            assert_eq!(
                json!(tokenizer.encode_whole(text).unwrap()),
                row["ids"],
                "{name}: {text}"
            );
        }
        let template = tokenizer.templates().choose(false);
        assert_eq!(
            json!(template.map(data::ChatTemplate::source)),
            case["template"],
            "{name}"
        );
        if template.is_some() {
            let chat = Chat::new(vec![Message::new("user", "hi")]);
            assert_eq!(json!(tokenizer.encode_chat(&chat).unwrap()), case["chat"], "{name}");
        }
    }
}

#[test]
fn files_that_disagree_are_told_and_those_that_agree_are_not() {
    let check = |post, files: &[(&str, &str)], wanted: &[&str]| {
        let folder = folder(post, files);
        let notes = read(folder.path(), Surroundings::default()).notes();
        assert_eq!(notes.len(), wanted.len(), "{notes:?}");
        for (note, wanted) in notes.iter().zip(wanted) {
            assert!(note.contains(wanted), "wanted: {wanted}\nfound:  {note}");
        }
    };
    let conf = |value: Value| config(&value);
    let adds = conf(json!({"bos_token": "<|endoftext|>", "add_bos_token": true}));
    check(None, &[("tokenizer_config.json", &adds)], &["`add_bos_token` is true"]);
    check(Some("<|endoftext|> $A"), &[("tokenizer_config.json", &adds)], &[]);
    let two = conf(json!({"chat_template": "one"}));
    check(
        None,
        &[("tokenizer_config.json", &two), ("chat_template.jinja", "two")],
        &["two different chat templates"],
    );
    check(
        None,
        &[("tokenizer_config.json", &two), ("chat_template.jinja", "one\n")],
        &[],
    );
    check(
        None,
        &[
            ("tokenizer_config.json", &two),
            ("chat_template.json", r#"{"chat_template": "two"}"#),
        ],
        &["two different chat templates"],
    );
    let bos = conf(json!({"bos_token": "<|endoftext|>"}));
    check(
        None,
        &[
            ("tokenizer_config.json", &bos),
            ("special_tokens_map.json", r#"{"bos_token": "<|im_start|>"}"#),
        ],
        &["`bos_token` is `<|im_start|>` in special_tokens_map.json"],
    );
    let moved = conf(json!({"added_tokens_decoder": {"900": {"content": "<tool>", "special": true}}}));
    check(None, &[("tokenizer_config.json", &moved)], &["has the number 900"]);
}

#[test]
fn a_template_that_only_the_older_file_holds_is_used() {
    let folder = folder(
        None,
        &[(
            "chat_template.json",
            &config(&json!({"chat_template": CHATML.replace("\\n", "\n")})),
        )],
    );
    let tokenizer = read(folder.path(), Surroundings::default());
    assert!(tokenizer.templates().choose(false).is_some());
}

#[test]
fn a_token_that_the_model_has_no_row_for_is_read_as_text_and_told() {
    let conf = config(&json!({"pad_token": "<pad>"}));
    let folder = folder(None, &[("tokenizer_config.json", &conf)]);
    let rows = read(folder.path(), Surroundings::default()).vocab_size() - 1;
    let surroundings = Surroundings {
        rows: Some(rows),
        ends: Vec::new(),
    };
    let tokenizer = read(folder.path(), surroundings);
    assert!(
        tokenizer
            .encode("<pad>")
            .unwrap()
            .iter()
            .all(|id| (*id as usize) < rows)
    );
    let notes = tokenizer.notes();
    assert!(
        notes.len() == 1 && notes[0].contains("`<pad>` (pad_token)"),
        "{notes:?}"
    );
}

#[test]
fn every_place_that_names_an_end_token_counts() {
    // `<|im_start|>` 0, `<|im_end|>` 1, `<|endoftext|>` 2.
    let ends = |config: &[u32], generation: &[u32]| Surroundings {
        rows: None,
        ends: vec![
            named("config.json", config),
            named("generation_config.json", generation),
        ],
    };
    let conf = |eos: Option<&str>, template: &str| config(&json!({"eos_token": eos, "chat_template": template}));
    let chatml = CHATML.replace("\\n", "\n");
    let check = |name: &str, (eos, template), surroundings, wanted: &[u32], (last, told): (Option<u32>, bool)| {
        let folder = folder(None, &[("tokenizer_config.json", &conf(eos, template))]);
        let tokenizer = read(folder.path(), surroundings);
        assert_eq!(tokenizer.eos_ids(), wanted, "{name}");
        assert_eq!(tokenizer.eos(), last, "{name}");
        let notes = tokenizer.notes();
        assert_eq!(
            notes.iter().any(|note| note.contains("generation stops")),
            told,
            "{name}: {notes:?}"
        );
        for id in tokenizer.eos_ids() {
            assert!(tokenizer.is_special(*id), "{name}");
        }
    };
    let (end, text) = (Some("<|im_end|>"), Some("<|endoftext|>"));
    let chat = chatml.as_str();
    check("all agree", (end, chat), ends(&[1], &[1]), &[1], (Some(1), false));
    check(
        "the last one names them all",
        (end, chat),
        ends(&[1], &[1, 2]),
        &[1, 2],
        (Some(1), false),
    );
    check(
        "three ways",
        (end, "{{ 'x' }}"),
        ends(&[2], &[0]),
        &[1, 2, 0],
        (Some(1), true),
    );
    check(
        "a base model with a template",
        (text, chat),
        ends(&[2], &[2]),
        &[2, 1],
        (Some(2), true),
    );
    check(
        "in the configuration only",
        (None, chat),
        ends(&[2, 1], &[]),
        &[2, 1],
        (Some(2), false),
    );
    check(
        "nowhere but in the template",
        (None, chat),
        ends(&[], &[]),
        &[1],
        (None, true),
    );
}

#[test]
fn an_end_token_that_the_vocabulary_lacks_is_told_where_another_is_named_and_else_refused() {
    let conf = config(&json!({"eos_token": "</s>"}));
    let folder = folder(None, &[("tokenizer_config.json", &conf)]);
    let surroundings = |ids: &[u32]| Surroundings {
        // One row fewer than a further token would need.
        rows: Some(420),
        ends: vec![named("config.json", ids)],
    };
    let tokenizer = read(folder.path(), surroundings(&[2]));
    assert_eq!((tokenizer.eos(), tokenizer.eos_ids()), (Some(2), &[2][..]));
    assert!(
        tokenizer
            .notes()
            .iter()
            .any(|note| note.contains("`</s>` is not in the vocabulary"))
    );
    let error = Tokenizer::read(&folder.path(), surroundings(&[]))
        .unwrap_err()
        .to_string();
    assert!(error.contains("`</s>` is not in the vocabulary"), "{error}");
}

#[test]
fn the_end_of_a_turn_is_what_a_template_writes_behind_an_answer() {
    let folder = folder(None, &[]);
    let tokenizer = read(folder.path(), Surroundings::default());
    for (template, wanted) in [
        ("{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}", &[1][..]),
        (
            "{% for m in messages %}{{ m.content }} \n<|endoftext|>\n{% endfor %}",
            &[2],
        ),
        // Other text comes before the token.
        ("{% for m in messages %}{{ m.content }} end <|im_end|>{% endfor %}", &[]),
        ("{% for m in messages %}### {{ m.content }}\n\n{% endfor %}", &[]),
        // An answer that is shown twice, or not at all.
        (
            "{% for m in messages %}{{ m.content }}{{ m.content }}<|im_end|>{% endfor %}",
            &[],
        ),
        ("<|im_end|>", &[]),
    ] {
        let template = data::ChatTemplate::new("test", template).unwrap();
        let source = template.source().to_owned();
        assert_eq!(tokenizer.clone().with_template(template).eos_ids(), wanted, "{source}");
    }
}

#[test]
fn configurations_with_a_mark_of_byte_order_or_infinity_are_read() {
    let text = "\u{feff}{\"model_max_length\": Infinity, \"eos_token\": \"<|im_end|>\"}";
    let folder = folder(None, &[("tokenizer_config.json", text)]);
    assert_eq!(read(folder.path(), Surroundings::default()).eos(), Some(1));
}
