//! A file of cases: how it is read, run, judged and written again with what is left now.
//!
//! The format is described in `main.rs`. Reading is strict: a directive or switch that there is not
//! is an error, so that none is ignored for its spelling.

use anyid_ir::Module;
use anyid_ir::text::parse_module;
use anyid_passes::driver::{Selection, drive, unobserved};
use anyid_passes::pipeline::Phase;
use anyid_passes::{
    CompileError, CompileRequest, Gradient, Keeping, LoraTarget, Options, StateSpec,
};

/// A file.
pub struct File {
    /// The pass it is about.
    pub pass: String,
    head: String,
    /// Its cases.
    pub cases: Vec<Case>,
}

/// One case.
pub struct Case {
    /// What it shows.
    pub name: String,
    /// Where it begins.
    pub line: usize,
    /// Everything up to the expected text, as it stands in the file.
    body: String,
    source: String,
    /// Its module.
    pub module: Module,
    flags: Flags,
    dims: Vec<(String, i64)>,
    rewrites: Option<u64>,
    checks: Vec<Check>,
    expect: Option<String>,
    /// Why what is left is not run, if it is not.
    pub not_run: Option<String>,
    /// How it is refused.
    pub error: Option<Refusal>,
}

#[derive(Clone, Debug, Default)]
struct Flags {
    passes: Vec<String>,
    to: Option<String>,
    vary: Vec<String>,
    branches: Vec<String>,
    lora: Vec<LoraTarget>,
    lift: Vec<String>,
    grad: Option<String>,
    wrt: Vec<String>,
    remat: Keeping,
    without: Vec<String>,
    stop_after: Option<u64>,
    explain: bool,
    primitives: bool,
    joint_parts: bool,
    axes: Option<usize>,
    states: Vec<(String, String, String)>,
}

enum Check {
    Line(String),
    Next(String),
    Not(String),
    Count(usize, String),
}

/// A code and words.
pub struct Refusal {
    code: String,
    words: String,
}

impl Refusal {
    pub fn matches(&self, error: &CompileError) -> Result<(), String> {
        let help = error.help.as_deref().unwrap_or_default();
        let said = format!("{error}; {help}");
        let right = error.code == self.code && said.contains(&self.words);
        if right { Ok(()) } else { Err(format!("not {} {}: {said}", self.code, self.words)) }
    }
}

/// What the passes of a case left.
pub struct Run {
    /// The text, without the line of a module that the source has not.
    pub text: String,
    rewrites: u64,
}

impl File {
    /// Reads a file about `pass`.
    pub fn parse(pass: &str, text: &str) -> Result<Self, String> {
        let mut file = Self { pass: pass.to_owned(), head: String::new(), cases: Vec::new() };
        let mut blocks: Vec<(usize, &str, Vec<&str>)> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            match (line.strip_prefix("== "), blocks.last_mut()) {
                (Some(name), _) => blocks.push((at + 1, name, Vec::new())),
                (None, Some((.., lines))) => lines.push(line),
                (None, None) if line.starts_with('#') || line.is_empty() => {
                    file.head.push_str(line);
                    file.head.push('\n');
                }
                (None, None) => return Err(format!("line {}: no case has begun", at + 1)),
            }
        }
        let mut faults = Vec::new();
        for (line, name, lines) in blocks {
            match Case::parse(line, name, &lines) {
                Ok(case) => file.cases.push(case),
                Err(why) => faults.push(format!("line {line}: {name}: {why}")),
            }
        }
        if faults.is_empty() { Ok(file) } else { Err(faults.join("\n")) }
    }

    /// Expected texts become what is left now; a case that expects nothing begins to.
    pub fn bless(&mut self) {
        for case in &mut self.cases {
            if (case.expect.is_some() || !case.expects())
                && let Ok(run) = case.run(&self.pass, None)
            {
                case.expect = Some(run.text);
            }
        }
    }

    /// The file as text.
    pub fn text(&self) -> String {
        let mut out = self.head.clone();
        for (at, case) in self.cases.iter().enumerate() {
            let gap = if at > 0 { "\n" } else { "" };
            out.push_str(&format!("{gap}== {}\n{}\n", case.name, case.body.trim_end()));
            if let Some(expect) = &case.expect {
                out.push_str(&format!("// expect\n{}\n", expect.trim_end()));
            }
        }
        out
    }
}

fn flags(words: &str) -> Result<Flags, String> {
    let mut flags = Flags::default();
    let mut words = words.split_whitespace();
    while let Some(flag) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{flag} needs a value"));
        let list = |value: &str| value.split(',').map(str::to_owned).collect();
        match flag {
            "--passes" => flags.passes = list(value()?),
            "--to" => flags.to = Some(value()?.to_owned()),
            "--vary" => flags.vary = list(value()?),
            "--branches" => flags.branches = list(value()?),
            "--lora" => {
                for wish in list(value()?) {
                    let fault = || "--lora needs PATTERN=RANK:ALPHA".to_owned();
                    let (pattern, rest) = wish.split_once('=').ok_or_else(fault)?;
                    let (rank, alpha) = rest.split_once(':').ok_or_else(fault)?;
                    let (rank, alpha) = (rank.parse(), alpha.parse());
                    let (rank, alpha) = rank.ok().zip(alpha.ok()).ok_or_else(fault)?;
                    flags.lora.push(LoraTarget { pattern: pattern.to_owned(), rank, alpha });
                }
            }
            "--lift" => flags.lift = list(value()?),
            "--grad" => flags.grad = Some(value()?.to_owned()),
            "--wrt" => flags.wrt = list(value()?),
            "--remat" => {
                flags.remat = value()?.parse::<Keeping>().map_err(|error| error.message)?
            }
            "--without" => flags.without = list(value()?),
            "--stop-after" => {
                let number = value()?.parse().map_err(|_| "--stop-after needs a number")?;
                flags.stop_after = Some(number);
            }
            "--explain" => flags.explain = true,
            "--primitives" => flags.primitives = true,
            "--joint-parts" => flags.joint_parts = true,
            "--axes" => {
                flags.axes = Some(value()?.parse().map_err(|_| "--axes needs a number")?);
            }
            "--state" => {
                let fault = || "--state needs NAME=INPUT>OUTPUT".to_owned();
                let (name, rest) = value()?.split_once('=').ok_or_else(fault)?;
                let (input, output) = rest.split_once('>').ok_or_else(fault)?;
                flags.states.push((name.into(), input.into(), output.into()));
            }
            _ => return Err(format!("there is no switch {flag}")),
        }
    }
    match flags.passes.is_empty() == flags.to.is_none() {
        true => Err("give --passes or --to".to_owned()),
        false => Ok(flags),
    }
}

impl Case {
    fn parse(line: usize, name: &str, lines: &[&str]) -> Result<Self, String> {
        let end = lines.iter().position(|line| *line == "// expect");
        let (above, below) = lines.split_at(end.unwrap_or(lines.len()));
        let mut case = Self {
            name: name.to_owned(),
            line,
            body: above.join("\n"),
            source: String::new(),
            module: Module::default(),
            flags: Flags::default(),
            dims: Vec::new(),
            rewrites: None,
            checks: Vec::new(),
            expect: end.map(|_| below[1..].join("\n").trim_end().to_owned()),
            not_run: None,
            error: None,
        };
        let mut run = None;
        for line in above {
            let Some(directive) = line.strip_prefix("// ") else {
                case.source.push_str(line);
                case.source.push('\n');
                continue;
            };
            let (key, rest) = directive.split_once(':').unwrap_or((directive, ""));
            let rest = rest.trim();
            let number = |text: &str| text.parse().map_err(|_| format!("{text} is no number"));
            match key {
                "run" => run = Some(flags(rest)?),
                "dims" => {
                    for pair in rest.split(", ") {
                        let (name, value) = pair.split_once('=').ok_or("dims are NAME=N")?;
                        let value = value.parse().map_err(|_| "a dim is a number")?;
                        case.dims.push((name.to_owned(), value));
                    }
                }
                "rewrites" => case.rewrites = Some(number(rest)?),
                "not-run" if !rest.is_empty() => case.not_run = Some(rest.to_owned()),
                "check" => case.checks.push(Check::Line(rest.to_owned())),
                "check-next" => case.checks.push(Check::Next(rest.to_owned())),
                "check-not" => case.checks.push(Check::Not(rest.to_owned())),
                "check-count" => {
                    let (count, text) = rest.split_once(' ').ok_or("give a count and a text")?;
                    case.checks.push(Check::Count(number(count)? as usize, text.to_owned()));
                }
                "error" => {
                    let (code, words) = rest.split_once(' ').unwrap_or((rest, ""));
                    case.error = Some(Refusal { code: code.to_owned(), words: words.to_owned() });
                }
                _ => return Err(format!("there is no directive {key}")),
            }
        }
        case.flags = run.ok_or("it has no // run:")?;
        let dims: Vec<(&str, i64)> = case.dims.iter().map(|(n, v)| (n.as_str(), *v)).collect();
        let head = if case.is_whole() { "" } else { "module @m\n" };
        case.module = parse_module(&format!("{head}{}", case.source), &dims).map_err(|found| {
            found.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        })?;
        Ok(case)
    }

    /// Whether its source has the line of a module.
    fn is_whole(&self) -> bool {
        self.source.trim_start().starts_with("module ")
    }

    /// Whether it expects anything.
    pub fn expects(&self) -> bool {
        self.expect.is_some() || !self.checks.is_empty() || self.error.is_some()
    }

    /// The inputs that change per step, if it is split.
    pub fn varying(&self) -> Option<Vec<&str>> {
        let names: Vec<&str> = self.flags.vary.iter().map(String::as_str).collect();
        (!names.is_empty()).then_some(names)
    }

    /// Whether each of two branches has, or may carry, an input for itself.
    pub fn is_doubled(&self, name: &str) -> bool {
        let carried = self.flags.states.iter().any(|(_, input, _)| input == name);
        self.flags.branches.iter().any(|own| own == name) || carried
    }

    /// Whether values are carried from one run to the next.
    pub fn has_states(&self) -> bool {
        !self.flags.states.is_empty()
    }

    /// How to compile, with one more pass left out.
    pub fn options(&self, without: Option<&str>) -> Options {
        let mut options = Options {
            without: self.flags.without.clone(),
            stop_after: self.flags.stop_after,
            verify_each: true,
            explain: self.flags.explain,
            target: anyid_tests::devices::target(),
            ..Options::default()
        };
        options.without.extend(without.map(str::to_owned));
        if self.flags.primitives {
            (options.target.products, options.target.rows) = (&[], &[]);
        }
        options.target.joint_parts |= self.flags.joint_parts;
        options.target.axes = self.flags.axes.unwrap_or(options.target.axes);
        options
    }

    /// What its head asks for.
    pub fn request(&self, without: Option<&str>) -> CompileRequest<'_> {
        let func = self.module.main().expect("there is a function");
        let request = CompileRequest::new(&self.module, &func.name)
            .carrying(self.states())
            .branches(self.flags.branches.clone())
            .with_lora(self.flags.lora.clone())
            .lifting(self.flags.lift.clone())
            .with(&self.options(without));
        let request = match self.varying() {
            Some(names) => request.varying(names),
            None => request,
        };
        match &self.flags.grad {
            Some(of) => {
                let (of, wrt) = (of.clone(), self.flags.wrt.clone());
                let wish = Gradient { of, wrt };
                request.with_gradient(wish).keeping(self.flags.remat)
            }
            None => request,
        }
    }

    fn states(&self) -> Vec<StateSpec> {
        let mut states = Vec::new();
        let func = self.module.main().expect("there is a function");
        let inputs: Vec<&str> = func.param_types().map(|(name, _)| name).collect();
        let outputs = func.result_names();
        for (name, input, output) in &self.flags.states {
            // Names that there are not lead to positions that there are not.
            let output = outputs.iter().position(|other| other == output);
            let input = (!input.is_empty())
                .then(|| inputs.iter().position(|other| other == input).unwrap_or(99));
            let spec = StateSpec { name: name.clone(), input, output: output.unwrap_or(99) };
            states.push(spec);
        }
        states
    }

    /// Which passes run.
    pub fn selection(&self) -> Selection {
        match &self.flags.to {
            Some(name) => Selection::To(Phase::find(name).expect("a phase")),
            None => Selection::Named(self.flags.passes.clone()),
        }
    }

    /// Runs its passes, with one more left out.
    pub fn run(&self, pass: &str, without: Option<&str>) -> Result<Run, CompileError> {
        let out = drive(&self.request(without), &self.selection(), &mut unobserved)?;
        let own = out.records.iter().filter(|record| record.pass == pass);
        let rewrites = own.map(|record| record.rewrites).sum();
        let mut text = out.state.text();
        if !self.is_whole() {
            text = text.strip_prefix("module @m\n").unwrap_or(&text).trim_start().to_owned();
        }
        for cut in &out.state.unfused {
            text.push_str(&format!("{} -> {}: {}\n", cut.producer, cut.consumer, cut.reason));
        }
        Ok(Run { text, rewrites })
    }

    /// Whether what is left is what is expected.
    pub fn judge(&self, run: &Run) -> Result<(), String> {
        if let Some(want) = self.rewrites.filter(|want| *want != run.rewrites) {
            return Err(format!("{} rewrites, not {want}", run.rewrites));
        }
        if let Some(expect) = &self.expect
            && expect.trim_end() != run.text.trim_end()
        {
            let differ = expect.lines().zip(run.text.lines()).find(|(a, b)| a != b);
            let (want, given) = differ.unwrap_or(("the one is longer", ""));
            return Err(format!("expected\n  {want}\nnot\n  {given}\nin"));
        }
        let lines: Vec<&str> = run.text.lines().collect();
        let mut at = 0;
        for check in &self.checks {
            match check {
                Check::Line(text) => {
                    let found = lines[at..].iter().position(|line| line.contains(text));
                    at += 1 + found.ok_or_else(|| format!("no line from {at} has `{text}` in"))?;
                }
                Check::Next(text) => {
                    if !lines.get(at).is_some_and(|line| line.contains(text)) {
                        return Err(format!("line {at} has no `{text}` in"));
                    }
                    at += 1;
                }
                Check::Not(text) => {
                    if lines.iter().any(|line| line.contains(text)) {
                        return Err(format!("a line has `{text}` in"));
                    }
                }
                Check::Count(want, text) => {
                    let count = lines.iter().filter(|line| line.contains(text)).count();
                    if count != *want {
                        return Err(format!("{count} lines, not {want}, have `{text}` in"));
                    }
                }
            }
        }
        Ok(())
    }
}
