//! The cache file: a JSON header, then the index, the tokens (u32) and one bit a token for whether it is learnt.
//!
//! Layout, little-endian: magic `ftTOKENS`, header length u64, header, payload. The header holds the counts, the
//! report and the payload's SHA-256; a file that does not add up is built again. Documents are read where they lie.

use std::fs::{self, File};
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use staging::StagedFile;

use super::{Index, Report, Store, TokenSet};
use crate::{Error, Tokenized};

/// Changes when the layout does, or what `encode` makes of a row.
pub(super) const VERSION: u8 = 2;
const MAGIC: &[u8; 8] = b"ftTOKENS";

#[derive(Serialize, Deserialize)]
struct Header {
    samples: usize,
    documents: usize,
    tokens: usize,
    report: Report,
    sha256: [u8; 32],
}

/// Opens a cache file; `None` if it is missing, cut off, or damaged.
pub(super) fn open(path: &Path) -> Option<TokenSet> {
    let (header, payload_at) = read_header(path)?;
    let mut file = File::open(path).ok()?;
    file.seek(SeekFrom::Start(payload_at)).ok()?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).ok()? {
            0 => break,
            n => hasher.update(&buffer[..n]),
        }
    }
    let found: [u8; 32] = hasher.finalize().into();
    (found == header.sha256).then(|| open_unchecked(path))?
}

/// Opens a cache file that was just written.
pub(super) fn open_unchecked(path: &Path) -> Option<TokenSet> {
    let (header, payload_at) = read_header(path)?;
    let mut file = BufReader::new(File::open(path).ok()?);
    file.seek(SeekFrom::Start(payload_at)).ok()?;
    let index = Index {
        first_documents: numbers(&mut file, header.samples + 1, u32::from_le_bytes)?,
        rows: numbers(&mut file, header.samples, u32::from_le_bytes)?,
        labels: numbers(&mut file, header.samples, i64::from_le_bytes)?,
        first_tokens: numbers(&mut file, header.documents + 1, u64::from_le_bytes)?,
    };
    let tokens_at = file.stream_position().ok()?;
    let trained_at = tokens_at + 4 * header.tokens as u64;
    let store = Store::File {
        file: Mutex::new(file.into_inner()),
        tokens_at,
        trained_at,
    };
    Some(TokenSet {
        index,
        store,
        report: header.report,
        uncached: None,
    })
}

/// Writes a set that is in memory; no reader ever sees half a file.
pub(super) fn store(path: &Path, set: &TokenSet) -> Result<(), Error> {
    let Store::Memory { tokens, trained } = &set.store else {
        return Ok(());
    };
    let dir = path.parent().map_or_else(PathBuf::new, Path::to_path_buf);
    fs::create_dir_all(&dir).map_err(rows::io(&dir))?;
    let mut hasher = Sha256::new();
    let write = |out: &mut dyn FnMut(&[u8]) -> std::io::Result<()>| -> std::io::Result<()> {
        let index = &set.index;
        index
            .first_documents
            .iter()
            .try_for_each(|number| out(&number.to_le_bytes()))?;
        index.rows.iter().try_for_each(|number| out(&number.to_le_bytes()))?;
        index.labels.iter().try_for_each(|number| out(&number.to_le_bytes()))?;
        index
            .first_tokens
            .iter()
            .try_for_each(|number| out(&number.to_le_bytes()))?;
        tokens.iter().try_for_each(|number| out(&number.to_le_bytes()))?;
        out(trained)
    };
    let written = (|| -> std::io::Result<()> {
        write(&mut |bytes| {
            hasher.update(bytes);
            Ok(())
        })?;
        let header = Header {
            samples: set.index.rows.len(),
            documents: set.index.first_tokens.len() - 1,
            tokens: tokens.len(),
            report: set.report.clone(),
            sha256: hasher.clone().finalize().into(),
        };
        let header = serde_json::to_vec(&header)?;
        let mut out = StagedFile::create(path)?;
        out.write(MAGIC)?;
        out.write(&(header.len() as u64).to_le_bytes())?;
        out.write(&header)?;
        write(&mut |bytes| Ok(out.write(bytes)?))?;
        Ok(out.commit()?)
    })();
    written.map_err(rows::io(path))
}

impl Store {
    /// Tokens `from..to`.
    pub(super) fn read(&self, from: u64, to: u64) -> Result<Tokenized, Error> {
        let bit = |bytes: &[u8], at: u64, first_byte: u64| (bytes[(at / 8 - first_byte) as usize] >> (at % 8)) & 1 == 1;
        match self {
            Self::Memory { tokens, trained } => Ok(Tokenized {
                tokens: tokens[from as usize..to as usize].to_vec(),
                trained: (from..to).map(|at| bit(trained, at, 0)).collect(),
            }),
            Self::File {
                file,
                tokens_at,
                trained_at,
            } => {
                let read = || -> std::io::Result<Tokenized> {
                    let mut file = file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    let mut bytes = vec![0; 4 * (to - from) as usize];
                    file.seek(SeekFrom::Start(tokens_at + 4 * from))?;
                    file.read_exact(&mut bytes)?;
                    let first = from / 8;
                    let mut mask = vec![0; (to.div_ceil(8) - first) as usize];
                    file.seek(SeekFrom::Start(trained_at + first))?;
                    file.read_exact(&mut mask)?;
                    let tokens = bytes
                        .as_chunks()
                        .0
                        .iter()
                        .map(|chunk| u32::from_le_bytes(*chunk))
                        .collect();
                    Ok(Tokenized {
                        tokens,
                        trained: (from..to).map(|at| bit(&mask, at, first)).collect(),
                    })
                };
                read().map_err(rows::io(Path::new("token cache")))
            }
        }
    }
}

fn read_header(path: &Path) -> Option<(Header, u64)> {
    let mut file = File::open(path).ok()?;
    let size = file.metadata().ok()?.len();
    let mut start = [0; 16];
    file.read_exact(&mut start).ok()?;
    let (magic, length) = start.split_at(8);
    let length = u64::from_le_bytes(length.try_into().ok()?);
    if magic != MAGIC || length > size {
        return None;
    }
    let mut json = vec![0; length as usize];
    file.read_exact(&mut json).ok()?;
    let header: Header = serde_json::from_slice(&json).ok()?;
    let (samples, documents, tokens) = (header.samples as u64, header.documents as u64, header.tokens as u64);
    let payload = (4 * (samples + 1) + 12 * samples)
        .checked_add(8 * (documents + 1))?
        .checked_add(4 * tokens + tokens.div_ceil(8))?;
    (16 + length + payload == size).then_some((header, 16 + length))
}

fn numbers<T, const N: usize>(file: &mut impl Read, count: usize, from: fn([u8; N]) -> T) -> Option<Vec<T>> {
    let mut bytes = vec![0; N * count];
    file.read_exact(&mut bytes).ok()?;
    Some(bytes.as_chunks().0.iter().map(|chunk| from(*chunk)).collect())
}
