//! The page of the report. It asks for nothing outside of itself but for videos, where those are linked, and
//! what it shows of files is text.

mod parts;

use super::Found;
use super::charts::{bars, colour, radar};
use super::sheets::{Player, Sheet};
use super::table::{LEGEND, beside, interval, pairs, probability, systems, title};
use crate::raw::Metric;
use crate::statistics::{Block, Cell, Mark};
use anyid_files::markup::escaped;
use serde_json::Value;

/// The page as text that grows.
struct Page<'f> {
    found: &'f Found<'f>,
    out: String,
}

/// The page of a run.
pub(super) fn page(
    found: &Found<'_>,
    sheets: &[Sheet],
    players: &[Player],
    embed_links: bool,
) -> String {
    let media = if embed_links { "; media-src 'self' file:" } else { "" };
    let style = include_str!("style.css");
    let out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src \
         'unsafe-inline'; img-src data:{media}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"><title>Evaluation</title>\n\
         <style>\n{style}</style></head>\n<body>\n"
    );
    let mut page = Page { found, out };
    page.head(!sheets.is_empty(), !players.is_empty());
    page.tables();
    page.charts();
    page.comparisons();
    page.identity();
    page.noise();
    page.sheets(sheets);
    page.players(players);
    page.methods();
    page.out.push_str("</main>\n</body></html>\n");
    page.out
}

fn number(value: &Value, digits: usize) -> String {
    value.as_f64().map_or("–".to_owned(), |value| format!("{value:.digits$}"))
}

/// A cell of numbers.
fn cell(text: &str) -> String {
    format!("<td>{text}</td>")
}

impl Page<'_> {
    fn say(&mut self, text: &str) {
        self.out.push_str(text);
        self.out.push('\n');
    }

    /// The name of a system with its colour.
    fn name(&self, system: &str) -> String {
        let systems = &self.found.results.run.systems;
        let at = systems.iter().position(|own| own == system).unwrap_or_default();
        format!("<i style=\"background:{}\"></i>{}", colour(at), escaped(system))
    }

    fn table(&mut self, head: &[&str], rows: &[String]) {
        let head: String =
            head.iter().map(|name| format!("<th scope=\"col\">{name}</th>")).collect();
        let rows: String = rows.iter().map(|row| format!("<tr>{row}</tr>\n")).collect();
        self.say(&format!(
            "<div class=\"scroll card\"><table><thead><tr>{head}</tr></thead><tbody>\n{rows}</tbody></table></div>"
        ));
    }

    fn head(&mut self, sheets: bool, players: bool) {
        let run = &self.found.results.run;
        let counts: Vec<String> = self
            .found
            .blocks
            .iter()
            .filter_map(|block| {
                let task = block.task?;
                let cases = self.found.results.cases.iter().filter(|case| case.task == task);
                let units: std::collections::BTreeSet<&str> =
                    cases.map(|case| case.unit()).collect();
                Some(format!("{} cases of {}", units.len(), task.name()))
            })
            .collect();
        let line = format!(
            "{} systems on {}. Every number says of how many cases it is.",
            run.systems.len(),
            counts.join(" and ")
        );
        let warning = self.found.drift();
        self.say(&format!("<header><h1>Evaluation</h1>\n<p class=\"soft\">{line}</p>"));
        let mut links =
            vec![("tables", "Tables"), ("charts", "Charts"), ("comparisons", "Comparisons")];
        links.extend([("identity", "Faces"), ("noise", "Noise")]);
        links.extend(sheets.then_some(("frames", "Frames")));
        links.extend(players.then_some(("videos", "Videos")));
        links.push(("methods", "Methods"));
        let links: String =
            links.iter().map(|(id, name)| format!("<a href=\"#{id}\">{name}</a>")).collect();
        self.say(&format!("<nav aria-label=\"Parts of the page\">{links}</nav></header>\n<main>"));
        if let Some(warning) = warning {
            self.say(&format!("<p class=\"warn\" role=\"note\">{}</p>", escaped(&warning)));
        }
    }

    fn tables(&mut self) {
        self.say("<section id=\"tables\">");
        let found = self.found;
        for block in &found.blocks {
            self.say(&format!("<h2>{}</h2>", title(block)));
            self.block(block);
        }
        self.say(&format!(
            "<p class=\"soft small\">{LEGEND} Small numbers are 95 % intervals.</p></section>"
        ));
    }

    fn block(&mut self, block: &Block) {
        let groups = [Metric::EleClip, Metric::App, Metric::Sta];
        // The first of each group of the paper's columns, if the table has it.
        let begins = |metric: Metric| {
            let group = groups.iter().rev().find(|first| metric >= **first);
            let own = block.columns.iter().find(|c| group.is_some_and(|first| c.metric >= *first));
            group.is_some() && own.is_some_and(|own| own.metric == metric)
        };
        let class = |metric| if begins(metric) { " class=\"gap\"" } else { "" };
        let mut head = "<tr><th scope=\"col\">system</th>".to_owned();
        for column in &block.columns {
            let n = column.cells.values().next().map_or(0, |cell| cell.estimate.n);
            head.push_str(&format!(
                "<th scope=\"col\"{}>{}<br><span class=\"small\">n = {n}</span></th>",
                class(column.metric),
                column.metric.title()
            ));
        }
        head.push_str(
            "<th scope=\"col\" class=\"gap\">coverage</th><th scope=\"col\">videos</th>\
             <th scope=\"col\">cos Arc</th><th scope=\"col\">cos Cur</th></tr>",
        );
        let mut rows = String::new();
        for system in systems(self.found.results, block) {
            let beside = beside(self.found, block, system);
            let mut row = format!("<tr><th scope=\"row\">{}</th>", self.name(system));
            let mut zero = "<tr class=\"zero\"><th scope=\"row\">missing = 0</th>".to_owned();
            for column in &block.columns {
                let class = class(column.metric);
                let own = column.cells.get(system);
                row.push_str(&format!("<td{class}>{}</td>", own.map_or("–".to_owned(), value)));
                let with = own.map_or("–".to_owned(), |own| format!("{:.2}", own.with_missing));
                zero.push_str(&format!("<td{class}>{with}</td>"));
            }
            let coverage =
                beside.coverage.map_or("–".to_owned(), |share| format!("{share:.1} %"));
            row.push_str(&format!("<td class=\"gap\">{coverage}</td>"));
            row.push_str(&cell(&format!("{} of {}", beside.there, beside.asked)));
            for cosine in beside.cosines {
                row.push_str(&cell(&cosine.map_or("–".to_owned(), |c| format!("{c:.2}"))));
            }
            rows.push_str(&format!("{row}</tr>\n"));
            if beside.there < beside.asked {
                rows.push_str(&format!(
                    "{zero}<td class=\"gap\"></td><td></td><td></td><td></td></tr>\n"
                ));
            }
        }
        self.say(&format!(
            "<div class=\"scroll card\"><table><thead>{head}</thead><tbody>\n{rows}</tbody></table></div>"
        ));
    }

    fn key(&mut self) {
        let systems = &self.found.results.run.systems;
        let items = systems.iter().map(|system| format!("<li>{}</li>", self.name(system)));
        let items: String = items.collect();
        self.say(&format!("<ul class=\"key\">{items}</ul>"));
    }

    fn charts(&mut self) {
        self.say("<section id=\"charts\"><h2>Charts</h2>");
        self.key();
        let found = self.found;
        let systems = &found.results.run.systems;
        for block in found.blocks.iter().filter(|block| block.task.is_some()) {
            self.say(&format!("<h3>{}</h3>\n<div class=\"cards\">", title(block)));
            for column in &block.columns {
                let chart = bars(column, systems);
                let name = column.metric.title();
                self.say(&format!("<figure class=\"card\"><h3>{name}</h3>{chart}</figure>"));
            }
            self.say("</div><p></p>");
        }
        let whole = found.blocks.last();
        let radars: String = systems
            .iter()
            .enumerate()
            .filter_map(|(at, system)| {
                let chart = radar(system, at, &whole?.columns);
                let name = self.name(system);
                let figure = format!(
                    "<figure class=\"card\"><h3 class=\"key\"><span>{name}</span></h3>{chart}</figure>\n"
                );
                (!chart.is_empty()).then_some(figure)
            })
            .collect();
        if !radars.is_empty() {
            let name = whole.map_or("", title);
            self.say(&format!(
                "<h3>Each system</h3><p class=\"soft small\">{name}. From 0 in the middle to 100 on the rim; the \
                 broken line is the mean of all systems.</p>\n<div class=\"cards narrow\">{radars}</div>"
            ));
        }
        self.say("</section>");
    }

    fn comparisons(&mut self) {
        self.say("<section id=\"comparisons\"><h2>Comparisons</h2>");
        self.say(
            "<p class=\"soft\">Differences on the cases that both have. p is of Wilcoxon's signed-rank test; Holm \
             corrects it over the metrics of a pair. An interval without 0 is printed bold.</p>",
        );
        let found = self.found;
        for block in &found.blocks {
            let rows: Vec<String> = pairs(block)
                .map(|(metric, a, b, pair)| {
                    let difference = format!("{:+.2}", pair.difference);
                    let difference = match pair.differs() {
                        true => format!("<b>{difference}</b>"),
                        false => difference,
                    };
                    let p =
                        |p: Option<f64>| p.map_or("–".to_owned(), |p| escaped(&probability(p)));
                    let cells = [
                        difference,
                        interval(pair),
                        p(pair.wilcoxon.map(|w| w.p)),
                        p(pair.holm),
                        pair.n.to_string(),
                    ];
                    let cells: String = cells.iter().map(|text| cell(text)).collect();
                    format!(
                        "<th scope=\"row\">{}</th><td class=\"text\">{} − {}</td>{cells}",
                        metric.title(),
                        escaped(b),
                        escaped(a)
                    )
                })
                .collect();
            if rows.is_empty() {
                continue;
            }
            let open = if found.blocks.len() == 1 || block.task.is_none() { " open" } else { "" };
            self.say(&format!("<details{open}><summary>{}</summary>", title(block)));
            self.table(
                &["metric", "systems", "difference", "95 % interval", "p", "Holm", "n"],
                &rows,
            );
            self.say("</details>");
        }
        self.say("</section>");
    }
}

/// What a cell of a table shows.
fn value(cell: &Cell) -> String {
    let mean = format!("{:.2}", cell.estimate.mean);
    let mean = match cell.mark {
        Mark::Best => format!("<b>{mean}</b>"),
        Mark::Shared => format!("{mean}&nbsp;="),
        Mark::None => mean,
    };
    let interval = cell
        .estimate
        .interval
        .map_or(String::new(), |[low, high]| format!("<small>{low:.1}–{high:.1}</small>"));
    format!("{mean}{interval}")
}
