//! TensorBoard event files: `TFRecord`s of `Event` messages, with nothing but scalars.
//!
//! A record is its length (u64), the length's masked CRC-32C, the bytes, and theirs. Messages are protobuf, of which
//! four wire forms are needed here.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// An event file that is being written.
#[derive(Debug)]
pub(crate) struct Events(File);

impl Events {
    /// A new file in `folder`. `resumed_at`: steps after this one in earlier files no longer count.
    pub(crate) fn create(folder: &Path, resumed_at: Option<usize>) -> std::io::Result<Self> {
        let now = seconds();
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let host = if host.trim().is_empty() {
            "localhost"
        } else {
            host.trim()
        };
        let pid = std::process::id();
        let mut events = (0..)
            .find_map(|n| {
                let path = folder.join(format!("events.out.tfevents.{}.{host}.{pid}.{n}", now as u64));
                match File::create_new(path) {
                    Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => None,
                    made => Some(made),
                }
            })
            .expect("some number is free")
            .map(Self)?;
        events.write(&[&double(1, now)[..], &bytes(3, b"brain.Event:2")].concat())?;
        if let Some(step) = resumed_at {
            // SessionLog { status: START }: readers drop what earlier files say of later steps.
            let log = varint_field(1, 1);
            events.write(&[&double(1, now)[..], &varint_field(2, step as u64 + 1), &bytes(7, &log)].concat())?;
        }
        Ok(events)
    }

    /// One number of step `step`.
    pub(crate) fn scalar(&mut self, step: usize, tag: &str, value: f64) -> std::io::Result<()> {
        let float = (value as f32).to_le_bytes();
        let value = [&bytes(1, tag.as_bytes())[..], &key(2, 5), &float].concat();
        let summary = bytes(1, &value);
        self.write(
            &[
                &double(1, seconds())[..],
                &varint_field(2, step as u64),
                &bytes(5, &summary),
            ]
            .concat(),
        )
    }

    fn write(&mut self, message: &[u8]) -> std::io::Result<()> {
        let length = (message.len() as u64).to_le_bytes();
        let record = [
            &length[..],
            &masked_crc(&length).to_le_bytes(),
            message,
            &masked_crc(message).to_le_bytes(),
        ];
        self.0.write_all(&record.concat())
    }
}

fn seconds() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// Field `number` in wire form `form`: 0 varint, 1 eight bytes, 2 length and bytes, 5 four bytes.
fn key(number: u64, form: u64) -> Vec<u8> {
    varint(number << 3 | form)
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

fn varint_field(number: u64, value: u64) -> Vec<u8> {
    [key(number, 0), varint(value)].concat()
}

fn double(number: u64, value: f64) -> Vec<u8> {
    [&key(number, 1)[..], &value.to_le_bytes()].concat()
}

fn bytes(number: u64, value: &[u8]) -> Vec<u8> {
    [&key(number, 2)[..], &varint(value.len() as u64), value].concat()
}

fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: event files are small.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            crc >> 1 ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_castagnolis() {
        // The check value of CRC-32C, and the 32 zero bytes of RFC 3720 appendix B.4.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn records_hold_what_was_logged() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = Events::create(folder.path(), None).unwrap();
        events.scalar(300, "train/loss", 1.5).unwrap();
        drop(events);
        let path = std::fs::read_dir(folder.path())
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let mut rest = &std::fs::read(path).unwrap()[..];
        let mut messages = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            let message = &rest[12..12 + length];
            let crc = u32::from_le_bytes(rest[12 + length..16 + length].try_into().unwrap());
            assert_eq!(crc, masked_crc(message));
            messages.push(message.to_vec());
            rest = &rest[16 + length..];
        }
        assert_eq!(messages.len(), 2);
        assert!(messages[0].ends_with(b"\x1a\x0dbrain.Event:2"));
        // step 300, summary of 19 bytes, value of 17, tag of 10, 1.5 as f32.
        let wanted = b"\x10\xac\x02\x2a\x13\x0a\x11\x0a\x0atrain/loss\x15\x00\x00\xc0\x3f";
        assert!(messages[1].ends_with(wanted), "{:x?}", messages[1]);
    }
}
