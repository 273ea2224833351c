//! Every promise broken, one at a time, in the text of plans that keep them all.

use super::super::phases::verify_phases;
use crate::plan_text::{parse_plans, print_plans};

/// Plans with their kernels over rows written out: a line such as `k0 neg 4` stands for the kernel
/// `neg` of four elements, `k0 add both` for one of two operands.
fn written(text: &str) -> String {
    let line = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [number, op, rows] = words[..] else { return format!("{line}\n") };
        let (count, second) = match rows {
            "both" => ("4", "    in a1: f32[4]\n"),
            rows if number.starts_with('k') => (rows, ""),
            _ => return format!("{line}\n"),
        };
        let given = format!("    in a0: f32[{count}]\n{second}    out y0: f32[{count}]\n");
        let body = match second {
            "" => format!("    v1 = {op}(v0)\n    y0[i] = v1\n"),
            _ => format!("    v1 = a1[i*1 + j]\n    v2 = {op}(v0, v1)\n    y0[i] = v2\n"),
        };
        let head = format!("  kernel {number} \"{op}\" rows i in {count}, cols j in 1 {{\n");
        format!("{head}{given}    v0 = a0[i*1 + j]\n{body}  }}\n")
    };
    text.lines().map(line).collect()
}

/// `prepare` and `step`: a kept value, a view of it, weights, results over operands.
const SPLIT: &str = "\
plan \"prepare\" {
  memory alignment=64 workspace=64 lower_bound=64 naive=64 persistent=128
  weight 0 \"w\" : f32[4]
  buffer %0 = input 0 + 0 : f32[4]
  buffer %1 = weight 0 + 0 : f32[4]
  input \"c\" = %0
  kept \"f/b\" = %3
  kept \"f/i\" = %4
  k0 add both
  k1 exp 4
  %2 = k0 %0, %1 : workspace + 0 f32[4] \"f/a\"
  %3 = k1 %2 : persistent + 0 f32[4] \"f/b\"
  %4 = iota {axis=0} : persistent + 64 i32[4] \"f/i\"
}

plan \"step\" {
  memory alignment=64 workspace=128 lower_bound=128 naive=192 persistent=128
  buffer %0 = input 0 + 0 : f32[4]
  buffer %1 = persistent + 0 : f32[4]
  buffer %2 = persistent + 8 : f32[2]
  buffer %3 = persistent + 64 : i32[4]
  input \"x\" = %0
  output \"y\" = %7
  output \"z\" = %5
  k0 mul both
  k1 neg 2
  kernel k2 \"add+silu\" rows i in 1, cols j in 4 {
    in a0: f32[4]
    in a1: f32[4]
    out y0: f32[4]
    v0 = a0[i*4 + j]
    v1 = a1[i*4 + j]
    v2 = add(v0, v1)
    v3 = silu(v2)
    y0[i,j] = v3
  }
  %4 = k0 %0, %1 : workspace + 0 f32[4] \"f/m\"
  %5 = k1 %2 : workspace + 64 f32[2] \"f/z\"
  %6 = k2 %4, %0 : workspace + 0 f32[4] \"f/k\"
  %7 = gather %6, %3 : output 0 + 0 f32[4] \"f/y\"
}
";

/// Two phases that share a state.
const STATES: &str = "\
plan \"first\" {
  memory alignment=64 workspace=64 lower_bound=64 naive=64 persistent=0
  buffer %0 = input 0 + 0 : f32[4]
  input \"x\" = %0
  output \"y\" = %1
  state \"s\" : f32[4] = -> %2
  k0 silu 4
  k1 neg 4
  %1 = k0 %0 : workspace + 0 f32[4] \"f/y\"
  %2 = k1 %0 : state 0 + 0 f32[4] \"f/s\"
}

plan \"next\" {
  memory alignment=64 workspace=64 lower_bound=64 naive=64 persistent=0
  buffer %0 = input 0 + 0 : f32[4]
  buffer %1 = state 0 + 0 : f32[4]
  input \"x\" = %0
  output \"y\" = %2
  state \"s\" : f32[4] = %1 -> %3
  k0 add both
  k1 exp 4
  %2 = k0 %0, %1 : workspace + 0 f32[4] \"f/y\"
  %3 = k1 %0 : state 0 + 0 f32[4] \"f/s\"
}
";

/// What is found after `changes` in `text`, each of which must apply.
fn found(text: &str, changes: &[(&str, &str)]) -> Vec<String> {
    let mut text = written(text);
    for (from, to) in changes {
        assert!(text.contains(from), "{from}\n{text}");
        text = text.replacen(from, to, 1);
    }
    let plans = parse_plans(&text).unwrap_or_else(|e| panic!("{e:?}\n{text}"));
    verify_phases(&plans).into_iter().map(|finding| finding.message).collect()
}

#[test]
fn the_plans_are_sound_as_they_are() {
    for text in [SPLIT, STATES] {
        assert_eq!(found(text, &[]), Vec::<String>::new());
        let text = written(text);
        let plans = parse_plans(&text).unwrap();
        assert_eq!(print_plans(&plans), text);
    }
}

fn refused(text: &str, cases: &[(&[(&str, &str)], &str)]) {
    for (changes, words) in cases {
        let found = found(text, changes);
        let named = found.iter().any(|message| message.contains(words));
        assert!(named, "{changes:?}: wanted {words:?}, found {found:?}");
    }
}

#[test]
fn kept_values_are_what_prepare_returns_and_what_step_reads() {
    refused(
        SPLIT,
        &[
            // An output that nobody takes.
            (&[("kept \"f/b\"", "output \"f/b\"")], "prepare keeps its results"),
            (&[("kept \"f/b\" = %3", "kept \"f/b\" = %2")], "kept and not"),
            (
                &[
                    ("  output \"z\" = %5\n", "  output \"z\" = %5\n  kept \"f/k\" = %1\n"),
                    ("workspace + 64 f32[2]", "persistent + 0 f32[2]"),
                ],
                "where it was not written",
            ),
            (
                &[("  output \"z\" = %5\n", "  output \"z\" = %5\n  kept \"f/k\" = %1\n")],
                "where it was not written",
            ),
            (&[("kept \"f/b\" = %3\n", "")], "is not part of a f32[4]"),
            (
                &[("  kept \"f/b\" = %3\n", ""), ("  kept \"f/i\" = %4\n", "")],
                "is kept, but no value",
            ),
            (&[("buffer %2 = persistent + 8", "buffer %2 = persistent + 12")], "is not part of"),
            (
                &[("  input \"x\"", "  buffer %8 = persistent + 64 : f32[4]\n  input \"x\"")],
                "not part of a f32[4]",
            ),
            (
                &[("  input \"x\"", "  buffer %8 = persistent + 0 : f32[20]\n  input \"x\"")],
                "not part of a f32[20]",
            ),
            (&[("workspace + 64 f32[2]", "persistent + 0 f32[2]")], "is kept, but no value"),
            (&[("naive=192 persistent=128", "naive=192 persistent=64")], "pass its memory"),
            (&[("naive=192 persistent=128", "naive=192 persistent=192")], "disagree about"),
            (&[("persistent + 64 i32[4]", "persistent + 128 i32[4]")], "pass its memory"),
            // The second kept value over a part of the first.
            (&[("persistent + 64 i32[4]", "persistent + 0 i32[4]")], "where it was not written"),
            // Another name for the phases: nobody makes the memory.
            (&[("plan \"step\"", "plan \"stop\"")], "without a prepare and a step"),
            (&[("plan \"step\"", "plan \"prepare\"")], "there are two phases"),
            (
                &[
                    ("input \"c\" = %0", "input \"x\" = %0"),
                    ("f32[4]\n  buffer %1 = weight", "f32[1]\n  buffer %1 = weight"),
                    ("    in a0: f32[4]\n", "    in a0: f32[1]\n"),
                    ("v0 = a0[i*1 + j]", "v0 = a0[0*1 + j]"),
                ],
                "is both f32[1] and f32[4]",
            ),
        ],
    );
}

/// What lies in one memory is placed by one rule.
#[test]
fn phases_have_one_alignment() {
    let memory = |first: &str, bytes: u64| {
        format!(
            "{first} {{\n  memory alignment={bytes} workspace={bytes} lower_bound={bytes} naive={bytes} "
        )
    };
    let [first, next] = ["plan \"first\"", "plan \"next\""].map(|name| memory(name, 64));
    let [other, wider] = ["plan \"first\"", "plan \"next\""].map(|name| memory(name, 256));
    let change = (next.as_str(), wider.as_str());
    assert_eq!(found(STATES, &[change]), ["its alignment is not that of the first phase"]);
    assert_eq!(found(STATES, &[change, (&first, &other)]), Vec::<String>::new());
}

/// Values kept by what runs many times.
#[test]
fn step_keeps_nothing() {
    let (prepare, _) = SPLIT.split_once("\nplan \"step\"").unwrap();
    let step = "
plan \"step\" {
  memory alignment=64 workspace=0 lower_bound=0 naive=0 persistent=128
  buffer %0 = input 0 + 0 : f32[4]
  input \"x\" = %0
  kept \"f/y\" = %1
  k0 neg 4
  %1 = k0 %0 : persistent + 0 f32[4] \"f/y\"
}
";
    let both = format!("{prepare}{step}");
    assert_eq!(found(&both, &[]), ["step keeps values, which only prepare does"]);
}

#[test]
fn places_and_types_are_checked_whether_used_or_not() {
    refused(
        SPLIT,
        &[
            (&[("input 0 + 0 : f32[4]", "input 1 + 0 : f32[4]")], "its memory does not exist"),
            (&[("%1 = weight 0 + 0", "%1 = weight 1 + 0")], "its memory does not exist"),
            (&[("%1 = weight 0 + 0 : f32[4]", "%1 = weight 0 + 0 : f32[2]")], "is not all of"),
            (&[("%1 = weight 0 + 0 : f32[4]", "%1 = weight 0 + 0 : i32[4]")], "is not all of"),
            (&[("buffer %2 = persistent + 8", "buffer %2 = persistent + 6")], "not aligned to f32"),
            (&[("workspace + 64 f32[2]", "workspace + 32 f32[2]")], "aligned to 64 bytes"),
            (&[("workspace + 64 f32[2]", "workspace + 128 f32[2]")], "pass its memory"),
            (&[("workspace + 64 f32[2]", "input 0 + 0 f32[2]")], "overwrites an input"),
            (&[("output 0 + 0 f32[4]", "output 1 + 0 f32[4]")], "not in memory of its own"),
            (&[("output 0 + 0 f32[4]", "output 9 + 0 f32[4]")], "its memory does not exist"),
            (&[("output 0 + 0 f32[4]", "state 0 + 0 f32[4]")], "its memory does not exist"),
            (&[("output \"z\" = %5", "output \"z\" = %7")], "in memory that is not its own"),
            (&[("output \"z\" = %5", "output \"y\" = %5")], "it is there twice"),
            (&[("output \"z\" = %5", "output \"y\" branch 2 = %5")], "there is no branch 2"),
            (&[("input \"x\" = %0", "input \"x\" = %1")], "is not the whole of input 0"),
            (
                &[("buffer %2 = persistent + 8 : f32[2]", "buffer %2 = persistent + 8 : f32[0]")],
                "has no elements",
            ),
            (&[("weight 0 \"w\" : f32[4]", "weight 0 \"w\" : f32[0,4]")], "has no elements"),
            // A buffer that nobody reads, outside its memory or of another type.
            (
                &[(
                    "  input \"x\" = %0\n",
                    "  buffer %8 = persistent + 126 : u8[3]\n  input \"x\" = %0\n",
                )],
                "pass its memory",
            ),
            (
                &[(
                    "  input \"x\" = %0\n",
                    "  buffer %8 = input 0 + 0 : u8[16]\n  input \"x\" = %0\n",
                )],
                "is not part of the input f32[4]",
            ),
        ],
    );
}

#[test]
fn results_share_bytes_only_where_a_kernel_allows_it() {
    refused(
        SPLIT,
        &[
            (
                &[("%6 = k2 %4, %0 : workspace + 0", "%6 = k2 %0, %4 : workspace + 64")],
                "was not written",
            ),
            (&[("%5 = k1 %2 : workspace + 64", "%5 = k1 %2 : workspace + 0")], "was not written"),
            (
                &[("%7 = gather %6, %3 : output 0 + 0", "%7 = gather %6, %3 : workspace + 0")],
                "shares bytes",
            ),
            // Only an operand that every row reads for itself may be written over.
            (&[("v0 = a0[i*4 + j]", "v0 = a0[i*0 + j]")], "shares bytes"),
            (&[("v0 = a0[i*4 + j]", "v0 = a0[i*4 + 0]")], "shares bytes"),
            // Read as elements of another type.
            (
                &[
                    (
                        "  input \"x\" = %0\n",
                        "  buffer %8 = workspace + 0 : i32[4]\n  input \"x\" = %0\n",
                    ),
                    ("gather %6, %3", "gather %6, %8"),
                ],
                "is read where %6 of another type was written",
            ),
        ],
    );
}

#[test]
fn kernels_are_launched_with_their_types() {
    refused(
        SPLIT,
        &[
            (&[("%5 = k1 %2", "%5 = k1 %0")], "it is for f32[2]"),
            (&[("k2 %4, %0", "k2 %4")], "it is for f32[4], f32[4]"),
            (&[("k2 %4, %0", "k2 %4, %2")], "it is for f32[4], f32[4]"),
            (
                &[("rows i in 1, cols j in 4", "rows i in 2, cols j in 4")],
                "has no rows of the kernel",
            ),
            (&[("v1 = a1[i*4 + j]", "v1 = a1[1 + i*4 + j]")], "the load ends at 5 of 4"),
            (&[("gather %6, %3", "gather %6, %1")], "operand 1 of gather is f32"),
            (&[("workspace=128 lower", "workspace=192 lower")], "workspace is 192 bytes"),
            (&[("lower_bound=128", "lower_bound=64")], "should be 128 and 192"),
        ],
    );
}

#[test]
fn phases_agree_on_states() {
    const NEG: &str = "    in a0: f32[2]\n    out y0: f32[2]\n    v0 = a0[i*1 + j]\n    v1 = neg";
    refused(
        STATES,
        &[
            (
                &[
                    ("state \"s\" : f32[4] = ->", "state \"s\" : f32[2] = ->"),
                    ("k1 %0 : state 0 + 0 f32[4]", "k1 %3 : state 0 + 0 f32[2]"),
                    ("\"neg\" rows i in 4", "\"neg\" rows i in 2"),
                    (
                        "    in a0: f32[4]\n    out y0: f32[4]\n    v0 = a0[i*1 + j]\n    v1 = neg",
                        NEG,
                    ),
                    ("  input \"x\"", "  buffer %3 = input 0 + 0 : f32[2]\n  input \"x\""),
                ],
                "state \"s\" is both f32[2] and f32[4]",
            ),
            (&[("state \"s\" : f32[4] = ->", "state \"s\" : f32[5] = ->")], "not the whole of it"),
            (&[("%2 = k1 %0 : state 0 + 0", "%2 = k1 %0 : workspace + 64")], "not the whole of it"),
            (&[("= %1 -> %3", "= -> %3")], "where it was not written"),
            (
                &[("plan \"first\"", "plan \"prepare\""), ("plan \"next\"", "plan \"step\"")],
                "of prepare, which runs once",
            ),
        ],
    );
}
