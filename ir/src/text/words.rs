//! What to write for ops by names that other systems use and this language does not have.
//!
//! An entry gives statements that compute the same, with `%x`, `%a`, `%b`, `%w` and so on for the
//! operands; a test parses every one of them. The last statement is the result.

/// Names without `_`, in small letters, and the statements to write instead.
const WORDS: &str = "\
relu rectifier: max %x, 0
relu6 hardtanh clamp clip: %l = max %x, 0; min %l, 6
leakyrelu: %n = mul %x, 0.01; max %x, %n
sigmoid logistic: %n = neg %x; %e = exp %n; %d = add %e, 1; recip %d
swish siluop: silu %x
gelutanh gelunew gelufast gelupytorchtanh: gelu %x {approx=tanh}
geluerf geluexact gelunone: gelu %x {approx=erf}
erfc: %e = erf %x; sub 1, %e
softplus: %e = exp %x; %d = add %e, 1; log %d
softmax: %m = reduce_max %x {axes=[1], keep=true}; %d = sub %x, %m; %e = exp %d; \
    %s = reduce_sum %e {axes=[1], keep=true}; div %e, %s
logsoftmax: %m = reduce_max %x {axes=[1], keep=true}; %d = sub %x, %m; %e = exp %d; \
    %s = reduce_sum %e {axes=[1], keep=true}; %l = log %s; sub %d, %l
matmul mm bmm batchmatmul product einsum tensordot dotproduct: %t = permute %y {perm=[1,0]}; \
    dot %x, %t
dense fc addmm gemm fullyconnected innerproduct: linear %x, %w, %bias
conv2d convolution conv2dop convnd: conv %clip, %kernel {pad=[0,0,1,1,1,1]}
conv3d: conv %clip, %kernel3 {pad=[2,0,1,1,1,1]}
layernorm layernormalization: layer_norm %x {eps=1e-6}
rmsnorm rmsnormalization: rms_norm %x, %g {eps=1e-6}
groupnorm instancenorm groupnormalization: %r = reshape %x : f32[4,2,4]; \
    %n = layer_norm %r {eps=1e-6}; reshape %n : f32[4,8]
batchnorm batchnorm1d batchnorm2d batchnormalization: %s = mul %x, %scale; add %s, %shift
scaleddotproductattention sdpa flashattention multiheadattention mha: \
    attention %q, %k, %v {heads=2, scale=0.5}
rotaryembedding rotary applyrotary: rope %x, %table {heads=2}
embedding take indexselect lookup embeddinglookup gathernd: gather %rows, %i
concatenate cat hstack vstack join: concat %a, %b {axis=0}
stack: %p = reshape %a : f32[1,4,8]; %q = reshape %b : f32[1,4,8]; concat %p, %q {axis=0}
view flatten squeeze unsqueeze expanddims ravel: reshape %x : f32[32]
transpose t swapaxes movedim moveaxis rearrange: permute %x {perm=[1,0]}
expand broadcastto expandas: %r = reshape %x : f32[1,4,8]; broadcast %r : f32[3,4,8]
tile repeatinterleave interpolate resize upsamplenearest: upsample %x {factors=[1,2]}
split chunk narrow strip getitem: slice %x {axis=1, start=0, len=4}
zeropad constantpad padding: pad %x {axis=0, lo=1, hi=1}
sum reducesum total: reduce_sum %x {axes=[1]}
mean average avg reducemean avgpool globalaveragepool: reduce_mean %x {axes=[1]}
amax reducemax maxpool globalmaxpool: reduce_max %x {axes=[1]}
amin reducemin: %n = neg %x; %m = reduce_max %n {axes=[1]}; neg %m
var variance: %m = reduce_mean %x {axes=[1], keep=true}; %d = sub %x, %m; %q = mul %d, %d; \
    reduce_mean %q {axes=[1]}
square: mul %x, %x
pow power: %l = log %x; %m = mul %l, 2.5; exp %m
ln loge: log %x
log2: %l = log %x; mul %l, 1.442695
log10: %l = log %x; mul %l, 0.4342945
exp2: %m = mul %x, 0.6931472; exp %m
expm1: %e = exp %x; sub %e, 1
log1p: %s = add %x, 1; log %s
tan: %s = sin %x; %o = cos %x; div %s, %o
ceil: %n = neg %x; %f = floor %n; neg %f
round: %h = add %x, 0.5; floor %h
mod remainder fmod: %d = div %a, %b; %f = floor %d; %p = mul %f, %b; sub %a, %p
plus addition accumulate: add %a, %b
minus subtract: sub %a, %b
multiply times scale hadamard: mul %a, %b
divide truediv: div %a, %b
maximum fmax: max %a, %b
minimum fmin: min %a, %b
negative negate minusone: neg %x
absolute fabs: abs %x
reciprocal inverse inv: recip %x
where cond ifelse ternary: select %c, %a, %b
maskedfill: select %c, -inf, %x
equal equals: eq %a, %b
less lessthan: lt %a, %b
lessequal leq lte: le %a, %b
greater greaterthan: gt %a, %b
greaterequal geq gte: ge %a, %b
ne neq notequal: %e = eq %a, %b; select %e, 0, 1 : bool[4,8]
not logicalnot invert: select %c, 0, 1 : bool[4,8]
and logicaland: min %c, %c2
or logicalor: max %c, %c2
to astype convert type float half: cast %x : bf16[4,8]
constant full fill literal: const {value=1} : f32[4,8]
zeros zeroslike: const {value=0} : f32[4,8]
ones oneslike: const {value=1} : f32[4,8]
arange range linspace: iota {axis=0} : f32[8]
pixelshuffle depthtospace unfold: unpatchify %x {patch=[1,2,2], grid=[1,2,2]}";

/// Names of what the language leaves out on purpose, and what to do about it.
const NONE: &str = "\
dropout identity detach contiguous clone copy noop: \
    leave it out: it computes nothing here, use its operand
argmax argmin topk sort argsort cumsum nonzero unique scatter: \
    the language has nothing like it; compute it outside and give the result as an input
random rand randn normal uniform noise bernoulli: \
    programs have no random numbers; give them as an input
for while loop scan: write a loop as `repeat i in 0..3 carry(%x = %x0) { … }`
if: there are no branches; compute both and write `select %c, %a, %b`
param parameter input placeholder: inputs are the parameters of the function
output: results are what the function returns: `return %x`";

/// The lines of a table: names, and what is to be said about them.
fn lines(table: &str) -> impl Iterator<Item = (impl Iterator<Item = &str> + Clone, &str)> {
    let lines = table.lines().filter_map(|line| line.split_once(": "));
    lines.map(|(names, text)| (names.split(' '), text))
}

/// What to write for the op `name` of other systems, if it is known.
pub(super) fn instead(name: &str) -> Option<String> {
    let plain: String = name.chars().filter(|c| *c != '_').flat_map(char::to_lowercase).collect();
    let find = |table| {
        let found = lines(table).find(|(names, _)| names.clone().any(|name| name == plain));
        found.map(|(_, text)| text)
    };
    let written = |text: &str| format!("write `{}`", text.replace("; ", "`, then `"));
    find(NONE).map(str::to_owned).or_else(|| find(WORDS).map(written))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::{ops, parse_module};
    use std::collections::HashSet;

    #[test]
    fn every_suggestion_can_be_written() {
        for (mut names, lines) in lines(WORDS) {
            let mut text = String::from(
                "module @m\nfunc @f(%x: f32[4,8], %a: f32[4,8], %b: f32[4,8], %y: f32[8,4], %w: f32[16,8], \
                 %bias: f32[16], %g: f32[8], %scale: f32[8], %shift: f32[8], %k: f32[4,8], \
                 %v: f32[4,8], %q0: f32[4,8], %rows: f32[9,8], %i: i32[4], %c: bool[4,8], \
                 %c2: bool[4,8], %table: f32[4,2,2], %clip: f32[1,4,4,8], \
                 %kernel: f32[16,8,3,3], %kernel3: f32[16,8,3,3,3]) -> f32[4,8] {\n",
            );
            let (before, last) = lines.rsplit_once("; ").unwrap_or(("", lines));
            text.push_str(&format!("  {}\n", before.replace("; ", "\n  ")));
            // The product needs operands that go together, the attention queries.
            let first = names.next().unwrap();
            let last = match first {
                "scaleddotproductattention" => last.replace("%q", "%q0"),
                _ => last.to_owned(),
            };
            text.push_str(&format!("  %result = {last}\n  return %x\n}}\n"));
            if let Err(errors) = parse_module(&text, &[]) {
                panic!("{first}: {errors:?}\n{text}");
            }
        }
    }

    #[test]
    fn names_are_known_once_and_are_no_ops() {
        let mut seen = HashSet::new();
        for name in lines(WORDS).chain(lines(NONE)).flat_map(|(names, _)| names) {
            assert!(seen.insert(name), "{name} stands twice");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()), "{name}");
            assert!(!ops::names().any(|op| op == name), "{name} is an op");
        }
    }

    #[test]
    fn spelling_does_not_matter() {
        assert_eq!(instead("relu").unwrap(), "write `max %x, 0`");
        assert_eq!(instead("ReLU"), instead("relu"));
        assert_eq!(instead("Batch_Norm"), instead("batchnorm"));
        assert!(instead("softmax").unwrap().contains("`, then `%e = exp %d`, then "));
        assert!(instead("dropout").unwrap().contains("leave it out"));
        assert_eq!(instead("frobnicate"), None);
    }
}
