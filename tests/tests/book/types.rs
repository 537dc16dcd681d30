//! What a type of the sources is called in a recipe's reference.

use syn::{GenericArgument, PathArguments, Type};

use super::keys::{Definition, Sources};

/// The last name of a type's path, and its arguments: `Option<Vec<u8>>` is `Option` and `Vec<u8>`.
pub(crate) fn parts(kind: &Type) -> Option<(String, Vec<&Type>)> {
    let Type::Path(path) = kind else { return None };
    let last = path.path.segments.last()?;
    let arguments = match &last.arguments {
        PathArguments::AngleBracketed(arguments) => arguments
            .args
            .iter()
            .filter_map(|argument| match argument {
                GenericArgument::Type(kind) => Some(kind),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    Some((last.ident.to_string(), arguments))
}

/// What stands for a value that is read by hand, or in several forms.
const LIKE_THE_DEFAULT: &str = "like the default";

/// What stands for a value of this type, as words.
pub(crate) fn words(sources: &Sources, from: &str, kind: &Type) -> String {
    let Some((name, arguments)) = parts(kind) else {
        return "a value".into();
    };
    let inner = |idx: usize| {
        arguments
            .get(idx)
            .map_or_else(String::new, |kind| words(sources, from, kind))
    };
    match &*name {
        "String" => "text".into(),
        "PathBuf" => "path".into(),
        "bool" => "true or false".into(),
        "f32" | "f64" => "number".into(),
        "i64" | "u64" | "usize" | "u32" | "i32" | "NonZeroUsize" | "NonZero" | "BlockSize" => "whole number".into(),
        "TargetModules" => "text or list of text".into(),
        "Init" => "true, false or text".into(),
        "Option" => inner(0),
        "Vec" => match inner(0) {
            unknown if unknown == LIKE_THE_DEFAULT => "list".into(),
            known => format!("list of {known}"),
        },
        "BTreeMap" => format!("table: {} to {}", inner(0), inner(1)),
        _ => match sources.get(from, &name) {
            Some((_, Definition::Choice(variants)))
                if !variants.is_empty() && variants.iter().all(|one| one.is_unit) =>
            {
                let names: Vec<String> = variants.iter().map(|one| format!("`{}`", one.name)).collect();
                names.join(", ")
            }
            Some((_, Definition::Table(keys))) if !keys.is_empty() => {
                let names: Vec<String> = keys.iter().map(|key| format!("`{}`", key.name)).collect();
                format!("table: {}", names.join(", "))
            }
            _ => LIKE_THE_DEFAULT.into(),
        },
    }
}
