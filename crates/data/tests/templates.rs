//! Chat templates against what Transformers rendered: `tests/vectors/make.py` made the vectors.

use std::collections::BTreeMap;

use data::{Chat, ChatTemplate, Ending, Message, Problem, SpecialTokens};
use serde_json::{Map, Value, json};

const VECTORS: &str = include_str!("vectors/templates.json");

fn vectors() -> Value {
    match std::env::var("FINETUNE_TEMPLATE_VECTORS") {
        Ok(path) => serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap(),
        Err(_) => serde_json::from_str(VECTORS).unwrap(),
    }
}

fn special(vectors: &Value) -> SpecialTokens {
    let tokens = vectors["special_tokens"].as_object().unwrap();
    SpecialTokens::new(
        tokens
            .iter()
            .map(|(name, token)| (name.as_str(), token.as_str().unwrap())),
    )
}

fn chat(spec: &Value) -> (Chat, Ending) {
    let messages = spec["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| Message::from_json(m, "messages").unwrap());
    let mut kwargs: Map<String, Value> = spec["kwargs"].as_object().cloned().unwrap_or_default();
    let mut flag = |name: &str| kwargs.remove(name) == Some(Value::Bool(true));
    let ending = match (flag("add_generation_prompt"), flag("continue_final_message")) {
        (true, _) => Ending::GenerationPrompt,
        (_, true) => Ending::ContinueFinal,
        _ => Ending::Closed,
    };
    let list = |name: &str| spec.get(name).filter(|list| list.is_array()).cloned();
    let chat = Chat {
        messages: messages.collect(),
        tools: list("tools"),
        documents: list("documents"),
        template_kwargs: kwargs,
    };
    (chat, ending)
}

fn template(name: &str, source: &str) -> ChatTemplate {
    let now = chrono::NaiveDate::from_ymd_opt(2026, 1, 2)
        .unwrap()
        .and_hms_opt(3, 4, 5)
        .unwrap();
    ChatTemplate::at_time(name, source, now).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn every_template_renders_what_transformers_renders() {
    let vectors = vectors();
    let special = special(&vectors);
    let mut wrong = Vec::new();
    let mut compiled = BTreeMap::new();
    for case in vectors["cases"].as_array().unwrap() {
        let (name, chat_name) = (case["template"].as_str().unwrap(), case["chat"].as_str().unwrap());
        let source = vectors["templates"][name].as_str().unwrap();
        let template = compiled.entry(name).or_insert_with(|| template(name, source));
        let (chat, ending) = chat(&vectors["chats"][chat_name]);
        let found = template.render(&chat, &special, ending);
        let same = match (&found, case.get("rendered"), case.get("error")) {
            (Ok(text), Some(wanted), _) => text == wanted.as_str().unwrap(),
            (Err(_), None, Some(_)) => true,
            _ => false,
        };
        if !same {
            let wanted = case.get("rendered").or(case.get("error")).unwrap();
            wrong.push(format!(
                "== {name} / {chat_name}\n{wanted}\n-- found\n{}",
                json!(format!("{found:?}"))
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} renderings differ\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn generation_tags_span_what_transformers_says() {
    let vectors = vectors();
    let special = special(&vectors);
    let mut seen = 0;
    for case in vectors["cases"].as_array().unwrap() {
        let (Some(spans), Some(wanted)) = (case["spans"].as_array(), case["rendered"].as_str()) else {
            continue;
        };
        let (name, chat_name) = (case["template"].as_str().unwrap(), case["chat"].as_str().unwrap());
        let (chat, ending) = chat(&vectors["chats"][chat_name]);
        if ending != Ending::Closed || spans.is_empty() {
            continue;
        }
        let template = template(name, vectors["templates"][name].as_str().unwrap());
        let rendered = template.render_marked(&chat, &special).unwrap();
        assert_eq!(rendered.text, wanted);
        let found: Vec<[usize; 2]> = rendered
            .generated
            .unwrap_or_default()
            .iter()
            .map(|span| [span.start, span.end])
            .collect();
        assert_eq!(json!(found), json!(spans), "{name} / {chat_name}");
        seen += 1;
    }
    assert!(seen > 50, "{seen} cases");
}

#[test]
fn a_raised_exception_reaches_the_user() {
    let template = ChatTemplate::new("strict.jinja", "a\n{{ raise_exception('Roles must alternate') }}").unwrap();
    let error = template
        .render(&Chat::default(), &SpecialTokens::default(), Ending::Closed)
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "chat template `strict.jinja`: Roles must alternate (template line 2)"
    );
}

#[test]
fn a_template_that_would_run_for_ever_ends_in_an_error() {
    let source = "{% for a in range(9000) %}{% for b in range(9000) %}{{ a }}{% endfor %}{% endfor %}";
    let template = ChatTemplate::new("endless.jinja", source).unwrap();
    let error = template
        .render(&Chat::default(), &SpecialTokens::default(), Ending::Closed)
        .unwrap_err()
        .to_string();
    assert!(error.contains("`endless.jinja`") && error.contains("fuel"), "{error}");
}

#[test]
fn a_template_that_does_not_compile_is_refused_when_it_is_loaded() {
    let error = ChatTemplate::new("broken.jinja", "{% if %}").unwrap_err().to_string();
    assert!(
        error.starts_with("chat template `broken.jinja`: ") && error.contains("line 1"),
        "{error}"
    );
}

#[test]
fn marks_in_the_text_itself_do_not_confuse_the_spans() {
    let template = ChatTemplate::chatml().unwrap();
    let chat = Chat::new(vec![Message::new("user", "\u{FDD0}"), Message::new("assistant", "b")]);
    let rendered = template.render_marked(&chat, &SpecialTokens::default()).unwrap();
    assert!(rendered.text.contains('\u{FDD0}'));
    assert_eq!(rendered.generated, None);
}

#[test]
fn continuing_a_message_that_the_template_hides_is_refused() {
    let template = ChatTemplate::new("mute", "{{ messages[0].role }}").unwrap();
    let chat = Chat::new(vec![Message::new("assistant", "b")]);
    let found = template.render(&chat, &SpecialTokens::default(), Ending::ContinueFinal);
    assert!(matches!(found, Err(Problem::Template { .. })), "{found:?}");
}
