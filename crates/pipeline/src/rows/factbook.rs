//! Questions about texts of the CIA World Factbook: which chapter or article one is from, which part of the world it is
//! about.

use super::Row;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// Letters of a text that are asked about, and those that it has at least.
const SHOWN: usize = 160;
const LEAST: usize = 60;
/// Texts with the same answer, so that none is much more frequent than another.
const MOST: usize = 300;

/// The chapters that have texts enough, by the words that begin their titles.
const CHAPTERS: [&str; 7] = [
    "Introduction",
    "Geography",
    "People",
    "Environment",
    "Government",
    "Economy",
    "Military",
];

/// Articles on government, by the words that begin their titles.
const ARTICLES: [&str; 6] = [
    "Executive",
    "Judicial",
    "Capital",
    "Constitution",
    "Flag",
    "Country name",
];

/// Folders of countries, and the part of the world.
const REGIONS: [(&str, &str); 10] = [
    ("africa", "Africa"),
    ("europe", "Europe"),
    ("central-america-n-caribbean", "America"),
    ("north-america", "America"),
    ("south-america", "America"),
    ("central-asia", "Asia"),
    ("east-n-southeast-asia", "Asia"),
    ("middle-east", "Asia"),
    ("south-asia", "Asia"),
    ("australia-oceania", "Oceania"),
];

/// "Which chapter is this text from?"
pub(super) fn chapters(data: &Path) -> Result<Vec<Row>> {
    let system = format!("Name the chapter that the text is from: {}.", CHAPTERS.join(", "));
    questions(data, &system, |text| {
        CHAPTERS.into_iter().find(|chapter| text.chapter.starts_with(chapter))
    })
}

/// "Which part of the world is this text about?"
pub(super) fn regions(data: &Path) -> Result<Vec<Row>> {
    let system = "Name the part of the world that the text is about: Africa, America, Asia, Europe or Oceania.";
    questions(data, system, |text| {
        let found = REGIONS.iter().find(|(folder, _)| *folder == text.folder);
        found.map(|(_, region)| *region)
    })
}

/// "Which article of the chapter on government is this text from?"
pub(super) fn articles(data: &Path) -> Result<Vec<Row>> {
    let system = format!("Name the article that the text is from: {}.", ARTICLES.join(", "));
    questions(data, &system, |text| {
        let mut articles = ARTICLES.into_iter();
        articles.find(|article| text.chapter == "Government" && text.article.starts_with(article))
    })
}

/// A passage of the book.
struct Text {
    folder: String,
    chapter: String,
    article: String,
    words: String,
}

fn questions(data: &Path, system: &str, answer: impl Fn(&Text) -> Option<&'static str>) -> Result<Vec<Row>> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let mut rows = Vec::new();
    for text in texts(&data.join("factbook/countries"))? {
        let Some(ideal) = answer(&text) else { continue };
        let count = counts.entry(ideal).or_default();
        *count += 1;
        if *count <= MOST {
            rows.push(Row {
                input: vec![
                    json!({ "role": "system", "content": system }),
                    json!({ "role": "user", "content": text.words }),
                ],
                ideal: ideal.to_owned(),
            });
        }
    }
    Ok(rows)
}

/// Every passage of some length, one of each country in turn so that no country fills an answer's places.
fn texts(countries: &Path) -> Result<Vec<Text>> {
    let mut of_countries = Vec::new();
    for folder in sorted(countries)? {
        for file in sorted(&folder)? {
            let place = || format!("`{}`", file.display());
            let book: Value = serde_json::from_slice(&fs::read(&file).with_context(place)?).with_context(place)?;
            let mut found = Vec::new();
            for (chapter, value) in book.as_object().into_iter().flatten() {
                for (article, value) in value.as_object().into_iter().flatten() {
                    collect(value, &mut |words| {
                        found.push(Text {
                            folder: name(&folder),
                            chapter: chapter.clone(),
                            article: article.clone(),
                            words,
                        });
                    });
                }
            }
            of_countries.push(found.into_iter());
        }
    }
    let mut texts = Vec::new();
    loop {
        let before = texts.len();
        texts.extend(of_countries.iter_mut().filter_map(Iterator::next));
        if texts.len() == before {
            return Ok(texts);
        }
    }
}

/// The beginnings of all longer texts below `value`.
fn collect(value: &Value, found: &mut impl FnMut(String)) {
    for (key, value) in value.as_object().into_iter().flatten() {
        match value {
            Value::String(text) if key == "text" => {
                let words = plain(text);
                if words.chars().count() >= LEAST {
                    found(words.chars().take(SHOWN).collect());
                }
            }
            value => collect(value, found),
        }
    }
}

/// The text without tags, entities and runs of space.
fn plain(text: &str) -> String {
    let mut without = String::new();
    let mut is_tag = false;
    for letter in text.chars() {
        match letter {
            '<' => is_tag = true,
            '>' => {
                is_tag = false;
                without.push(' ');
            }
            letter if !is_tag => without.push(letter),
            _ => {}
        }
    }
    let entities = [
        ("&nbsp;", " "),
        ("&amp;", "&"),
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&rsquo;", "’"),
    ];
    for (entity, letter) in entities {
        without = without.replace(entity, letter);
    }
    without.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn sorted(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let place = || format!("cannot read `{}`", folder.display());
    let entries = fs::read_dir(folder).with_context(place)?;
    let mut paths = entries
        .map(|entry| Ok(entry.with_context(place)?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_a_texts_beginning_and_its_answer_is_where_it_stands() {
        let home = tempfile::tempdir().unwrap();
        let long = |start: &str| format!("<p>{start} {}</p>", "word ".repeat(60));
        for (folder, country) in [("africa", "ag"), ("south-asia", "in"), ("antarctica", "ay")] {
            let path = home.path().join("factbook/countries").join(folder);
            fs::create_dir_all(&path).unwrap();
            let book = json!({
                "Introduction": { "Background": { "text": long(country) } },
                "Geography": { "Area": { "total": { "text": "short" } }, "Climate": { "text": long("dry&nbsp;air") } },
                "Space": { "Rockets": { "text": long("many") } },
                "Government": { "Flag": { "meaning": { "text": long("red") } }, "Suffrage": { "text": long("all") } },
            });
            fs::write(path.join(format!("{country}.json")), book.to_string()).unwrap();
        }
        let asked = |rows: &[Row], idx: usize| {
            let words = rows[idx].input[1]["content"].as_str().unwrap().to_owned();
            (words, rows[idx].ideal.clone())
        };
        let chapters = chapters(home.path()).unwrap();
        assert_eq!(
            chapters.len(),
            12,
            "four of each country; Space is no chapter to ask for"
        );
        let (words, ideal) = asked(&chapters, 0);
        assert!(
            words.starts_with("ag word word") && words.chars().count() == SHOWN,
            "{words}"
        );
        assert_eq!(ideal, "Introduction");
        let (words, ideal) = asked(&chapters, 3);
        assert!(words.starts_with("dry air word") || ideal != "Geography", "{words}");
        let articles = articles(home.path()).unwrap();
        assert_eq!((articles.len(), asked(&articles, 0).1), (3, "Flag".to_owned()));
        let regions = regions(home.path()).unwrap();
        let answers: Vec<&str> = regions.iter().map(|row| row.ideal.as_str()).collect();
        assert_eq!((answers[0], answers[1], answers.len()), ("Africa", "Asia", 10));
    }
}
