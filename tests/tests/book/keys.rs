//! The types that a recipe is read into, from their sources: fields, what is said of them, and serde's attributes.

use std::collections::BTreeMap;
use std::path::Path;

use syn::{Attribute, Expr, Fields, Item, Lit, Type};

use super::pages;

/// A field of a struct: a key of a table.
pub(crate) struct Key {
    pub(crate) name: String,
    pub(crate) aliases: Vec<String>,
    pub(crate) about: String,
    pub(crate) kind: Type,
    /// Whether its fields stand in the table around it.
    pub(crate) is_flat: bool,
    /// Whether a recipe may leave it out.
    pub(crate) is_optional: bool,
}

/// A variant of an enum.
pub(crate) struct Variant {
    pub(crate) name: String,
    pub(crate) about: String,
    /// The type of its only field; none if it has no fields.
    pub(crate) inner: Option<Type>,
    pub(crate) is_unit: bool,
}

/// A type of the sources.
pub(crate) enum Definition {
    Table(Vec<Key>),
    Choice(Vec<Variant>),
}

/// All types that serde reads, by crate and name.
pub(crate) struct Sources(BTreeMap<(String, String), Definition>);

impl Sources {
    /// Those of every crate.
    pub(crate) fn read() -> Self {
        let mut found = BTreeMap::new();
        let crates = pages::root().join("crates");
        for entry in std::fs::read_dir(crates).expect("the crates") {
            let path = entry.expect("a crate").path();
            let name = path.file_name().expect("a name").to_string_lossy().replace('-', "_");
            collect(&path.join("src"), &name, &mut found);
        }
        Self(found)
    }

    /// The type of that name: the crate's own, else the only one of any crate.
    pub(crate) fn get(&self, from: &str, name: &str) -> Option<(&str, &Definition)> {
        let own = self.0.get_key_value(&(from.to_owned(), name.to_owned()));
        let mut others = self.0.iter().filter(|((_, other), _)| other == name);
        let only = others.next().filter(|_| others.next().is_none());
        own.or(only).map(|((at, _), definition)| (&**at, definition))
    }
}

fn collect(folder: &Path, of: &str, found: &mut BTreeMap<(String, String), Definition>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.expect("an entry").path();
        // What the command line and the measured rates are read into has names that recipes have too.
        if path.ends_with("finetune/src/verbs") || path.ends_with("finetune/src/rates.rs") {
            continue;
        }
        if path.is_dir() {
            collect(&path, of, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            let text = std::fs::read_to_string(&path).expect("a source");
            let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            for item in file.items {
                let (name, definition) = match item {
                    Item::Struct(item) if is_read(&item.attrs) => (item.ident.to_string(), table(&item)),
                    Item::Enum(item) if is_read(&item.attrs) => (item.ident.to_string(), choice(&item)),
                    _ => continue,
                };
                found.insert((of.to_owned(), name), definition);
            }
        }
    }
}

/// Whether serde knows the type.
fn is_read(attributes: &[Attribute]) -> bool {
    attributes
        .iter()
        .filter(|attribute| attribute.path().is_ident("derive"))
        .any(|derive| {
            let mut known = false;
            let _ = derive.parse_nested_meta(|meta| {
                known |= meta
                    .path
                    .segments
                    .last()
                    .is_some_and(|part| part.ident == "Serialize" || part.ident == "Deserialize");
                Ok(())
            });
            known
        })
}

/// serde's words for a type, field or variant: `rename` and its value, `flatten` and none.
fn serde_words(attributes: &[Attribute]) -> Vec<(String, Option<String>)> {
    let mut words = Vec::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("serde")) {
        attribute
            .parse_nested_meta(|meta| {
                let word = meta.path.get_ident().map(ToString::to_string).unwrap_or_default();
                let value = if meta.input.peek(syn::Token![=]) {
                    match meta.value()?.parse::<Expr>()? {
                        Expr::Lit(literal) => match literal.lit {
                            Lit::Str(text) => Some(text.value()),
                            _ => None,
                        },
                        _ => None,
                    }
                } else {
                    None
                };
                words.push((word, value));
                Ok(())
            })
            .expect("serde's attributes are lists of words");
    }
    words
}

fn value_of(words: &[(String, Option<String>)], wanted: &str) -> Option<String> {
    words
        .iter()
        .find(|(word, _)| word == wanted)
        .and_then(|(_, value)| value.clone())
}

/// The documentation, in one line, without links between brackets.
fn about(attributes: &[Attribute]) -> String {
    let mut lines = Vec::new();
    for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("doc")) {
        if let syn::Meta::NameValue(meta) = &attribute.meta
            && let Expr::Lit(literal) = &meta.value
            && let Lit::Str(text) = &literal.lit
        {
            lines.push(text.value().trim().to_owned());
        }
    }
    lines
        .join(" ")
        .replace("[`", "`")
        .replace("`]", "`")
        .replace("Self::", "")
        .replace('|', "\\|")
        .trim()
        .to_owned()
}

fn table(item: &syn::ItemStruct) -> Definition {
    let container = serde_words(&item.attrs);
    let has_default = container
        .iter()
        .any(|(word, _)| word == "default" || word == "try_from");
    let keys = item.fields.iter().filter_map(|field| {
        let words = serde_words(&field.attrs);
        let has = |wanted: &str| words.iter().any(|(word, _)| word == wanted);
        let name = value_of(&words, "rename").or_else(|| field.ident.as_ref().map(ToString::to_string))?;
        (!has("skip")).then(|| Key {
            name,
            aliases: words
                .iter()
                .filter(|(word, _)| word == "alias")
                .filter_map(|(_, value)| value.clone())
                .collect(),
            about: about(&field.attrs),
            kind: field.ty.clone(),
            is_flat: has("flatten"),
            is_optional: has_default || has("default"),
        })
    });
    Definition::Table(keys.collect())
}

fn choice(item: &syn::ItemEnum) -> Definition {
    let container = serde_words(&item.attrs);
    let case = value_of(&container, "rename_all");
    let variants = item.variants.iter().map(|variant| {
        let words = serde_words(&variant.attrs);
        let inner = match &variant.fields {
            Fields::Unnamed(fields) if fields.unnamed.len() == 1 => Some(fields.unnamed[0].ty.clone()),
            _ => None,
        };
        Variant {
            name: value_of(&words, "rename").unwrap_or_else(|| cased(&variant.ident.to_string(), case.as_deref())),
            about: about(&variant.attrs),
            inner,
            is_unit: matches!(variant.fields, Fields::Unit),
        }
    });
    // A value that is read by hand, or as any of several forms, is no list of words.
    let by_hand = ["try_from", "untagged"]
        .iter()
        .any(|wanted| container.iter().any(|(word, _)| word == wanted));
    Definition::Choice(if by_hand { Vec::new() } else { variants.collect() })
}

fn cased(name: &str, case: Option<&str>) -> String {
    match case {
        Some("snake_case") => {
            let mut text = String::new();
            for (idx, character) in name.char_indices() {
                if idx > 0 && character.is_uppercase() {
                    text.push('_');
                }
                text.extend(character.to_lowercase());
            }
            text
        }
        Some("lowercase") => name.to_lowercase(),
        None => name.to_owned(),
        Some(other) => panic!("`{name}`: serde's case `{other}` is new here"),
    }
}
