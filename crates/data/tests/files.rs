//! Every kind of data file, and what is said of broken ones.

use std::path::Path;

use data::{Dataset, Error, ReadConfig, Row, SampleBy, Shape};

fn read(name: &str, bytes: &[u8]) -> Result<Dataset, Error> {
    Dataset::parse(Path::new(name), bytes, &ReadConfig::default())
}

fn texts(set: &Dataset) -> Vec<String> {
    set.rows().map(Row::input).collect()
}

#[test]
fn the_same_rows_come_from_every_format() {
    let parquet = include_bytes!("vectors/rows.parquet");
    for (name, bytes) in [
        ("a.jsonl", &b"{\"text\": \"one\"}\n\n{\"text\": \"two, too\"}\n"[..]),
        ("a.json", b"[{\"text\": \"one\"},\n {\"text\": \"two, too\"}]"),
        (
            "b.json",
            b"{\"version\": 1, \"data\": [{\"text\": \"one\"}, {\"text\": \"two, too\"}]}",
        ),
        ("c.json", b"{\"text\": \"one\"}\n{\"text\": \"two, too\"}"),
        ("a.csv", b"id,text\n1,one\n2,\"two, too\"\n"),
        ("a.tsv", b"text\tid\none\t1\ntwo, too\t2\n"),
        ("a.txt", b"one\n\ntwo, too\n"),
        (
            "bom.jsonl",
            b"\xEF\xBB\xBF{\"text\": \"one\"}\n{\"text\": \"two, too\"}",
        ),
        ("a.parquet", parquet),
    ] {
        let set = read(name, bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(
            (set.shape(), texts(&set)),
            (Shape::Text, vec!["one".to_owned(), "two, too".to_owned()]),
            "{name}"
        );
    }
}

#[test]
fn nested_parquet_columns_become_conversations() {
    let set = read("chats.parquet", include_bytes!("vectors/chats.parquet")).unwrap();
    assert_eq!(set.shape(), Shape::Messages);
    let Row::Chat(chat) = set.row(1) else { panic!() };
    assert_eq!(
        (chat.messages[0].role(), chat.messages[1].text().as_str()),
        ("user", "réponse")
    );
}

#[test]
fn csv_may_hold_conversations_as_json() {
    let line = "messages\n\"[{\"\"role\"\": \"\"user\"\", \"\"content\"\": \"\"a\"\"}]\"\n";
    assert_eq!(read("a.csv", line.as_bytes()).unwrap().shape(), Shape::Messages);
}

#[test]
fn text_files_are_cut_as_asked() {
    let text = "a\nb\n\n\nc\n";
    for (sample_by, wanted) in [
        (SampleBy::Line, vec!["a", "b", "c"]),
        (SampleBy::Paragraph, vec!["a\nb", "c"]),
        (SampleBy::Document, vec!["a\nb\n\n\nc"]),
    ] {
        let config = ReadConfig {
            sample_by,
            ..ReadConfig::default()
        };
        let set = Dataset::parse(Path::new("a.txt"), text.as_bytes(), &config).unwrap();
        assert_eq!(texts(&set), wanted, "{sample_by:?}");
    }
}

#[test]
fn columns_that_are_kept_stay_with_their_rows() {
    let text = "{\"text\": \"a\", \"adapter\": \"x\"}\n{\"text\": \"b\", \"adapter\": null}\n\n{\"text\": \"c\", \"adapter\": {\"y\": 0.5}}\n{\"text\": \"d\"}\n";
    let config = ReadConfig {
        keep: vec!["adapter".into()],
        ..ReadConfig::default()
    };
    let set = Dataset::parse(Path::new("a.jsonl"), text.as_bytes(), &config).unwrap();
    let kept = |set: &Dataset| -> Vec<Option<String>> {
        (0..set.len())
            .map(|idx| set.kept(idx, "adapter").map(ToString::to_string))
            .collect()
    };
    let wanted = [Some("\"x\"".to_owned()), None, Some("{\"y\":0.5}".to_owned()), None];
    assert_eq!(kept(&set), wanted);
    let (learn, held) = set.split(data::HeldOut::Count(2), 3).unwrap();
    let mut both = [kept(&learn), kept(&held)].concat();
    both.sort();
    let mut sorted = wanted.to_vec();
    sorted.sort();
    assert_eq!((both, texts(&learn).len()), (sorted, 2));
    // Nothing is kept that was not asked for.
    let set = Dataset::parse(Path::new("a.jsonl"), text.as_bytes(), &ReadConfig::default()).unwrap();
    assert_eq!(kept(&set), [None, None, None, None]);
}

#[test]
fn broken_files_are_refused_with_their_line() {
    for (name, bytes, wanted) in [
        (
            "a.jsonl",
            &b"{\"text\": \"a\"}\n{\"text\": \"\xFF\"}"[..],
            "`a.jsonl` line 2: wanted UTF-8 text, found invalid UTF-8 after 10",
        ),
        (
            "a.json",
            b"[{\"text\": \"a\"},\n{\"text\"",
            "`a.json` line 2: wanted JSON, found EOF while parsing an object",
        ),
        ("a.json", b"5", "`a.json`: wanted a list of objects"),
        (
            "a.json",
            b"[{\"text\": \"a\"}, 5]",
            "`a.json` row 2: wanted an object, found 5",
        ),
        ("a.json", b"[\"\xFF\"]", "`a.json` line 1: wanted UTF-8 text"),
        ("a.txt", b"a\nb\xFF", "`a.txt` line 2: wanted UTF-8 text"),
        (
            "a.csv",
            b"text\na\nb,c\n",
            "`a.csv` line 3: wanted as many fields as the header has, found 2 fields under a header of 1",
        ),
        (
            "a.csv",
            b"some words,0\nother words,1\n",
            "a CSV file needs a header line",
        ),
        ("a.csv", b"text\n\xFF\n", "`a.csv` line 2: wanted UTF-8 text"),
        (
            "a.parquet",
            b"PAR1 and then nothing",
            "`a.parquet`: wanted a Parquet table",
        ),
        ("a.jsonl", b"\n\n", "`a.jsonl`: wanted at least one row, found none"),
        ("a.json", b"[]", "`a.json`: wanted at least one row, found none"),
        (
            "a.arrow",
            b"",
            "wanted a file ending in .jsonl, .ndjson, .json, .csv, .tsv, .parquet or .txt, found `arrow`",
        ),
    ] {
        let found = read(name, bytes).unwrap_err().to_string();
        assert!(found.contains(wanted), "{name}\nwanted: {wanted}\nfound:  {found}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let found = Dataset::read(Path::new("/nowhere/a.jsonl"), &ReadConfig::default())
        .unwrap_err()
        .to_string();
    assert!(found.starts_with("`/nowhere/a.jsonl`: "), "{found}");
}
