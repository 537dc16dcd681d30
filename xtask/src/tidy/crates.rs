//! Rules for crates: who may depend on whom stands in `ARCHITECTURE.md`, versions stand in the workspace, lints hold everywhere.

use super::Source;
use crate::cargo::{Metadata, Package};
use std::collections::{BTreeMap, BTreeSet};

/// Crate to the crates of this workspace that it is built on.
pub(super) type Edges = BTreeMap<String, BTreeSet<String>>;

/// The edges that there are. What only tests use is not one.
pub(super) fn edges(metadata: &Metadata) -> Edges {
    let edges = metadata.packages.iter().map(|package| {
        let on = package
            .dependencies
            .iter()
            .filter(|on| on.path.is_some() && on.kind.as_deref() != Some("dev"));
        (
            crate_of(&package.name).to_owned(),
            on.map(|on| crate_of(&on.name).to_owned()).collect(),
        )
    });
    edges.collect()
}

/// The crate, which is its folder, of a package: `lora` of `finetune-lora`.
fn crate_of(package: &str) -> &str {
    package.strip_prefix("finetune-").unwrap_or(package)
}

/// A package that others may depend on has a name of ours and says what it is.
pub(super) fn published(package: &Package) -> Vec<String> {
    let name = &package.name;
    if !package.is_published() {
        return Vec::new();
    }
    let mut found = Vec::new();
    if name != "finetune" && !name.starts_with("finetune-") {
        found.push(format!(
            "package `{name}`: its name is taken or too general; call it `finetune-{name}`, with `[lib] name`, or say `publish = false`"
        ));
    }
    let missing = [
        ("description", package.description.is_none()),
        ("documentation", package.documentation.is_none()),
        ("keywords", package.keywords.is_empty()),
        ("categories", package.categories.is_empty()),
    ];
    for (key, _) in missing.iter().filter(|(_, missing)| *missing) {
        found.push(format!("package `{name}`: `{key}` is missing"));
    }
    found
}

/// Compares the edges with the table `| crate | … | depends on |` of `ARCHITECTURE.md`.
pub(super) fn table(architecture: &str, edges: &Edges) -> Vec<String> {
    let Some(stated) = parse(architecture) else {
        return vec!["ARCHITECTURE.md: no table with the columns `crate` and `depends on`".into()];
    };
    let mut found = Vec::new();
    let names = |set: &BTreeSet<String>| {
        if set.is_empty() {
            "nothing".into()
        } else {
            set.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
        }
    };
    for (name, on) in edges {
        match stated.get(name) {
            None => found.push(format!("ARCHITECTURE.md: crate `{name}` is not in the table")),
            Some(said) if said != on => {
                found.push(format!(
                    "ARCHITECTURE.md: `{name}` depends on {}, the table says {}",
                    names(on),
                    names(said)
                ));
            }
            Some(_) => {}
        }
    }
    for name in stated.keys().filter(|name| !edges.contains_key(*name)) {
        found.push(format!("ARCHITECTURE.md: the table lists `{name}`, which is no crate"));
    }
    found
}

fn parse(text: &str) -> Option<Edges> {
    let cells = |line: &str| -> Option<Vec<String>> {
        let line = line.trim().strip_prefix('|')?.strip_suffix('|')?;
        Some(line.split('|').map(|cell| cell.trim().to_owned()).collect())
    };
    let mut lines = text.lines();
    let (name, on) = lines.by_ref().find_map(|line| {
        let head = cells(line)?;
        let column = |title: &str| head.iter().position(|cell| cell.eq_ignore_ascii_case(title));
        Some((column("crate")?, column("depends on")?))
    })?;
    let mut edges = Edges::new();
    for row in lines.skip(1).map_while(cells) {
        let name = row.get(name)?.trim_matches('`').to_owned();
        let on = row.get(on)?.split([',', ' ']).map(|word| word.trim_matches('`'));
        let on = on.filter(|word| word.starts_with(|first: char| first.is_ascii_alphabetic()));
        edges.insert(name, on.filter(|word| *word != "nothing").map(str::to_owned).collect());
    }
    Some(edges)
}

/// A manifest takes its versions and lints from the workspace.
pub(super) fn manifest(file: &Source) -> Vec<String> {
    let place = file.path.display();
    let Ok(toml) = file.text.parse::<toml::Table>() else {
        return vec![format!("{place}: not TOML")];
    };
    if !toml.contains_key("package") {
        return Vec::new();
    }
    let mut found = Vec::new();
    let inherits = |value: Option<&toml::Value>| {
        value
            .and_then(|value| value.get("workspace"))
            .and_then(toml::Value::as_bool)
            == Some(true)
    };
    if !inherits(toml.get("lints")) {
        found.push(format!("{place}: `[lints] workspace = true` is missing"));
    }
    let targets = toml
        .get("target")
        .and_then(toml::Value::as_table)
        .into_iter()
        .flat_map(|table| table.values());
    for table in std::iter::once(&toml).chain(targets.filter_map(toml::Value::as_table)) {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, value) in table.get(kind).and_then(toml::Value::as_table).into_iter().flatten() {
                if !inherits(Some(value)) {
                    found.push(format!(
                        "{place}: `{name}` has its own version; it belongs to [workspace.dependencies]"
                    ));
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    const TABLE: &str = "Words.\n\n| crate | holds | depends on |\n|---|---|---|\n| `base` | x | nothing |\n| `top` | y | `base`, `mid` |\n| `mid` | z | `base` |\n\nMore.\n";

    fn edges(rows: &[(&str, &[&str])]) -> Edges {
        rows.iter()
            .map(|(name, on)| ((*name).to_owned(), on.iter().map(|on| (*on).to_owned()).collect()))
            .collect()
    }

    #[test]
    fn a_table_that_tells_the_truth_passes() {
        let truth = edges(&[("base", &[]), ("mid", &["base"]), ("top", &["base", "mid"])]);
        assert_eq!(table(TABLE, &truth), Vec::<String>::new());
    }

    #[test]
    fn every_difference_between_table_and_crates_is_found() {
        let found = table(TABLE, &edges(&[("base", &["mid"]), ("mid", &["base"]), ("new", &[])]));
        let text = found.join("\n");
        assert_eq!(found.len(), 3, "{text}");
        assert!(text.contains("`base` depends on mid, the table says nothing"), "{text}");
        assert!(text.contains("crate `new` is not in the table"), "{text}");
        assert!(text.contains("lists `top`, which is no crate"), "{text}");
        assert!(table("# No table", &edges(&[]))[0].contains("no table"));
    }

    #[test]
    fn what_others_may_depend_on_says_what_it_is() {
        let package = |text: &str| published(&serde_json::from_str(text).unwrap()).join("\n");
        let good = r#"{"name": "finetune-a", "description": "A.", "documentation": "https://docs.rs/finetune-a",
            "keywords": ["a"], "categories": ["science"], "publish": null, "targets": [], "dependencies": []}"#;
        assert_eq!(package(good), "");
        let bad = r#"{"name": "a", "description": null, "documentation": null, "keywords": [], "categories": [],
            "publish": null, "targets": [], "dependencies": []}"#;
        let found = package(bad);
        for part in ["finetune-a", "description", "documentation", "keywords", "categories"] {
            assert!(found.contains(part), "{found}");
        }
        assert_eq!(package(&bad.replace(r#""publish": null"#, r#""publish": []"#)), "");
    }

    #[test]
    fn a_version_outside_the_workspace_is_found() {
        let source = |text: &str| Source {
            path: PathBuf::from("crates/a/Cargo.toml"),
            text: text.to_owned(),
            is_test_module: false,
        };
        let good =
            "[package]\nname='a'\n[lints]\nworkspace=true\n[dependencies]\nx={workspace=true}\ny.workspace=true\n";
        assert_eq!(manifest(&source(good)), Vec::<String>::new());
        let bad =
            "[package]\nname='a'\n[dependencies]\nx='1'\n[target.'cfg(unix)'.dev-dependencies]\ny={path='../y'}\n";
        let found = manifest(&source(bad)).join("\n");
        assert!(
            found.contains("`[lints]") && found.contains("`x`") && found.contains("`y`"),
            "{found}"
        );
    }
}
