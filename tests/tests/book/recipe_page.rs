//! `docs/reference/recipe.md`: every key of a recipe, from the types that read it and their defaults.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use methods::recipe::{Document, Recipe};
use methods::{METHODS, Method};
use syn::Type;
use toml::{Table, Value};

use super::keys::{Definition, Key, Sources};
use super::{pages, types};

const HEAD: &str = "# Recipe keys

A test writes this page from the types that read a recipe: `UPDATE_DOCS=1 cargo test -p end-to-end --test book`.

A recipe is a TOML file with these sections:

- `[model]`: the model that is trained;
- `[[surgery]]`: the changes to it, in the order in which they are applied;
- `[head]`: a new output layer, for classification;
- `[router]`: options of the router, for a mixture of experts;
- `[objective]`: what training minimises;
- `[data]`: the data;
- `[train]`: the training options;
- `[report]`: what the report shows in addition to the curves.

`--set key=value` changes a key for one run. The names are joined by dots, and the entries of a list are counted from 0: `--set train.learning_rate=1e-4`, `--set surgery.0.r=8`.
An unknown key is an error that names the nearest known one.
`recipe.toml` in the run's folder has every key with its value, defaults too.
";

/// What a kind cannot be read without.
const NEEDED: [(&str, &str); 5] = [
    (
        "prune",
        "method = \"wanda\"\nsparsity = 0.5\ncalibration = \"rows.jsonl\"",
    ),
    ("hft", ""),
    ("distill", "teacher = \"m\""),
    ("ppo", "rewards = [{ kind = \"json\" }]"),
    ("grpo", "rewards = [{ kind = \"json\" }]"),
];

/// A recipe with this surgery and objective, every default resolved.
fn resolved(surgery: &str, objective: &str) -> Table {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("rows.jsonl"), "{}").expect("a file");
    let needed = |kind| {
        NEEDED
            .iter()
            .find(|(name, _)| *name == kind)
            .map_or("", |(_, keys)| keys)
    };
    let text = format!(
        "[model]\nname_or_path = \"m\"\n[[surgery]]\nkind = \"{surgery}\"\n{}\n[head]\nkind = \"classification\"\n[router]\n\
         [objective]\nkind = \"{objective}\"\n{}\n[data]\ntrain = [{{ path = \"rows.jsonl\" }}]\n",
        needed(surgery),
        needed(objective)
    );
    let path = folder.path().join("recipe.toml");
    let document = Document::parse(&path, text, &[]).expect("TOML");
    let recipe = Recipe::unchecked(&document).unwrap_or_else(|error| panic!("{surgery}, {objective}: {error:#}"));
    Table::try_from(&recipe).expect("a recipe is TOML")
}

struct Page<'a> {
    sources: &'a Sources,
    text: String,
    count: usize,
}

impl Page<'_> {
    /// A table of the keys of `kind`; `defaults` is what a recipe that says nothing has.
    fn keys(&mut self, from: &str, kind: &Type, defaults: Option<&Table>, given: &[&str]) {
        let (name, _) = types::parts(kind).expect("a named type");
        let Some((from, Definition::Table(keys))) = self.sources.get(from, &name) else {
            panic!("`{name}`: no table of that name in the sources of `{from}`");
        };
        if keys.is_empty() {
            self.text += "\nNo keys.\n";
            return;
        }
        self.text += "\n| key | value | default | meaning |\n|---|---|---|---|\n";
        self.rows(from, keys, defaults, given);
    }

    fn rows(&mut self, from: &str, keys: &[Key], defaults: Option<&Table>, given: &[&str]) {
        for key in keys {
            if key.is_flat {
                let (name, _) = types::parts(&key.kind).expect("a named type");
                let Some((from, Definition::Table(keys))) = self.sources.get(from, &name) else {
                    panic!("`{name}`: no table of that name");
                };
                self.rows(from, keys, defaults, given);
                continue;
            }
            assert!(!key.about.is_empty(), "`{}` says nothing of itself", key.name);
            let is_option = types::parts(&key.kind).is_some_and(|(name, _)| name == "Option");
            let default = match defaults.and_then(|table| table.get(&key.name)) {
                _ if !key.is_optional && !is_option => "required".to_owned(),
                _ if given.contains(&&*key.name) => String::new(),
                Some(value) if key.name == "seed" && value.as_integer() == Some(42) && from != "train" => {
                    "`train.seed`".into()
                }
                Some(value) => format!("`{}`", shown(value)),
                None => String::new(),
            };
            let aliases = match &*key.aliases.join("`, `") {
                "" => String::new(),
                names => format!(" (also `{names}`)"),
            };
            let words = types::words(self.sources, from, &key.kind);
            let _ = writeln!(
                self.text,
                "| `{}`{aliases} | {words} | {default} | {} |",
                key.name, key.about
            );
            self.count += 1;
        }
    }

    /// A section for each method of the registry.
    fn methods(&mut self, given: &BTreeMap<&str, Vec<&str>>) {
        for method in METHODS {
            let Method { kind, summary, .. } = method;
            let _ = write!(self.text, "\n### Surgery, `kind = \"{kind}\"`\n\n{summary}.\n");
            let options: Type = syn::parse_str(method.options).expect("a type");
            let given = given.get(kind).map_or(&[][..], Vec::as_slice);
            self.keys("finetune", &options, Some(&surgery(resolved(kind, "sft"))), given);
        }
    }

    /// A section for each variant of the enum `name`, which are the kinds of a table.
    fn kinds(&mut self, name: &str, head: &str, table: impl Fn(&str) -> Table, given: &BTreeMap<&str, Vec<&str>>) {
        let Some((from, Definition::Choice(variants))) = self.sources.get("finetune", name) else {
            panic!("`{name}`: no choice of that name");
        };
        for variant in variants {
            let _ = write!(
                self.text,
                "\n### {head}, `kind = \"{}\"`\n\n{}\n",
                variant.name, variant.about
            );
            let inner = variant.inner.as_ref().expect("a kind has options");
            let given = given.get(&*variant.name).map_or(&[][..], Vec::as_slice);
            self.keys(from, inner, Some(&table(&variant.name)), given);
        }
    }
}

/// A value in one line, without the folder in which the test runs.
fn shown(value: &Value) -> String {
    let here = std::env::current_dir().expect("a working directory");
    match value {
        Value::String(text) => match Path::new(text).strip_prefix(&here) {
            Ok(inside) => format!("\"{}\"", inside.display()),
            Err(_) => value.to_string(),
        },
        other => other.to_string().replace('\n', " "),
    }
}

#[test]
fn the_page_of_keys_is_what_the_types_say() {
    let sources = Sources::read();
    let mut page = Page {
        sources: &sources,
        text: HEAD.to_owned(),
        count: 0,
    };
    let plain = resolved("lora", "sft");
    let Some((_, Definition::Table(sections))) = sources.get("finetune", "Recipe") else {
        panic!("no recipe in the sources");
    };
    let given = BTreeMap::from([
        ("prune", vec!["method", "sparsity", "calibration"]),
        ("ppo", vec!["rewards"]),
        ("grpo", vec!["rewards"]),
    ]);
    for section in sections {
        let name = &*section.name;
        let mark = if name == "surgery" {
            "[[surgery]]".to_owned()
        } else {
            format!("[{name}]")
        };
        let _ = write!(page.text, "\n## {mark}\n\n{}\n", section.about);
        match name {
            "surgery" => page.methods(&given),
            "objective" => page.kinds(
                "ObjectiveConfig",
                "Objective",
                |kind| part(resolved("lora", kind), "objective"),
                &given,
            ),
            "head" => page.kinds("HeadConfig", "Head", |_| part(plain.clone(), "head"), &given),
            _ => {
                let kind = match types::parts(&section.kind).expect("a named type") {
                    (option, inner) if option == "Option" => inner[0].clone(),
                    _ => section.kind.clone(),
                };
                let given: &[&str] = if name == "data" { &["train"] } else { &[] };
                page.keys("finetune", &kind, Some(&part(plain.clone(), name)), given);
            }
        }
        if name == "data" {
            page.text += "\n### Files of `train` and `eval`\n\nEach is a table.\n";
            let file: Type = syn::parse_str("Source").expect("a type");
            let files = plain["data"]["train"].as_array().expect("a list of files");
            let file_defaults = files[0].as_table().expect("a table");
            page.keys("finetune", &file, Some(file_defaults), &["path", "name"]);
        }
    }
    page.text += "\nRewards of `ppo` and `grpo`: [Rewards](../rewards.md).\n";
    assert!(page.count > 150, "{} keys", page.count);
    pages::hold("reference/recipe.md", &page.text);
}

fn part(mut table: Table, name: &str) -> Table {
    match table.remove(name) {
        Some(Value::Table(part)) => part,
        other => panic!("`{name}` is {other:?}"),
    }
}

fn surgery(mut table: Table) -> Table {
    match table.remove("surgery") {
        Some(Value::Array(mut list)) if !list.is_empty() => match list.remove(0) {
            Value::Table(part) => part,
            other => panic!("a surgery is {other:?}"),
        },
        other => panic!("`surgery` is {other:?}"),
    }
}

/// What serde itself would have wanted is on the page: no key is read under a name that the sources do not show.
#[test]
fn the_page_has_every_key_that_a_wrong_one_is_answered_with() {
    let page = pages::read(Path::new("docs/reference/recipe.md"));
    for place in [
        "model",
        "data",
        "train",
        "report",
        "router",
        "data.train.0",
        "surgery.0",
        "objective",
    ] {
        let wrong = format!("{place}.no_such_key");
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("rows.jsonl"), "{}").expect("a file");
        let text = "[model]\nname_or_path = \"m\"\n[[surgery]]\nkind = \"lora\"\n[router]\n[report]\n[train]\n[objective]\nkind = \"sft\"\n\
                    [data]\ntrain = [{ path = \"rows.jsonl\" }]\n";
        let set = format!("{wrong}=1");
        let document = Document::parse(&folder.path().join("r.toml"), text.into(), &[set]).expect("TOML");
        let error = Recipe::unchecked(&document).expect_err(&wrong).to_string();
        let (_, wanted) = error.split_once("wanted one of ").unwrap_or_else(|| panic!("{error}"));
        let wanted = wanted.lines().next().unwrap_or_default();
        for key in wanted.split('`').skip(1).step_by(2).filter(|key| *key != "use_dora") {
            let is_there = page.contains(&format!("`{key}`"));
            assert!(is_there, "`{place}.{key}` is not on the page");
        }
    }
}
