//! The blocks of assembly, read as text: this runs where no processor has tile registers.

use std::collections::BTreeSet;

/// The names `tmm0` … in `text` that stand behind one of `before`.
fn tiles(text: &str, before: &[&str]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for start in before {
        for (at, _) in text.match_indices(start) {
            let rest = &text[at + start.len()..];
            found.insert(rest.chars().take_while(char::is_ascii_alphanumeric).collect());
        }
    }
    found
}

#[test]
fn every_block_of_assembly_names_the_tiles_that_it_writes() {
    let mut blocks = 0;
    for source in [include_str!("block.rs"), include_str!("registers.rs")] {
        for block in source.split("asm!(").skip(1) {
            let block = &block[..block.find("options(").expect("options end a block")];
            let written = tiles(block, &["tilezero ", "tileloadd ", "tdpbf16ps "]);
            assert_eq!(written, tiles(block, &["out(\""]), "{block}");
            blocks += 1;
        }
    }
    // Products of blocks; sums cleared, added to in four ways, stored.
    assert_eq!(blocks, 7);
}
