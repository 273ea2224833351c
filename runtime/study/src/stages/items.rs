//! What stages go through: files of video, each with the lines of the stage before that are about it.

use super::merge::head;
use anyid_files::Result;
use serde_json::Value;
use std::path::Path;

/// A file of video, with the lines of the stage before that are about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The file, below the root.
    pub media: String,
    /// The lines.
    pub lines: Vec<String>,
}

/// The file of video that a line is about.
pub(super) fn media_of(line: &str) -> Option<String> {
    let value: Value = serde_json::from_str(line).ok()?;
    value.get("media")?.as_str().map(str::to_owned)
}

/// The items that the lines of a file are about. Lines with an error are left out.
///
/// # Errors
/// E0911; the items may be E1202.
pub fn items(path: &Path) -> Result<impl Iterator<Item = Result<Item>> + use<>> {
    let mut lines = crate::lines::Lines::open(path)?;
    let mut ahead: Option<(String, String)> = None;
    let mut before = String::new();
    Ok(std::iter::from_fn(move || {
        let mut item: Option<Item> = None;
        loop {
            let next = match ahead.take() {
                Some(next) => next,
                None => match head(&mut lines) {
                    Ok(Some(next)) => next,
                    Ok(None) => return item.map(Ok),
                    Err(fault) => return Some(Err(fault)),
                },
            };
            let (media, line) = next;
            let failed =
                serde_json::from_str::<Value>(&line).is_ok_and(|v| v.get("error").is_some());
            match &mut item {
                Some(item) if item.media == media => {
                    if !failed {
                        item.lines.push(line);
                    }
                }
                Some(_) => {
                    ahead = Some((media, line));
                    return item.map(Ok);
                }
                None if failed => {}
                None => {
                    if media <= before && !before.is_empty() {
                        return Some(Err(lines.fault(format!(
                            "lines are not in the order of their files: {media} stands behind {before}"
                        ))));
                    }
                    before.clone_from(&media);
                    item = Some(Item { media, lines: vec![line] });
                }
            }
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TempFolder;

    #[test]
    fn items_are_the_lines_of_one_file_without_those_that_failed() {
        let folder = TempFolder::new("items");
        let text = "{\"media\":\"a\",\"n\":1}\n{\"media\":\"a\",\"n\":2}\n{\"media\":\"b\",\"error\":{}}\n{\"media\":\"c\"}\n";
        let path = folder.write("x.jsonl", text);
        let read: Vec<Item> = items(&path).unwrap().collect::<Result<_>>().unwrap();
        let names: Vec<(&str, usize)> =
            read.iter().map(|item| (item.media.as_str(), item.lines.len())).collect();
        assert_eq!(names, [("a", 2), ("c", 1)]);
        let path = folder.write("x.jsonl", "{\"media\":\"b\"}\n{\"media\":\"a\"}\n");
        let fault = items(&path).unwrap().collect::<Result<Vec<Item>>>().unwrap_err();
        assert_eq!(fault.code(), "E1202");
    }
}
