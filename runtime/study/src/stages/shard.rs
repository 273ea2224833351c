//! Which part of the work is this process's: said by a flag, or by whoever started it
//! (`data.md` §9). The program itself starts nothing.

use anyid_files::{Error, Result};
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

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl Shard {
    /// All of the work.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Whether a file is of this part. That depends on its name alone.
    pub fn has(&self, media: &str) -> bool {
        xxh64(media.as_bytes(), 0) % self.count as u64 == self.index as u64
    }

    /// What its files are called.
    pub fn name(&self) -> String {
        format!("part-{:05}-of-{:05}", self.index, self.count)
    }

    fn checked(index: usize, count: usize, source: &str) -> Result<Self> {
        if count == 0 || count > MOST || index >= count {
            return Err(Error::input("E1203", format!("there is no part {index} of {count}"))
                .at(source)
                .help(format!("parts are counted from 0 and there are 1 to {MOST}")));
        }
        Ok(Self { index, count })
    }

    /// The part that `given` names, as in `3/16`; else the one that a launcher says in its variables,
    /// the first complete pair of them; else all. Gives also who said it. `shards` is the number of
    /// parts for launchers that do not say it.
    ///
    /// # Errors
    /// E1203 where it cannot be.
    pub fn find(
        given: Option<&str>,
        shards: Option<usize>,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(Self, String)> {
        if let Some(text) = given {
            let parts = text.split_once('/');
            let parts =
                parts.and_then(|(k, n)| Some((k.trim().parse().ok()?, n.trim().parse().ok()?)));
            let Some((index, count)) = parts else {
                return Err(Error::input("E1203", format!("\"{text}\" is not a part"))
                    .at("--shard")
                    .help("write part and number of parts, such as 0/16"));
            };
            return Ok((Self::checked(index, count, "--shard")?, "--shard".to_owned()));
        }
        let number = |name: &str| -> Result<Option<usize>> {
            let Some(text) = variable(name).filter(|text| !text.is_empty()) else {
                return Ok(None);
            };
            text.trim().parse().map(Some).map_err(|_| {
                Error::input("E1203", format!("\"{text}\" is not a number"))
                    .at(name)
                    .help("say the part with --shard K/N, or unset the variable")
            })
        };
        if let Some((id, count)) =
            number("SLURM_ARRAY_TASK_ID")?.zip(number("SLURM_ARRAY_TASK_COUNT")?)
        {
            let first = number("SLURM_ARRAY_TASK_MIN")?.unwrap_or(0);
            let step = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1).max(1);
            let index = id.saturating_sub(first) / step;
            return Ok((
                Self::checked(index, count, "SLURM_ARRAY_TASK_ID")?,
                "SLURM_ARRAY_TASK_ID".into(),
            ));
        }
        for [rank, size] in [
            ["SLURM_PROCID", "SLURM_NTASKS"],
            ["OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"],
            ["PMI_RANK", "PMI_SIZE"],
        ] {
            if let Some((index, count)) = number(rank)?.zip(number(size)?) {
                return Ok((Self::checked(index, count, rank)?, rank.to_owned()));
            }
        }
        if let Some((index, count)) = number("JOB_COMPLETION_INDEX")?.zip(shards) {
            let name = "JOB_COMPLETION_INDEX";
            return Ok((Self::checked(index, count, name)?, name.to_owned()));
        }
        if let Some((index, count)) = number("RANK")?.zip(number("WORLD_SIZE")?) {
            return Ok((Self::checked(index, count, "RANK")?, "RANK".to_owned()));
        }
        Ok((Self::WHOLE, "nothing".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(
        given: Option<&str>,
        shards: Option<usize>,
        set: &[(&str, &str)],
    ) -> Result<(Shard, String)> {
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
        let cases: [(Option<&str>, &[(&str, &str)], &str, &str); 8] = [
            (Some("3/16"), &array, "3/16", "--shard"),
            (None, &array, "2/4", "SLURM_ARRAY_TASK_ID"),
            (None, &array[4..], "0/1", "SLURM_PROCID"),
            (
                None,
                &[("OMPI_COMM_WORLD_RANK", "1"), ("OMPI_COMM_WORLD_SIZE", "3")],
                "1/3",
                "OMPI_COMM_WORLD_RANK",
            ),
            (None, &[("PMI_RANK", "1"), ("PMI_SIZE", "2")], "1/2", "PMI_RANK"),
            (None, &[("JOB_COMPLETION_INDEX", "4")], "4/5", "JOB_COMPLETION_INDEX"),
            (None, &[("RANK", "6"), ("WORLD_SIZE", "8")], "6/8", "RANK"),
            // A pair that is not complete says nothing.
            (None, &[("RANK", "6"), ("PMI_SIZE", "2")], "0/1", "nothing"),
        ];
        for (given, set, part, source) in cases {
            let (shard, who) = find(given, Some(5), set).unwrap();
            assert_eq!((shard.to_string().as_str(), who.as_str()), (part, source));
        }
        let faulty: [(Option<&str>, &[(&str, &str)]); 5] = [
            (Some("3"), &[]),
            (Some("3/3"), &[]),
            (Some("0/0"), &[]),
            (None, &[("RANK", "x"), ("WORLD_SIZE", "8")]),
            (None, &[("RANK", "8"), ("WORLD_SIZE", "8")]),
        ];
        for (given, set) in faulty {
            assert_eq!(find(given, None, set).unwrap_err().code(), "E1203");
        }
    }

    #[test]
    fn every_file_is_of_exactly_one_part() {
        for count in [1, 3, 7] {
            let shards = (0..count).map(|index| Shard { index, count });
            let shards: Vec<Shard> = shards.collect();
            for file in 0..300 {
                let name = format!("a/{file}.mp4");
                assert_eq!(shards.iter().filter(|shard| shard.has(&name)).count(), 1);
            }
        }
        // The reference value of xxHash for a text.
        assert_eq!(xxh64(b"abc", 0), 0x44bc_2cf5_ad77_0999);
    }
}
