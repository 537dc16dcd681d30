//! Every recipe that a page shows is one that the program reads.

use std::fs;
use std::path::Path;

use methods::recipe::Recipe;
use toml::{Table, Value};

use super::{links, pages};

/// Endings of the files that a recipe names.
const ENDINGS: [&str; 4] = [".jsonl", ".csv", ".txt", ".toml"];

/// The recipes that the pages show, with their places.
pub(super) fn of_pages() -> (Vec<(String, String)>, Vec<String>) {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for page in pages::all()
        .into_iter()
        .filter(|page| !pages::is_written_by_a_run(page))
    {
        let text = links::expanded(&page, &mut errors);
        for block in pages::blocks(&text)
            .iter()
            .filter(|block| block.label.starts_with("toml"))
        {
            let text = block.lines.join("\n");
            let place = format!("{}:{}", page.display(), block.line);
            if text.contains("[model]") {
                found.push((place, text));
            } else if let Err(error) = text.parse::<Table>() {
                errors.push(format!("{place}: {error}"));
            }
        }
    }
    (found, errors)
}

/// Makes an empty file in `folder` for each file that `value` names.
fn make_files(value: &Value, folder: &Path) {
    match value {
        Value::String(name) if ENDINGS.iter().any(|ending| name.ends_with(ending)) => {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().expect("a file lies in a folder")).expect("a folder");
            fs::write(path, "{}").expect("a file");
        }
        Value::Array(values) => values.iter().for_each(|value| make_files(value, folder)),
        Value::Table(table) => table.values().for_each(|value| make_files(value, folder)),
        _ => {}
    }
}

fn parse(text: &str) -> Result<Recipe, String> {
    let table = text.parse::<Table>().map_err(|error| error.to_string())?;
    let folder = tempfile::tempdir().expect("a folder");
    make_files(&Value::Table(table), folder.path());
    Recipe::parse(&folder.path().join("my.toml"), text.to_owned(), &[]).map_err(|error| format!("{error:#}"))
}

#[test]
fn every_recipe_of_the_pages_is_read() {
    let (recipes, mut errors) = of_pages();
    let wrong = |(place, text): &(String, String)| Some(format!("{place}: {}", parse(text).err()?));
    errors.extend(recipes.iter().filter_map(wrong));
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    assert!(recipes.len() >= 15, "{} recipes", recipes.len());
}

#[test]
fn a_wrong_recipe_is_found() {
    let text = "[model]\nname_or_path = \"m\"\n[data]\ntrain = [{ path = \"a/my.jsonl\" }]\n[[surgery]]\nkind = \"lora\"\n\
                [objective]\nkind = \"sft\"\n";
    assert!(parse(text).is_ok(), "{:?}", parse(text).err());
    assert!(parse(&text.replace("sft", "stf")).is_err());
    assert!(parse(&text.replace("train", "trian")).is_err());
}
