//! How the rows of a data file are read: `--shape`, `--columns`.

use std::collections::BTreeMap;

use data::{ReadConfig, Shape};

/// How the rows of a data file are read: the recipe's `data.shape` and `data.columns` as flags.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct ReadArgs {
    /// The rows' shape, where their columns fit several: text, messages, alpaca, preference, …
    #[arg(long, value_name = "SHAPE", value_parser = shape)]
    pub shape: Option<Shape>,
    /// Columns under other names, as WANTED=NAME, e.g. --columns prompt=question,completion=answer
    #[arg(long, value_name = "WANTED=NAME", value_delimiter = ',', value_parser = column)]
    pub columns: Vec<(String, String)>,
}

impl ReadArgs {
    /// As the reader takes it.
    pub fn config(&self) -> ReadConfig {
        ReadConfig {
            shape: self.shape,
            columns: self.columns.iter().cloned().collect::<BTreeMap<_, _>>(),
            ..ReadConfig::default()
        }
    }
}

fn shape(name: &str) -> Result<Shape, String> {
    Shape::named(name).ok_or_else(|| {
        let names: Vec<&str> = Shape::all().map(Shape::name).collect();
        format!("wanted one of {}", names.join(", "))
    })
}

fn column(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((wanted, named)) if !wanted.is_empty() && !named.is_empty() => Ok((wanted.to_owned(), named.to_owned())),
        _ => Err("wanted WANTED=NAME, e.g. prompt=question".to_owned()),
    }
}
