//! `--state INPUT=RESULT`: which inputs and results of a function are one tensor that goes from
//! each run to the next.
//!
//! A star on both sides stands for the same text, so `s*=n*` names `s0=n0`, `s1=n1` and so on. A
//! function without the input begins the state and does not read it. The compiler checks that types
//! agree.

use anyid_ir::spelling::nearest;
use anyid_ir::{Func, Module};
use anyid_runtime::engine::StateSpec;
use anyid_runtime::{Error, Result};

/// The states of each of `funcs` that `wishes` ask for, in the order of the wishes and then of the
/// results.
///
/// # Errors
/// E0509 for a wish that is not a pair, for a result that a function does not have, and for an
/// input that none of them has.
pub fn specs(module: &Module, funcs: &[&Func], wishes: &[String]) -> Result<Vec<Vec<StateSpec>>> {
    let mut all: Vec<Vec<StateSpec>> = vec![Vec::new(); funcs.len()];
    for wish in wishes {
        let pair = Pair::read(wish)?;
        let mut read = false;
        for (func, specs) in funcs.iter().zip(&mut all) {
            let (own, reads) = pair.of(func)?;
            specs.extend(own);
            read |= reads;
        }
        if !read {
            let takes = |func: &&Func| pair.of(func).is_ok_and(|(_, reads)| reads);
            if let Some(other) = module.funcs.iter().find(takes) {
                let help = format!("@{} reads it: name it with --func as well", other.name);
                return Err(fault(wish, "no function that is compiled reads it").help(help));
            }
            let inputs = funcs.iter().flat_map(|func| func.param_types().map(|(name, _)| name));
            let help = help(&pair.input.text(), inputs, "inputs");
            return Err(fault(wish, "no function has the input").help(help));
        }
    }
    Ok(all)
}

fn fault(wish: &str, why: &str) -> Error {
    Error::input("E0509", format!("state {wish}: {why}")).at("--state")
}

fn help<'n>(wanted: &str, names: impl Iterator<Item = &'n str>, what: &str) -> String {
    let names: Vec<&str> = names.collect();
    match nearest(wanted, names.iter().copied()) {
        Some(meant) => format!("did you mean %{meant}?"),
        None if names.len() > 12 => format!("there are {} {what}", names.len()),
        None => format!("the {what} are %{}", names.join(", %")),
    }
}

/// A name, or the text before and after a star.
struct Pattern<'w> {
    before: &'w str,
    behind: Option<&'w str>,
}

impl<'w> Pattern<'w> {
    fn read(text: &'w str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix('%').unwrap_or(text);
        let (before, behind) = match text.split_once('*') {
            None => (text, None),
            Some((before, behind)) => (before, Some(behind)),
        };
        let one = !behind.is_some_and(|rest| rest.contains('*'));
        (one && !text.is_empty()).then_some(Self { before, behind })
    }

    /// What the star stands for in `name`; empty if there is no star.
    fn matches<'n>(&self, name: &'n str) -> Option<&'n str> {
        match self.behind {
            None => (name == self.before).then_some(""),
            Some(behind) => name.strip_prefix(self.before)?.strip_suffix(behind),
        }
    }

    fn with(&self, star: &str) -> String {
        match self.behind {
            None => self.before.to_owned(),
            Some(behind) => format!("{}{star}{behind}", self.before),
        }
    }

    fn text(&self) -> String {
        self.with("*")
    }
}

struct Pair<'w> {
    wish: &'w str,
    input: Pattern<'w>,
    result: Pattern<'w>,
}

impl<'w> Pair<'w> {
    fn read(wish: &'w str) -> Result<Self> {
        let read = || {
            let (input, result) = wish.split_once('=')?;
            let (input, result) = (Pattern::read(input)?, Pattern::read(result)?);
            (input.behind.is_some() == result.behind.is_some()).then_some(Self {
                wish,
                input,
                result,
            })
        };
        read().ok_or_else(|| {
            let help = "write INPUT=RESULT, such as s0=n0, or s*=n* for all of that kind";
            fault(wish, "it is not a pair of an input and a result").help(help)
        })
    }

    /// The states of one function, and whether it reads one of them.
    fn of(&self, func: &Func) -> Result<(Vec<StateSpec>, bool)> {
        let mut specs = Vec::new();
        let names = func.result_names();
        for (output, result) in names.iter().enumerate() {
            let Some(star) = self.result.matches(result) else { continue };
            let name = self.input.with(star);
            let input = func.param_types().position(|(own, _)| own == name);
            specs.push(StateSpec { name, input, output });
        }
        if specs.is_empty() {
            let why = format!("@{} has no such result", func.name);
            let help = help(&self.result.text(), names.iter().map(String::as_str), "results");
            return Err(fault(self.wish, &why).help(help));
        }
        let reads = specs.iter().any(|spec| spec.input.is_some());
        Ok((specs, reads))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyid_ir::text::parse_module;

    fn module() -> Module {
        let text = "module @m\n\
            func @first(%x: f32[2]) -> f32[2], f32[2], f32[2] {\n\
              %y = silu %x : f32[2]\n%n0 = exp %x : f32[2]\n%n10 = neg %x : f32[2]\n\
              return %y, %n0, %n10\n}\n\
            func @next(%x: f32[2], %s0: f32[2], %s10: f32[2]) -> f32[2], f32[2], f32[2] {\n\
              %y = add %x, %s0 : f32[2]\n%n0 = add %y, %s10 : f32[2]\n%n10 = neg %x : f32[2]\n\
              return %y, %n0, %n10\n}\n";
        parse_module(text, &[]).unwrap()
    }

    fn found(wishes: &[&str]) -> Result<Vec<Vec<StateSpec>>> {
        let module = module();
        let funcs = [&module.funcs[0], &module.funcs[1]];
        let wishes: Vec<String> = wishes.iter().map(|w| (*w).to_owned()).collect();
        specs(&module, &funcs, &wishes)
    }

    #[test]
    fn a_state_that_only_another_function_reads_names_that_function() {
        let module = module();
        let error = specs(&module, &[&module.funcs[0]], &["s*=n*".to_owned()]).unwrap_err();
        assert!(error.help_text().unwrap().contains("@next"), "{error}");
    }

    #[test]
    fn a_star_names_all_states_of_a_kind() {
        let state = |name: &str, input, output| StateSpec { name: name.to_owned(), input, output };
        let first = vec![state("s0", None, 1), state("s10", None, 2)];
        let next = vec![state("s0", Some(1), 1), state("s10", Some(2), 2)];
        assert_eq!(found(&["s*=n*"]).unwrap(), [first.clone(), next.clone()]);
        assert_eq!(found(&["%s0=%n0", " s10 = n10"]).unwrap(), [first, next]);
        assert_eq!(found(&[]).unwrap(), [vec![], vec![]]);
    }

    #[test]
    fn what_is_no_state_is_refused() {
        let wishes = ["s0", "s0=", "=n0", "s*=n0", "s0=n*", "s**=n**", "s0=m0", "t0=n0", "t*=n*"];
        for wish in wishes.into_iter().chain(["s*=m*", "", "*=", "s0=n1"]) {
            let error = found(&[wish]).unwrap_err();
            assert_eq!((error.code(), error.place()), ("E0509", Some("--state")), "{wish}");
            assert!(error.help_text().is_some(), "{wish}");
        }
    }
}
