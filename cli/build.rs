//! Makes the table of error pages from the files of `docs/errors/`, so that a new page is part of the
//! program without being listed anywhere.

use std::fmt::Write as _;
use std::path::Path;

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/errors");
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut pages: Vec<_> = std::fs::read_dir(&folder)
        .expect("docs/errors can be read")
        .map(|entry| entry.expect("docs/errors can be listed").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "md"))
        .collect();
    pages.sort();
    let mut table = String::from("&[\n");
    for page in pages {
        println!("cargo:rerun-if-changed={}", page.display());
        let code = page.file_stem().expect("pages have names").to_string_lossy();
        let text = page.to_str().expect("the path of the sources is text");
        writeln!(table, "    ({code:?}, include_str!({text:?})),").expect("strings take text");
    }
    table.push_str("]\n");
    let out = std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    std::fs::write(Path::new(&out).join("pages.rs"), table).expect("OUT_DIR can be written");
}
