//! Why two neighbouring steps are not one kernel.

use super::group::{GroupKind, Groups};
use crate::program::ValueIndex;
use anyid_ir::Op;

/// An edge between two kernels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnfusedEdge {
    /// Label of the step that makes the value.
    pub producer: String,
    /// Label of the step that reads it.
    pub consumer: String,
    /// Why they are not one kernel.
    pub reason: String,
}

/// Every edge that fusion left between kernels, in program order.
pub fn explain(groups: &Groups<'_>) -> Vec<UnfusedEdge> {
    let program = groups.program;
    let mut edges = Vec::new();
    for (at, step) in program.steps.iter().enumerate() {
        let Some(group) = groups.of[at] else { continue };
        let users =
            |value: ValueIndex| groups.users[value as usize].iter().map(move |u| (value, u));
        for (value, user) in step.results.iter().copied().flat_map(users) {
            let Some(other) = groups.of[*user].filter(|g| *g != group) else { continue };
            let reason = match (&groups.groups[group].kind, &groups.groups[other].kind) {
                (GroupKind::Single, GroupKind::Anchor(_))
                    if matches!(step.op, Op::Upsample { .. }) =>
                {
                    groups.load(at, groups.anchor(other)).map_or_else(
                        |why| format!("upsample is not read through: {why}"),
                        |_| "no more rewrites are allowed".into(),
                    )
                }
                (GroupKind::Single, _) => single(groups, at),
                (_, GroupKind::Single) => single(groups, *user),
                (_, GroupKind::Anchor(_)) => "anchors take no rows in front of them".into(),
                (GroupKind::Anchor(_), GroupKind::Row { .. }) => {
                    if groups.tail(group) != value {
                        "its kernel stores several results as they are".into()
                    } else {
                        let why = groups.epilogue(group, *user).err();
                        why.unwrap_or("its reader was taken by another kernel").to_owned()
                    }
                }
                (GroupKind::Row { .. }, GroupKind::Row { .. }) => match groups.joined(group, other)
                {
                    Err(why) => why,
                    Ok(_) => "another kernel lies between them".into(),
                },
            };
            let consumer = program.steps[*user].label().to_owned();
            let producer = program.name(value);
            edges.push(UnfusedEdge { producer, consumer, reason });
        }
    }
    edges
}

fn single(groups: &Groups<'_>, step: usize) -> String {
    let name = groups.program.steps[step].op.name();
    match &groups.classes.class[step] {
        super::classify::Class::Single => format!("{name} stays alone: it moves or makes data"),
        _ => format!("{name} stays alone"),
    }
}
