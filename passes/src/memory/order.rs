//! The order of launches, improved at the peak.
//!
//! Program order is a good one for networks, which are nearly chains. What it gets wrong stands at
//! the peak: a launch that could have run before and would have freed something, or one that could
//! wait. Each round tries to move such launches alone, keeps the best move, and stops when none
//! lowers the peak or makes fewer launches reach it.

use super::alias::is_copy;
use super::flow::{Flow, LoweredStep, Source};
use super::{Shared, share_all};
use crate::rewrite::Rewrites;
use std::collections::BTreeMap;

/// Most rounds, most orders tried in all of them, and most launches looked at in all of these: long
/// programs get fewer.
const MOST_ROUNDS: usize = 16;
const MOST_TRIALS: usize = 240;
const MOST_LOOKS: usize = 1 << 17;
/// Launches before and after the peak that may move.
const REACH: usize = 32;
/// Only values of at least this share of the peak are worth a move.
const SHARE: u64 = 64;

/// The peak, how many launches reach it, and how much is in use above three quarters of it in all:
/// smaller is better. The last lets moves stand that help only together with others.
type Cost = (u64, usize, u64);

fn cost(profile: &[u64]) -> Cost {
    let peak = profile.iter().copied().max().unwrap_or(0);
    let most = profile.iter().filter(|bytes| **bytes == peak).count();
    let above = profile.iter().map(|bytes| bytes.saturating_sub(peak / 4 * 3));
    (peak, most, above.fold(0, u64::saturating_add))
}

fn measured(flow: &Flow, persistent: Option<&[u64]>) -> (Cost, Option<usize>) {
    let shared = share_all(flow, persistent);
    let profile = shared.classes.profile();
    let cost = cost(&profile);
    let at = profile.iter().position(|bytes| *bytes == cost.0);
    (cost, at.and_then(|at| position(flow, &shared, at)))
}

/// The launch of `flow` at position `at` of what was made of it, or the last before that.
pub(crate) fn position(flow: &Flow, shared: &Shared, at: usize) -> Option<usize> {
    let upto = at.min(shared.flow.steps.len().checked_sub(1)?);
    let known = |step: &LoweredStep| {
        let first = step.results.first();
        flow.steps.iter().position(|other| other.results.first() == first)
    };
    shared.flow.steps[..=upto].iter().rev().find_map(known)
}

/// For each launch, those that must stay before it.
pub(crate) fn constraints(flow: &Flow) -> Vec<Vec<usize>> {
    let owner = |value: &u32| flow.storage(*value).owner;
    let mut makers: BTreeMap<u32, Vec<usize>> = BTreeMap::new();
    let readers = flow.readers();
    for (at, step) in flow.steps.iter().enumerate() {
        step.results.iter().for_each(|v| makers.entry(owner(v)).or_default().push(at));
    }
    let before = |(at, step): (usize, &LoweredStep)| {
        let made = step.operands.iter().filter_map(|v| makers.get(&owner(v))).flatten();
        let mut before: Vec<usize> = made.copied().filter(|other| *other < at).collect();
        for value in &step.results {
            // What was in a state's memory is read before it is written over.
            if matches!(flow.values[owner(value) as usize].source, Source::State(..)) {
                let read = readers[owner(value) as usize].iter();
                before.extend(read.filter(|other| **other < at));
            }
        }
        before.sort_unstable();
        before.dedup();
        before
    };
    flow.steps.iter().enumerate().map(before).collect()
}

/// Moves launches where that lowers the peak. Returns whether anything moved.
pub(crate) fn improve(
    flow: &mut Flow,
    persistent: Option<&[u64]>,
    rewrites: &mut Rewrites,
) -> bool {
    let most = MOST_TRIALS.min(MOST_LOOKS / flow.length().max(1));
    if most < 16 {
        return false;
    }
    let (mut best, mut peak) = measured(flow, persistent);
    let (mut trials, mut moved) = (0, false);
    for _ in 0..MOST_ROUNDS {
        let Some(at) = peak else { break };
        let mut found: Option<(Cost, Option<usize>, Flow)> = None;
        for (from, to) in moves(flow, at, best.0 / SHARE) {
            if trials == most {
                break;
            }
            trials += 1;
            let mut other = flow.clone();
            let step = other.steps.remove(from);
            other.steps.insert(to, step);
            let (cost, peak) = measured(&other, persistent);
            if cost < found.as_ref().map_or(best, |(cost, ..)| *cost) {
                found = Some((cost, peak, other));
            }
        }
        let Some((cost, next, other)) = found else { break };
        let label = flow.steps[at].label_of(0);
        if !rewrites.allow("kernel moved", label) {
            break;
        }
        (best, peak, *flow, moved) = (cost, next, other, true);
    }
    moved
}

/// Moves of one launch each that could help with a peak at `at`: its position now and then.
fn moves(flow: &Flow, at: usize, least: u64) -> Vec<(usize, usize)> {
    let before = constraints(flow);
    let mut first_after = vec![flow.steps.len(); flow.steps.len()];
    for (step, list) in before.iter().enumerate() {
        for other in list {
            first_after[*other] = first_after[*other].min(step);
        }
    }
    let large = |step: usize| {
        let step = &flow.steps[step];
        let mut touched = step.results.iter().chain(&step.operands);
        // Copies stand where they free most.
        !is_copy(flow, step) && touched.any(|value| flow.bytes(*value) >= least)
    };
    let mut list = Vec::new();
    let end = (at + REACH).min(flow.steps.len());
    for step in (at.saturating_sub(REACH)..end).filter(|step| large(*step)) {
        let earliest = before[step].last().map_or(0, |last| last + 1);
        let latest = first_after[step] - 1;
        if step >= at {
            for to in [earliest, at] {
                if to >= earliest && to < step {
                    list.push((step, to));
                }
            }
        }
        if step <= at && latest > step {
            list.push((step, latest));
            if at > step && at < latest {
                list.push((step, at));
            }
        }
    }
    list.sort_unstable();
    list.dedup();
    list
}
