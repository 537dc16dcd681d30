//! Members of an archive (wheel or npm tarball) onto the disk: only those asked for, never outside their folder.

use anyhow::{Context, Result, bail, ensure};
use flate2::read::GzDecoder;
use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Component, Path, PathBuf};
use zip::ZipArchive;

/// Writes every member that `choose` gives a path to, and answers how many there were.
///
/// Wheels are read by member; a tarball is read once, front to back.
pub fn members(archive: &Path, choose: &mut dyn FnMut(&str) -> Option<PathBuf>) -> Result<usize> {
    let place = || format!("`{}`", archive.display());
    let file = BufReader::new(File::open(archive).with_context(place)?);
    let mut count = 0;
    if archive.extension().is_some_and(|extension| extension == "tgz") {
        for entry in tar::Archive::new(GzDecoder::new(file)).entries().with_context(place)? {
            let mut entry = entry.with_context(place)?;
            let name = entry.path().with_context(place)?.to_string_lossy().into_owned();
            if entry.header().entry_type().is_file()
                && let Some(to) = choose(&name)
            {
                write(&mut entry, &to)?;
                count += 1;
            }
        }
        return Ok(count);
    }
    let mut zip = ZipArchive::new(file).with_context(place)?;
    for index in 0..zip.len() {
        let name = zip.name_for_index(index).unwrap_or_default().to_owned();
        if !name.ends_with('/')
            && let Some(to) = choose(&name)
        {
            write(&mut zip.by_index(index).with_context(place)?, &to)?;
            count += 1;
        }
    }
    Ok(count)
}

/// One member, written to `to`; a member that ends in `.gz` is unpacked once more where `to` does not.
pub fn member(archive: &Path, name: &str, to: &Path) -> Result<()> {
    let count = members(archive, &mut |found| (found == name).then(|| to.to_owned()))?;
    ensure!(
        count == 1,
        "`{}` holds {count} members `{name}`, one was wanted",
        archive.display()
    );
    let zipped = |path: &Path| path.extension().is_some_and(|extension| extension == "gz");
    if zipped(Path::new(name)) && !zipped(to) {
        let aside = to.with_extension("gz");
        fs::rename(to, &aside)?;
        write(&mut GzDecoder::new(BufReader::new(File::open(&aside)?)), to)?;
        fs::remove_file(aside)?;
    }
    Ok(())
}

/// Every member below the folder `prefix` (which ends in `/`), at its own path below `to`.
pub fn folder(archive: &Path, prefix: &str, to: &Path) -> Result<()> {
    let mut outside = None;
    let count = members(archive, &mut |found| {
        let rest = Path::new(found.strip_prefix(prefix)?);
        if rest.components().all(|part| matches!(part, Component::Normal(_))) {
            Some(to.join(rest))
        } else {
            outside = Some(found.to_owned());
            None
        }
    })?;
    if let Some(name) = outside {
        bail!("`{}` holds `{name}`, which leads out of its folder", archive.display());
    }
    ensure!(count > 0, "`{}` holds no folder `{prefix}`", archive.display());
    Ok(())
}

fn write(from: &mut dyn Read, to: &Path) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make `{}`", folder.display()))?;
    }
    let place = || format!("cannot write `{}`", to.display());
    let mut file = BufWriter::with_capacity(1 << 20, File::create(to).with_context(place)?);
    io::copy(from, &mut file).with_context(place)?;
    file.flush().with_context(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use zip::write::SimpleFileOptions;

    fn wheel(at: &Path, members: &[(&str, &[u8])]) -> PathBuf {
        let path = at.join("thing.whl");
        let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
        for (name, bytes) in members {
            zip.start_file(*name, SimpleFileOptions::default()).unwrap();
            zip.write_all(bytes).unwrap();
        }
        zip.finish().unwrap();
        path
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn only_the_wanted_member_is_written() {
        let home = tempfile::tempdir().unwrap();
        let wheel = wheel(home.path(), &[("a/x", b"wanted"), ("a/y", b"other")]);
        member(&wheel, "a/x", &home.path().join("out/x")).unwrap();
        assert_eq!(fs::read(home.path().join("out/x")).unwrap(), b"wanted");
        assert_eq!(fs::read_dir(home.path().join("out")).unwrap().count(), 1);
        let error = member(&wheel, "a/z", &home.path().join("out/z"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("`a/z`"), "{error}");
    }

    #[test]
    fn a_tarball_is_read_like_a_wheel() {
        let home = tempfile::tempdir().unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        for (name, bytes) in [
            ("package/dict/noun", b"one"),
            ("package/dict/deep/verb", b"two"),
            ("package/README", b"not"),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_size(3);
            header.set_cksum();
            tar.append_data(&mut header, name, &bytes[..]).unwrap();
        }
        let path = home.path().join("thing.tgz");
        fs::write(&path, gzip(&tar.into_inner().unwrap())).unwrap();
        folder(&path, "package/dict/", &home.path().join("out")).unwrap();
        assert_eq!(fs::read(home.path().join("out/noun")).unwrap(), b"one");
        assert_eq!(fs::read(home.path().join("out/deep/verb")).unwrap(), b"two");
        assert_eq!(fs::read_dir(home.path().join("out")).unwrap().count(), 2);
    }

    #[test]
    fn a_zipped_member_is_unpacked_where_its_place_says_so() {
        let home = tempfile::tempdir().unwrap();
        let wheel = wheel(home.path(), &[("rows.jsonl.gz", &gzip(b"{}\n"))]);
        member(&wheel, "rows.jsonl.gz", &home.path().join("rows.jsonl")).unwrap();
        assert_eq!(fs::read(home.path().join("rows.jsonl")).unwrap(), b"{}\n");
        assert!(!home.path().join("rows.gz").exists());
    }

    #[test]
    fn a_member_that_leads_out_of_its_folder_is_refused() {
        let home = tempfile::tempdir().unwrap();
        let wheel = wheel(home.path(), &[("data/../../evil", b"x"), ("data/good", b"y")]);
        let error = folder(&wheel, "data/", &home.path().join("out"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("leads out"), "{error}");
        assert!(!home.path().join("evil").exists());
    }
}
