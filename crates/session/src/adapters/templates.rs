//! The chat templates that several adapters were trained with, which lie beside them.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use models::templates_in;

/// What the adapters say of chat templates; one that brings none fits any.
#[derive(Debug)]
pub enum Templates<'a> {
    /// Nothing.
    None,
    /// The same; this is the first that brings them.
    Same(&'a Path),
    /// These two bring different ones.
    Different(&'a Path, &'a Path),
}

impl<'a> Templates<'a> {
    /// Reads what lies in each adapter's folder.
    pub fn of(folders: impl IntoIterator<Item = &'a Path>) -> Result<Self> {
        let mut first: Option<(&Path, BTreeMap<String, String>)> = None;
        for folder in folders {
            let templates = templates_in(folder)?;
            match &first {
                _ if templates.is_empty() => {}
                None => first = Some((folder, templates)),
                Some((_, wanted)) if *wanted == templates => {}
                Some((other, _)) => return Ok(Self::Different(other, folder)),
            }
        }
        Ok(first.map_or(Self::None, |(folder, _)| Self::Same(folder)))
    }
}
