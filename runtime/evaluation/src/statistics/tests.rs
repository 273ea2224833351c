//! Statistics beside those of NumPy and SciPy (`tests/reference/evaluation_statistics.py`).

use super::noise::{judge_noise, sampling_noise};
use super::sample::results;
use super::signed_rank::complementary;
use super::*;
use crate::vlm::agreement::{kendall, spearman};
use serde_json::from_value;

fn goldens() -> Value {
    serde_json::from_str(include_str!("goldens.json")).unwrap()
}

#[test]
fn statistics_are_those_of_numpy_and_scipy() {
    let goldens = goldens();
    let strata: Vec<Vec<f64>> = from_value(goldens["bootstrap"]["strata"].clone()).unwrap();
    let interval = bootstrap(&strata, 400, "IPT2V/holi_arc/ours").unwrap();
    for (own, other) in interval.iter().zip(goldens["bootstrap"]["interval"].as_array().unwrap()) {
        assert!((own - other.as_f64().unwrap()).abs() < 1e-10, "{own} against {other}");
    }
    let all: Vec<f64> = strata.concat();
    let expected = goldens["deviation"].as_f64().unwrap();
    assert!((deviation(&all).unwrap() - expected).abs() < 1e-12);
    let estimate = Estimate::of(&strata, 10, "").unwrap();
    let detectable = 1.96 * expected / 19f64.sqrt() * 2f64.sqrt();
    assert!((estimate.detectable().unwrap() - detectable).abs() < 1e-12);
    for case in goldens["wilcoxon"].as_array().unwrap() {
        let values: Vec<f64> = from_value(case["values"].clone()).unwrap();
        let (own, expected) = (wilcoxon(&values).unwrap(), case["p"].as_f64().unwrap());
        assert!((own.p - expected).abs() < 1e-10 * expected.max(0.01), "{own:?}: {expected}");
    }
    let agreement = &goldens["agreement"];
    let pairs: Vec<(f64, f64)> = from_value(agreement["pairs"].clone()).unwrap();
    for (own, name) in [(spearman(&pairs), "spearman"), (kendall(&pairs), "kendall")] {
        assert!((own.unwrap() - agreement[name].as_f64().unwrap()).abs() < 1e-12, "{name}");
    }
    assert_eq!((spearman(&[(1.0, 2.0), (1.0, 3.0)]), kendall(&[])), (None, None));
    for pair in goldens["complementary"].as_array().unwrap() {
        let [x, value] = [0, 1].map(|at| pair[at].as_f64().unwrap());
        assert!((complementary(x) / value - 1.0).abs() < 1e-10, "{x}: {value}");
    }
}

/// A number of the standard normal distribution, after Box and Muller.
fn normal(draws: &mut Draws) -> f64 {
    let radius = (-2.0 * (1.0 - draws.unit()).ln()).sqrt();
    radius * (std::f64::consts::TAU * draws.unit()).cos()
}

#[test]
fn intervals_hold_the_mean_as_often_as_they_say() {
    let (runs, size) = (1000, 120);
    let mut draws = Draws::new(b"coverage", "test", "");
    let holds = (0..runs).filter(|run| {
        let strata: Vec<Vec<f64>> = [0.0, 1.0]
            .map(|centre| (0..size / 2).map(|_| centre + normal(&mut draws)).collect::<Vec<f64>>())
            .to_vec();
        let [low, high] = bootstrap(&strata, 600, &run.to_string()).unwrap();
        low <= 0.5 && 0.5 <= high
    });
    let share = holds.count() as f64 / f64::from(runs);
    assert!((0.935..=0.965).contains(&share), "{share}");
}

#[test]
fn intervals_are_the_same_again_and_depend_on_their_name() {
    let strata = [vec![1.0, 2.0, 4.0, 8.0], vec![3.0, 3.5]];
    let first = bootstrap(&strata, 500, "a").unwrap();
    assert_eq!(Some(first), bootstrap(&strata, 500, "a"));
    assert_ne!(Some(first), bootstrap(&strata, 500, "b"));
    assert_eq!(bootstrap(&[vec![1.0]], 10, ""), None);
    assert_eq!(bootstrap(&[], 10, ""), None);
}

#[test]
fn exchanging_the_sides_of_a_pair_exchanges_the_sign_alone() {
    let results = results(&[("a", 0.4), ("b", 0.42)], 20);
    let [a, b] = ["a", "b"].map(|system| values(&results, system, Metric::HoliArc, None));
    let (one, other) =
        (Pair::of(&a, &b, ["a", "b"], 500).unwrap(), Pair::of(&b, &a, ["b", "a"], 500).unwrap());
    assert_eq!((one.n, one.difference), (40, -other.difference));
    assert_eq!(one.interval.map(|[low, high]| [-high, -low]), other.interval);
    let [p, q] = [&one, &other].map(|pair| pair.wilcoxon.unwrap());
    assert_eq!(p.p, q.p);
    assert_eq!(p.positive + q.positive, 820.0);
    let same = Pair::of(&a, &a, ["a", "a"], 100).unwrap();
    assert!(same.wilcoxon.is_none() && !same.differs() && same.difference == 0.0);
}

#[test]
fn the_best_is_alone_where_chance_does_not_explain_it() {
    let block = |levels: &[(&str, f64)], metric| {
        let results = results(levels, 12);
        let block = blocks(&results, 400).remove(0);
        let column = block.columns.into_iter().find(|column| column.metric == metric).unwrap();
        column.cells.into_iter().map(|(system, cell)| (system, cell.mark)).collect::<Vec<_>>()
    };
    let far = block(&[("a", 0.3), ("b", 0.5), ("c", 0.2)], Metric::HoliArc);
    let marks =
        |list: [Mark; 3]| ["a", "b", "c"].map(str::to_owned).into_iter().zip(list).collect();
    let expected: Vec<(String, Mark)> = marks([Mark::None, Mark::Best, Mark::None]);
    assert_eq!(far, expected);
    let near = block(&[("a", 0.5), ("b", 0.5), ("c", 0.2)], Metric::HoliArc);
    let expected: Vec<(String, Mark)> = marks([Mark::Shared, Mark::Shared, Mark::None]);
    assert_eq!(near, expected);
}

#[test]
fn what_is_missing_leaves_the_common_cases_and_is_0_in_the_second_line() {
    let mut results = results(&[("a", 0.4), ("b", 0.4)], 4);
    let key = ("a".to_owned(), results.cases[0].id.clone());
    let lost = results.raws.get_mut(&key).unwrap();
    (lost.video, lost.identity, lost.judged) = (None, None, None);
    let block = blocks(&results, 100).remove(0);
    assert_eq!(block.task, Some(Task::Ipt2v));
    let arc = &block.columns[0];
    let (a, b) = (&arc.cells["a"], &arc.cells["b"]);
    assert_eq!((a.estimate.n, b.estimate.n), (3, 3));
    assert!((a.with_missing - a.estimate.mean * 0.75).abs() < 1e-9);
    let all = values(&results, "b", Metric::HoliArc, Some(Task::Ipt2v));
    let all: Vec<f64> = all.into_values().collect();
    assert_eq!(b.with_missing, mean(&all).unwrap());
    // An answer that is missing is no 0: here all of one video are.
    let key = ("b".to_owned(), results.cases[1].id.clone());
    let judged = results.raws.get_mut(&key).unwrap().judged.as_mut().unwrap();
    judged.app = Some(vec![None; 3]);
    let block = blocks(&results, 100).remove(0);
    let app = block.columns.iter().find(|column| column.metric == Metric::App).unwrap();
    assert_eq!(app.cells["b"].estimate.n, 2);
    assert!(app.cells["b"].with_missing > 60.0);
    // Elements are asked for by one of the tasks alone.
    assert!(block.columns.iter().all(|column| column.metric != Metric::EleClip));
}

#[test]
fn elements_by_boxes_about_the_face_are_compared_with_nothing() {
    let mut results = results(&[("a", 0.4), ("b", 0.5)], 3);
    for raw in results.raws.values_mut().filter(|raw| raw.system == "b") {
        if let Some(elements) = raw.elements.as_mut() {
            elements.masks = Masks::Geometric;
        }
    }
    let block = blocks(&results, 50).remove(1);
    let ele = block.columns.iter().find(|column| column.metric == Metric::EleClip).unwrap();
    assert_eq!(ele.cells.keys().collect::<Vec<_>>(), ["a"]);
    assert!(approximate(&results, "b") && !approximate(&results, "a"));
}

#[test]
fn noise_is_that_of_repeats_and_of_other_frames() {
    let mut results = results(&[("a", 0.4)], 2);
    for raw in results.raws.values_mut() {
        raw.judged.as_mut().unwrap().sta = Some(vec![Some(70.0), Some(72.0), None]);
    }
    let (noise, videos) = judge_noise(&results, Metric::Sta).unwrap();
    assert!((noise - 2f64.sqrt()).abs() < 1e-12 && videos == 4);
    let mut finer = results.clone();
    let first = finer.raws.values_mut().next().unwrap();
    let cosines = &mut first.identity.as_mut().unwrap().arc.as_mut().unwrap().cosines;
    cosines.iter_mut().flatten().flatten().flatten().for_each(|cosine| *cosine += 0.02);
    let [mean, most, count] = sampling_noise(&results, &finer, Metric::HoliArc).unwrap();
    assert!((most - 1.0).abs() < 1e-9 && (mean - 0.25).abs() < 1e-9 && count == 4.0);
}
