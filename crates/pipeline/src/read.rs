//! A TOML file as values, with errors that say line, wanted, found and the near key.

use anyhow::{Error, Result, anyhow};
use fetch::nearest;
use serde::de::DeserializeOwned;

/// A file's text, and what it is called in errors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Source<'a> {
    pub(crate) file: &'a str,
    pub(crate) text: &'a str,
}

impl Source<'_> {
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        toml::from_str(self.text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            self.error(at, &explained(error.message()))
        })
    }

    /// An error about what stands at this byte.
    pub(crate) fn error(&self, at: usize, what: &str) -> Error {
        let line = 1 + self.text.get(..at).unwrap_or(self.text).matches('\n').count();
        anyhow!("`{}:{line}`: {what}", self.file)
    }
}

/// serde's message in the words of the other readers.
fn explained(message: &str) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = ["unknown field", "unknown variant"]
        .into_iter()
        .find(|start| message.starts_with(start));
    let (Some(_), Some(found)) = (unknown, quoted.next()) else {
        return message.trim().to_owned();
    };
    let known: Vec<&str> = quoted.collect();
    let hint =
        nearest(found, known.iter().copied()).map_or(String::new(), |near| format!("\nhint: did you mean `{near}`?"));
    format!("wanted one of `{}`, found `{found}`{hint}", known.join("`, `"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only read")]
    struct Thing {
        heading: String,
        form: Option<String>,
    }

    #[test]
    fn an_error_says_the_line_what_was_wanted_and_the_near_key() {
        for (text, wanted) in [
            (
                "heading = 'a'\nfrom = 'b'\n",
                &[
                    "`p.toml:2`",
                    "`heading`, `form`",
                    "found `from`",
                    "did you mean `form`?",
                ][..],
            ),
            (
                "heading = 'a'\nform = 3\n",
                &["`p.toml:2`", "invalid type: integer `3`"],
            ),
            ("form = 'a'\n", &["`p.toml:1`", "missing field `heading`"]),
            ("heading = \n", &["`p.toml:1`"]),
        ] {
            let source = Source { file: "p.toml", text };
            let error = format!("{:#}", source.parse::<Thing>().unwrap_err());
            for part in wanted {
                assert!(error.contains(part), "{part} in {error}");
            }
        }
    }
}
