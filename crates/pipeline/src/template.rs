//! Texts with names in braces: `{name}` is another text, `{= expression}` a number.
//!
//! What a step is given when it runs (`{out}`, `{study}`, `{stages}`, `{data}`, `{seed}`) is left as it stands, and so is a
//! brace before anything but a name: TOML's own tables are written with a space, `{ path = "…" }`.

use crate::expression::{self, Names, Value};
use anyhow::{Result, bail};
use fetch::nearest;
use std::collections::BTreeMap;

/// Filled when a step runs.
const LATER: [&str; 5] = ["out", "study", "stages", "data", "seed"];
/// Texts within texts.
const DEPTH: usize = 16;

/// Texts by name; a later layer hides an earlier one.
#[derive(Clone, Debug)]
pub(crate) struct Scope<'a> {
    layers: Vec<&'a BTreeMap<String, String>>,
    scale: usize,
}

impl<'a> Scope<'a> {
    pub(crate) fn new(texts: &'a BTreeMap<String, String>, scale: usize) -> Self {
        Self {
            layers: vec![texts],
            scale,
        }
    }

    /// This one, and `texts` before it.
    pub(crate) fn with(&self, texts: &'a BTreeMap<String, String>) -> Self {
        let mut scope = self.clone();
        scope.layers.push(texts);
        scope
    }

    /// `text` with its names filled.
    pub(crate) fn fill(&self, text: &str) -> Result<String> {
        self.fill_within(text, 0)
    }

    fn fill_within(&self, text: &str, depth: usize) -> Result<String> {
        if depth > DEPTH {
            bail!("`{text}`: wanted texts that end, found one that names itself");
        }
        let (mut filled, mut rest) = (String::with_capacity(text.len()), text);
        while let Some(begin) = rest.find('{') {
            filled += &rest[..begin];
            let behind = &rest[begin + 1..];
            let end = behind.find('}').unwrap_or(behind.len());
            let inner = &behind[..end];
            let is_name = !inner.is_empty()
                && inner
                    .chars()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if let Some(reckoned) = inner.strip_prefix("= ").filter(|_| end < behind.len()) {
                filled += &expression::number(reckoned, self)?.to_string();
            } else if is_name && end < behind.len() && !LATER.contains(&inner) {
                filled += &self.fill_within(self.text(inner)?, depth + 1)?;
            } else {
                filled.push('{');
                rest = behind;
                continue;
            }
            rest = &behind[end + 1..];
        }
        Ok(filled + rest)
    }

    fn text(&self, name: &str) -> Result<&'a str> {
        let found = self.layers.iter().rev().find_map(|layer| layer.get(name));
        found.map(String::as_str).ok_or_else(|| {
            let known = self.layers.iter().flat_map(|layer| layer.keys().map(String::as_str));
            let hint = nearest(name, known.chain(LATER))
                .map_or(String::new(), |near| format!("\nhint: did you mean `{near}`?"));
            anyhow::anyhow!("`{{{name}}}`: wanted the name of a text, found none of that name{hint}")
        })
    }
}

impl Names for Scope<'_> {
    fn name(&self, name: &str) -> Result<Value> {
        if name == "scale" {
            return Ok(Value::Number(self.scale as f64));
        }
        let text = self.fill(self.text(name)?)?;
        match text.trim().parse() {
            Ok(number) => Ok(Value::Number(number)),
            Err(_) => bail!("`{name}`: wanted a number, found `{text}`"),
        }
    }

    fn call(&self, function: &str, _: &[Value]) -> Result<Value> {
        bail!("`{function}`: wanted abs, ln, min or max with numbers")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(rows: &[(&str, &str)]) -> BTreeMap<String, String> {
        rows.iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect()
    }

    #[test]
    fn names_are_filled_within_one_another_and_numbers_reckoned() {
        let outer = texts(&[
            ("model", "m"),
            ("recipe", "name = \"{model}\"\nr = {rank}"),
            ("rank", "8"),
        ]);
        let inner = texts(&[("rank", "16")]);
        let scope = Scope::new(&outer, 4);
        let inner = scope.with(&inner);
        for (scope, text, wanted) in [
            (&scope, "{recipe}", "name = \"m\"\nr = 8"),
            (&inner, "{recipe}", "name = \"m\"\nr = 16"),
            (
                &inner,
                "alpha = {= 2 * rank}, steps = {= max(30, 10 * scale)}",
                "alpha = 32, steps = 40",
            ),
            (
                &scope,
                "{out}/{seed} [{ path = \"{data}/x\" }] {x:.2} {",
                "{out}/{seed} [{ path = \"{data}/x\" }] {x:.2} {",
            ),
        ] {
            assert_eq!(scope.fill(text).unwrap(), wanted);
        }
    }

    #[test]
    fn an_unknown_name_and_an_endless_text_are_refused() {
        let texts = texts(&[("surgery", "x"), ("a", "{b}"), ("b", "{a}")]);
        let scope = Scope::new(&texts, 1);
        let error = scope.fill("{surgry}").unwrap_err().to_string();
        assert!(
            error.contains("`{surgry}`") && error.contains("did you mean `surgery`?"),
            "{error}"
        );
        assert!(scope.fill("{a}").unwrap_err().to_string().contains("names itself"));
        assert!(
            scope
                .fill("{= 2 * surgery}")
                .unwrap_err()
                .to_string()
                .contains("found `x`")
        );
    }
}
