//! Charts as SVG inside of the page: bars with intervals, a radar of each system, lines over the direction of
//! faces, and a table of shades. Colours are those of the page (`--s0` …), and every number is written out, so
//! that none is by colour alone.

use crate::statistics::Column;
use anyid_files::markup::escaped;

/// How many colours there are; further systems begin anew, and are told apart by their names.
pub(super) const COLOURS: usize = 8;

/// The colour of a system by its place.
pub(super) fn colour(at: usize) -> String {
    format!("var(--s{})", at % COLOURS)
}

/// A name with at most so many letters.
fn short(name: &str, most: usize) -> String {
    match name.chars().count() > most {
        true => format!("{}…", escaped(&name.chars().take(most - 1).collect::<String>())),
        false => escaped(name),
    }
}

/// The bars of a metric, one for each system, from 0 to 100, each with its interval and number.
pub(super) fn bars(column: &Column, systems: &[String]) -> String {
    let there: Vec<(usize, &String)> = systems
        .iter()
        .enumerate()
        .filter(|(_, system)| column.cells.contains_key(*system))
        .collect();
    let (left, length, step) = (112.0, 190.0, 26.0);
    let height = 14.0 + step * there.len() as f64;
    let mut out = format!(
        "<svg viewBox=\"0 0 360 {:.0}\" role=\"img\" aria-label=\"{} of each system with 95 % intervals\">",
        height + 16.0,
        column.metric.title()
    );
    for share in [0.0, 50.0, 100.0] {
        let x = left + length * share / 100.0;
        out.push_str(&format!(
            "<line class=\"grid\" x1=\"{x}\" x2=\"{x}\" y1=\"4\" y2=\"{height}\"/>\
             <text class=\"tick\" x=\"{x}\" y=\"{}\" text-anchor=\"middle\">{share}</text>",
            height + 13.0
        ));
    }
    for (row, (at, system)) in there.into_iter().enumerate() {
        let Some(cell) = column.cells.get(system) else { continue };
        let (y, mean) = (10.0 + step * row as f64, cell.estimate.mean);
        let place = |value: f64| left + length * value.clamp(0.0, 100.0) / 100.0;
        let width = (place(mean) - left).max(0.5);
        out.push_str(&format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <path style=\"fill:{}\" d=\"M{left} {y}h{:.2}a3 3 0 0 1 3 3v8a3 3 0 0 1 -3 3h-{:.2}z\"/>",
            left - 8.0,
            y + 11.0,
            short(system, 15),
            colour(at),
            (width - 3.0).max(0.0),
            (width - 3.0).max(0.0),
        ));
        let mut tip = format!("{}: {mean:.2}, n = {}", escaped(system), cell.estimate.n);
        if let Some([low, high]) = cell.estimate.interval {
            tip.push_str(&format!(", {low:.2} to {high:.2}"));
            let (a, b, middle) = (place(low), place(high), y + 7.0);
            out.push_str(&format!(
                "<path class=\"whisker\" d=\"M{a:.2} {middle}H{b:.2}M{a:.2} {:.1}v6M{b:.2} {:.1}v6\"/>",
                middle - 3.0,
                middle - 3.0
            ));
        }
        out.push_str(&format!(
            "<text class=\"value\" x=\"356\" y=\"{}\" text-anchor=\"end\">{mean:.2}</text>\
             <rect class=\"hit\" x=\"0\" y=\"{}\" width=\"360\" height=\"{step}\"><title>{tip}</title></rect>",
            y + 11.0,
            y - 6.0
        ));
    }
    out.push_str("</svg>");
    out
}

/// The radar of a system: each metric from the middle (0) to the rim (100); the mean of all systems is the
/// thin line.
pub(super) fn radar(system: &str, at: usize, columns: &[Column]) -> String {
    let axes: Vec<(&str, f64, f64)> = columns
        .iter()
        .filter_map(|column| {
            let own = column.cells.get(system)?.estimate.mean;
            let all = column.cells.values().map(|cell| cell.estimate.mean).sum::<f64>();
            Some((column.metric.title(), own, all / column.cells.len() as f64))
        })
        .collect();
    if axes.len() < 3 {
        return String::new();
    }
    let (x, y, radius) = (155.0, 112.0, 78.0);
    let point = |axis: usize, share: f64| {
        let turn = std::f64::consts::TAU * axis as f64 / axes.len() as f64;
        (x + radius * share * turn.sin(), y - radius * share * turn.cos())
    };
    let outline = |value: &dyn Fn(usize) -> f64| {
        let points = (0..axes.len()).map(|axis| {
            let (x, y) = point(axis, (value(axis) / 100.0).clamp(0.0, 1.0));
            format!("{x:.1},{y:.1}")
        });
        points.collect::<Vec<_>>().join(" ")
    };
    let mut out = format!(
        "<svg viewBox=\"0 0 310 230\" role=\"img\" aria-label=\"All metrics of {}\">",
        escaped(system)
    );
    for ring in [25.0, 50.0, 75.0, 100.0] {
        out.push_str(&format!("<polygon class=\"ring\" points=\"{}\"/>", outline(&|_| ring)));
    }
    for (axis, (name, own, _)) in axes.iter().enumerate() {
        let ((rx, ry), (tx, ty)) = (point(axis, 1.0), point(axis, 1.2));
        let side = (tx - x) / radius;
        let anchor = match side {
            side if side > 0.3 => "start",
            side if side < -0.3 => "end",
            _ => "middle",
        };
        out.push_str(&format!(
            "<line class=\"ring\" x1=\"{x}\" y1=\"{y}\" x2=\"{rx:.1}\" y2=\"{ry:.1}\"/>\
             <text class=\"tick\" x=\"{tx:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{name} {own:.0}</text>",
            ty + 4.0
        ));
    }
    out.push_str(&format!(
        "<polygon class=\"mean\" points=\"{}\"/><polygon style=\"fill:{};stroke:{}\" class=\"own\" \
         points=\"{}\"/></svg>",
        outline(&|axis| axes[axis].2),
        colour(at),
        colour(at),
        outline(&|axis| axes[axis].1),
    ));
    out
}

/// Names of the directions of faces.
pub(super) const DIRECTIONS: [&str; 4] = ["0–15°", "15–30°", "30–45°", "over 45°"];

/// Mean cosines over the direction of the face, a line for each system.
pub(super) fn directions(systems: &[String], yaws: &[[(usize, f64); 4]]) -> String {
    let all = yaws.iter().flatten().filter(|(count, _)| *count > 0).map(|(_, mean)| *mean);
    let (low, high) = all.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
    if low > high {
        return String::new();
    }
    // Whole tenths about the values.
    let (low, high) = ((low * 10.0 - 0.2).floor() / 10.0, (high * 10.0 + 0.2).ceil() / 10.0);
    let (left, top, width, height) = (44.0, 12.0, 420.0, 190.0);
    let place = |bin: usize, value: f64| {
        let x = left + width * (bin as f64 + 0.5) / 4.0;
        (x, top + height * (high - value) / (high - low))
    };
    let mut out = "<svg class=\"wide\" viewBox=\"0 0 620 236\" role=\"img\" aria-label=\"Mean cosine by the direction of the \
                   face\">"
        .to_owned();
    let steps = ((high - low) * 10.0).round() as usize;
    for step in 0..=steps {
        let value = low + step as f64 / 10.0;
        let y = place(0, value).1;
        out.push_str(&format!(
            "<line class=\"grid\" x1=\"{left}\" x2=\"{}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
             <text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value:.1}</text>",
            left + width,
            left - 8.0,
            y + 4.0
        ));
    }
    for (bin, name) in DIRECTIONS.iter().enumerate() {
        out.push_str(&format!(
            "<text class=\"tick\" x=\"{:.1}\" y=\"{}\" text-anchor=\"middle\">{name}</text>",
            place(bin, high).0,
            top + height + 18.0
        ));
    }
    // Names beside the last points, moved apart.
    let mut ends: Vec<(f64, f64, usize)> = Vec::new();
    for (at, own) in yaws.iter().enumerate() {
        let points: Vec<(f64, f64, usize, f64)> = own
            .iter()
            .enumerate()
            .filter(|(_, (count, _))| *count > 0)
            .map(|(bin, (count, mean))| {
                let (x, y) = place(bin, *mean);
                (x, y, *count, *mean)
            })
            .collect();
        let line: Vec<String> = points.iter().map(|(x, y, ..)| format!("{x:.1},{y:.1}")).collect();
        out.push_str(&format!(
            "<polyline class=\"line\" style=\"stroke:{}\" points=\"{}\"/>",
            colour(at),
            line.join(" ")
        ));
        for (x, y, count, mean) in &points {
            out.push_str(&format!(
                "<circle class=\"dot\" style=\"fill:{}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\"><title>{}: \
                 {mean:.3}, {count} frames</title></circle>",
                colour(at),
                escaped(&systems[at])
            ));
        }
        ends.extend(points.last().map(|(x, y, ..)| (*x, *y, at)));
    }
    ends.sort_by(|a, b| a.1.total_cmp(&b.1));
    let mut free = f64::MIN;
    for (x, y, at) in ends {
        let beside = y.max(free);
        free = beside + 15.0;
        let end = left + width + 6.0;
        out.push_str(&format!(
            "<path class=\"lead\" d=\"M{:.1} {y:.1}L{:.1} {beside:.1}\"/>\
             <rect style=\"fill:{}\" x=\"{end:.1}\" y=\"{:.1}\" width=\"9\" height=\"9\" rx=\"2\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
            x + 7.0,
            end - 3.0,
            colour(at),
            beside - 5.0,
            end + 14.0,
            beside + 4.0,
            short(&systems[at], 16)
        ));
    }
    out.push_str("</svg>");
    out
}

/// A table of mean cosines, a row for each system and a column for each place of a reference, with shades
/// from the least to the largest.
pub(super) fn shades(
    systems: &[String],
    references: &[Vec<Option<f64>>],
    names: &[String],
) -> String {
    let all = || references.iter().flatten().flatten().copied();
    let (low, high) = (all().fold(f64::MAX, f64::min), all().fold(f64::MIN, f64::max));
    let mut out =
        "<div class=\"scroll\"><table class=\"shades\"><thead><tr><th scope=\"col\">system</th>"
            .to_owned();
    for name in names {
        out.push_str(&format!("<th scope=\"col\">{}</th>", escaped(name)));
    }
    out.push_str("</tr></thead><tbody>");
    for (system, row) in systems.iter().zip(references) {
        out.push_str(&format!("<tr><th scope=\"row\">{}</th>", escaped(system)));
        for at in 0..names.len() {
            match row.get(at).copied().flatten() {
                Some(value) => {
                    let share = if high > low { (value - low) / (high - low) } else { 0.5 };
                    out.push_str(&format!(
                        "<td style=\"--share:{:.0}%\">{value:.3}</td>",
                        8.0 + 47.0 * share
                    ));
                }
                None => out.push_str("<td>–</td>"),
            }
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
    out
}
