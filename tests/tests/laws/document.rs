//! `docs/combinations.md`, written from the rules and the list of methods.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use methods::recipe::combinations::rules;
use methods::{METHODS, Trains};

use super::bases::{Base, Precision, Stock};
use super::matrix::declared;
use super::methods::{Method, methods};
use super::run::{self, Case};

const HEAD: &str = "# Which techniques can be combined

This page is written by a test, from the registry of methods (`crates/methods/src`), whose rules the program applies before it trains, and from the variants of the law matrix (`tests/tests/laws/methods.rs`).
`UPDATE_DOCS=1 cargo test -p end-to-end --test laws` writes it anew.

The test trains every method on every base below, stops it and resumes it, saves and loads the result, merges and exports it, and compares the model's output each time; `docs/reliability.md` describes this.
A combination that cannot work is refused by one of the rules at the end of this page. The error names the key in the recipe, and nothing is computed or written before it.
";

fn page() -> String {
    let mut page = HEAD.to_owned();
    page += "\n## Methods\n\n| `kind` of a `[[surgery]]` | what it does | what is saved |\n|---|---|---|\n";
    for method in METHODS {
        let saved = match method.trains {
            Trains::Nothing => "as the method beside it",
            Trains::Weights => "the whole model",
            _ if method.merges() => "an adapter, which `merge` puts into the weights",
            _ => "an adapter, which no weights can hold",
        };
        let _ = writeln!(page, "| `{}` | {} | {saved} |", method.kind, method.summary);
    }
    page += "\n## Methods and bases\n\nEach column is a base. A cell says `yes`, or names the rule that refuses the combination.\n\n| method |";
    for precision in Precision::ALL {
        let _ = write!(page, " {} |", precision.name());
    }
    page += "\n|---|";
    page += &"---|".repeat(Precision::ALL.len());
    page += "\n";
    for method in methods() {
        let stock = match method.stock {
            Stock::Dense | Stock::Experts => "",
            Stock::Pruned => " (pruned base)",
        };
        let _ = write!(page, "| {}{stock} |", method.name);
        for precision in Precision::ALL {
            let _ = write!(page, " {} |", cell(method, precision));
        }
        page += "\n";
    }
    page += "\n## Rules\n\n| rule | refused | why | instead |\n|---|---|---|---|\n";
    for rule in rules() {
        let _ = writeln!(
            page,
            "| {} | {} | {} | {} |",
            rule.name,
            rule.combination(),
            rule.why,
            rule.hint
        );
    }
    page
}

/// Whether the method works over bases of this precision: `yes`, a rule, or what it depends on.
fn cell(method: &'static Method, precision: Precision) -> String {
    let answer = |tied, biases| {
        let stock = method.stock;
        let base = Base {
            precision,
            stock,
            tied,
            biases,
        };
        let room = tempfile::tempdir_in(run::room()).expect("a folder");
        let refusal = declared(&Case { method, base }, room.path());
        let refusal = refusal.unwrap_or_else(|error| panic!("{} over {}: {error:#}", method.name, base.name()));
        refusal.map_or("yes", |refusal| refusal.rule.name)
    };
    let [plain, tied, biased, both] =
        [(false, false), (true, false), (false, true), (true, true)].map(|(tied, biases)| answer(tied, biases));
    match (plain == tied && biased == both, plain == biased && tied == both) {
        (true, true) => plain.to_owned(),
        (true, false) => format!("{plain}; with biases: {biased}"),
        (false, true) => format!("{plain}; tied: {tied}"),
        (false, false) => format!("{plain}; tied: {tied}; with biases: {biased}; both: {both}"),
    }
}

#[test]
fn the_page_of_combinations_is_what_the_rules_and_the_list_say() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/combinations.md");
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, &page).expect("the page is written");
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    let fresh = Path::new(env!("CARGO_TARGET_TMPDIR")).join("combinations.md");
    fs::write(&fresh, &page).expect("the page is written");
    let differs = page.lines().zip(there.lines()).find(|(wanted, found)| wanted != found);
    assert!(
        page == there,
        "`docs/combinations.md` is out of date (first {differs:?})\n\
         hint: `UPDATE_DOCS=1 cargo test -p end-to-end --test laws` writes it; what it would be is `{}`",
        fresh.display()
    );
}
