//! The one counter of all rewrites.
//!
//! Every change a pass makes to what it was given is one rewrite: it asks [`Rewrites::allow`] first
//! and leaves things as they are on `false`. A limit therefore stops the compiler after any rewrite,
//! with a result that still computes what the source says; `bisect` searches over it. What brings
//! a program to the next level (inlining, decomposition, lowering, assembling) is not counted.

/// One rewrite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    /// Its number, from 1, over all passes.
    pub number: u64,
    /// The pass that made it.
    pub pass: &'static str,
    /// What was done, in a few words.
    pub rule: &'static str,
    /// Label of the value it was done to.
    pub label: String,
}

/// Counts rewrites and stops them at a limit.
#[derive(Clone, Debug)]
pub struct Rewrites {
    pass: &'static str,
    enabled: bool,
    done: u64,
    limit: u64,
    last: Option<Rewrite>,
}

impl Rewrites {
    /// A counter that allows `limit` rewrites, or any number.
    pub fn new(limit: Option<u64>) -> Self {
        let limit = limit.unwrap_or(u64::MAX);
        Self { pass: "", enabled: true, done: 0, limit, last: None }
    }

    /// A counter without a limit, for passes run by themselves.
    pub fn unlimited() -> Self {
        Self::new(None)
    }

    /// Says which pass the next rewrites belong to, and whether it may make any.
    pub fn begin(&mut self, pass: &'static str, enabled: bool) {
        (self.pass, self.enabled) = (pass, enabled);
    }

    /// Whether the pass that is running may make rewrites at all.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Whether one more rewrite may be made, which is then counted: `rule` applied to the value
    /// `label`.
    pub fn allow(&mut self, rule: &'static str, label: &str) -> bool {
        if !self.enabled || self.done >= self.limit {
            return false;
        }
        self.done += 1;
        if self.done == self.limit {
            let (number, pass) = (self.done, self.pass);
            self.last = Some(Rewrite { number, pass, rule, label: label.to_owned() });
        }
        true
    }

    /// Rewrites made so far.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// The rewrite that reached the limit.
    pub fn last(&self) -> Option<&Rewrite> {
        self.last.as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_kept_over_passes_and_names_its_rewrite() {
        let mut rewrites = Rewrites::new(Some(2));
        rewrites.begin("fold", true);
        assert!(rewrites.allow("constant", "a"));
        rewrites.begin("cse", false);
        assert!(!rewrites.allow("equal", "b"), "the pass is off");
        rewrites.begin("dce", true);
        assert!(rewrites.allow("unused", "c"));
        assert!(!rewrites.allow("unused", "d"));
        assert_eq!(rewrites.done(), 2);
        let last = rewrites.last().unwrap();
        assert_eq!((last.number, last.pass, last.label.as_str()), (2, "dce", "c"));
    }
}
