//! Every name of a page is written once, and a name in a scope as the two: names of blocks and of
//! values in them repeat, so that pages of thousands of launches stay small.

use serde_json::{Value, json};
use std::collections::HashMap;

/// Numbers names in the order in which they are first asked for.
#[derive(Default)]
pub struct Names {
    words: Vec<String>,
    /// Only looked up, never gone through.
    word: HashMap<String, usize>,
    labels: Vec<[usize; 2]>,
    label: HashMap<[usize; 2], usize>,
}

impl Names {
    fn word(&mut self, word: &str) -> usize {
        if let Some(at) = self.word.get(word) {
            return *at;
        }
        self.words.push(word.to_owned());
        self.word.insert(word.to_owned(), self.words.len() - 1);
        self.words.len() - 1
    }

    /// The number of a name; what stands in front of its last `/` is its scope.
    pub fn label(&mut self, label: &str) -> usize {
        let (scope, name) = label.rsplit_once('/').map_or(("", label), |parts| parts);
        let key = [self.word(scope), self.word(name)];
        if let Some(at) = self.label.get(&key) {
            return *at;
        }
        self.labels.push(key);
        self.label.insert(key, self.labels.len() - 1);
        self.labels.len() - 1
    }

    /// All words, and the scope and name of each label as numbers of words.
    pub fn data(self) -> Value {
        json!({ "words": self.words, "labels": self.labels })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_names_have_one_number() {
        let mut names = Names::default();
        let labels = ["f/blocks.0/q", "f/blocks.1/q", "x", "f/blocks.0/q", "/x", ""];
        let numbers = labels.map(|label| names.label(label));
        assert_eq!(numbers, [0, 1, 2, 0, 2, 3]);
        let words = json!(["f/blocks.0", "q", "f/blocks.1", "", "x"]);
        let labels = json!([[0, 1], [2, 1], [3, 4], [3, 3]]);
        assert_eq!(names.data(), json!({ "words": words, "labels": labels }));
    }
}
