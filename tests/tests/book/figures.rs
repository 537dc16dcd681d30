//! Every figure of the page on choosing a technique is one that a study or a benchmark printed.

use std::path::Path;

use super::pages;

/// The numbers with a decimal point, as they are written.
fn figures(text: &str) -> Vec<&str> {
    text.split(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-'))
        .map(|part| part.trim_matches(['.', '-']))
        .filter(|part| {
            part.split_once('.')
                .is_some_and(|(whole, rest)| !whole.is_empty() && !rest.is_empty())
        })
        .collect()
}

#[test]
fn every_figure_of_the_page_on_choosing_stands_in_a_study() {
    let evidence: Vec<String> = pages::chapters()
        .into_iter()
        .filter(|page| page.starts_with("reproduce/") || page == "benchmarks.md")
        .map(|page| pages::read(&Path::new("docs").join(page)))
        .collect();
    let known: Vec<&str> = evidence.iter().flat_map(|text| figures(text)).collect();
    let mut errors = Vec::new();
    let mut count = 0;
    for page in pages::chapters() {
        if page != "choosing.md" && !page.starts_with("techniques/") {
            continue;
        }
        for (idx, line) in pages::read(&Path::new("docs").join(&page)).lines().enumerate() {
            // Options and links have numbers of their own.
            let outside: Vec<&str> = line.split('`').step_by(2).collect();
            let text = outside.join(" ");
            if text.contains("arXiv:") || text.contains("arxiv.org") {
                continue;
            }
            for figure in figures(&text) {
                count += 1;
                if !known.contains(&figure) {
                    errors.push(format!("docs/{page}:{}: no study has {figure}", idx + 1));
                }
            }
        }
    }
    assert!(errors.is_empty(), "{}", errors.join("\n"));
    assert!(count > 100, "{count} figures");
}

#[test]
fn figures_are_numbers_with_a_point() {
    assert_eq!(figures("from 30.79 to -10.8 %, 3 seeds, rank 16."), ["30.79", "10.8"]);
}
