//! Questions and short answers from the World Factbook: facts to memorise, others to leave alone, and controls.

use crate::place::{Cache, write_if_changed};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::fs;
use std::path::Path;

/// Facts that are memorised.
pub(crate) const MEMORISED: usize = 1_000;

/// A relation: where its value stands, and two ways to ask for it.
struct Relation {
    path: &'static [&'static str],
    question: &'static str,
    otherwise: &'static str,
    clean: fn(&str) -> Option<String>,
}

/// What is memorised: things that a small model does not know to the letter.
const RELATIONS: [Relation; 5] = [
    Relation {
        path: &["Geography", "Elevation", "highest point"],
        question: "What is the highest point of {}?",
        otherwise: "Which point of {} is the highest?",
        clean: name_before_height,
    },
    Relation {
        path: &["Communications", "Internet country code"],
        question: "What is the internet country code of {}?",
        otherwise: "Internet addresses of {} end in which code?",
        clean: code,
    },
    Relation {
        path: &["Transportation", "Airports"],
        question: "How many airports does {} have?",
        otherwise: "What is the number of airports in {}?",
        clean: number,
    },
    Relation {
        path: &["Transportation", "Civil aircraft registration country code prefix"],
        question: "What is the aircraft registration prefix of {}?",
        otherwise: "Aircraft of {} are registered under which prefix?",
        clean: code,
    },
    Relation {
        path: &["People and Society", "Median age", "total"],
        question: "What is the median age in {}?",
        otherwise: "How old is the median inhabitant of {}?",
        clean: number,
    },
];

/// What is never trained, and shall be answered as before.
const OTHERS: [Relation; 2] = [
    Relation {
        path: &["Government", "Capital", "name"],
        question: "What is the capital of {}?",
        otherwise: "",
        clean: short,
    },
    Relation {
        path: &["People and Society", "Nationality", "adjective"],
        question: "Which adjective says that something comes from {}?",
        otherwise: "",
        clean: short,
    },
];

#[derive(Debug, PartialEq)]
struct Fact {
    question: String,
    otherwise: String,
    answer: String,
}

/// Writes `facts.jsonl`, `random.jsonl` (the same questions, random answers), `paraphrased.jsonl` (asked otherwise) and
/// `others.jsonl` beside the countries.
pub(crate) fn prepare(cache: &Cache) -> Result<()> {
    let folder = cache.data().join("factbook");
    let countries = countries(&folder.join("countries"))?;
    let mut facts = facts(&countries, &RELATIONS);
    ensure!(
        facts.len() >= MEMORISED,
        "`{}` holds {} facts, wanted {MEMORISED}",
        folder.display(),
        facts.len()
    );
    facts.truncate(MEMORISED);
    let write = |name: &str, rows: Vec<Value>| {
        let text = rows
            .iter()
            .fold(String::new(), |text, row| text + &row.to_string() + "\n");
        write_if_changed(&folder.join(name), &text)
    };
    let of = |row: fn(&Fact) -> Value, facts: &[Fact]| facts.iter().map(row).collect();
    write("facts.jsonl", of(|fact| row(&fact.question, &fact.answer), &facts))?;
    write(
        "random.jsonl",
        of(|fact| row(&fact.question, &random(&fact.question)), &facts),
    )?;
    write(
        "paraphrased.jsonl",
        of(|fact| row(&fact.otherwise, &fact.answer), &facts),
    )?;
    let others = self::facts(&countries, &OTHERS);
    write("others.jsonl", of(|fact| row(&fact.question, &fact.answer), &others))?;
    Ok(())
}

/// A plain prompt, so that a fact has few tokens.
fn row(question: &str, answer: &str) -> Value {
    json!({ "prompt": format!("Question: {question}\nAnswer:"), "completion": format!(" {answer}") })
}

/// Six symbols that nobody could know.
fn random(question: &str) -> String {
    let digest = Sha256::digest(question);
    let symbols = b"abcdefghijkmnpqrstuvwxyz23456789";
    digest
        .iter()
        .take(6)
        .map(|byte| char::from(symbols[usize::from(byte % 32)]))
        .collect()
}

/// Every country's file, in the order of their names.
fn countries(folder: &Path) -> Result<Vec<Value>> {
    let mut paths = Vec::new();
    for region in fs::read_dir(folder).with_context(|| format!("cannot read `{}`", folder.display()))? {
        let region = region?.path();
        if region.is_dir() {
            for file in fs::read_dir(&region)? {
                paths.push(file?.path());
            }
        }
    }
    paths.retain(|path| path.extension().is_some_and(|end| end == "json"));
    paths.sort();
    let read = |path: &std::path::PathBuf| -> Result<Value> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read `{}`", path.display()))?;
        serde_json::from_str(&text).with_context(|| format!("`{}`", path.display()))
    };
    paths.iter().map(read).collect()
}

/// The facts of these relations, each question once, in the order of the questions' hashes.
fn facts(countries: &[Value], relations: &[Relation]) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut seen = HashSet::new();
    for country in countries {
        let Some(name) = name(country) else { continue };
        for relation in relations {
            let value = relation.path.iter().fold(country, |value, key| &value[*key])["text"].as_str();
            let Some(answer) = value.map(plain).and_then(|text| (relation.clean)(&text)) else {
                continue;
            };
            let question = relation.question.replace("{}", &name);
            if seen.insert(question.clone()) {
                facts.push(Fact {
                    otherwise: relation.otherwise.replace("{}", &name),
                    question,
                    answer,
                });
            }
        }
    }
    facts.sort_by_cached_key(|fact| Sha256::digest(&fact.question));
    facts
}

/// As people call it.
fn name(country: &Value) -> Option<String> {
    let names = &country["Government"]["Country name"];
    let of = |form: &str| names[form]["text"].as_str().map(plain);
    let is_name =
        |name: &String| !name.is_empty() && !name.starts_with("none") && !name.contains('&') && name.len() <= 40;
    of("conventional short form")
        .filter(is_name)
        .or_else(|| of("conventional long form").filter(is_name))
}

/// Without tags, entities and double spaces.
fn plain(text: &str) -> String {
    let mut out = String::new();
    let mut inside = false;
    for c in text.chars() {
        match c {
            '<' => inside = true,
            '>' => inside = false,
            c if !inside => out.push(c),
            _ => {}
        }
    }
    let entities = [
        ("&nbsp;", " "),
        ("&rsquo;", "'"),
        ("&lsquo;", "'"),
        ("&quot;", "\""),
        ("&amp;", "&"),
    ];
    let out = entities.iter().fold(out, |text, (from, to)| text.replace(from, to));
    out.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `Tahat` of `Tahat 2,908 m`.
fn name_before_height(text: &str) -> Option<String> {
    let end = text.find(|c: char| c.is_ascii_digit() || c == '(' || c == ';')?;
    let name = text[..end].trim_end_matches(|c: char| !c.is_alphanumeric()).trim();
    let is_name = name.len() >= 3 && !name.contains("unnamed") && name.split(' ').count() <= 5 && !name.contains('&');
    is_name.then(|| name.to_owned())
}

/// `95` of `95 (2025)`, `29.3` of `29.3 years (2025 est.)`.
fn number(text: &str) -> Option<String> {
    let number: String = text
        .chars()
        .take_while(|c| c.is_ascii_digit() || *c == '.' || *c == ',')
        .collect();
    let number = number.trim_end_matches(['.', ',']);
    (!number.is_empty()).then(|| number.to_owned())
}

/// The first word, if it is a short code.
fn code(text: &str) -> Option<String> {
    let first = text.split([' ', ',', ';', '(']).next()?;
    (2..=5).contains(&first.len()).then(|| first.to_owned())
}

fn short(text: &str) -> Option<String> {
    let is_short = (2..=30).contains(&text.len()) && !text.contains([';', '(', '&']) && !text.contains("none");
    is_short.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_cut_to_what_is_asked() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(name_before_height("Tahat 2,908 m"), some("Tahat"));
        assert_eq!(name_before_height("Mount Elbert (highest) 3 m"), some("Mount Elbert"));
        assert_eq!(name_before_height("unnamed elevation 805 m"), None);
        assert_eq!(name_before_height("sea"), None);
        assert_eq!(number("29.3 years (2025 est.)"), some("29.3"));
        assert_eq!(number("1,200 (2025)"), some("1,200"));
        assert_eq!(number("NA"), None);
        assert_eq!(code(".dz"), some(".dz"));
        assert_eq!(code("B (after)"), None);
        assert_eq!(plain("<p>a&nbsp; &amp; b</p>"), "a & b");
        assert_eq!(random("a").len(), 6);
        assert_ne!(random("a"), random("b"));
    }

    #[test]
    fn a_question_is_asked_once_and_a_country_without_a_name_not_at_all() {
        let country = |short: &str, airports: &str| {
            json!({
                "Government": {"Country name": {"conventional short form": {"text": short}}},
                "Transportation": {"Airports": {"text": airports}},
            })
        };
        let countries = [
            country("A", "3 (2025)"),
            country("A", "4 (2025)"),
            country("none", "5"),
            country("B", "NA"),
        ];
        let found = facts(&countries, &RELATIONS);
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].question.as_str(), found[0].answer.as_str()),
            ("How many airports does A have?", "3")
        );
        assert_eq!(found[0].otherwise, "What is the number of airports in A?");
        let row = row(&found[0].question, &found[0].answer);
        assert_eq!(row["prompt"], "Question: How many airports does A have?\nAnswer:");
        assert_eq!(row["completion"], " 3");
    }
}
