//! Which matrices are read again in every run, where not all of them may be held: decided from the
//! plans and the memory that there is, before anything is loaded.
//!
//! Matrices that are not held pass through two slots, in groups that follow the order of the steps: a
//! group is as many of them as a slot holds. Everything else, vectors and tables among it, is held.

use super::super::gemm::PanelKind;
use super::super::simd::Level;
use super::super::threads::ALIGN;
use super::read::staging_bytes;
use super::{Form, Key, loaded_bytes, shape, wanted};
use crate::cpu::exec::Launch;
use anyid_ir::TensorType;
use anyid_ir::plan::{BufferId, Plan, Root};
use std::collections::{BTreeMap, BTreeSet};

/// Slots that matrices pass through: one is read while the other is filled.
pub(in crate::cpu) const SLOTS: usize = 2;

/// The largest slot, in the most that a step reads: about what a block of a transformer reads.
const LARGEST_SLOT: u64 = 4;

/// A matrix that is not held, and its place in a slot.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::cpu) struct Item {
    pub(super) name: String,
    pub(super) ty: TensorType,
    pub(super) form: Form,
    pub(super) kind: PanelKind,
    /// Columns of the product, and length of its sums.
    pub(super) shape: (usize, usize),
    pub(super) offset: usize,
    pub(super) bytes: usize,
}

/// What is not held, and what is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Choice {
    /// The matrices that are read again.
    keys: BTreeSet<Key>,
    /// Bytes of a slot.
    pub(super) slot: u64,
    /// Bytes of all that is held, slots and the reader's buffers included.
    pub(super) held: u64,
    /// Bytes that a run of a plan brings in at most.
    pub(super) moved: u64,
}

/// The matrices that each step of a plan reads in panels, each once.
fn matrices(plan: &Plan) -> Vec<Vec<(Key, TensorType)>> {
    let of_step = |step| {
        let mut keys: Vec<(Key, TensorType)> = Vec::new();
        for (position, form) in Launch::new(plan, step).forms() {
            let buffer = plan.buffer(step.operands[position]);
            let (Root::Weight(index), Form::Matrix { .. }) = (buffer.root, form) else { continue };
            let name = plan.weights[index as usize].name.clone();
            let key = (name, form, shape(form, &buffer.ty));
            if keys.iter().all(|(other, _)| *other != key) {
                keys.push((key, buffer.ty.clone()));
            }
        }
        keys
    };
    plan.steps.iter().map(of_step).collect()
}

impl Choice {
    /// What is read again so that at most `most` bytes of the weights of `plans` are held, or as few
    /// as can be; `None` where no step reads a matrix.
    pub(super) fn new(level: Level, plans: &[&Plan], most: u64) -> Option<Self> {
        let (wanted, _) = wanted(plans);
        let total = wanted.iter().map(|((_, form, _), (ty, _))| loaded_bytes(level, *form, ty));
        let total = total.fold(0, u64::saturating_add);
        let steps: Vec<Vec<Vec<(Key, TensorType)>>> =
            plans.iter().map(|plan| matrices(plan)).collect();
        let mut bytes: BTreeMap<&Key, u64> = BTreeMap::new();
        let (mut least, mut staging) = (0, 0);
        for step in steps.iter().flatten() {
            let mut all = 0;
            for (key, ty) in step {
                let own = loaded_bytes(level, key.1, ty);
                bytes.insert(key, own);
                all += own;
                staging = staging.max(staging_bytes(ty));
            }
            least = least.max(all);
        }
        if least == 0 {
            return None;
        }
        let fixed = total.saturating_sub(bytes.values().sum()).saturating_add(staging);
        let room = most.saturating_sub(fixed);
        let slot = (room / (2 * SLOTS as u64)).clamp(least, LARGEST_SLOT.saturating_mul(least));
        let slot = slot.next_multiple_of(ALIGN as u64);
        let slots = SLOTS as u64 * slot;
        let mut left = room.saturating_sub(slots);
        // The last plan runs most often. What can be held of it is spread over its steps, so that
        // there is as much time for every group.
        let mut order: Vec<&Key> = Vec::new();
        for step in steps.iter().rev().flatten() {
            for (key, _) in step {
                if !order.contains(&key) {
                    order.push(key);
                }
            }
        }
        let last: BTreeSet<&Key> =
            steps.last().into_iter().flatten().flatten().map(|(k, _)| k).collect();
        let own: u128 = last.iter().map(|key| u128::from(bytes[key])).sum();
        let part = u128::from(left).min(own);
        let (mut passed, mut taken) = (0u128, 0u128);
        let mut keys: BTreeSet<Key> = BTreeSet::new();
        let mut later = Vec::new();
        for key in order {
            let size = bytes[key];
            if !last.contains(key) {
                later.push(key);
                continue;
            }
            passed += u128::from(size);
            // As many bytes are held so far as are due by now, or a matrix fewer.
            if (taken + u128::from(size)) * own <= passed * part && size <= left {
                taken += u128::from(size);
                left -= size;
            } else {
                keys.insert(key.clone());
            }
        }
        for key in later {
            if bytes[key] <= left {
                left -= bytes[key];
            } else {
                keys.insert(key.clone());
            }
        }
        let streamed: u64 = keys.iter().map(|key| bytes[key]).sum();
        let read_by = |steps: &Vec<Vec<(Key, TensorType)>>| -> u64 {
            let read: BTreeSet<&Key> = steps.iter().flatten().map(|(key, _)| key).collect();
            read.into_iter().filter(|key| keys.contains(*key)).map(|key| bytes[key]).sum()
        };
        let moved = steps.iter().map(read_by).max().unwrap_or(0);
        let held = total.saturating_sub(streamed).saturating_add(staging).saturating_add(slots);
        Some(Self { keys, slot, held, moved })
    }

    /// Whether a tensor in this form is read again.
    pub(super) fn contains(&self, key: &Key) -> bool {
        self.keys.contains(key)
    }
}

/// The groups of a plan, and what its steps read of them.
#[derive(Default)]
pub(in crate::cpu) struct Schedule {
    /// The matrices of each group.
    pub(in crate::cpu) groups: Vec<Vec<Item>>,
    /// The group of each step that reads one.
    pub(in crate::cpu) steps: Vec<Option<usize>>,
}

impl Schedule {
    /// The schedule of `plan` under a choice.
    pub(super) fn new(level: Level, plan: &Plan, choice: &Choice) -> Self {
        let (mut groups, mut used) = (Vec::<Vec<Item>>::new(), 0);
        let mut steps = Vec::with_capacity(plan.steps.len());
        for read in matrices(plan) {
            let read: Vec<_> = read.into_iter().filter(|(key, _)| choice.contains(key)).collect();
            if read.is_empty() {
                steps.push(None);
                continue;
            }
            let size = |(key, ty): &(Key, TensorType)| loaded_bytes(level, key.1, ty);
            let there = |groups: &[Vec<Item>], key: &Key| {
                groups.last().is_some_and(|group| group.iter().any(|item| item.is(key)))
            };
            let more = read.iter().filter(|(key, _)| !there(&groups, key)).map(size).sum::<u64>();
            if groups.is_empty() || used + more > choice.slot {
                groups.push(Vec::new());
                used = 0;
            }
            for (key, ty) in read {
                if there(&groups, &key) {
                    continue;
                }
                let bytes = loaded_bytes(level, key.1, &ty);
                let kind = key.1.kind(level, &ty).expect("matrices are read in panels");
                let shape = (ty.shape[0], ty.elements() / ty.shape[0].max(1));
                let (offset, bytes, form) = (used as usize, bytes as usize, key.1);
                let item = Item { name: key.0, ty, form, kind, shape, offset, bytes };
                groups.last_mut().expect("there is a group now").push(item);
                used += bytes as u64;
            }
            steps.push(Some(groups.len() - 1));
        }
        Self { groups, steps }
    }

    /// The matrix that a step reads in a form: its place in the group of the step.
    pub(in crate::cpu) fn find(
        &self,
        step: usize,
        plan: &Plan,
        buffer: BufferId,
        form: Form,
    ) -> Option<usize> {
        let group = &self.groups[(*self.steps.get(step)?)?];
        let buffer = plan.buffer(buffer);
        let Root::Weight(index) = buffer.root else { return None };
        let name = plan.weights[index as usize].name.clone();
        let key = (name, form, shape(form, &buffer.ty));
        group.iter().position(|item| item.is(&key))
    }
}

impl Item {
    fn is(&self, (name, form, of): &Key) -> bool {
        self.name == *name && self.form == *form && shape(self.form, &self.ty) == *of
    }
}
