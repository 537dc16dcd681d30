//! Tensors in a file's memory: what is not in use may leave, and comes back when it is met.
//!
//! The file has no name and is gone with its tensor. Pages that were let go are still the system's to keep while it has
//! memory for them; under pressure they cost a read from disk instead of the run.

use std::io;
use std::path::Path;
use std::sync::Arc;

use memmap2::{MmapRaw, UncheckedAdvice};
use tch::{Kind, Tensor};

use crate::blob::tensor_over;
use crate::{Error, Result};

/// A CPU tensor whose numbers lie in a file.
#[derive(Debug)]
pub struct Paged {
    tensor: Tensor,
    map: Arc<MmapRaw>,
}

impl Paged {
    /// Zeros of `shape` in dtype `kind`, in a file of the folder `folder`, which exists.
    ///
    /// The file is sparse: what is not written takes no room. Errors: no such folder, no room for the file.
    ///
    /// ```
    /// use tch::Kind;
    /// use tensor_core::Paged;
    ///
    /// let paged = Paged::zeros(&std::env::temp_dir(), &[2, 3], Kind::Float)?;
    /// paged.tensor().shallow_clone().fill_(2.0);
    /// paged.release();
    /// assert_eq!(paged.tensor().sum(Kind::Float).double_value(&[]), 12.0);
    /// # Ok::<(), tensor_core::Error>(())
    /// ```
    pub fn zeros(folder: &Path, shape: &[i64], kind: Kind) -> Result<Self> {
        let wrong = |source: io::Error| Error::Paging {
            folder: folder.to_owned(),
            source,
        };
        let bytes = shape.iter().product::<i64>() as usize * kind.elt_size_in_bytes();
        let file = tempfile::tempfile_in(folder).map_err(wrong)?;
        // A file of no length cannot be mapped.
        file.set_len(bytes.max(1) as u64).map_err(wrong)?;
        let map = Arc::new(MmapRaw::map_raw(&file).map_err(wrong)?);
        // SAFETY: the map is that long, and nobody else has the file; libtorch writes through its own pointer.
        #[allow(unsafe_code)]
        let memory = unsafe { std::slice::from_raw_parts(map.as_ptr(), bytes) };
        let tensor = tensor_over(map.clone(), memory, shape, kind)?;
        Ok(Self { tensor, map })
    }

    /// The tensor: a handle on the file's memory.
    pub fn tensor(&self) -> &Tensor {
        &self.tensor
    }

    /// Lets its pages leave this process's memory; their numbers stay in the file.
    pub fn release(&self) {
        // SAFETY: the map is shared with its file, so pages that leave are read again with the numbers they held.
        #[allow(unsafe_code)]
        // A system that knows no such advice keeps the pages, which costs memory and nothing else.
        let _ = unsafe { self.map.unchecked_advise(UncheckedAdvice::DontNeed) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of a file's memory that this process holds.
    fn shared() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("RssFile:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
    }

    #[test]
    fn released_numbers_leave_memory_and_come_back() {
        let folder = tempfile::tempdir().unwrap();
        let paged = Paged::zeros(folder.path(), &[4 << 20], Kind::Float).unwrap();
        let size = 16 << 20;
        let _ = paged.tensor().shallow_clone().fill_(0.5);
        let full = shared();
        paged.release();
        let empty = shared();
        assert!(full > empty + size / 2, "{full} bytes before, {empty} after");
        assert_eq!(paged.tensor().sum(Kind::Double).double_value(&[]), f64::from(2 << 20));
        assert_eq!(
            std::fs::read_dir(folder.path()).unwrap().count(),
            0,
            "the file has no name"
        );
        // A handle keeps the memory alive.
        let handle = paged.tensor().shallow_clone();
        drop(paged);
        assert_eq!(handle.double_value(&[7]), 0.5);
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = Paged::zeros(Path::new("/no/such/folder"), &[1], Kind::Float).unwrap_err();
        assert!(error.to_string().contains("`/no/such/folder`"), "{error}");
    }
}
