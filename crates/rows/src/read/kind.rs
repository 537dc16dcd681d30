//! Files that are no text although their name says so: compressed, in UTF-16, or Parquet.

use std::path::Path;

use crate::{Error, Place};

/// The first bytes of files that are no UTF-8 text, what they are, and what to do.
const BEGINNINGS: [(&[u8], &str, &str); 8] = [
    (b"\x1f\x8b", "a gzip file", "decompress it first, e.g. gunzip FILE.gz"),
    (b"\x28\xb5\x2f\xfd", "a zstd file", "decompress it first: zstd -d"),
    (b"BZh", "a bzip2 file", "decompress it first: bunzip2"),
    (b"\xfd7zXZ", "an xz file", "decompress it first: unxz"),
    (b"PK\x03\x04", "a zip file", "unpack it first: unzip"),
    (b"PAR1", "a Parquet file", "give it the ending .parquet"),
    (
        b"\xff\xfe",
        "text in UTF-16",
        "convert it to UTF-8: iconv -f UTF-16 -t UTF-8",
    ),
    (
        b"\xfe\xff",
        "text in UTF-16",
        "convert it to UTF-8: iconv -f UTF-16 -t UTF-8",
    ),
];

/// Why the bytes are no text, if their beginning tells.
pub(super) fn not_text(path: &Path, bytes: &[u8]) -> Option<Error> {
    let (_, what, hint) = BEGINNINGS.iter().find(|(beginning, ..)| bytes.starts_with(beginning))?;
    Some(Error::Unreadable {
        at: Place::file(path),
        wanted: "UTF-8 text",
        found: (*what).to_owned(),
        hint,
    })
}
