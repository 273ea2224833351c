//! Which part of many items is this process's: said by a flag, or in the variables of whoever started
//! it (`data.md` §9). The program itself starts nothing.
//!
//! An item belongs to a part by its name alone, so that parts agree without talking to each other, and
//! an item stays where it is when others are added.

use crate::error::{Error, Result};
use std::fmt;
use xxhash_rust::xxh64::xxh64;

/// Part `index` of `count`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 0.
    pub index: usize,
    /// How many there are.
    pub count: usize,
}

/// Most parts.
const MOST: usize = 100_000;

/// Variables of launchers that say part and number of parts, in the order in which they are asked.
const PAIRS: [[&str; 2]; 3] = [
    ["SLURM_PROCID", "SLURM_NTASKS"],
    ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"],
    ["PMI_RANK", "PMI_SIZE"],
];

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl Shard {
    /// All of the work.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Whether the item of this name is of this part: xxh64(name) mod count.
    pub fn has(self, name: &str) -> bool {
        xxh64(name.as_bytes(), 0) % self.count as u64 == self.index as u64
    }

    /// What its files are called.
    pub fn name(self) -> String {
        format!("part-{:05}-of-{:05}", self.index, self.count)
    }

    fn checked(index: usize, count: usize, source: &str) -> Result<Self> {
        if count == 0 || count > MOST || index >= count {
            return Err(Error::input("E1307", format!("there is no part {index} of {count}"))
                .at(source)
                .help(format!("parts are counted from 0, and there are 1 to {MOST} of them")));
        }
        Ok(Self { index, count })
    }

    /// The part that `given` names, as in `3/16`; else the one that a launcher says in its variables,
    /// the first complete pair of them; else all. Gives also who said it, unless nobody did. `shards`
    /// is the number of parts for launchers that do not say it.
    ///
    /// # Errors
    /// E1307 where there is no such part.
    pub fn find(
        given: Option<&str>,
        shards: Option<usize>,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(Self, Option<&'static str>)> {
        if let Some(text) = given {
            let parts = text.split_once('/');
            let parts =
                parts.and_then(|(k, n)| Some((k.trim().parse().ok()?, n.trim().parse().ok()?)));
            let Some((index, count)) = parts else {
                return Err(Error::input("E1307", format!("\"{text}\" is not a part"))
                    .at("--shard")
                    .help("write part and number of parts, such as 0/16 for the first of 16"));
            };
            return Ok((Self::checked(index, count, "--shard")?, Some("--shard")));
        }
        let number = |name: &str| -> Result<Option<usize>> {
            let Some(text) = variable(name).filter(|text| !text.is_empty()) else {
                return Ok(None);
            };
            text.trim().parse().map(Some).map_err(|_| {
                Error::input("E1307", format!("\"{text}\" is not a number"))
                    .at(name)
                    .help("say the part with --shard K/N, or unset the variable")
            })
        };
        let (task, tasks) = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT");
        if let Some((id, count)) = number(task)?.zip(number(tasks)?) {
            let first = number("SLURM_ARRAY_TASK_MIN")?.unwrap_or(0);
            let step = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
            let index = id.saturating_sub(first) / step;
            return Ok((Self::checked(index, count, task)?, Some(task)));
        }
        for [rank, size] in PAIRS {
            if let Some((index, count)) = number(rank)?.zip(number(size)?) {
                return Ok((Self::checked(index, count, rank)?, Some(rank)));
            }
        }
        let completion = "JOB_COMPLETION_INDEX";
        if let Some((index, count)) = number(completion)?.zip(shards) {
            return Ok((Self::checked(index, count, completion)?, Some(completion)));
        }
        if let Some((index, count)) = number("RANK")?.zip(number("WORLD_SIZE")?) {
            return Ok((Self::checked(index, count, "RANK")?, Some("RANK")));
        }
        Ok((Self::WHOLE, None))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Variables<'v> = &'v [(&'v str, &'v str)];

    fn find(
        given: Option<&str>,
        shards: Option<usize>,
        set: &[(&str, &str)],
    ) -> Result<(Shard, Option<&'static str>)> {
        let variable =
            |name: &str| set.iter().find(|(known, _)| *known == name).map(|(_, v)| (*v).to_owned());
        Shard::find(given, shards, &variable)
    }

    #[test]
    fn the_part_is_that_of_the_flag_or_of_the_launcher() {
        let array = [
            ("SLURM_ARRAY_TASK_ID", "14"),
            ("SLURM_ARRAY_TASK_MIN", "10"),
            ("SLURM_ARRAY_TASK_STEP", "2"),
            ("SLURM_ARRAY_TASK_COUNT", "4"),
            ("SLURM_PROCID", "0"),
            ("SLURM_NTASKS", "1"),
        ];
        let mpi = [("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "3")];
        let cases: [(Option<&str>, Variables<'_>, &str, Option<&str>); 9] = [
            (Some("3/16"), &array, "3/16", Some("--shard")),
            (None, &array, "2/4", Some("SLURM_ARRAY_TASK_ID")),
            (None, &array[4..], "0/1", Some("SLURM_PROCID")),
            (None, &mpi, "1/3", Some("OMPI_COMM_WORLD_RANK")),
            (None, &[("PMI_RANK", "1"), ("PMI_SIZE", "2")], "1/2", Some("PMI_RANK")),
            (None, &[("JOB_COMPLETION_INDEX", "4")], "4/5", Some("JOB_COMPLETION_INDEX")),
            (None, &[("RANK", "6"), ("WORLD_SIZE", "8")], "6/8", Some("RANK")),
            // A pair that is not complete says nothing.
            (None, &[("RANK", "6"), ("PMI_SIZE", "2")], "0/1", None),
            (None, &[("RANK", ""), ("WORLD_SIZE", "2")], "0/1", None),
        ];
        for (given, set, part, source) in cases {
            let (shard, who) = find(given, Some(5), set).unwrap();
            assert_eq!((shard.to_string().as_str(), who), (part, source));
        }
        let faulty: [(Option<&str>, Variables<'_>); 6] = [
            (Some("3"), &[]),
            (Some("3/3"), &[]),
            (Some("0/0"), &[]),
            (Some("0/100001"), &[]),
            (None, &[("RANK", "x"), ("WORLD_SIZE", "8")]),
            (None, &[("RANK", "8"), ("WORLD_SIZE", "8")]),
        ];
        for (given, set) in faulty {
            assert_eq!(find(given, None, set).unwrap_err().code(), "E1307");
        }
    }

    #[test]
    fn every_item_is_of_exactly_one_part() {
        for count in [1, 3, 7] {
            let shards: Vec<Shard> = (0..count).map(|index| Shard { index, count }).collect();
            for item in 0..300 {
                let name = format!("a/{item}.mp4");
                assert_eq!(shards.iter().filter(|shard| shard.has(&name)).count(), 1);
            }
        }
    }
}
