//! The examples of `docs/data.md` are read as what they are said to be.

use std::path::Path;

use data::{Dataset, ReadConfig, Shape};

const PAGE: &str = include_str!("../../../docs/data.md");

/// The blocks of the page whose fence says `jsonl NAME`: name and text.
fn examples() -> Vec<(&'static str, &'static str)> {
    PAGE.split("```jsonl ")
        .skip(1)
        .map(|rest| {
            let (name, rest) = rest.split_once('\n').unwrap();
            (name, rest.split("```").next().unwrap())
        })
        .collect()
}

#[test]
fn every_example_has_the_shape_that_stands_over_it() {
    let mut shown = Vec::new();
    for (name, text) in examples().into_iter().filter(|(name, _)| *name != "question") {
        let rows = Dataset::parse(Path::new("data.jsonl"), text.as_bytes(), &ReadConfig::default())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(rows.shape().name(), name, "{text}");
        assert_eq!(rows.remarks(), [""; 0], "{text}");
        shown.push(rows.shape());
    }
    for shape in Shape::all() {
        assert!(shown.contains(&shape), "the page has no example of `{}`", shape.name());
        assert!(PAGE.contains(&format!("`{}`", shape.name())), "{}", shape.name());
    }
}
