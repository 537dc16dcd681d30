//! Rows of f32 in a mapped file: what is resident is what was touched, and the system may take it back.
//!
//! New rows go to a scratch file without a name, which ends with the process however that ends; its room is taken before it
//! is mapped. Rows that were read
//! from a saved table are mapped privately: writing to them leaves the file as it is.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use memmap2::{MmapMut, MmapOptions};

use crate::{Error, Result};

/// Bytes by which a scratch file grows.
const SEGMENT: usize = 4 << 20;

/// Rows of one width, numbered from 0 in the order in which they came.
#[derive(Debug)]
pub(crate) struct MappedRows {
    width: usize,
    saved: Option<Floats>,
    num_saved: usize,
    scratch: Option<File>,
    segments: Vec<Floats>,
    len: usize,
}

impl MappedRows {
    /// No rows yet.
    pub(crate) fn new(width: usize) -> Self {
        Self {
            width,
            saved: None,
            num_saved: 0,
            scratch: None,
            segments: Vec::new(),
            len: 0,
        }
    }

    /// The `len` rows of the file at `path`, which stays as it is.
    pub(crate) fn open(path: &Path, width: usize, len: usize) -> Result<Self> {
        let file = File::open(path).map_err(Error::file(path, "open"))?;
        let (wanted, found) = (
            bytes(width, len) as u64,
            file.metadata().map_err(Error::file(path, "read"))?.len(),
        );
        if wanted != found {
            return Err(Error::Format {
                path: path.to_owned(),
                wanted: format!("{len} rows of {width} f32: {wanted} bytes"),
                found: format!("{found} bytes"),
                hint: "the table was cut short or belongs to another index; copy the folder again",
            });
        }
        let saved = (len > 0).then(|| Floats::private(&file)).transpose();
        Ok(Self {
            saved: saved.map_err(Error::file(path, "map"))?,
            num_saved: len,
            len,
            ..Self::new(width)
        })
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// A new row of zeros; its number.
    pub(crate) fn push(&mut self) -> Result<usize> {
        let row = self.len - self.num_saved;
        let a_segment = self.rows_of_segment();
        if row / a_segment == self.segments.len() {
            let grown = self.grow(bytes(self.width, a_segment));
            grown.map_err(Error::file(&std::env::temp_dir(), "make room for a memory's rows in"))?;
        }
        self.len += 1;
        Ok(self.len - 1)
    }

    fn grow(&mut self, segment: usize) -> std::io::Result<()> {
        let scratch = match self.scratch.take() {
            Some(file) => file,
            None => tempfile::tempfile()?,
        };
        let at = (self.segments.len() * segment) as u64;
        // A full disk is an error here, and would be the process's end where a row is written.
        tensor_core::allocate(&scratch, at, segment as u64)?;
        self.segments.push(Floats::shared(&scratch, at, segment)?);
        self.scratch = Some(scratch);
        Ok(())
    }

    /// One row.
    pub(crate) fn row(&self, row: usize) -> &[f32] {
        let (part, at) = self.place(row);
        let floats = match part {
            None => self.saved.as_ref().map_or(&[][..], Floats::all),
            Some(segment) => self.segments[segment].all(),
        };
        &floats[at..at + self.width]
    }

    /// One row, to write.
    pub(crate) fn row_mut(&mut self, row: usize) -> &mut [f32] {
        let (part, at) = self.place(row);
        let width = self.width;
        let floats = match part {
            None => self.saved.as_mut().map_or(&mut [][..], Floats::all_mut),
            Some(segment) => self.segments[segment].all_mut(),
        };
        &mut floats[at..at + width]
    }

    /// Writes all rows to a new file at `path`, little-endian f32, and syncs it.
    pub(crate) fn save(&self, path: &Path) -> Result<()> {
        let written = || -> std::io::Result<()> {
            let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
            for row in 0..self.len {
                for value in self.row(row) {
                    file.write_all(&value.to_le_bytes())?;
                }
            }
            file.flush()?;
            file.get_ref().sync_all()
        };
        written().map_err(Error::file(path, "write"))
    }

    fn rows_of_segment(&self) -> usize {
        (SEGMENT / bytes(self.width, 1).max(1)).max(1)
    }

    /// Which segment a row lies in (none for a saved one), and at which number.
    fn place(&self, row: usize) -> (Option<usize>, usize) {
        match row.checked_sub(self.num_saved) {
            None => (None, row * self.width),
            Some(row) => {
                let a_segment = self.rows_of_segment();
                (Some(row / a_segment), row % a_segment * self.width)
            }
        }
    }
}

fn bytes(width: usize, rows: usize) -> usize {
    width * rows * size_of::<f32>()
}

/// A mapping seen as f32, as this machine orders bytes (tables are little-endian, and so is every supported one).
#[derive(Debug)]
struct Floats(MmapMut);

impl Floats {
    fn private(file: &File) -> std::io::Result<Self> {
        // SAFETY: private pages; a table that another process cuts short while it is mapped is outside what any reader
        // can guard against, and our own writers replace files by renaming.
        #[allow(unsafe_code)]
        let map = unsafe { MmapOptions::new().map_copy(file) }?;
        Ok(Self(map))
    }

    fn shared(scratch: &File, at: u64, len: usize) -> std::io::Result<Self> {
        // SAFETY: the scratch file has no name, so nothing else maps it or changes its length.
        #[allow(unsafe_code)]
        let map = unsafe { MmapOptions::new().offset(at).len(len).map_mut(scratch) }?;
        Ok(Self(map))
    }

    fn all(&self) -> &[f32] {
        // SAFETY: every bit pattern is an f32; memmap2 gives offsets that are multiples of 4 the alignment of f32.
        #[allow(unsafe_code)]
        let (head, floats, _) = unsafe { self.0.align_to::<f32>() };
        debug_assert!(head.is_empty());
        floats
    }

    fn all_mut(&mut self) -> &mut [f32] {
        // SAFETY: as in `all`, and every f32 is a pattern of bytes.
        #[allow(unsafe_code)]
        let (head, floats, _) = unsafe { self.0.align_to_mut::<f32>() };
        debug_assert!(head.is_empty());
        floats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with holes would end the process with a bus error where a full disk has no room for a row.
    #[cfg(unix)]
    #[test]
    fn room_for_rows_is_taken_before_they_are_written() {
        use std::os::unix::fs::MetadataExt as _;
        let mut rows = MappedRows::new(SEGMENT / 4 / 2);
        for segments in 1..=2 {
            rows.push().unwrap();
            rows.push().unwrap();
            let taken = rows.scratch.as_ref().unwrap().metadata().unwrap().blocks() * 512;
            assert!(
                taken >= (segments * SEGMENT) as u64,
                "{taken} bytes of {segments} segments"
            );
        }
    }

    #[test]
    fn rows_come_back_from_their_file_which_then_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows");
        // Wide enough that the third row opens a second segment.
        let width = SEGMENT / 4 / 2;
        let mut rows = MappedRows::new(width);
        for value in [1.0, 2.0, 3.0] {
            let row = rows.push().unwrap();
            assert_eq!(rows.row(row)[width - 1], 0.0);
            rows.row_mut(row)[width - 1] = value;
        }
        rows.save(&path).unwrap();
        let mut again = MappedRows::open(&path, width, 3).unwrap();
        again.row_mut(1)[0] = 9.0;
        let fourth = again.push().unwrap();
        again.row_mut(fourth)[0] = 4.0;
        let ends: Vec<f32> = (0..3).map(|row| again.row(row)[width - 1]).collect();
        assert_eq!(
            (ends.as_slice(), again.row(1)[0], fourth),
            (&[1.0, 2.0, 3.0][..], 9.0, 3)
        );
        let unchanged = MappedRows::open(&path, width, 3).unwrap();
        assert_eq!(unchanged.row(1)[0], 0.0);
        let more = folder.path().join("more");
        again.save(&more).unwrap();
        assert_eq!(MappedRows::open(&more, width, 4).unwrap().row(3)[0], 4.0);
        let error = MappedRows::open(&path, width, 4).unwrap_err().to_string();
        assert!(error.contains("4 rows") && error.contains("hint"), "{error}");
    }
}
