//! `docs/reference/recipe.md`: every key of a recipe, from its schema and what a recipe that says nothing has.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use methods::recipe::{self, Document, Recipe};
use serde_json::Value;
use toml::Table;

use super::{pages, words};

const HEAD: &str = "# Recipe keys

A test writes this page from the schema of recipes (`finetune schema`): `UPDATE_DOCS=1 cargo test -p end-to-end --test book`.

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
    schema: &'a Value,
    text: String,
    count: usize,
}

impl Page<'_> {
    /// A table of the keys of `table`, a schema; `defaults` is what a recipe that says nothing has. Keys of `given` were
    /// given only because a recipe cannot be read without them.
    fn keys(&mut self, table: &Value, defaults: &Table, given: &[&str]) {
        let properties = table["properties"].as_object().expect("a table has keys");
        let is_alias = |about: &str| about.starts_with("Another name of `");
        let about = |value: &Value| value["description"].as_str().unwrap_or_default().replace('\n', " ");
        let keys: Vec<(&String, &Value)> = properties
            .iter()
            .filter(|(name, value)| *name != "kind" && !is_alias(&about(value)))
            .collect();
        if keys.is_empty() {
            self.text += "\nNo keys.\n";
            return;
        }
        let required = table.to_string();
        let is_required = |name: &str| {
            // A key with several names is required by any of them.
            let of = |list: &Value| list.as_array().is_some_and(|names| names.iter().any(|one| one == name));
            of(&table["required"]) || required.contains(&format!("{{\"required\":[\"{name}\"]}}"))
        };
        self.text += "\n| key | value | default | meaning |\n|---|---|---|---|\n";
        for (name, value) in keys {
            let meaning = about(value);
            assert!(!meaning.is_empty(), "`{name}` says nothing of itself");
            let default = match defaults.get(name) {
                _ if is_required(name) => "required".to_owned(),
                _ if given.contains(&name.as_str()) => String::new(),
                Some(found) if name == "seed" && found.as_integer() == Some(42) && table["title"].is_string() => {
                    "`train.seed`".into()
                }
                Some(found) => format!("`{}`", shown(found)),
                None => String::new(),
            };
            let others: Vec<&str> = properties
                .iter()
                .filter(|(_, value)| about(value) == format!("Another name of `{name}`."))
                .map(|(name, _)| name.as_str())
                .collect();
            let others = match &*others.join("`, `") {
                "" => String::new(),
                names => format!(" (also `{names}`)"),
            };
            let words = words::of(self.schema, value);
            let _ = writeln!(self.text, "| `{name}`{others} | {words} | {default} | {meaning} |");
            self.count += 1;
        }
    }

    /// A section for each kind of a table.
    fn kinds(
        &mut self,
        head: &str,
        tables: &[Value],
        defaults: impl Fn(&str) -> Table,
        given: &BTreeMap<&str, Vec<&str>>,
    ) {
        for table in tables {
            let kind = table["title"].as_str().expect("a kind");
            let about = table["description"].as_str().expect("what it is");
            let _ = write!(self.text, "\n### {head}, `kind = \"{kind}\"`\n\n{about}\n");
            let given = given.get(kind).map_or(&[][..], Vec::as_slice);
            self.keys(table, &defaults(kind), given);
        }
    }
}

/// A value in one line, without the folder in which the test runs.
fn shown(value: &toml::Value) -> String {
    let here = std::env::current_dir().expect("a working directory");
    match value {
        toml::Value::String(text) => match Path::new(text).strip_prefix(&here) {
            Ok(inside) => format!("\"{}\"", inside.display()),
            Err(_) => value.to_string(),
        },
        other => other.to_string().replace('\n', " "),
    }
}

#[test]
fn the_page_of_keys_is_what_the_schema_says() {
    let schema = recipe::schema();
    let mut page = Page {
        schema: &schema,
        text: HEAD.to_owned(),
        count: 0,
    };
    let plain = resolved("lora", "sft");
    let given = BTreeMap::from([
        ("prune", vec!["method", "sparsity", "calibration"]),
        ("ppo", vec!["rewards"]),
        ("grpo", vec!["rewards"]),
    ]);
    let list = |value: &Value| value["oneOf"].as_array().expect("kinds").clone();
    for (name, section) in schema["properties"].as_object().expect("sections") {
        let mark = if name == "surgery" {
            "[[surgery]]".to_owned()
        } else {
            format!("[{name}]")
        };
        let about = section["description"].as_str().expect("what it is");
        let _ = write!(page.text, "\n## {mark}\n\n{about}\n");
        match name.as_str() {
            "surgery" => {
                let defaults = |kind: &str| surgery(resolved(kind, "sft"));
                page.kinds("Surgery", &list(&section["items"]), defaults, &given);
            }
            "objective" => {
                let defaults = |kind: &str| part(resolved("lora", kind), "objective");
                page.kinds("Objective", &list(section), defaults, &given);
            }
            "head" => page.kinds(
                "Head",
                std::slice::from_ref(section),
                |_| part(plain.clone(), "head"),
                &given,
            ),
            "data" => page.keys(section, &part(plain.clone(), name), &["train"]),
            _ => page.keys(section, &part(plain.clone(), name), &[]),
        }
        if name == "data" {
            page.text += "\n### Files of `train` and `eval`\n\nEach is a table.\n";
            let files = plain["data"]["train"].as_array().expect("a list of files");
            let file_defaults = files[0].as_table().expect("a table");
            page.keys(&schema["definitions"]["Source"], file_defaults, &["path", "name"]);
        }
    }
    page.text += "\nRewards of `ppo` and `grpo`: [Rewards](../rewards.md).\n";
    assert!(page.count > 150, "{} keys", page.count);
    pages::hold("reference/recipe.md", &page.text);
}

fn part(mut table: Table, name: &str) -> Table {
    match table.remove(name) {
        Some(toml::Value::Table(part)) => part,
        other => panic!("`{name}` is {other:?}"),
    }
}

fn surgery(mut table: Table) -> Table {
    match table.remove("surgery") {
        Some(toml::Value::Array(mut list)) if !list.is_empty() => match list.remove(0) {
            toml::Value::Table(part) => part,
            other => panic!("a surgery is {other:?}"),
        },
        other => panic!("`surgery` is {other:?}"),
    }
}

/// What a wrong key is answered with is on the page.
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
