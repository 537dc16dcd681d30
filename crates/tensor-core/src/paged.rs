//! Tensors in a file's memory: what is not in use may leave, and comes back when it is met.
//!
//! The file has no name and is gone with its tensor. Pages that were let go are still the system's to keep while it has
//! memory for them; under pressure they cost a read from disk instead of the run.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;

use memmap2::{MmapRaw, UncheckedAdvice};
use tch::{Kind, Tensor};

use crate::blob::{num_bytes, tensor_over};
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
    /// All of the file's room is taken at once: a disk that is full later could only end the process. Errors: no such
    /// folder, no room for the file.
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
        let bytes = num_bytes(shape, kind.elt_size_in_bytes());
        let bytes = bytes.ok_or_else(|| wrong(io::Error::other(format!("no tensor has shape {shape:?}"))))?;
        let file = tempfile::tempfile_in(folder).map_err(wrong)?;
        // A file of no length cannot be mapped.
        allocate(&file, 0, bytes.max(1) as u64).map_err(wrong)?;
        let map = Arc::new(MmapRaw::map_raw(&file).map_err(wrong)?);
        // SAFETY: the map is that long and may be written, nobody else has the file, and there is no reference to it.
        #[allow(unsafe_code)]
        let tensor = unsafe { tensor_over(map.clone(), (map.as_mut_ptr(), bytes), shape, kind) }?;
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

/// Makes `file` at least `begin + len` bytes long and takes room on its disk for that part, so that writing to a map of it
/// cannot meet a full disk, which is no error there but the process's end (`SIGBUS`).
///
/// What the file held stays; what is new reads as zeros. Errors: no room, or a file that cannot be so long.
pub fn allocate(file: &File, begin: u64, len: u64) -> io::Result<()> {
    let end = begin.checked_add(len).ok_or(io::ErrorKind::FileTooLarge)?;
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd as _;
        let [begin, len] =
            [begin, len].map(|bytes| libc::off_t::try_from(bytes).map_err(|_| io::ErrorKind::FileTooLarge));
        loop {
            // SAFETY: an open file, for the length of the call.
            #[allow(unsafe_code)]
            let code = unsafe { libc::posix_fallocate(file.as_raw_fd(), begin?, len?) };
            match code {
                0 => break,
                libc::EINTR => {}
                code => return Err(io::Error::from_raw_os_error(code)),
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    write_zeros(file, begin, end)?;
    if file.metadata()?.len() < end {
        file.set_len(end)?;
    }
    Ok(())
}

/// As [`allocate`] where the system has no call for it: zeros are written behind the end.
#[cfg(not(target_os = "linux"))]
fn write_zeros(mut file: &File, begin: u64, end: u64) -> io::Result<()> {
    use std::io::{Seek as _, Write as _};
    let zeros = [0u8; 1 << 16];
    let mut at = file.metadata()?.len().max(begin);
    file.seek(io::SeekFrom::Start(at))?;
    while at < end {
        let part = (end - at).min(zeros.len() as u64);
        file.write_all(&zeros[..part as usize])?;
        at += part;
    }
    Ok(())
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

    #[cfg(target_os = "linux")]
    #[test]
    fn room_is_taken_before_it_is_written() {
        use std::os::unix::fs::MetadataExt as _;
        let file = tempfile::tempfile().unwrap();
        for (begin, len) in [(0, 1 << 20), (1 << 20, 3 << 20), (0, 100)] {
            allocate(&file, begin, len).unwrap();
        }
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), 4 << 20);
        assert!(metadata.blocks() * 512 >= 4 << 20, "{} blocks", metadata.blocks());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_disk_without_room_is_an_error() {
        // A file system in memory that says how large it is: one more page than all of it.
        let shared = Path::new("/dev/shm");
        let mut about = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
        // SAFETY: a nul-terminated path, and memory for the answer, which zeros are one of.
        #[allow(unsafe_code)]
        let about = unsafe {
            assert_eq!(
                libc::statvfs(c"/dev/shm".as_ptr(), about.as_mut_ptr()),
                0,
                "/dev/shm is there"
            );
            about.assume_init()
        };
        let beyond = (about.f_blocks as i64 + 1) * about.f_frsize as i64;
        let error = Paged::zeros(shared, &[beyond], Kind::Uint8).unwrap_err().to_string();
        assert!(error.contains("`/dev/shm`") && error.contains("hint"), "{error}");
        let error = Paged::zeros(shared, &[1 << 40, 1 << 40], Kind::Float)
            .unwrap_err()
            .to_string();
        assert!(error.contains("no tensor has shape"), "{error}");
    }
}
