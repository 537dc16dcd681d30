//! `kind = "lora"` and `kind = "dora"`: the same keys, `exact_norm` and `magnitude_only_modules` for DoRA alone.
//!
//! `use_dora = true` makes the one the other, as PEFT's users know it.

use anyhow::Result;
use dora::DoraConfig;
use lora::{LoraConfig, TargetModules};
use serde::Deserialize;
use toml::Table;

use super::{Document, Surgery, listing, nearest};

/// What DoRA has besides LoRA's keys, and the switch between the two.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Own {
    use_dora: Option<bool>,
    exact_norm: Option<bool>,
    magnitude_only_modules: Option<TargetModules>,
}

const OWN: [&str; 3] = ["use_dora", "exact_norm", "magnitude_only_modules"];

/// The surgery at `at`; one without a seed of its own takes the run's.
pub(super) fn read(document: &Document, at: &str, kind: &str, seed: u64) -> Result<Surgery> {
    let table: Table = document.section(at, Some("kind"))?.unwrap_or_default();
    let known = keys_of_lora();
    let known = || known.iter().map(String::as_str).chain(OWN);
    if let Some(key) = table.keys().find(|key| known().all(|name| name != key.as_str())) {
        let what = format!("no such key; wanted one of {}", listing(known()));
        return Err(document.error(&format!("{at}.{key}"), &what, nearest(key, known())));
    }
    let own: Own = document.part(at, |key| OWN.contains(&key))?.unwrap_or_default();
    let decomposes = match (kind, own.use_dora) {
        ("dora", Some(false)) => {
            let what = "`kind = \"dora\"` with `use_dora = false`: wanted one of the two\nhint: use `kind = \"lora\"`";
            return Err(document.error(&format!("{at}.use_dora"), what, None));
        }
        ("dora", _) => true,
        (_, wish) => wish == Some(true),
    };
    if let Some(key) = OWN[1..].iter().find(|key| !decomposes && table.contains_key(**key)) {
        let what = "it has no effect on LoRA\nhint: use `kind = \"dora\"`, or `use_dora = true`";
        return Err(document.error(&format!("{at}.{key}"), what, None));
    }
    let mut lora: LoraConfig = document
        .part(at, |key| key != "kind" && !OWN.contains(&key))?
        .unwrap_or_default();
    if !table.contains_key("seed") {
        lora.seed = seed;
    }
    let config = DoraConfig {
        lora,
        exact_norm: own.exact_norm.unwrap_or_default(),
        magnitude_only_modules: own.magnitude_only_modules,
    };
    config
        .magnitude_only()
        .map_err(|error| document.error(at, &error.to_string(), None))?;
    Ok(if decomposes {
        Surgery::Dora(config)
    } else {
        Surgery::Lora(config.lora)
    })
}

fn keys_of_lora() -> Vec<String> {
    let default = serde_json::to_value(LoraConfig::default()).unwrap_or_default();
    let keys = default.as_object().into_iter().flat_map(serde_json::Map::keys);
    keys.cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn surgery(text: &str) -> Result<Surgery> {
        let text = format!("[[surgery]]\n{text}\n");
        let document = Document::parse(Path::new("r.toml"), text, &[])?;
        let kind = document.kind("surgery.0", &["lora", "dora"])?;
        read(&document, "surgery.0", kind, 7)
    }

    #[test]
    fn dora_is_lora_with_use_dora() {
        let options = "r = 4\nexact_norm = true\nmagnitude_only_modules = [\"up_proj\"]";
        let named = surgery(&format!("kind = \"dora\"\n{options}")).unwrap();
        assert_eq!(
            surgery(&format!("kind = \"lora\"\nuse_dora = true\n{options}")).unwrap(),
            named
        );
        let Surgery::Dora(config) = named else {
            panic!("{named:?}")
        };
        assert_eq!((config.lora.r, config.lora.seed, config.exact_norm), (4, 7, true));
        assert!(matches!(
            surgery("kind = \"lora\"\nuse_dora = false").unwrap(),
            Surgery::Lora(_)
        ));
    }

    #[test]
    fn the_resolved_surgery_reads_as_itself() {
        #[derive(serde::Serialize)]
        struct Recipe<'a> {
            surgery: [&'a Surgery; 1],
        }

        let read =
            surgery("kind = \"dora\"\nmagnitude_only_modules = \"all-linear\"\nrank_pattern = { q_proj = 2 }").unwrap();
        let text = toml::to_string_pretty(&Recipe { surgery: [&read] }).unwrap();
        let document = Document::parse(Path::new("again.toml"), text, &[]).unwrap();
        assert_eq!(super::read(&document, "surgery.0", "dora", 0).unwrap(), read);
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let cases: [(&str, &[&str]); 6] = [
            (
                "kind = \"dora\"\nexact_nrom = true",
                &["`r.toml:3`", "did you mean `exact_norm`?", "`r`"],
            ),
            ("kind = \"dora\"\nuse_dora = false", &["`surgery.0.use_dora`", "hint"]),
            (
                "kind = \"lora\"\nexact_norm = true",
                &["`surgery.0.exact_norm`", "no effect", "use_dora"],
            ),
            ("kind = \"dora\"\nr = \"x\"", &["`surgery.0.r`", "wanted"]),
            (
                "kind = \"dora\"\nmagnitude_only_modules = []",
                &["`magnitude_only_modules`", "empty"],
            ),
            ("kind = \"dora\"\nexact_norm = 1", &["`surgery.0.exact_norm`", "wanted"]),
        ];
        for (text, wanted) in cases {
            let error = format!("{:#}", surgery(text).unwrap_err());
            for part in wanted {
                assert!(error.contains(part), "`{part}` in: {error}");
            }
        }
    }
}
