//! A file mapped into memory, read-only.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use memmap2::Mmap;

use crate::{Error, Result};

/// Maps the file at `path`; an empty file gives an empty map.
pub(crate) fn map(path: &Path) -> Result<Arc<Mmap>> {
    let file = File::open(path).map_err(Error::io(path, "open"))?;
    if file.metadata().map_err(Error::io(path, "read"))?.is_dir() {
        let source = std::io::ErrorKind::IsADirectory.into();
        return Err(Error::io(path, "read")(source));
    }
    // SAFETY: the map is read-only. A checkpoint that another process cuts short while it is mapped is outside what
    // any reader can guard against; our own writers replace files by renaming and never write into one.
    #[allow(unsafe_code)]
    let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path, "map"))?;
    Ok(Arc::new(map))
}
