//! A file mapped into memory: what is written to it stays in this process and never reaches the file.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{MmapMut, MmapOptions, UncheckedAdvice};
use tch::{Kind, Tensor};
use tensor_core::blob;

use crate::{Error, Result};

/// The length that a file had when it was mapped.
///
/// A page that lies behind the end of a file that was cut short since is a bus error for whoever touches it. No reader of
/// maps can rule that out for pages it touches late; asked before each tensor is handed out, this makes the usual case, a
/// model that is being copied or downloaded over, an error that names the file.
#[derive(Debug)]
pub(crate) struct Length {
    file: File,
    path: PathBuf,
    bytes: u64,
}

impl Length {
    /// An error if the file is shorter than when it was mapped.
    pub(crate) fn still(&self) -> Result<()> {
        let now = self.file.metadata().map_err(Error::io(&self.path, "read"))?.len();
        if now >= self.bytes {
            return Ok(());
        }
        Err(Error::Broken {
            path: self.path.clone(),
            format: "file",
            at: "cut short while it was open".into(),
            wanted: format!("{} bytes", self.bytes),
            found: now.to_string(),
        })
    }
}

/// Maps the file at `path`; an empty file gives an empty map.
pub(crate) fn map(path: &Path) -> Result<(Arc<MmapMut>, Length)> {
    let file = File::open(path).map_err(Error::io(path, "open"))?;
    if file.metadata().map_err(Error::io(path, "read"))?.is_dir() {
        let source = std::io::ErrorKind::IsADirectory.into();
        return Err(Error::io(path, "read")(source));
    }
    // SAFETY: the pages are private, so that no tensor over them can write to the file. A checkpoint that another process
    // cuts short while it is mapped is noticed where a tensor is handed out; our own writers replace files by renaming and
    // never write into one.
    #[allow(unsafe_code)]
    let map = unsafe { MmapOptions::new().no_reserve_swap().map_copy(&file) }.map_err(Error::io(path, "map"))?;
    let length = Length {
        file,
        path: path.to_owned(),
        bytes: map.len() as u64,
    };
    Ok((Arc::new(map), length))
}

/// A part of a map, in use by one tensor: when that dies, its pages leave this process's memory.
///
/// So reading a model weight by weight, each packed or converted before the next, holds one dense weight at a time.
pub(crate) struct Lent {
    map: Arc<MmapMut>,
    start: usize,
    len: usize,
}

impl Lent {
    /// `bytes` of `map`.
    pub(crate) fn new(map: &Arc<MmapMut>, bytes: &[u8]) -> Self {
        Self {
            map: map.clone(),
            start: bytes.as_ptr() as usize - map.as_ptr() as usize,
            len: bytes.len(),
        }
    }

    /// A tensor over these bytes.
    ///
    /// # Panics
    /// If there are fewer bytes than `shape` needs, or they are not aligned for `kind`.
    pub(crate) fn tensor(self, shape: &[i64], kind: Kind) -> Result<Tensor> {
        assert!(self.start + self.len <= self.map.len(), "bytes of the map");
        // SAFETY: inside the map, whose pages are this process's own to read and write for as long as it lives.
        #[allow(unsafe_code)]
        unsafe {
            let bytes = (self.map.as_ptr().add(self.start).cast_mut(), self.len);
            Ok(blob::tensor_over(Arc::new(self), bytes, shape, kind)?)
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        // SAFETY: a page that leaves is read again from the file; nothing here writes to one that another tensor reads.
        // A system that knows no such advice keeps the pages, which costs memory and nothing else.
        #[allow(unsafe_code)]
        let _ = unsafe {
            self.map
                .unchecked_advise_range(UncheckedAdvice::DontNeed, self.start, self.len)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of files that this process holds in memory.
    fn held() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("RssFile:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
    }

    #[test]
    fn pages_leave_with_the_last_user_of_their_bytes() {
        let size = 32 << 20;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![3u8; size]).unwrap();
        let (map, _) = map(file.path()).unwrap();
        let sum = |bytes: &[u8]| bytes.iter().map(|&byte| usize::from(byte)).sum::<usize>();
        let lent = Lent::new(&map, &map[4096..]);
        assert_eq!(sum(&map[4096..]), 3 * (size - 4096));
        let full = held();
        drop(lent);
        let empty = held();
        assert!(full > empty + size / 2, "{full} bytes before, {empty} after");
        assert_eq!(sum(&map), 3 * size);
    }
}
