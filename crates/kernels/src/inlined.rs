//! Every kernel is compiled with the instructions that it was written for.
//!
//! An intrinsic that a kernel calls, instead of holding it, stands as a function in the program: its caller was left
//! outside of the function that may use the instructions, often as a closure. Such kernels are right and slow.

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
#[test]
fn no_kernel_calls_its_instructions() {
    use tch::{Device, Kind, Tensor};
    use tensor_core::packed;

    // So that the program holds the packed products too.
    let ones = Tensor::ones([32, 32], (Kind::BFloat16, Device::Cpu));
    assert_eq!(
        packed::outer(&ones, &ones).double_value(&[31, 31]).to_bits(),
        32f64.to_bits()
    );
    if let Some(matrix) = &packed::PackedMatrix::of(&ones) {
        let (x, low_rank) = (&ones, None);
        let y = packed::product(&[packed::Term { x, matrix, low_rank }], None).0;
        assert_eq!(y.double_value(&[31, 31]).to_bits(), 32f64.to_bits());
    }

    let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let symbols = symbols(&program);
    assert!(
        symbols
            .iter()
            .any(|name| name.contains("no_kernel_calls_its_instructions")),
        "the program's own names are among its symbols"
    );
    let is_stray = |name: &&&str| {
        let is_vector = name.contains("_mm512_") || name.contains("_mm256_") && name.contains("_ps");
        name.contains("core_arch3x86") && is_vector
    };
    let stray: Vec<_> = symbols.iter().filter(is_stray).collect();
    assert!(stray.is_empty(), "these stand outside of their kernels: {stray:#?}");
}

/// The names in the symbol table of a 64-bit ELF file, little-endian.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn symbols(file: &[u8]) -> Vec<&str> {
    let number = |at: usize, bytes: usize| {
        let mut whole = [0; 8];
        whole[..bytes].copy_from_slice(&file[at..at + bytes]);
        u64::from_le_bytes(whole) as usize
    };
    let symbols = 2;
    assert_eq!(file[..6], *b"\x7fELF\x02\x01", "a 64-bit ELF file");
    let (sections, size, count) = (number(0x28, 8), number(0x3a, 2), number(0x3c, 2));
    let section = |idx: usize| sections + idx * size;
    let bytes = |section: usize| &file[number(section + 0x18, 8)..][..number(section + 0x20, 8)];
    let table = (0..count)
        .map(section)
        .find(|&section| number(section + 4, 4) == symbols)
        .expect("a program that was not stripped");
    let names = bytes(section(number(table + 0x28, 4)));
    bytes(table)
        .chunks_exact(24)
        .filter_map(|symbol| {
            let at = u32::from_le_bytes(*symbol.first_chunk()?) as usize;
            names[at..].split(|&byte| byte == 0).next()
        })
        .filter_map(|name| std::str::from_utf8(name).ok())
        .collect()
}
