//! The one counter of all rewrites.
//!
//! Every change a pass makes to what it was given is one rewrite: it asks [`Rewrites::allow`] first
//! and leaves things as they are on `false`. A limit therefore stops the compiler after any rewrite,
//! with a result that still computes what the source says; `bisect` searches over it. What brings
//! a program to the next level (inlining, decomposition, lowering, assembling) is not counted. Every
//! rewrite is kept, so that what became of a value can be read afterwards.

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
    /// Label of the value that it was joined with, where two became one.
    pub with: Option<String>,
}

/// A sharing of memory that was not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Label of the value.
    pub label: String,
    /// Name of the value over which it could not be written.
    pub with: String,
    /// Why.
    pub reason: &'static str,
}

/// Counts rewrites and stops them at a limit.
#[derive(Clone, Debug)]
pub struct Rewrites {
    pass: &'static str,
    enabled: bool,
    done: u64,
    limit: u64,
    /// Those made, by the driver's counter alone.
    made: Option<Vec<Rewrite>>,
    /// What was not made, where that was asked for.
    refused: Option<Vec<Refusal>>,
}

impl Rewrites {
    /// A counter that allows `limit` rewrites, or any number.
    pub fn new(limit: Option<u64>) -> Self {
        let limit = limit.unwrap_or(u64::MAX);
        Self { pass: "", enabled: true, done: 0, limit, made: Some(Vec::new()), refused: None }
    }

    /// A counter without a limit that keeps nothing, for passes run by themselves.
    pub fn unlimited() -> Self {
        Self { made: None, ..Self::new(None) }
    }

    /// The counter with what is refused kept as well.
    #[must_use]
    pub fn explaining(self, explain: bool) -> Self {
        Self { refused: explain.then(Vec::new), ..self }
    }

    /// Whether anybody wants to know what is refused.
    pub fn explains(&self) -> bool {
        self.refused.is_some()
    }

    /// Says that value `label` does not share memory with `with`, and why.
    pub fn refuse(&mut self, label: &str, with: String, reason: &'static str) {
        if let Some(refused) = &mut self.refused {
            refused.push(Refusal { label: label.to_owned(), with, reason });
        }
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
        self.made(rule, label, None)
    }

    /// [`Self::allow`], where the value is joined with another, `with`.
    pub fn allow_joining(&mut self, rule: &'static str, label: &str, with: &str) -> bool {
        self.made(rule, label, Some(with))
    }

    fn made(&mut self, rule: &'static str, label: &str, with: Option<&str>) -> bool {
        if !self.enabled || self.done >= self.limit {
            return false;
        }
        self.done += 1;
        let (number, pass) = (self.done, self.pass);
        if let Some(made) = &mut self.made {
            let (label, with) = (label.to_owned(), with.map(str::to_owned));
            made.push(Rewrite { number, pass, rule, label, with });
        }
        true
    }

    /// Rewrites made so far.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// The rewrites made, in order, and what was refused where that was asked for.
    pub fn into_record(self) -> (Vec<Rewrite>, Vec<Refusal>) {
        (self.made.unwrap_or_default(), self.refused.unwrap_or_default())
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
        let (made, _) = rewrites.into_record();
        let told: Vec<_> = made.iter().map(|r| (r.number, r.pass, r.label.as_str())).collect();
        assert_eq!(told, [(1, "fold", "a"), (2, "dce", "c")]);
    }
}
