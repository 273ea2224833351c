//! Programs of any size in IR text, each large in another way: shared by the tests and the
//! benchmark of how compile time grows.

use std::fmt::Write as _;

/// Kinds of programs.
pub const KINDS: [&str; 28] = [
    "fan",
    "chain",
    "residual",
    "first",
    "outputs",
    "same outputs",
    "passed through",
    "inputs",
    "concat",
    "concats",
    "slices",
    "dims",
    "dim chain",
    "index parameters",
    "weights",
    "weight template",
    "linears",
    "linear branches",
    "functions",
    "calls",
    "repeat",
    "collect",
    "repeats",
    "pads",
    "equal",
    "tree",
    "norms",
    "reductions",
];

/// The text of a program of about `n` statements, values, names or iterations of `kind`.
pub fn program(kind: &str, n: usize) -> String {
    let mut out = String::from("module @m\n");
    let line = &mut |text: String| out.push_str(&(text + "\n"));
    let all = |item: &dyn Fn(usize) -> String| (0..n).map(item).collect::<Vec<_>>().join(", ");
    let one = "func @f(%x: f32[4]) -> f32[4] {".to_owned();
    // `%s0` is there; the others are summed to it.
    let sum = |line: &mut dyn FnMut(String), count: usize, term: &str| {
        (1..count).for_each(|i| line(format!("  %s{i} = add %s{}, %{term}{i}", i - 1)));
        line(format!("  return %s{}\n}}", count - 1));
    };
    match kind {
        "fan" | "equal" => {
            line(one);
            for i in 0..n {
                line(match kind {
                    "fan" => format!("  %v{i} = mul %x, {}.0", i + 2),
                    _ => format!("  %v{i} = exp %x"),
                });
            }
            line("  %s0 = neg %v0".into());
            sum(line, n, "v");
        }
        "chain" | "residual" | "first" => {
            line(one);
            line("  %v0 = neg %x\n  %v1 = exp %v0".into());
            for i in 2..n {
                line(match kind {
                    "chain" => format!("  %v{i} = tanh %v{}", i - 1),
                    "residual" => format!("  %v{i} = add %v{}, %v{}", i - 1, i - 2),
                    _ => format!("  %v{i} = add %v{}, %v0", i - 1),
                });
            }
            line(format!("  return %v{}\n}}", n - 1));
        }
        "outputs" => {
            line(format!("func @f(%x: f32[4]) -> {} {{", all(&|_| "f32[4]".into())));
            (0..n).for_each(|i| line(format!("  %v{i} = mul %x, {}.0", i + 2)));
            line(format!("  return {}\n}}", all(&|i| format!("%v{i}"))));
        }
        "same outputs" => {
            line(format!("func @f(%x: f32[4]) -> {} {{", all(&|_| "f32[4]".into())));
            line(format!("  %y = neg %x\n  return {}\n}}", all(&|_| "%y".into())));
        }
        "passed through" | "inputs" => {
            let through = kind == "passed through";
            let given = all(&|i| format!("%x{i}: f32[4]"));
            let results = if through { all(&|_| "f32[4]".into()) } else { "f32[4]".into() };
            line(format!("func @f({given}) -> {results} {{"));
            if through {
                line(format!("  return {}\n}}", all(&|i| format!("%x{i}"))));
            } else {
                line("  %s0 = neg %x0".into());
                sum(line, n, "x");
            }
        }
        "concat" => {
            line(format!("func @f(%x: f32[4,16]) -> f32[{},16] {{", 4 * n));
            (0..n).for_each(|i| line(format!("  %v{i} = mul %x, {}.0", i + 2)));
            line(format!("  %c = concat {} {{axis=0}}", all(&|i| format!("%v{i}"))));
            line("  return %c\n}".into());
        }
        "concats" => {
            line(one);
            line("  %s0 = neg %x".into());
            for i in 1..n / 2 {
                line(format!("  %c{i} = concat %s{}, %x {{axis=0}}", i - 1));
                line(format!("  %s{i} = slice %c{i} {{axis=0, start=2, len=4}}"));
            }
            line(format!("  return %s{}\n}}", n / 2 - 1));
        }
        "slices" => {
            line(format!("func @f(%x: f32[{n},16]) -> f32[1,16] {{"));
            (0..n).for_each(|i| line(format!("  %v{i} = slice %x {{axis=0, start={i}, len=1}}")));
            line("  %s0 = neg %v0".into());
            sum(line, n, "v");
        }
        "dims" | "dim chain" => {
            line("dim D0 = 4".into());
            for i in 1..n {
                line(match kind {
                    "dims" => format!("dim D{i} = 1 + {}", i % 9),
                    _ => format!("dim D{i} = D{}", i - 1),
                });
            }
            line("func @f(%x: f32[D0]) -> f32[D0] {\n  return %x\n}".into());
        }
        "index parameters" => {
            let names = all(&|i| format!("l{i}"));
            let body = "(%x: f32[4]) -> f32[4] {\n  %y = neg %x\n  return %y\n}";
            line(format!("func @g<{names}>{body}"));
            let call = format!("  %y = call @g<{names}>(%x)\n  return %y\n}}");
            line(format!("func @h<{names}>(%x: f32[4]) -> f32[4] {{\n{call}"));
            line(one);
            line(format!("  %y = call @h<{}>(%x)\n  return %y\n}}", all(&|i| i.to_string())));
        }
        "weights" | "linears" => {
            let (ty, x) = match kind {
                "weights" => ("f32[4]", "f32[4]"),
                _ => ("f32[8,8]", "f32[4,8]"),
            };
            line("weights @w {".into());
            (0..n).for_each(|i| line(format!("  \"w{i}\" : {ty}")));
            line(format!("}}\nfunc @f(%x: {x}) -> {x} {{\n  %s0 = neg %x"));
            for i in 1..n {
                line(match kind {
                    "weights" => format!("  %s{i} = add %s{}, $w{i}", i - 1),
                    _ => format!("  %s{i} = linear %s{}, $w{i} : {x}", i - 1),
                });
            }
            line(format!("  return %s{}\n}}", n - 1));
        }
        "weight template" => {
            line(format!("weights @w {{\n  \"b.{{l:0..{n}}}.w\" : f32[4]\n}}"));
            line(one);
            line(format!("  %y = repeat l in 0..{n} carry(%c = %x) {{"));
            line("    %z = add %c, $\"b.{l}.w\"\n    yield %z\n  }\n  return %y\n}".into());
        }
        "linear branches" => {
            line("weights @w {\n  \"w\" : f32[8,8]\n}".into());
            line("func @f(%x: f32[4,8]) -> f32[4,8] {".into());
            for i in 0..n / 2 {
                line(format!("  %a{i} = mul %x, {}.0", i + 2));
                line(format!("  %v{i} = linear %a{i}, $w : f32[4,8]"));
            }
            line("  %s0 = neg %v0".into());
            sum(line, n / 2, "v");
        }
        "functions" | "calls" => {
            let count = if kind == "calls" { 1 } else { n };
            let body = "(%x: f32[4]) -> f32[4] {\n  %y = exp %x\n  return %y\n}";
            (0..count).for_each(|i| line(format!("func @g{i}{body}")));
            line(one);
            line("  %s0 = neg %x".into());
            (1..n).for_each(|i| line(format!("  %s{i} = call @g{}(%s{})", i % count, i - 1)));
            line(format!("  return %s{}\n}}", n - 1));
        }
        "repeat" => {
            line(one);
            line(format!("  %y = repeat l in 0..{n} carry(%c = %x) {{"));
            line("    %z = exp %c\n    yield %z\n  }\n  return %y\n}".into());
        }
        "collect" => {
            line(format!("func @f(%x: f32[4], %k: f32[{n},4]) -> f32[{n},4] {{"));
            line(format!("  %y, %a = repeat l in 0..{n} carry(%c = %x) each(%e = %k) {{"));
            line("    %z = exp %c\n    %q = add %z, %e\n    yield %q, %z\n  }".into());
            line("  return %a\n}".into());
        }
        "repeats" => {
            line(one);
            line("  %s0 = neg %x".into());
            for i in 1..n {
                line(format!("  %s{i} = repeat l{i} in 0..1 carry(%c{i} = %s{}) {{", i - 1));
                line(format!("    %z{i} = exp %c{i}\n    yield %z{i}\n  }}"));
            }
            line(format!("  return %s{}\n}}", n - 1));
        }
        "pads" => {
            line(one);
            line("  %s0 = neg %x".into());
            for i in 1..n / 2 {
                line(format!("  %p{i} = pad %s{} {{axis=0, lo=1, hi=0}}", i - 1));
                line(format!("  %s{i} = slice %p{i} {{axis=0, start=0, len=4}}"));
            }
            line(format!("  return %s{}\n}}", n / 2 - 1));
        }
        "tree" => {
            line("func @f(%x: f32[4,64]) -> f32[4,64] {".into());
            let count = (n / 2).next_power_of_two();
            (0..count).for_each(|i| line(format!("  %t{} = mul %x, {}.0", count + i, i + 2)));
            for i in (1..count).rev() {
                line(format!("  %t{i} = max %t{}, %t{}", 2 * i, 2 * i + 1));
            }
            line("  return %t1\n}".into());
        }
        "norms" => {
            line("weights @w {\n  \"w\" : f32[8,8]\n  \"g\" : f32[8]\n}".into());
            line("func @f(%x: f32[4,8]) -> f32[4,8] {\n  %s0 = neg %x".into());
            for i in 1..n / 4 {
                let last = i - 1;
                line(format!("  %n{i} = rms_norm %s{last}, $g {{eps=1e-6}}"));
                line(format!("  %l{i} = linear %n{i}, $w : f32[4,8]\n  %a{i} = silu %l{i}"));
                line(format!("  %s{i} = add %s{last}, %a{i}"));
            }
            line(format!("  return %s{}\n}}", n / 4 - 1));
        }
        "reductions" => {
            line("func @f(%x: f32[4,16]) -> f32[4] {".into());
            for i in 0..n / 2 {
                line(format!("  %v{i} = mul %x, {}.0", i + 2));
                line(format!("  %r{i} = reduce_sum %v{i} {{axes=[1]}}"));
            }
            line("  %s0 = neg %r0".into());
            sum(line, n / 2, "r");
        }
        _ => unreachable!("there is no program of {kind}"),
    }
    let _ = writeln!(out, "// {kind}, {n}");
    out
}
