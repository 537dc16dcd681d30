//! What a data file is: its shape, its sizes, and its first rows as a model reads them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use data::{ControlTokens, Dataset, EncodeConfig, Stretch, Tokenizer, encode, remarks, stretches, to_ansi};
use models::Source;
use serde_json::{Map, Value, json};

use crate::args::ReadArgs;
use crate::output;

/// The facts, in the order they are shown.
pub(super) fn facts(
    path: &Path,
    reading: &ReadArgs,
    model: Option<&str>,
    rows: usize,
    max_length: Option<usize>,
) -> Result<Map<String, Value>> {
    let mut set = Dataset::read(path, &reading.config())?;
    let mut facts = Map::new();
    let mut put = |name: &str, value: Value| drop(facts.insert(name.to_owned(), value));
    put("kind", json!("data"));
    put("path", json!(path.display().to_string()));
    put("shape", json!(set.shape().name()));
    put("rows", json!(set.len()));
    if !set.unused_columns().is_empty() {
        put("unused_columns", json!(set.unused_columns()));
    }
    if !set.remarks().is_empty() {
        put("warnings", json!(set.remarks()));
    }
    let first: Vec<(String, data::Row)> = (0..set.len().min(rows))
        .map(|idx| (set.place(idx).to_string(), set.row(idx).clone()))
        .collect();
    let Some(model) = model else {
        put("duplicates", json!(set.dedupe()));
        let inputs: Vec<Value> = first
            .iter()
            .map(|(place, row)| json!({ "place": place, "input": row.input() }))
            .collect();
        put("first_rows", json!(inputs));
        put(
            "note",
            json!("--model shows how a model reads the rows, and what of them is trained"),
        );
        return Ok(facts);
    };
    let source = Source::open(model, &output::events())?;
    let tokenizer = source.tokenizer()?;
    let positions = source.dir().config().max_positions() as usize;
    // Class numbers do not matter here, so the data's own names will do.
    let labels = data::label_names([&set])?;
    let config = EncodeConfig {
        max_length,
        labels,
        ..EncodeConfig::default()
    };
    let control = ControlTokens::of(&tokenizer);
    let (mut tokens, mut trained, mut longest, mut refused, mut beyond) = (0, 0, 0, 0, 0);
    let mut why = None;
    let mut told: BTreeMap<String, usize> = BTreeMap::new();
    for idx in 0..set.len() {
        for remark in remarks(set.row(idx), &tokenizer, &control) {
            *told.entry(remark).or_default() += 1;
        }
        match encode(set.row(idx), &tokenizer, &config) {
            Ok(samples) => {
                for document in samples.iter().flat_map(|sample| &sample.documents) {
                    tokens += document.tokens.len();
                    trained += document.num_trained();
                    longest = longest.max(document.tokens.len());
                    beyond += usize::from(document.tokens.len() > positions);
                }
            }
            Err(problem) => {
                refused += 1;
                why.get_or_insert_with(|| format!("{}: {problem}", set.place(idx)));
            }
        }
    }
    put("duplicates", json!(set.dedupe()));
    put("tokens", json!(tokens));
    put("trained_tokens", json!(trained));
    put("longest", json!(longest));
    if beyond > 0 {
        put(
            "longer_than_the_model_sees",
            json!(format!("{beyond} documents, of {positions} positions")),
        );
    }
    put("refused_rows", json!(refused));
    put("first_refused", json!(why));
    if !told.is_empty() {
        let told = told.iter().map(|(remark, count)| format!("{count} rows {remark}"));
        put("remarks", json!(told.collect::<Vec<_>>()));
    }
    put("first_rows", json!(rendered(&first, &tokenizer, &config)?));
    Ok(facts)
}

/// Rows with their places as the model reads them, or why it does not.
fn rendered(rows: &[(String, data::Row)], tokenizer: &Tokenizer, config: &EncodeConfig) -> Result<Vec<Value>> {
    let mut shown = Vec::new();
    for (place, row) in rows {
        let samples = match encode(row, tokenizer, config) {
            Ok(samples) => samples,
            Err(problem) => {
                shown.push(json!({ "place": place, "refused": problem.to_string() }));
                continue;
            }
        };
        for sample in samples {
            for document in &sample.documents {
                let stretches: Vec<Stretch> = stretches(document, tokenizer).with_context(|| place.clone())?;
                shown.push(json!({
                    "place": place,
                    "tokens": document.tokens.len(),
                    "trained": document.num_trained(),
                    "label": sample.label,
                    "stretches": stretches,
                }));
            }
        }
    }
    Ok(shown)
}

/// A rendered row for the terminal; none if `row` is none.
pub(super) fn shown(row: &Value) -> Option<String> {
    use std::io::IsTerminal as _;
    let stretches: Vec<Stretch> = row
        .get("stretches")?
        .as_array()?
        .iter()
        .map(stretch)
        .collect::<Option<_>>()?;
    let head = format!(
        "--- {}: {} tokens, {} trained",
        row["place"].as_str()?,
        row["tokens"],
        row["trained"]
    );
    let text = if std::io::stdout().is_terminal() {
        to_ansi(&stretches)
    } else {
        // Without colours, what is trained stands between marks.
        stretches
            .iter()
            .map(|stretch| {
                if stretch.trained {
                    format!("[[{}]]", stretch.text)
                } else {
                    stretch.text.clone()
                }
            })
            .collect()
    };
    Some(format!("{head}\n{text}"))
}

fn stretch(value: &Value) -> Option<Stretch> {
    Some(Stretch {
        text: value["text"].as_str()?.to_owned(),
        trained: value["trained"].as_bool()?,
        tokens: value["tokens"].as_u64()? as usize,
    })
}
