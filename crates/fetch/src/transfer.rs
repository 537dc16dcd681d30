//! Bytes from a registry: by pip's own parts (which find, log in and fetch), by pip itself where those differ, by npm.

use crate::manifest::{Package, Registry};
use crate::place::Cache;
use crate::progress::size;
use crate::tools::Tools;
use anyhow::{Context, Result, anyhow, bail};
use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Fetches what is missing with the bytes that are there already: pip alone would begin anew.
const RESUME: &str = include_str!("resume.py");

/// How that script ends where the network failed.
const BROKEN: i32 = 4;

/// The name of the unfinished file.
pub(crate) fn part(package: &Package) -> String {
    format!("{}.part", package.file)
}

/// Fetches the archive of `package` into the folder `to`.
pub(crate) fn fetch(package: &Package, cache: &Cache, tools: &Tools, to: &Path) -> Result<()> {
    match package.registry {
        Registry::Pypi => pypi(package, cache, tools, to),
        Registry::Npm => {
            let mut command = Command::new(tools.npm()?);
            command
                .args(["pack", "--ignore-scripts", "--silent", "--cache"])
                .arg(to.join("cache"));
            command.arg(format!("{}@{}", package.name, package.version));
            succeed(&run(command, to)?, package)
        }
    }
}

fn pypi(package: &Package, cache: &Cache, tools: &Tools, to: &Path) -> Result<()> {
    let mut pip = tools.pip()?;
    if let Ok(file) = fs::metadata(to.join(part(package))) {
        cache.note(&format!(
            "{} of {} are there from an earlier try",
            size(file.len()),
            size(package.bytes)
        ));
    }
    let mut resume = Command::new(tools.python()?);
    resume
        .args(["-c", RESUME, &package.file, &package.bytes.to_string()])
        .args(arguments(package));
    let output = run(resume, to)?;
    if output.status.success() {
        return Ok(());
    }
    if output.status.code() == Some(BROKEN) {
        let have = fs::metadata(to.join(part(package))).map_or(0, |file| file.len());
        let hint = format!(
            "hint: run the command again; it goes on after the {} that came",
            size(have)
        );
        return succeed(&output, package).map_err(|error| anyhow!("{error:#}\n{hint}"));
    }
    pip.arg("download").args(arguments(package)).args(["--dest", "."]);
    succeed(&run(pip, to)?, package)
}

fn arguments(package: &Package) -> Vec<String> {
    let mut arguments = vec!["--quiet", "--disable-pip-version-check", "--no-input", "--no-deps"];
    // The same file whatever Python the machine has: the tags are given, not taken from the interpreter.
    arguments.extend([
        "--only-binary=:all:",
        "--python-version",
        "3.11",
        "--implementation",
        "cp",
        "--abi",
        "cp311",
    ]);
    arguments.extend([
        "--platform",
        package.platform.as_deref().unwrap_or("manylinux_2_28_x86_64"),
    ]);
    let mut arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
    arguments.push(format!("{}=={}", package.name, package.version));
    arguments
}

fn run(mut command: Command, to: &Path) -> Result<Output> {
    // pip and npm write unfinished files below TMPDIR; there they can be watched, and go with the folder.
    command.current_dir(to).env("TMPDIR", to).stdin(Stdio::null());
    command
        .output()
        .with_context(|| format!("cannot run `{}`", command.get_program().display()))
}

fn succeed(output: &Output, package: &Package) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let said: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    let said = said[said.len().saturating_sub(6)..].join("\n  ");
    let full = said
        .contains("No space left")
        .then(|| format!("\nhint: {} are needed", size(package.bytes)));
    bail!("{}:\n  {said}{}", output.status, full.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    const NAME: &str = "thing-1.0-py3-none-any.whl";
    const BODY: &[u8] = b"0123456789";

    /// An index with one file, which breaks every transfer off after four bytes.
    fn index() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap());
            }
        });
        format!("http://{address}/simple")
    }

    fn answer(mut stream: TcpStream) {
        let lines = BufReader::new(stream.try_clone().unwrap())
            .lines()
            .map_while(Result::ok);
        let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
        if head.first().is_some_and(|line| line.contains("/simple/thing")) {
            let page = format!("<html><body><a href=\"/files/{NAME}\">{NAME}</a></body></html>");
            let length = page.len();
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{page}"
            );
            return;
        }
        let range = head
            .iter()
            .find_map(|line| line.to_lowercase().strip_prefix("range: bytes=").map(str::to_owned));
        let start = range.map_or(0, |range| range.trim_end_matches('-').parse::<usize>().unwrap());
        let status = if start > 0 { "206 Partial Content" } else { "200 OK" };
        let _ = write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            BODY.len() - start
        );
        let _ = stream.write_all(&BODY[start..BODY.len().min(start + 4)]);
    }

    #[test]
    fn a_transfer_that_breaks_off_goes_on_where_it_stopped() {
        let tools = Tools::from_env();
        let Ok(python) = tools.python().and_then(|python| tools.pip().map(|_| python)) else {
            return golden::skip!("needs Python with pip");
        };
        let home = tempfile::tempdir().unwrap();
        let package = Package {
            registry: Registry::Pypi,
            name: "thing".into(),
            version: "1.0".into(),
            file: NAME.into(),
            bytes: BODY.len() as u64,
            sha256: String::new(),
            platform: None,
        };
        // One byte is there from an earlier command; the rest comes in transfers of at most four.
        fs::write(home.path().join(part(&package)), &BODY[..1]).unwrap();
        let mut command = Command::new(python);
        command.args(["-c", RESUME, NAME, "10"]).args(arguments(&package));
        for name in [
            "PIP_FIND_LINKS",
            "PIP_NO_INDEX",
            "PIP_EXTRA_INDEX_URL",
            "HTTP_PROXY",
            "http_proxy",
        ] {
            command.env_remove(name);
        }
        command
            .env("PIP_INDEX_URL", index())
            .env("PIP_CONFIG_FILE", "/dev/null");
        let output = run(command, home.path()).unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(fs::read(home.path().join(NAME)).unwrap(), BODY);
        assert!(!home.path().join(part(&package)).exists());
    }
}
