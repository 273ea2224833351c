//! The page of the report. It asks for nothing outside of itself, and what it shows of files is text.

use super::pictures::Picture;
use anyid_files::markup::escaped;
use serde_json::Value;

const HEAD: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width"><title>What came of the videos</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #1d2733; background: #fbfbf9 }
h1 { font-size: 1.5rem } h2 { font-size: 1.1rem; margin-top: 2.2rem }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem }
.card { background: #fff; border: 1px solid #e3e3dd; border-radius: 8px; padding: .8rem }
.card h3 { font-size: .9rem; margin: 0 0 .5rem; font-weight: 600 } .small { color: #69737d; font-size: .8rem }
.row { display: grid; grid-template-columns: 11rem 1fr 5rem; gap: .6rem; align-items: center }
.track { background: #ececE6; border-radius: 4px; height: 1rem }
.bar { background: #3f7d6d; border-radius: 4px; height: 1rem; min-width: 1px }
.lost .bar { background: #b8693f } svg { width: 100%; height: 4rem; display: block }
figure { margin: 0 } img { width: 100%; border-radius: 6px } td { padding: .1rem .8rem .1rem 0 }
</style></head><body>
"#;

fn rows(out: &mut String, kind: &str, counts: &[(String, u64)]) {
    let most = counts.iter().map(|(_, count)| *count).max().unwrap_or(0).max(1);
    out.push_str(&format!("<div class=\"{kind}\">"));
    for (name, count) in counts {
        let share = 100.0 * *count as f64 / most as f64;
        out.push_str(&format!(
            "<div class=row><span>{}</span><div class=track><div class=bar style=\"width:{share:.1}%\">\
             </div></div><span>{count}</span></div>\n",
            escaped(name)
        ));
    }
    out.push_str("</div>\n");
}

fn counts(of: &Value) -> Vec<(String, u64)> {
    let all = of.as_object().into_iter().flatten();
    all.map(|(name, count)| (name.clone(), count.as_u64().unwrap_or(0))).collect()
}

fn card(out: &mut String, name: &str, of: &Value) {
    out.push_str(&format!("<div class=card><h3>{}</h3>", escaped(name)));
    let bars: Vec<u64> =
        of["bars"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    if bars.is_empty() {
        out.push_str("<span class=small>no values</span></div>\n");
        return;
    }
    let most = bars.iter().copied().max().unwrap_or(1).max(1) as f64;
    out.push_str("<svg viewBox=\"0 0 160 40\" preserveAspectRatio=none>");
    for (at, count) in bars.iter().enumerate() {
        let height = 40.0 * *count as f64 / most;
        let (x, y) = (at * 10, 40.0 - height);
        out.push_str(&format!(
            "<rect x={x} y={y:.1} width=9 height={height:.1} fill=\"#3f7d6d\"><title>{count}</title></rect>"
        ));
    }
    let [least, mean, most] = ["least", "mean", "most"].map(|key| of[key].to_string());
    let count = &of["count"];
    out.push_str(&format!(
        "</svg><span class=small>{least} to {most}, mean {mean}, of {count}</span></div>\n"
    ));
}

/// The page.
pub fn page(found: &Value, pictures: &[Picture]) -> String {
    let mut out = HEAD.to_owned();
    let gates: Vec<(String, u64)> = found["gates"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|gate| {
            let name = gate["gate"].as_str().unwrap_or_default().to_owned();
            (name, gate["count"].as_u64().unwrap_or(0))
        })
        .collect();
    out.push_str("<h1>What came of the videos</h1>\n<h2>From files to clips of a person</h2>\n");
    rows(&mut out, "kept", &gates);
    let mut part = |title: &str, kind: &str, key: &str| {
        let counts = counts(&found[key]);
        out.push_str(&format!("<h2>{title}</h2>\n"));
        match counts.is_empty() {
            true => out.push_str("<p class=small>nothing</p>\n"),
            false => rows(&mut out, kind, &counts),
        }
    };
    part("Why clips were left out (a clip may have several reasons)", "lost", "reasons");
    part("References that a sample has", "kept", "references");
    part("Forms of references", "kept", "forms");
    part("Samples whose prompt says an element", "kept", "elements");
    out.push_str("<h2>Distributions</h2>\n<div class=cards>\n");
    for (name, of) in found["distributions"].as_object().into_iter().flatten() {
        card(&mut out, name, of);
    }
    card(&mut out, "tokens of a sample at 1280x704", &found["tokens"]);
    out.push_str("</div>\n<h2>People</h2>\n");
    out.push_str(&format!("<p>{} groups.</p>\n<div class=cards>\n", found["groups"]));
    for picture in pictures {
        out.push_str(&format!(
            "<figure class=card><img alt=\"\" src=\"data:image/jpeg;base64,{}\">\
             <figcaption class=small>{}</figcaption></figure>\n",
            picture.data,
            escaped(&picture.caption)
        ));
    }
    out.push_str("</div>\n");
    for (title, key) in [
        ("Clips that seem to be of someone else", "outliers"),
        ("Groups that seem to be of one person", "duplicates"),
        ("Clips that show the same", "copies"),
    ] {
        let list = found[key].as_array().cloned().unwrap_or_default();
        out.push_str(&format!("<h2>{title}</h2>\n<ul>\n"));
        for entry in &list {
            out.push_str(&format!("<li>{}</li>\n", escaped(&entry.to_string())));
        }
        out.push_str(if list.is_empty() { "<li>none</li></ul>\n" } else { "</ul>\n" });
    }
    out.push_str("<h2>Throughput</h2>\n<table>\n");
    for (stage, of) in found["throughput"].as_object().into_iter().flatten() {
        out.push_str(&format!(
            "<tr><td>{stage}</td><td>{} files</td><td>{} s</td><td>{} files a minute</td></tr>\n",
            of["files"], of["seconds"], of["files_a_minute"]
        ));
    }
    out.push_str("</table>\n");
    let costs = super::rows_of_costs(found);
    if !costs.is_empty() {
        let row = |cells: &[String], kind: &str| {
            let cell = |text: &String| format!("<{kind}>{}</{kind}>", escaped(text));
            format!("<tr>{}</tr>\n", cells.iter().map(cell).collect::<String>())
        };
        out.push_str("<h2>Servers</h2>\n<table>\n");
        out.push_str(&row(&super::COSTS.map(str::to_owned), "th"));
        costs.iter().for_each(|cells| out.push_str(&row(cells, "td")));
        out.push_str("</table>\n");
    }
    out.push_str("</body></html>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_of_files_are_text_in_the_page() {
        let found = json!({"reasons": {"<script>alert(1)</script>": 3}, "gates": []});
        let picture = Picture { data: "AAAA".into(), caption: "a\"><b>".into() };
        let page = page(&found, &[picture]);
        assert!(!page.contains("<script>") && !page.contains("<b>"), "{page}");
        assert!(page.contains("&lt;script&gt;") && page.contains("default-src 'none'"));
    }
}
