//! Reading little-endian values from bytes that may end too soon.

use std::path::Path;

use crate::{Error, Result};

/// A place in a GGUF header.
pub(crate) struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(path: &'a Path, bytes: &'a [u8]) -> Self {
        Self {
            path,
            bytes,
            position: 0,
        }
    }

    pub(crate) fn path(&self) -> &'a Path {
        self.path
    }

    pub(crate) fn position(&self) -> usize {
        self.position
    }

    /// Bytes that are left.
    pub(crate) fn left(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// The next `count` bytes, which belong to `what`.
    pub(crate) fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8]> {
        let Some(bytes) = self.bytes[self.position..].get(..count) else {
            let wanted = format!("{count} bytes at {}", self.position);
            return Err(self.broken(
                what,
                &wanted,
                format!("the file's end after {} (cut short?)", self.left()),
            ));
        };
        self.position += count;
        Ok(bytes)
    }

    pub(crate) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let bytes = self.take(N, what)?;
        Ok(bytes.try_into().expect("as many bytes as taken"))
    }

    pub(crate) fn u32(&mut self, what: &str) -> Result<u32> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self, what: &str) -> Result<u64> {
        self.array(what).map(u64::from_le_bytes)
    }

    pub(crate) fn string(&mut self, what: &str) -> Result<String> {
        let length = usize::try_from(self.u64(what)?).unwrap_or(usize::MAX);
        let bytes = self.take(length, what)?;
        String::from_utf8(bytes.to_vec()).map_err(|error| self.broken(what, "UTF-8 text", error.to_string()))
    }

    pub(crate) fn broken(&self, at: &str, wanted: &str, found: String) -> Error {
        Error::Broken {
            path: self.path.to_owned(),
            at: at.to_owned(),
            wanted: wanted.to_owned(),
            found,
        }
    }
}
