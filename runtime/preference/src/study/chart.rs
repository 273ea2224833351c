//! Stacked bars of a study as SVG: ours from the left, the other from the right, the interval as a
//! line. Numbers are written into the bars, so that no meaning is by colour alone.

use super::report::{Result, title};
use anyid_files::markup::escaped;

const WIDTH: f64 = 760.0;
const LABEL: f64 = 230.0;
const BAR: f64 = 22.0;
const STEP: f64 = 30.0;
const HEAD: f64 = 30.0;

/// The chart of all rows.
pub fn bars(result: &Result) -> String {
    let mut y = 46.0;
    let mut body = String::new();
    let mut last = "";
    let length = WIDTH - LABEL - 20.0;
    for row in &result.rows {
        if row.question != last {
            y += if last.is_empty() { 0.0 } else { 14.0 };
            body.push_str(&format!(
                "<text x=\"10\" y=\"{:.1}\" font-weight=\"bold\">{}</text>\n",
                y + 15.0,
                title(row.question)
            ));
            y += HEAD;
            last = row.question;
        }
        let other = row.other.as_deref().unwrap_or("all others");
        let own = length * row.rate;
        let middle = y + BAR / 2.0;
        let line = [row.nested[0], row.nested[1]].map(|share| LABEL + length * share);
        body.push_str(&format!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n\
             <rect x=\"{LABEL}\" y=\"{y:.1}\" width=\"{own:.2}\" height=\"{BAR}\" fill=\"#1f5fb8\"/>\n\
             <rect x=\"{:.2}\" y=\"{y:.1}\" width=\"{:.2}\" height=\"{BAR}\" fill=\"#d9d5c8\"/>\n\
             <path d=\"M{:.2} {middle:.1}H{:.2}M{:.2} {:.1}v10M{:.2} {:.1}v10\" stroke=\"#111\" \
             stroke-width=\"1.5\" fill=\"none\"/>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"#fff\">{:.1} %</text>\n\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{:.1} %</text>\n",
            LABEL - 8.0,
            y + 15.5,
            escaped(other),
            LABEL + own,
            length - own,
            line[0],
            line[1],
            line[0],
            middle - 5.0,
            line[1],
            middle - 5.0,
            LABEL + 6.0,
            y + 15.5,
            100.0 * row.rate,
            LABEL + length - 6.0,
            y + 15.5,
            100.0 * (1.0 - row.rate),
        ));
        y += STEP;
    }
    let half = LABEL + length / 2.0;
    let (ours, height) = (escaped(&result.ours), y + 10.0);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" \
         viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" font-size=\"13\" role=\"img\">\n\
         <title>How often {ours} was preferred</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <rect x=\"{LABEL}\" y=\"12\" width=\"12\" height=\"12\" fill=\"#1f5fb8\"/>\
         <text x=\"{:.1}\" y=\"23\">{ours}</text>\n\
         <text x=\"{:.1}\" y=\"23\" text-anchor=\"end\">the other</text>\
         <rect x=\"{:.1}\" y=\"12\" width=\"12\" height=\"12\" fill=\"#d9d5c8\"/>\n{body}\
         <path d=\"M{half:.1} 34V{:.1}\" stroke=\"#111\" stroke-dasharray=\"3 4\"/>\n</svg>\n",
        LABEL + 18.0,
        LABEL + length - 18.0,
        LABEL + length - 12.0,
        y,
    )
}
