//! The tokenizer's files, its special tokens, and decoding token by token.

mod support;

use std::fs;
use std::path::Path;

use data::{Chat, Ending, Message, Tokenizer};

fn model_dir(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::write(
        dir.path().join("tokenizer.json"),
        include_str!("vectors/tokenizer.json"),
    )
    .unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn rendered(tokenizer: &Tokenizer, tools: bool) -> String {
    let template = tokenizer.templates().choose(tools).unwrap();
    template
        .render(
            &Chat::new(vec![Message::new("user", "x")]),
            tokenizer.special(),
            Ending::Closed,
        )
        .unwrap()
}

#[test]
fn both_generations_of_configuration_are_read() {
    let old = model_dir(&[
        (
            "tokenizer_config.json",
            r#"{"chat_template": "old {{ eos_token }}", "bos_token": {"content": "<|endoftext|>"}}"#,
        ),
        (
            "special_tokens_map.json",
            r#"{"eos_token": "<|im_end|>", "bos_token": "<|im_start|>"}"#,
        ),
    ]);
    let tokenizer = Tokenizer::from_dir(old.path()).unwrap();
    assert_eq!(rendered(&tokenizer, false), "old <|im_end|>");
    // The older file counts where the newer one lists no added tokens, as in Transformers.
    assert_eq!(
        (tokenizer.bos(), tokenizer.eos()),
        (tokenizer.id("<|im_start|>"), tokenizer.id("<|im_end|>"))
    );

    let new = model_dir(&[
        (
            "tokenizer_config.json",
            r#"{"chat_template": "old", "eos_token": "<|im_end|>"}"#,
        ),
        ("chat_template.jinja", "new"),
        ("additional_chat_templates/tool_use.jinja", "tools"),
    ]);
    let tokenizer = Tokenizer::from_dir(new.path()).unwrap();
    assert_eq!(
        (rendered(&tokenizer, false), rendered(&tokenizer, true)),
        ("new".to_owned(), "tools".to_owned())
    );
    assert_eq!(tokenizer.eos_ids(), [1]);

    let list = r#"{"chat_template": [{"name": "default", "template": "d"}, {"name": "tool_use", "template": "t"}]}"#;
    let tokenizer = Tokenizer::from_dir(model_dir(&[("tokenizer_config.json", list)]).path()).unwrap();
    assert_eq!(
        (rendered(&tokenizer, false), rendered(&tokenizer, true)),
        ("d".to_owned(), "t".to_owned())
    );
}

#[test]
fn bad_model_directories_are_refused_by_file() {
    for (files, wanted) in [
        (
            &[("tokenizer_config.json", "{\n\"eos_token\"")][..],
            "tokenizer_config.json` line 2: wanted JSON",
        ),
        (
            &[("tokenizer_config.json", "{\n\"chat_template\": 5}")],
            "tokenizer_config.json` line 2: wanted `chat_template` as a string or a list",
        ),
        (
            &[("tokenizer_config.json", "{\n\"added_tokens_decoder\": {\"x\": {}}}")],
            "tokenizer_config.json` line 2: wanted `added_tokens_decoder` as ids",
        ),
        (
            &[("added_tokens.json", "{\n\n\"<tool>\": \"x\"}")],
            "added_tokens.json` line 3: wanted tokens with their ids",
        ),
        (&[("chat_template.jinja", "{% for %}")], "chat_template.jinja`: "),
        (&[("tokenizer.json", "{}")], "tokenizer.json`: "),
    ] {
        let found = Tokenizer::from_dir(model_dir(files).path()).unwrap_err().to_string();
        assert!(found.contains(wanted), "wanted: {wanted}\nfound:  {found}");
    }
    assert!(
        Tokenizer::from_dir(Path::new("/nowhere"))
            .unwrap_err()
            .to_string()
            .contains("/nowhere/tokenizer.json")
    );
}

#[test]
fn streamed_text_is_the_decoded_text() {
    let tokenizer = support::tokenizer();
    for text in [
        "naïve café 你好 😀!",
        "Hello,  how\n\n are you?",
        "👩‍👩‍👧 <|im_end|> after",
        "",
        "\u{FFFD} replaced",
    ] {
        let tokens = tokenizer.encode(text).unwrap();
        let mut stream = tokenizer.stream();
        let mut pieces = Vec::new();
        for &token in &tokens {
            pieces.push(stream.push(token).unwrap());
        }
        pieces.push(stream.finish().unwrap());
        assert_eq!(pieces.concat(), tokenizer.decode(&tokens).unwrap(), "{pieces:?}");
    }
}

#[test]
fn a_stream_never_hands_out_half_a_character() {
    let tokenizer = support::tokenizer();
    let tokens = tokenizer.encode("🦀🦀").unwrap();
    assert!(tokens.len() >= 4, "the crab must take several tokens for this test");
    let mut stream = tokenizer.stream();
    let pieces: Vec<String> = tokens.iter().map(|&token| stream.push(token).unwrap()).collect();
    assert_eq!(
        pieces.iter().filter(|piece| !piece.is_empty()).collect::<Vec<_>>(),
        ["🦀", "🦀"]
    );
    let mut stream = tokenizer.stream();
    assert_eq!(stream.push(tokens[0]).unwrap(), "");
    assert_eq!(stream.finish().unwrap(), tokenizer.decode(&tokens[..1]).unwrap());
}

#[test]
fn streaming_random_tokens_equals_decoding_them() {
    let tokenizer = support::tokenizer();
    let mut state = 1u32;
    for length in 1..60 {
        let tokens: Vec<u32> = (0..length)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 8) % tokenizer.vocab_size() as u32
            })
            .collect();
        let mut stream = tokenizer.stream();
        let mut text: String = tokens.iter().map(|&token| stream.push(token).unwrap()).collect();
        text += &stream.finish().unwrap();
        assert_eq!(text, tokenizer.decode(&tokens).unwrap(), "{tokens:?}");
    }
}
