//! The parts of the page behind the tables: faces, noise, frames, videos, methods.

use super::super::charts::{directions, shades};
use super::super::methods::{facts, videos};
use super::super::sheets::{Player, Sheet};
use super::{Page, cell, number};
use crate::raw::Metric;
use anyid_files::markup::escaped;

impl Page<'_> {
    pub(super) fn identity(&mut self) {
        self.say("<section id=\"identity\"><h2>Faces</h2>");
        let found = self.found;
        let systems = &found.results.run.systems;
        if found.references.iter().all(Vec::is_empty) {
            self.say("<p class=\"soft\">Faces were not measured.</p></section>");
            return;
        }
        let chart = directions(systems, &found.yaws);
        if !chart.is_empty() {
            self.say(&format!(
                "<figure class=\"card\"><h3>By where the face looks</h3><p class=\"soft small\">Mean cosine with \
                 all references, by degrees from the front.</p>{chart}</figure><p></p>"
            ));
        }
        let most = found.references.iter().map(Vec::len).max().unwrap_or(0);
        // A place holds clips if the references of the cases do so.
        let first = found.results.cases.iter().max_by_key(|case| case.references.len());
        let names: Vec<String> = (0..most)
            .map(|at| {
                let file =
                    first.and_then(|case| case.references.get(at)).map_or("", String::as_str);
                let name = file.rsplit('/').next().unwrap_or_default();
                name.split('.').next().unwrap_or_default().to_owned()
            })
            .collect();
        let table = shades(systems, &found.references, &names);
        self.say(&format!(
            "<figure class=\"card\"><h3>By reference</h3><p class=\"soft small\">Mean cosine with each reference, \
             those too that a system was not given.</p>{table}</figure><p></p>"
        ));
        let mut rows = Vec::new();
        for system in systems {
            let own = &found.summary["systems"][system];
            for (task, of) in own["tasks"].as_object().into_iter().flatten() {
                for metric in [Metric::HoliArc, Metric::HoliCur] {
                    let m = &of["metrics"][metric.name()];
                    if m.is_null() {
                        continue;
                    }
                    let numbers = [
                        number(&m["plain"], 2),
                        number(&m["positive"], 2),
                        number(&m["affine"], 2),
                        number(&m["strict"], 2),
                        of["faceless"].to_string(),
                        of["other_face"].to_string(),
                        number(&m["copy_score"], 3),
                        number(&m["drift"], 3),
                    ];
                    let numbers: String = numbers.iter().map(|text| cell(text)).collect();
                    rows.push(format!(
                        "<th scope=\"row\">{}</th><td class=\"text\">{task}</td><td class=\"text\">{}</td>{numbers}",
                        self.name(system),
                        metric.title()
                    ));
                }
            }
        }
        self.say(
            "<p class=\"soft small\">100·cos, 100·max(cos, 0) and 100·(cos + 1)/2 are of the same cosines. strict \
             counts frames without a face as unrelated. copy: how much more a video is like the primary \
             reference than like the others. drift: the change of the cosine from the first frame to the \
             last.</p>",
        );
        self.table(
            &[
                "system",
                "task",
                "metric",
                "100·cos",
                "positive",
                "affine",
                "strict",
                "no face",
                "other face",
                "copy",
                "drift",
            ],
            &rows,
        );
        self.say("</section>");
    }

    pub(super) fn noise(&mut self) {
        self.say("<section id=\"noise\"><h2>What so many cases can show</h2>");
        let found = self.found;
        let mut rows = Vec::new();
        for block in &found.blocks {
            for column in &block.columns {
                let detectable =
                    column.cells.values().filter_map(|cell| cell.estimate.detectable());
                let detectable = detectable.fold(0.0, f64::max);
                let n = column.cells.values().next().map_or(0, |cell| cell.estimate.n);
                let noise = found.noise.iter().find(|(metric, _)| *metric == column.metric);
                let noise = noise.map(|(_, noise)| noise.clone()).unwrap_or_default();
                let cells = [
                    n.to_string(),
                    if n > 1 { format!("{detectable:.2}") } else { "–".to_owned() },
                    number(&noise["judge"]["deviation"], 2),
                    number(&noise["frames"]["mean"], 2),
                ];
                let cells: String = cells.iter().map(|text| cell(text)).collect();
                rows.push(format!(
                    "<th scope=\"row\">{}</th><td class=\"text\">{}</td>{cells}",
                    column.metric.title(),
                    block.name()
                ));
            }
        }
        self.say(
            "<p class=\"soft\">The least difference between two systems that is told from chance \
             (1.96·sd/√n·√2, of the system that varies most), the standard deviation of a judge over repeats, \
             and by how much a video's value differs with other numbers of frames.</p>",
        );
        self.table(&["metric", "cases", "n", "least difference", "judge", "frames"], &rows);
        if let Some(anchors) = &found.anchors {
            let rows: Vec<String> = anchors["means"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(metric, now)| {
                    let first = number(&anchors["first"][metric], 2);
                    let cells = [first, number(now, 2)].iter().map(|t| cell(t)).collect::<String>();
                    format!("<th scope=\"row\">{}</th>{cells}", escaped(metric))
                })
                .collect();
            self.say("<h3>The judge on videos that never change</h3>");
            self.table(&["metric", "the first time", "now"], &rows);
        }
        if let Some(people) = &found.people {
            let rows: Vec<String> = people
                .as_object()
                .into_iter()
                .flatten()
                .map(|(metric, own)| {
                    let cells = [
                        own["videos"].to_string(),
                        number(&own["spearman"], 3),
                        number(&own["kendall"], 3),
                    ];
                    let cells: String = cells.iter().map(|text| cell(text)).collect();
                    format!("<th scope=\"row\">{}</th>{cells}", escaped(metric))
                })
                .collect();
            self.say("<h3>Beside people</h3>");
            self.table(&["metric", "videos", "Spearman", "Kendall"], &rows);
        }
        self.say("</section>");
    }

    pub(super) fn sheets(&mut self, sheets: &[Sheet]) {
        if sheets.is_empty() {
            return;
        }
        self.say("<section id=\"frames\"><h2>Frames</h2>");
        self.say(
            "<p class=\"soft\">The best, the median and the worst case of each task. Faces are blurred unless the \
             person agreed to publication.</p>",
        );
        for sheet in sheets {
            let hidden = if sheet.shown { "" } else { " <span class=\"tag\">faces blurred</span>" };
            self.say(&format!(
                "<div class=\"card sheet\"><h3>{} <span class=\"tag\">{} by {}</span>{hidden}</h3>\
                 <p class=\"soft small\">{}</p>",
                escaped(&sheet.case),
                sheet.rank,
                sheet.metric.title(),
                escaped(&sheet.prompt)
            ));
            for strip in &sheet.strips {
                let value = strip.value.map_or("–".to_owned(), |value| format!("{value:.2}"));
                let name = self.name(&strip.system);
                let frames: String = match strip.frames.is_empty() {
                    true => "<span class=\"soft small\">no video</span>".to_owned(),
                    false => strip.frames.iter().enumerate().map(|(at, data)| format!(
                        "<img alt=\"frame {} of {}\" src=\"data:image/jpeg;base64,{data}\">",
                        at + 1,
                        escaped(&strip.system)
                    )).collect(),
                };
                self.say(&format!(
                    "<div class=\"strip\"><div class=\"key\"><span>{name}<br><span class=\"soft small\">{value}\
                     </span></span></div><div>{frames}</div></div>"
                ));
            }
            self.say("</div>");
        }
        self.say("</section>");
    }

    pub(super) fn players(&mut self, players: &[Player]) {
        if players.is_empty() {
            return;
        }
        self.say("<section id=\"videos\"><h2>Videos</h2>");
        for player in players {
            self.say(&format!(
                "<details><summary>{}</summary><p class=\"soft small\">{}</p><div class=\"cards narrow\">",
                escaped(&player.case),
                escaped(&player.prompt)
            ));
            for (system, address) in &player.videos {
                let name = escaped(system);
                let video = match address {
                    Some(address) => format!(
                        "<video controls loop muted preload=\"none\" aria-label=\"{name}\" src=\"{}\"></video>",
                        escaped(address)
                    ),
                    None => "<p class=\"soft small\">not shown: the person did not agree to \
                             publication</p>"
                        .to_owned(),
                };
                let caption = self.name(system);
                self.say(&format!(
                    "<figure>{video}<figcaption class=\"key\"><span>{caption}</span></figcaption></figure>"
                ));
            }
            self.say("</div></details>");
        }
        self.say("</section>");
    }

    pub(super) fn methods(&mut self) {
        self.say("<section id=\"methods\"><h2>Methods</h2>\n<div class=\"card\"><dl>");
        let found = self.found;
        for (name, text) in facts(found) {
            self.say(&format!("<dt>{}</dt><dd>{}</dd>", escaped(&name), escaped(&text)));
        }
        self.say("</dl></div><p></p>");
        let rows: Vec<String> = found
            .results
            .run
            .systems
            .iter()
            .map(|system| {
                let cells: String =
                    videos(found, system).iter().map(|text| cell(&escaped(text))).collect();
                format!("<th scope=\"row\">{}</th>{cells}", self.name(system))
            })
            .collect();
        self.table(&["system", "videos", "sizes", "frames", "frames a second"], &rows);
        self.say("</section>");
    }
}
