//! Every section of `docs/spec/` that a comment or a page cites is there, and links between the
//! pages of the repository lead somewhere.
//!
//! A citation is the name of a page with the sections behind it: `dit.md §3.2`, `vae.md §1, §6`,
//! `anyid.md §1–6`, `formats.md` section 1. It is not checked whether the section says what the
//! comment claims.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every file with this ending below a folder of the repository, with its text; build outputs and
/// hidden folders are left out.
fn files(folder: &str, ending: &str) -> Vec<(PathBuf, String)> {
    let mut folders = vec![root().join(folder)];
    let mut out = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in std::fs::read_dir(&folder).expect("a folder").flatten().map(|e| e.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && !name.starts_with('.') && !name.starts_with("target") {
                folders.push(path);
            } else if name.ends_with(ending) {
                let text = std::fs::read_to_string(&path).expect("text");
                out.push((path, text));
            }
        }
    }
    out
}

/// The pages of `docs/spec/` with the numbers of their headings.
fn pages() -> BTreeMap<String, BTreeSet<String>> {
    let mut pages = BTreeMap::new();
    for (path, text) in files("docs/spec", ".md") {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let headings = text.lines().filter_map(|line| {
            let heading = line.trim_start_matches('#');
            let number = heading.split_whitespace().next()?.trim_end_matches('.');
            let plain = number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            (heading.len() < line.len() && plain).then(|| number.to_owned())
        });
        pages.insert(name, headings.collect());
    }
    pages
}

/// The sections that the text behind the name of a page cites.
fn sections(behind: &str) -> Vec<String> {
    let mut rest = behind.trim_start_matches(['`', ' ', '\n', '/', '!']);
    let mut marked = false;
    for word in ["sections ", "section "] {
        if let Some(after) = rest.strip_prefix(word) {
            (rest, marked) = (after, true);
            break;
        }
    }
    let mut found: Vec<String> = Vec::new();
    loop {
        let number = match rest.strip_prefix('§') {
            Some(number) => number,
            None if marked => rest,
            None => return found,
        };
        let length = number.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
        let (digits, after) = number.split_at(length);
        let digits = digits.trim_end_matches('.');
        if digits.is_empty() {
            return found;
        }
        found.push(digits.to_owned());
        let joint = [", ", " and ", "–"].iter().find_map(|joint| {
            let after = after.strip_prefix(joint)?;
            // A dash needs no sign behind it: `§1–6`.
            let goes_on = after.starts_with('§') || marked || *joint == "–";
            goes_on.then_some((after, *joint == "–"))
        });
        let Some((after, dash)) = joint else { return found };
        (rest, marked) = (after, marked || dash);
    }
}

/// Whole name of a page that ends at `end`, and whether a path stands in front of it.
fn name_before(text: &str, end: usize) -> &str {
    let start = text[..end]
        .rfind(|c: char| !c.is_ascii_lowercase())
        .map_or(0, |at| at + text[at..].chars().next().map_or(1, char::len_utf8));
    &text[start..end]
}

#[test]
fn every_cited_section_is_there() {
    let pages = pages();
    assert!(pages.len() > 6 && pages["dit.md"].contains("3.2"), "{pages:?}");
    let folders = ["ir", "passes", "backends", "models", "runtime", "cli", "tests", "benches"];
    let mut texts: Vec<_> = folders.iter().flat_map(|folder| files(folder, ".rs")).collect();
    texts.extend(files("docs", ".md"));
    let (mut count, mut wrong) = (0, Vec::new());
    for (path, text) in texts {
        for (at, _) in text.match_indices(".md") {
            let name = format!("{}.md", name_before(&text, at));
            let Some(known) = pages.get(&name) else { continue };
            for section in sections(&text[at + 3..]) {
                count += 1;
                if !known.contains(&section) {
                    wrong.push(format!("{}: {name} has no section {section}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 40, "only {count} citations were found");
}

#[test]
fn citations_are_read_in_all_their_forms() {
    let all = |text: &str| sections(text).join(" ");
    assert_eq!(all(" §3.2)."), "3.2");
    assert_eq!(all("` §1, §6)"), "1 6");
    assert_eq!(all("` §1–6)."), "1 6");
    assert_eq!(all(" §0 and §3 for the prefixes"), "0 3");
    assert_eq!(all("` sections 1 and 2."), "1 2");
    assert_eq!(all("` section 1."), "1");
    assert_eq!(all(" §2, 3 files"), "2");
    assert_eq!(all("`)."), "");
}

/// The anchor that a heading gets: lower case, signs dropped, blanks as dashes.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.collect::<String>().to_lowercase().replace(' ', "-")
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut texts = files("docs", ".md");
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        let path = root().join(name);
        let text = std::fs::read_to_string(&path).expect(name);
        texts.push((path, text));
    }
    let (mut count, mut wrong) = (0, Vec::new());
    for (path, text) in &texts {
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split([')', '\n']).next().unwrap_or_default();
            if target.contains("://") {
                continue;
            }
            count += 1;
            let (file, part) = target.split_once('#').unwrap_or((target, ""));
            let folder = path.parent().expect("files lie in folders");
            let file = if file.is_empty() { path.clone() } else { folder.join(file) };
            let page = std::fs::read_to_string(&file).unwrap_or_default();
            let found = page.lines().filter(|line| line.starts_with('#'));
            let found = found.map(|line| anchor(line.trim_start_matches('#')));
            if !file.exists() || (!part.is_empty() && !found.into_iter().any(|a| a == part)) {
                wrong.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 60, "only {count} links were found");
}
