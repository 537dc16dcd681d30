//! Which tokens are learnt: against Transformers' masks, and by the text that the learnt tokens spell.

mod support;

use data::{Chat, EncodeConfig, Message, Problem, Row, Tokenized, Tokenizer, encode, stretches};
use serde_json::Value;

fn learnt(tokenizer: &Tokenizer, row: &Row) -> Vec<String> {
    let samples = encode(row, tokenizer, &EncodeConfig::default()).unwrap();
    spelt(tokenizer, &samples[0].documents[0])
}

fn spelt(tokenizer: &Tokenizer, document: &Tokenized) -> Vec<String> {
    let stretches = stretches(document, tokenizer).unwrap();
    stretches
        .into_iter()
        .filter(|stretch| stretch.trained)
        .map(|stretch| stretch.text)
        .collect()
}

fn chat(turns: &[(&str, &str)]) -> Row {
    Row::Chat(Chat::new(
        turns.iter().map(|(role, text)| Message::new(role, text)).collect(),
    ))
}

fn row(line: &str) -> Row {
    support::rows(line).row(0).clone()
}

const TURNS: [(&str, &str); 5] = [
    ("system", "Be kind."),
    ("user", "One?"),
    ("assistant", "Un."),
    ("user", "Two?"),
    ("assistant", "Deux. 你好 😀"),
];

#[test]
fn masks_of_templates_with_generation_tags_are_those_of_transformers() {
    let masks: Value = serde_json::from_str(include_str!("vectors/masks.json")).unwrap();
    let vectors: Value = serde_json::from_str(include_str!("vectors/templates.json")).unwrap();
    let mut compared = 0;
    for case in masks.as_array().unwrap() {
        let (name, chat) = (case["template"].as_str().unwrap(), case["chat"].as_str().unwrap());
        let tokenizer = support::with_template(name);
        let messages = vectors["chats"][chat]["messages"].as_array().unwrap();
        let messages = messages
            .iter()
            .map(|message| Message::from_json(message, "messages").unwrap())
            .collect();
        let samples = encode(&Row::Chat(Chat::new(messages)), &tokenizer, &EncodeConfig::default()).unwrap();
        let document = &samples[0].documents[0];
        assert_eq!(serde_json::json!(document.tokens), case["tokens"], "{name} / {chat}");
        let mask: Vec<u8> = document.trained.iter().map(|trained| u8::from(*trained)).collect();
        assert_eq!(serde_json::json!(mask), case["mask"], "{name} / {chat}");
        compared += document.num_trained();
    }
    assert!(compared > 500, "{compared} learnt tokens");
}

#[test]
fn assistant_turns_are_found_without_tags() {
    // What each family's model has to say itself: the answer and the token that ends it, nothing of the frame.
    for (template, end) in [
        ("smollm2", "<|im_end|>"),
        ("qwen2_5", "<|im_end|>"),
        ("qwen2_5_coder", "<|im_end|>"),
        ("qwen3_instruct_2507", "<|im_end|>"),
    ] {
        let tokenizer = support::with_template(template);
        let wanted = [format!("Un.{end}"), format!("Deux. 你好 😀{end}")];
        assert_eq!(learnt(&tokenizer, &chat(&TURNS)), wanted, "{template}");
    }
}

#[test]
fn turns_whose_reasoning_the_template_drops_are_found_by_their_text() {
    let tokenizer = support::with_template("qwen3");
    // Qwen3 shows an empty thought in the last turn only, where the model has to write it.
    let wanted = ["Un.<|im_end|>", "<think>\n\n</think>\n\nDeux. 你好 😀<|im_end|>"];
    assert_eq!(learnt(&tokenizer, &chat(&TURNS)), wanted);
}

#[test]
fn the_learnt_text_and_the_rest_make_the_whole_rendering() {
    let tokenizer = support::tokenizer();
    let samples = encode(&chat(&TURNS), &tokenizer, &EncodeConfig::default()).unwrap();
    let text: String = stretches(&samples[0].documents[0], &tokenizer)
        .unwrap()
        .into_iter()
        .map(|stretch| stretch.text)
        .collect();
    let Row::Chat(chat) = chat(&TURNS) else { unreachable!() };
    let template = tokenizer.templates().choose(false).unwrap();
    assert_eq!(
        text,
        template
            .render(&chat, tokenizer.special(), data::Ending::Closed)
            .unwrap()
    );
}

#[test]
fn a_turn_marked_untrained_is_left_out() {
    for template in ["smollm2", "qwen2_5_training"] {
        let tokenizer = support::with_template(template);
        let line =
            r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "one", "weight": 0},
            {"role": "user", "content": "b"}, {"role": "assistant", "content": "two"}]}"#
                .replace('\n', " ");
        let learnt = learnt(&tokenizer, &row(&line));
        assert_eq!(learnt.len(), 1, "{template}: {learnt:?}");
        assert!(learnt[0].contains("two"), "{template}: {learnt:?}");
    }
}

#[test]
fn a_completion_is_learnt_with_its_end_and_the_prompt_is_not() {
    let tokenizer = support::tokenizer();
    let text = row(r#"{"prompt": "The capital of France is", "completion": " Paris."}"#);
    assert_eq!(learnt(&tokenizer, &text), [" Paris.<|im_end|>"]);
    let turns = row(
        r#"{"prompt": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "old"},
        {"role": "user", "content": "And?"}], "completion": [{"role": "assistant", "content": "new"}]}"#
            .replace('\n', " ")
            .as_str(),
    );
    assert_eq!(learnt(&tokenizer, &turns), ["new<|im_end|>"]);
}

#[test]
fn a_plain_text_is_learnt_from_its_second_token_to_its_end() {
    let tokenizer = support::tokenizer();
    let samples = encode(
        &Row::Text("Madrid is the capital.".to_owned()),
        &tokenizer,
        &EncodeConfig::default(),
    )
    .unwrap();
    let document = &samples[0].documents[0];
    assert_eq!(document.num_trained(), document.tokens.len() - 1);
    assert_eq!(document.tokens.last(), Some(&tokenizer.eos().unwrap()));
}

#[test]
fn a_token_across_the_border_is_learnt() {
    let tokenizer = support::tokenizer();
    let capital = tokenizer.encode(" capital").unwrap();
    assert_eq!(capital.len(), 1, "the word must be one token for this test");
    let row = row(r#"{"prompt": "The cap", "completion": "ital"}"#);
    let samples = encode(&row, &tokenizer, &EncodeConfig::default()).unwrap();
    let document = &samples[0].documents[0];
    let at = document.tokens.iter().position(|token| *token == capital[0]).unwrap();
    assert!(document.trained[at] && !document.trained[at - 1]);
}

#[test]
fn everything_is_learnt_when_asked() {
    let tokenizer = support::tokenizer();
    let config = EncodeConfig {
        assistant_only_loss: false,
        completion_only_loss: false,
        ..EncodeConfig::default()
    };
    for row in [chat(&TURNS), row(r#"{"prompt": "a", "completion": "b"}"#)] {
        let samples = encode(&row, &tokenizer, &config).unwrap();
        let document = &samples[0].documents[0];
        assert_eq!(document.num_trained(), document.tokens.len() - 1);
    }
}

#[test]
fn a_preference_gives_the_better_document_first() {
    let tokenizer = support::tokenizer();
    let row = row(r#"{"prompt": "2+2 is", "chosen": " 4", "rejected": " five"}"#);
    let samples = encode(&row, &tokenizer, &EncodeConfig::default()).unwrap();
    let said: Vec<_> = samples[0]
        .documents
        .iter()
        .map(|document| spelt(&tokenizer, document))
        .collect();
    assert_eq!(said, [[" 4<|im_end|>"], [" five<|im_end|>"]]);
}

#[test]
fn a_text_begins_as_the_tokenizer_says_and_a_chat_as_its_template_says() {
    let mut inner = tokenizers::Tokenizer::from_bytes(include_bytes!("vectors/tokenizer.json")).unwrap();
    let bos = inner.token_to_id("<|endoftext|>").unwrap();
    let around = tokenizers::processors::template::TemplateProcessing::builder()
        .try_single("<|endoftext|> $A")
        .unwrap()
        .special_tokens(vec![("<|endoftext|>", bos)])
        .build()
        .unwrap();
    inner.with_post_processor(Some(around));
    let special = data::SpecialTokens::new([("bos_token", "<|endoftext|>"), ("eos_token", "<|im_end|>")]);
    let turns = chat(&[("user", "a"), ("assistant", " b")]);
    let text = Row::Text("a b".to_owned());
    for (template, row, wanted) in [
        (
            "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}",
            &turns,
            1,
        ),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", &turns, 0),
        ("{{ bos_token }}", &text, 1),
        ("", &row(r#"{"prompt": "a", "completion": " b"}"#), 1),
    ] {
        let tokenizer = Tokenizer::from_parts(inner.clone(), special.clone(), Some(template)).unwrap();
        assert_eq!(tokenizer.bos(), Some(bos));
        let samples = encode(row, &tokenizer, &EncodeConfig::default()).unwrap();
        let tokens = &samples[0].documents[0].tokens;
        assert_eq!(
            tokens.iter().filter(|token| **token == bos).count(),
            wanted,
            "{template} {row:?}"
        );
        assert_eq!(tokens[0] == bos, wanted == 1);
    }
}

#[test]
fn rows_that_teach_nothing_are_refused_with_the_reason() {
    let tokenizer = support::tokenizer();
    let config = EncodeConfig::default();
    let refused = |row: &Row| encode(row, &tokenizer, &config).unwrap_err();
    assert!(matches!(
        refused(&chat(&[("user", "a"), ("assistant", " ")])),
        Problem::Empty { .. }
    ));
    assert!(matches!(
        refused(&chat(&[("user", "a")])),
        Problem::NothingTrained { .. }
    ));
    assert!(matches!(
        refused(&row(r#"{"prompt": "a", "completion": ""}"#)),
        Problem::Empty { .. }
    ));
    let short = EncodeConfig {
        max_length: Some(6),
        ..EncodeConfig::default()
    };
    let problem = encode(&chat(&TURNS), &tokenizer, &short).unwrap_err();
    assert!(
        matches!(problem, Problem::PromptTooLong { prompt, max_length: 6 } if prompt > 6),
        "{problem}"
    );
}

#[test]
fn a_template_whose_turns_cannot_be_told_apart_is_refused_by_name() {
    let shuffled = "{{ messages | length }}{% for m in messages | reverse %}{{ m.content }}{{ m.content }}{% endfor %}";
    let template = data::ChatTemplate::new("odd.jinja", shuffled).unwrap();
    let tokenizer = support::tokenizer().with_template(template);
    let problem = encode(&chat(&TURNS), &tokenizer, &EncodeConfig::default()).unwrap_err();
    let text = problem.to_string();
    assert!(
        matches!(problem, Problem::SpanNotFound { message_idx: 2, .. }),
        "{text}"
    );
    assert!(text.contains("odd.jinja") && text.contains("hint: "), "{text}");
}

#[test]
fn a_conversation_without_a_template_is_refused_with_a_hint() {
    let inner = tokenizers::Tokenizer::from_bytes(include_bytes!("vectors/tokenizer.json")).unwrap();
    let tokenizer = Tokenizer::from_parts(inner, data::SpecialTokens::default(), None).unwrap();
    let problem = encode(&chat(&TURNS), &tokenizer, &EncodeConfig::default()).unwrap_err();
    assert!(problem.to_string().contains("chat_template = \"chatml\""), "{problem}");
}

#[test]
fn long_texts_are_cut_or_carried_on() {
    let tokenizer = support::tokenizer();
    let text = Row::Text("The capital of France is Paris. ".repeat(20));
    let cut = EncodeConfig {
        max_length: Some(16),
        ..EncodeConfig::default()
    };
    let samples = encode(&text, &tokenizer, &cut).unwrap();
    assert_eq!(
        (
            samples.len(),
            samples[0].documents[0].tokens.len(),
            samples[0].truncated
        ),
        (1, 16, true)
    );
    let split = EncodeConfig {
        overflow: data::Overflow::Split,
        ..cut
    };
    let samples = encode(&text, &tokenizer, &split).unwrap();
    let all: Vec<u32> = samples
        .iter()
        .flat_map(|sample| sample.documents[0].tokens.clone())
        .collect();
    let whole = encode(&text, &tokenizer, &EncodeConfig::default()).unwrap();
    assert_eq!(all, whole[0].documents[0].tokens);
    assert!(
        samples
            .iter()
            .all(|sample| sample.documents[0].tokens.len() <= 16 && !sample.truncated)
    );
}
