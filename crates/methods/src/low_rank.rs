//! What `lora` and `dora` share: the keys of a recipe, the count of their numbers, and what is written.
//!
//! The keys are the same, `exact_norm` and `magnitude_only_modules` for DoRA alone; `use_dora = true` makes the one the
//! other, as PEFT's users know it.

use ::dora::DoraConfig;
use ::lora::{LoraConfig, TargetModules};
use anyhow::Result;
use decoder::{Decoder, HeadKind};
use models::Source;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use tensor_core::ModulePath;

use super::{ModelShape, Options};
use crate::recipe::{Surgery, listing, nearest};

/// What DoRA has besides LoRA's keys, and the switch between the two.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
struct Own {
    use_dora: Option<bool>,
    exact_norm: Option<bool>,
    magnitude_only_modules: Option<TargetModules>,
}

/// DoRA's keys with the switch: LoRA's are among them.
#[derive(Default, Serialize, JsonSchema)]
#[serde(default)]
struct All {
    #[serde(flatten)]
    config: DoraConfig,
    /// Whether magnitudes train too, which makes `lora` the method `dora`. Unset, the kind decides.
    use_dora: Option<bool>,
}

/// The options of both.
pub(super) fn schema(generator: &mut SchemaGenerator) -> Schema {
    All::json_schema(generator)
}

const OWN: [&str; 3] = ["use_dora", "exact_norm", "magnitude_only_modules"];

/// The options as an adapter of `model` is saved with: PEFT's names of a new head, which is saved whole.
pub(super) fn with_head(config: &LoraConfig, model: &Decoder) -> LoraConfig {
    let mut config = config.clone();
    if *model.head_kind() != HeadKind::LanguageModel {
        let names = ["classifier".to_owned(), "score".to_owned()];
        config.modules_to_save.extend(names);
    }
    config
}

/// The surgery of this kind; one without a seed of its own takes the run's.
pub(super) fn parse(options: &Options, kind: &str) -> Result<Surgery> {
    let Options { document, at, seed, .. } = *options;
    let mut table = document.table(at)?.cloned().unwrap_or_default();
    table.remove("kind");
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
        Surgery::new(config)
    } else {
        Surgery::new(config.lora)
    })
}

fn keys_of_lora() -> Vec<String> {
    let default = serde_json::to_value(LoraConfig::default()).unwrap_or_default();
    let keys = default.as_object().into_iter().flat_map(serde_json::Map::keys);
    keys.cloned().collect()
}

/// Numbers of LoRA's factors and whole modules, and, with `dora`, of magnitudes.
pub(super) fn numbers(lora: &LoraConfig, dora: Option<&DoraConfig>, shape: &ModelShape) -> Result<f64> {
    let ModelShape { config, tensors, .. } = *shape;
    let mut paths = decoder::projection_paths(config);
    let magnitude_only: Vec<ModulePath> = match dora.map(DoraConfig::magnitude_only).transpose()?.flatten() {
        Some(modules) => modules.choose(paths.iter().map(|(path, output)| (path, *output)))?,
        None => Vec::new(),
    };
    paths.push((ModulePath::from("model.embed_tokens"), true));
    let whole: Vec<ModulePath> = paths
        .iter()
        .map(|(path, _)| path.clone())
        .filter(|path| lora.is_saved_whole(path))
        .collect();
    let chosen = lora
        .modules()?
        .choose(paths.iter().map(|(path, output)| (path, *output)))?;
    let shape = |path: &ModulePath| {
        let name = format!("{path}.weight");
        // A tied head has the embedding's shape.
        tensors
            .iter()
            .find(|(known, _)| *known == name)
            .map_or([config.vocab_size, config.hidden_size], |(_, shape)| {
                [shape[0], shape[1]]
            })
    };
    let mut numbers = 0.0;
    for path in chosen
        .iter()
        .filter(|path| !whole.contains(path) && !magnitude_only.contains(path))
    {
        let (rank, _) = lora.rank_and_scale(path)?;
        let magnitudes = if dora.is_some() { shape(path)[0] } else { 0 };
        numbers += (rank * shape(path).iter().sum::<i64>() + magnitudes) as f64;
    }
    numbers += magnitude_only.iter().map(|path| shape(path)[0] as f64).sum::<f64>();
    Ok(numbers
        + whole
            .iter()
            .map(|path| shape(path).iter().product::<i64>() as f64)
            .sum::<f64>())
}

/// What is written of an adapter: options that agree with the tensors, under the names that the base's modules have.
pub(super) fn as_saved(
    config: &LoraConfig,
    tensors: ::lora::Tensors,
    source: &Source,
) -> Result<(LoraConfig, ::lora::Tensors)> {
    let config = ::lora::as_written(config, &tensors)?;
    if source.dir().config().is_of_multimodal {
        Ok(::lora::in_multimodal(config, tensors)?)
    } else {
        Ok((config, tensors))
    }
}

/// PEFT's name of what the model does.
pub(super) fn task(model: &Decoder) -> &'static str {
    match model.head_kind() {
        HeadKind::LanguageModel => "CAUSAL_LM",
        _ => "SEQ_CLS",
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use ::recipe::{Document, Places};

    fn read(document: &Document, kind: &str, seed: u64) -> Result<Surgery> {
        let options = Options {
            document,
            at: "surgery.0",
            seed,
            places: &Places::of(Path::new("r.toml")),
        };
        parse(&options, kind)
    }

    fn surgery(text: &str) -> Result<Surgery> {
        let text = format!("[[surgery]]\n{text}\n");
        let document = Document::parse(Path::new("r.toml"), text, &[])?;
        let kind = document.kind("surgery.0", &["lora", "dora"])?;
        read(&document, kind, 7)
    }

    #[test]
    fn dora_is_lora_with_use_dora() {
        let options = "r = 4\nexact_norm = true\nmagnitude_only_modules = [\"up_proj\"]";
        let named = surgery(&format!("kind = \"dora\"\n{options}")).unwrap();
        assert_eq!(
            surgery(&format!("kind = \"lora\"\nuse_dora = true\n{options}")).unwrap(),
            named
        );
        let config = named.configured::<DoraConfig>().expect("DoRA");
        assert_eq!((config.lora.r, config.lora.seed, config.exact_norm), (4, 7, true));
        let plain = surgery("kind = \"lora\"\nuse_dora = false").unwrap();
        assert!(plain.configured::<LoraConfig>().is_some());
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
        assert_eq!(super::tests::read(&document, "dora", 0).unwrap(), read);
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
