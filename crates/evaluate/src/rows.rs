//! Rows of evaluation data: what is asked, and what is right.
//!
//! Shapes that training data has are read by the `data` crate. Beside them: `{input: turns or text, ideal}`, and
//! `{question, choices, answer}` under names that the task gives.

use std::borrow::Cow;

use data::{Chat, Dataset, Exchange, Prompt, PromptForm, ReadConfig, Row, Tokenizer};
use serde_json::{Map, Value};
use tensor_core::AdapterRouting;

use crate::{Error, Result, Scorer, Task};

/// What is asked and the right answers.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Question {
    pub(crate) prompt: Prompt,
    pub(crate) gold: Vec<String>,
    pub(crate) choices: Vec<String>,
    /// The row's `adapter`.
    pub(crate) adapter: Option<Value>,
}

/// The column that chooses a row's adapters.
pub(crate) const ADAPTER: &str = "adapter";

/// The mix of each row, as its `adapter` says; nothing where the scorer gives rows no choice.
pub(crate) fn mixes<'r>(
    task: &Task,
    scorer: &dyn Scorer,
    rows: impl Iterator<Item = Option<&'r Value>>,
) -> Result<Vec<AdapterRouting>> {
    let each = rows.enumerate().map(|(idx, chosen)| {
        let mix = scorer.mix(chosen);
        mix.map_err(|found| refused(task, idx, "an `adapter` that there is", &found))
    });
    each.filter_map(Result::transpose).collect()
}

/// A whole text, its tokens, and its row's `adapter`.
pub(crate) struct Whole {
    pub(crate) text: String,
    pub(crate) tokens: Vec<u32>,
    pub(crate) adapter: Option<Value>,
}

pub(crate) fn read(task: &Task) -> Result<Dataset> {
    let config = ReadConfig {
        keep: vec![ADAPTER.to_owned()],
        ..task.reading()
    };
    Ok(Dataset::read(&task.data, &config)?)
}

/// Plain texts of a perplexity task: a text column, or a conversation as its template writes it.
pub(crate) fn texts(task: &Task, scorer: &dyn Scorer, tokenizer: &Tokenizer) -> Result<Vec<Whole>> {
    let tokens = |idx: usize, text: &str, is_chat: bool| {
        // A template writes every token of a conversation itself.
        let tokens = if is_chat {
            tokenizer.encode(text)
        } else {
            tokenizer.encode_whole(text)
        };
        tokens.map_err(|source| Error::Text {
            path: task.data.clone(),
            row: idx + 1,
            source,
        })
    };
    if let Some(field) = &task.text_field {
        return objects(task)?
            .iter()
            .enumerate()
            .map(|(idx, row)| {
                let text = text_of(task, idx, row, field)?;
                Ok(Whole {
                    tokens: tokens(idx, &text, false)?,
                    text,
                    adapter: row.get(ADAPTER).filter(|chosen| !chosen.is_null()).cloned(),
                })
            })
            .collect();
    }
    let dataset = read(task)?;
    let rows = dataset.rows().take(task.max_rows.unwrap_or(usize::MAX)).enumerate();
    let form = form(scorer, tokenizer);
    rows.map(|(idx, row)| {
        let row = form.map_or(Cow::Borrowed(row), |form| form.of_row(row));
        let text = whole(task, idx, &row, tokenizer)?;
        Ok(Whole {
            tokens: tokens(idx, &text, row.gives_turns() == Some(true))?,
            text,
            adapter: dataset.kept(idx, ADAPTER).cloned(),
        })
    })
    .collect()
}

/// How plain prompts are given: as the scorer says, but as texts where there is no template for turns.
pub(crate) fn form(scorer: &dyn Scorer, tokenizer: &Tokenizer) -> Option<PromptForm> {
    match (scorer.prompt_form(), tokenizer.templates().choose(false)) {
        (Some(_), None) => Some(PromptForm::Text),
        (form, _) => form,
    }
}

/// The tokens of a prompt, as the model reads it before it answers.
pub(crate) fn encoded(prompt: &Prompt, tokenizer: &Tokenizer) -> std::result::Result<Vec<u32>, data::Problem> {
    match prompt {
        Prompt::Text(text) => tokenizer.encode_prompt(text),
        Prompt::Turns(chat) => tokenizer.encode_chat(chat),
    }
}

/// Refuses a prompt that leaves the model no position for an answer.
pub(crate) fn fits(task: &Task, idx: usize, tokens: &[u32], scorer: &dyn Scorer) -> Result<()> {
    match scorer.max_positions() {
        Some(positions) if tokens.len() >= positions => Err(refused(
            task,
            idx,
            &format!("a prompt of fewer tokens than the model's {positions} positions"),
            &format!("{} tokens", tokens.len()),
        )),
        _ => Ok(()),
    }
}

fn whole(task: &Task, idx: usize, row: &Row, tokenizer: &Tokenizer) -> Result<String> {
    match row {
        Row::Text(text) | Row::Labelled { text, .. } => Ok(text.clone()),
        Row::Chat(chat) => render(task, idx, chat, tokenizer),
        Row::Prompted(exchange) => match exchange {
            Exchange::Text { prompt, reply } => Ok(format!("{prompt}{reply}")),
            Exchange::Turns { .. } => render(task, idx, &exchange.chat().unwrap_or_default(), tokenizer),
        },
        other => Err(refused(task, idx, "a text or a conversation", other.kind())),
    }
}

/// Names for a message: each between backticks.
pub(crate) fn listed(names: &[String]) -> String {
    names
        .iter()
        .map(|name| format!("`{name}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn render(task: &Task, idx: usize, chat: &Chat, tokenizer: &Tokenizer) -> Result<String> {
    if tokenizer.templates().choose(chat.tools.is_some()).is_none() {
        return Err(refused(
            task,
            idx,
            "a plain text, since the tokenizer has no chat template",
            "a conversation",
        ));
    }
    let rendered = tokenizer.render(chat, data::Ending::Closed);
    rendered.map_err(|source| Error::Text {
        path: task.data.clone(),
        row: idx + 1,
        source,
    })
}

/// Questions of every other task.
pub(crate) fn questions(task: &Task, scorer: &dyn Scorer, tokenizer: &Tokenizer) -> Result<Vec<Question>> {
    questions_in(task, form(scorer, tokenizer))
}

fn questions_in(task: &Task, form: Option<PromptForm>) -> Result<Vec<Question>> {
    let named = task.question_field.is_some() || task.choices_field.is_some() || task.answer_field.is_some();
    let rows = objects(task)?;
    if named || (task.shape.is_none() && rows.first().is_some_and(is_raw)) {
        return rows
            .iter()
            .enumerate()
            .map(|(idx, row)| raw_question(task, idx, row, form))
            .collect();
    }
    let dataset = read(task)?;
    let rows = dataset.rows().take(task.max_rows.unwrap_or(usize::MAX)).enumerate();
    rows.map(|(idx, row)| {
        Ok(Question {
            adapter: dataset.kept(idx, ADAPTER).cloned(),
            ..question_of(task, idx, row, form)?
        })
    })
    .collect()
}

fn is_raw(row: &Map<String, Value>) -> bool {
    row.get("ideal").is_some() || (row.get("question").is_some() && row.get("answer").is_some())
}

pub(crate) fn question_of(task: &Task, idx: usize, row: &Row, form: Option<PromptForm>) -> Result<Question> {
    let row = &*form.map_or(Cow::Borrowed(row), |form| form.of_row(row));
    // What follows a plain prompt follows it exactly, spaces included; a turn is trimmed as templates trim it.
    let (prompt, gold) = match row {
        Row::Chat(chat) => {
            let Some((last, before)) = chat
                .messages
                .split_last()
                .filter(|(last, _)| last.role() == "assistant")
            else {
                return Err(refused(
                    task,
                    idx,
                    "a conversation that ends with the assistant's answer",
                    "another last turn",
                ));
            };
            let prompt = Chat {
                messages: before.to_vec(),
                ..chat.clone()
            };
            (Prompt::Turns(prompt), last.text().trim().to_owned())
        }
        Row::Prompted(exchange @ Exchange::Text { prompt, .. }) => {
            (Prompt::Text(prompt.clone()), exchange.reply_text())
        }
        Row::Prompted(exchange @ Exchange::Turns { prompt, .. }) => {
            (Prompt::Turns(prompt.clone()), exchange.reply_text().trim().to_owned())
        }
        Row::Labelled { text, label } => {
            let gold = match label {
                data::Label::Id(id) => id.to_string(),
                data::Label::Name(name) => name.clone(),
            };
            (asked(text, form), gold)
        }
        other => {
            return Err(refused(task, idx, "a prompt with its right answer", other.kind()));
        }
    };
    Ok(Question {
        prompt,
        gold: vec![gold],
        choices: Vec::new(),
        adapter: None,
    })
}

/// Columns without which a question cannot be answered, if a row has them.
const BESIDE_QUESTION: [&str; 7] = [
    "context",
    "passage",
    "paragraph",
    "article",
    "document",
    "story",
    "premise",
];

fn raw_question(task: &Task, idx: usize, row: &Map<String, Value>, form: Option<PromptForm>) -> Result<Question> {
    let says = |name: &str| row.get(name).filter(|value| !(value.is_null() || *value == ""));
    let named = |option: &Option<String>, usual: &[&str]| -> Option<String> {
        match option {
            Some(name) => says(name).map(|_| name.clone()),
            None => usual
                .iter()
                .find(|name| says(name).is_some())
                .map(|name| (*name).to_owned()),
        }
    };
    let field = |option: &Option<String>, usual: &[&str]| named(option, usual).and_then(|name| row.get(&name).cloned());
    let keys = || row.keys().cloned().collect::<Vec<_>>().join(", ");
    let Some(asked) = named(&task.question_field, &["input", "question"]) else {
        return Err(refused(task, idx, "a question (`question_field`)", &keys()));
    };
    let Some(answer) = field(&task.answer_field, &["ideal", "answer"]) else {
        return Err(refused(task, idx, "an answer (`answer_field`)", &keys()));
    };
    let beside = BESIDE_QUESTION.iter().find(|name| {
        let text = row.get(**name).and_then(Value::as_str).map(str::trim);
        text.is_some_and(|text| !(text.is_empty() || row[&asked].as_str().is_some_and(|asked| asked.contains(text))))
    });
    if let (Some(name), None) = (beside, &task.question_field) {
        let wanted = "a question that holds all that is needed to answer it (`question_field` reads one column alone)";
        return Err(refused(task, idx, wanted, &format!("`{name}` beside `{asked}`")));
    }
    let chat = data::question(row, &asked).map_err(|source| Error::Text {
        path: task.data.clone(),
        row: idx + 1,
        source,
    })?;
    let prompt = match (form, chat.messages.as_slice()) {
        (Some(PromptForm::Text), [only]) if row[&asked].is_string() => Prompt::Text(only.text()),
        _ => Prompt::Turns(chat),
    };
    let choices: Vec<String> = match field(&task.choices_field, &["choices"]) {
        Some(Value::Array(choices)) => choices.iter().map(plain).collect(),
        // A cell of a table holds the list as JSON.
        Some(Value::String(cell)) => match serde_json::from_str(&cell) {
            Ok(Value::Array(choices)) => choices.iter().map(plain).collect(),
            _ => return Err(refused(task, idx, "choices as a list of texts", &cell)),
        },
        Some(other) => return Err(refused(task, idx, "choices as a list of texts", &other.to_string())),
        None => Vec::new(),
    };
    let gold = match &answer {
        Value::Array(golds) => golds.iter().map(plain).collect(),
        Value::Number(number) if !choices.is_empty() => {
            let chosen = number.as_u64().and_then(|at| choices.get(at as usize));
            vec![
                chosen
                    .cloned()
                    .ok_or_else(|| refused(task, idx, "the number of a choice, from 0", &number.to_string()))?,
            ]
        }
        Value::String(letter) if !choices.is_empty() && !choices.contains(letter) => {
            let at = letter
                .bytes()
                .next()
                .filter(|_| letter.len() == 1)
                .map(|byte| byte.to_ascii_uppercase().wrapping_sub(b'A'));
            // A table's numbers are texts.
            let number = letter.parse::<usize>().ok();
            let chosen = number.or(at.map(usize::from)).and_then(|at| choices.get(at));
            vec![
                chosen
                    .cloned()
                    .ok_or_else(|| refused(task, idx, "a choice or its letter", letter))?,
            ]
        }
        other => vec![plain(other)],
    };
    Ok(Question {
        prompt,
        gold,
        choices,
        adapter: row.get(ADAPTER).filter(|chosen| !chosen.is_null()).cloned(),
    })
}

/// A question as the model is asked; a turn where nothing says otherwise.
fn asked(text: &str, form: Option<PromptForm>) -> Prompt {
    form.unwrap_or(PromptForm::Turn).of(Prompt::Text(text.to_owned()))
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
        .trim()
        .to_owned()
}

/// The rows of a file as they stand.
fn objects(task: &Task) -> Result<Vec<Map<String, Value>>> {
    let rows = data::objects(&task.data, &task.reading())?.into_iter();
    Ok(rows
        .map(|(_, row)| row)
        .take(task.max_rows.unwrap_or(usize::MAX))
        .collect())
}

fn text_of(task: &Task, idx: usize, row: &Map<String, Value>, field: &str) -> Result<String> {
    row.get(field)
        .and_then(Value::as_str)
        .map(str::to_owned)
        .ok_or_else(|| {
            refused(
                task,
                idx,
                &format!("a text `{field}`"),
                &Value::Object(row.clone()).to_string(),
            )
        })
}

pub(crate) fn refused(task: &Task, idx: usize, wanted: &str, found: &str) -> Error {
    let found = found.chars().take(120).collect();
    Error::Row {
        path: task.data.clone(),
        row: idx + 1,
        wanted: wanted.to_owned(),
        found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Suite;

    const PAGE: &str = include_str!("../../../docs/data.md");

    fn asked(name: &str, bytes: &[u8], more: &str) -> Result<Vec<Question>> {
        let home = tempfile::tempdir().expect("a folder");
        std::fs::write(home.path().join(name), bytes).expect("a file");
        let suite = home.path().join("suite.toml");
        let task = format!("[[task]]\nname = \"t\"\nkind = \"exact_match\"\ndata = \"{name}\"\n{more}");
        std::fs::write(&suite, task).expect("a file");
        questions_in(&Suite::load(&suite)?.tasks[0], None)
    }

    fn turns(question: &Question) -> Vec<String> {
        match &question.prompt {
            Prompt::Text(text) => vec![text.clone()],
            Prompt::Turns(chat) => chat
                .messages
                .iter()
                .map(|turn| format!("{}: {}", turn.role(), turn.text()))
                .collect(),
        }
    }

    #[test]
    fn the_documented_questions_are_questions() {
        let mut golds = Vec::new();
        for block in PAGE.split("```jsonl question\n").skip(1) {
            let text = block.split("```").next().unwrap_or_default();
            let found = asked("q.jsonl", text.as_bytes(), "").unwrap_or_else(|error| panic!("{error}: {text}"));
            golds.extend(found.into_iter().map(|question| question.gold.join("|")));
        }
        assert_eq!(golds, ["Paris", "Rome|Roma", "red", "seven", "blue"]);
    }

    #[test]
    fn every_file_asks_the_same_questions() {
        let choices = "\"[\"\"red\"\", \"\"seven\"\"]\"";
        for (name, bytes, more) in [
            (
                "q.jsonl",
                "\u{feff}{\"question\": \"Which?\", \"choices\": [\"red\", \"seven\"], \"answer\": 1}\r\n".to_owned(),
                "",
            ),
            (
                "q.csv",
                format!("\u{feff}question,choices,answer\r\nWhich?,{choices},B\r\n"),
                "",
            ),
            ("q.csv", format!("question,choices,answer\nWhich?,{choices},1\n"), ""),
            (
                "q.csv",
                format!("ask,choices,right\nWhich?,{choices},seven\n"),
                "columns = { question = \"ask\", answer = \"right\" }",
            ),
            (
                "q.csv",
                format!("ask,choices,right\nWhich?,{choices},seven\n"),
                "question_field = \"ask\"\nanswer_field = \"right\"",
            ),
        ] {
            let found = asked(name, bytes.as_bytes(), more).unwrap_or_else(|error| panic!("{bytes}: {error}"));
            assert_eq!(turns(&found[0]), ["user: Which?"], "{bytes}");
            assert_eq!(
                (found[0].gold.as_slice(), found[0].choices.len()),
                (&["seven".to_owned()][..], 2),
                "{bytes}"
            );
        }
    }

    #[test]
    fn a_parquet_file_asks_questions_too() {
        let bytes = include_bytes!("../../data/tests/vectors/rows.parquet");
        let fields = "question_field = \"text\"\nanswer_field = \"text\"";
        let found = asked("q.parquet", bytes, fields).expect("questions");
        assert_eq!(turns(&found[1]), ["user: two, too"]);
        assert_eq!(
            (found.len(), found[1].gold.as_slice()),
            (2, &["two, too".to_owned()][..])
        );
        let error = asked("q.parquet", bytes, "question_field = \"ask\"").expect_err("no such column");
        assert!(
            error.to_string().contains("(`question_field`), found id, text"),
            "{error}"
        );
    }

    #[test]
    fn a_system_prompt_is_the_system_turn_of_a_question() {
        let line = b"{\"system\": \"Be brief.\", \"question\": \"Which?\", \"answer\": \"this\"}";
        let found = asked("q.jsonl", line, "").expect("a question");
        assert_eq!(turns(&found[0]), ["system: Be brief.", "user: Which?"]);
    }

    #[test]
    fn questions_without_an_answer_or_their_context_are_refused() {
        for (line, more, wanted) in [
            (
                "{\"question\": \"a\", \"answer\": null}",
                "",
                "wanted an answer (`answer_field`)",
            ),
            (
                "{\"question\": null, \"answer\": \"b\"}",
                "",
                "wanted a question (`question_field`)",
            ),
            (
                "{\"question\": \"a\", \"context\": \"c d\", \"answer\": \"b\"}",
                "",
                "found `context` beside `question`",
            ),
            (
                "{\"question\": \"a\", \"choices\": \"b c\", \"answer\": \"b\"}",
                "",
                "wanted choices as a list of texts",
            ),
            (
                "{\"prompt\": \"a\"}",
                "",
                "wanted a prompt with its right answer, found a prompt without a reply",
            ),
            (
                "{\"ask\": \"a\", \"answer\": \"b\"}",
                "columns = { question = \"asked\" }",
                "found `asked`",
            ),
        ] {
            let error = asked("q.jsonl", line.as_bytes(), more).expect_err(line).to_string();
            assert!(error.contains(wanted), "{line}: {error}");
        }
        let line = b"{\"question\": \"In c d, a?\", \"context\": \"c d\", \"answer\": \"b\"}";
        assert_eq!(
            asked("q.jsonl", line, "")
                .expect("the context is in the question")
                .len(),
            1
        );
    }
}
