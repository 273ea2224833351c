//! Tables as text with commas (RFC 4180): those that are read and those that are written.

use crate::error::{Error, Result, unreadable};
use crate::input;
use std::path::Path;

/// Largest table that is read, in bytes.
const LARGEST: u64 = 256 << 20;

/// A table with named columns.
#[derive(Debug)]
pub struct Table {
    names: Vec<String>,
    /// Each row with its line, from 1.
    rows: Vec<(usize, Vec<String>)>,
}

impl Table {
    /// Reads the table at `path`, whose first line names the columns.
    ///
    /// # Errors
    /// E0911 where it cannot be read, `code` where it is no table or has none of the columns `needed`.
    pub fn read(path: &Path, code: &'static str, needed: &[&str]) -> Result<Self> {
        let bad = |what: String| {
            Error::input(code, what)
                .at(path.display())
                .help(format!("the first line names the columns: {}", needed.join(",")))
        };
        let large = |limit| bad(format!("a table has at most {limit} bytes"));
        let bytes = input::read(path, LARGEST)
            .map_err(|refusal| refusal.coded(path, |fault| unreadable(path, fault), large))?;
        let text =
            String::from_utf8(bytes).map_err(|_| bad("this is not UTF-8 text".to_owned()))?;
        let mut rows = parse(&text).map_err(bad)?.into_iter();
        let (_, names) = rows.next().ok_or_else(|| bad("the table is empty".to_owned()))?;
        let names: Vec<String> = names.iter().map(|name| name.trim().to_owned()).collect();
        if let Some(missing) = needed.iter().find(|need| !names.iter().any(|name| name == **need)) {
            return Err(bad(format!("there is no column \"{missing}\"")));
        }
        let rows: Vec<(usize, Vec<String>)> = rows.collect();
        if let Some((line, row)) = rows.iter().find(|(_, row)| row.len() != names.len()) {
            let what = format!("line {line} has {} values, not {}", row.len(), names.len());
            return Err(bad(what));
        }
        Ok(Self { names, rows })
    }

    /// The rows, each with its line.
    pub fn rows(&self) -> impl Iterator<Item = (usize, Row<'_>)> {
        self.rows.iter().map(|(line, values)| (*line, Row { names: &self.names, values }))
    }
}

/// A row whose values are found by the names of their columns.
#[derive(Clone, Copy, Debug)]
pub struct Row<'t> {
    names: &'t [String],
    values: &'t [String],
}

impl<'t> Row<'t> {
    /// The value of a column, if there is one.
    pub fn get(&self, name: &str) -> Option<&'t str> {
        let at = self.names.iter().position(|own| own == name)?;
        Some(self.values[at].trim()).filter(|value| !value.is_empty())
    }
}

/// The rows of a text, each with its first line; empty lines are none.
fn parse(text: &str) -> Result<Vec<(usize, Vec<String>)>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut rows, mut row, mut value) = (Vec::new(), Vec::new(), String::new());
    let (mut quoted, mut line, mut first) = (false, 1, 1);
    let mut signs = text.chars().peekable();
    while let Some(sign) = signs.next() {
        line += usize::from(sign == '\n');
        match sign {
            '"' if quoted && signs.peek() == Some(&'"') => {
                value.push('"');
                signs.next();
            }
            '"' if quoted => quoted = false,
            '"' if value.is_empty() => quoted = true,
            _ if quoted => value.push(sign),
            ',' => row.push(std::mem::take(&mut value)),
            '\r' if signs.peek() == Some(&'\n') => {}
            '\n' => {
                row.push(std::mem::take(&mut value));
                if row.iter().any(|value| !value.is_empty()) {
                    rows.push((first, std::mem::take(&mut row)));
                }
                row.clear();
                first = line;
            }
            _ => value.push(sign),
        }
    }
    if quoted {
        return Err(format!("a quotation that begins in line {first} has no end"));
    }
    row.push(value);
    if row.iter().any(|value| !value.is_empty()) {
        rows.push((first, row));
    }
    Ok(rows)
}

/// A row as text.
pub fn line<T: AsRef<str>>(values: &[T]) -> String {
    let quoted = |value: &T| {
        let value = value.as_ref();
        // A spreadsheet would compute what begins like a formula.
        let formula = value.starts_with(['=', '+', '@']);
        let value = if formula { format!("'{value}") } else { value.to_owned() };
        match value.contains(['"', ',', '\n', '\r']) {
            true => format!("\"{}\"", value.replace('"', "\"\"")),
            false => value,
        }
    };
    let mut text = values.iter().map(quoted).collect::<Vec<_>>().join(",");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let rows = [["a", "b,c"], ["d \"e\"", "f\ng"], ["", "h"]];
        let text: String = rows.iter().map(|row| line(row)).collect();
        let read: Vec<Vec<String>> = parse(&text).unwrap().into_iter().map(|(_, r)| r).collect();
        assert_eq!(read, rows.map(|row| row.map(str::to_owned).to_vec()).to_vec());
        assert_eq!(
            parse("a\r\n\r\nb,c\r\n").unwrap(),
            [(1, vec!["a".to_owned()]), (3, vec!["b".to_owned(), "c".to_owned()])]
        );
        assert!(parse("a,\"b").is_err());
        assert_eq!(line(&["=1+1"]), "'=1+1\n");
    }

    #[test]
    fn tables_need_their_columns_and_full_rows() {
        let folder = crate::testing::TempFolder::new();
        let path = folder.path().join("t.csv");
        let read = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Table::read(&path, "E1602", &["a", "b"]).map(|table| {
                table.rows().map(|(line, row)| (line, row.get("b").map(str::to_owned))).collect()
            })
        };
        let rows: Vec<(usize, Option<String>)> = read("a,b\n1, 2\n3,\n").unwrap();
        assert_eq!(rows, [(2, Some("2".to_owned())), (3, None)]);
        for bad in ["", "a,c\n", "a,b\n1\n", "a,b\n\"1\n"] {
            let refused: Result<Vec<(usize, Option<String>)>> = read(bad);
            assert_eq!(refused.unwrap_err().code(), "E1602", "{bad:?}");
        }
    }
}
