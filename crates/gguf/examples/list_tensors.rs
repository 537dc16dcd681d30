//! Lists what a GGUF file holds: `list_tensors FILE`; without a file, of one that is made here.

use std::path::PathBuf;

use gguf::Gguf;

/// A file of one matrix `[2, 32]` in 8 bits, whose numbers are 0 to 63 halved.
fn made() -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(3u32.to_le_bytes());
    bytes.extend(1u64.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    let name = b"blk.0.ffn_up.weight";
    bytes.extend((name.len() as u64).to_le_bytes());
    bytes.extend(name);
    bytes.extend(2u32.to_le_bytes());
    bytes.extend(32u64.to_le_bytes());
    bytes.extend(2u64.to_le_bytes());
    bytes.extend(8u32.to_le_bytes());
    bytes.extend(0u64.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    for row in 0..2u8 {
        bytes.extend(half(0.5));
        bytes.extend((0..32).map(|number| row * 32 + number));
    }
    bytes
}

fn half(value: f32) -> [u8; 2] {
    gguf::half::f16::from_f32(value).to_le_bytes()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args()
        .nth(1)
        .map_or_else(|| PathBuf::from("made.gguf"), PathBuf::from);
    let bytes = if path.exists() { std::fs::read(&path)? } else { made() };
    let file = Gguf::new(&path, bytes)?;
    for (key, value) in file.metadata() {
        let shown: String = format!("{value:?}").chars().take(60).collect();
        println!("{key} = {shown}");
    }
    for (name, tensor) in file.tensors() {
        let numbers = file.numbers(name)?;
        let largest = numbers.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        println!("{name} {:?} {}: largest {largest}", tensor.shape, tensor.stored);
    }
    Ok(())
}
