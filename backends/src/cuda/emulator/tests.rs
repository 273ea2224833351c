//! The emulated device: what it refuses, and that it finds faults. Faults are put into the source of
//! kernels one at a time; each has to be found, as an error or as a wrong number.

use super::library::Kernels;
use super::*;
use crate::cuda::toy;
use crate::device::Call;
use crate::{Registry, RunError, Settings, StoredWeight, WeightProvider};
use anyid_ir::{DType, Tensor, TensorType};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

/// Whether there is a compiler; says so where there is none.
fn has_compiler() -> bool {
    let found = Compiler::find(None).is_ok();
    if !found {
        println!("skipped: there is no C++ compiler");
    }
    found
}

/// A folder of a test, which it removes.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("anyid-emulator-{name}-{}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn setting(&self) -> Settings {
        Settings::default().with(CACHE, self.0.to_str().expect("a name in Unicode"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Weights of numbers that depend on their place alone.
struct Numbers(BTreeMap<String, Tensor>);

impl WeightProvider for Numbers {
    fn find(&self, name: &str) -> Option<StoredWeight> {
        let tensor = self.0.get(name)?;
        Some(StoredWeight { dtype: tensor.dtype(), bytes: tensor.bytes().len() as u64 })
    }

    fn read(&self, name: &str, from: u64, out: &mut [u8]) -> Result<(), Fault> {
        out.copy_from_slice(&self.0[name].bytes()[from as usize..][..out.len()]);
        Ok(())
    }
}

/// Numbers that depend on their place alone; whole ones are rows of a table of three.
fn numbers(ty: &TensorType, seed: usize) -> Tensor {
    let value = |at: usize| match ty.dtype {
        DType::I32 => ((at * 7 + seed) % 3) as f64,
        // Without a period, so that no tile is like the one before.
        _ => f64::from(((at + seed * 977) as u32).wrapping_mul(0x9e37_79b1) >> 20) / 2048.0 - 1.0,
    };
    let values: Vec<f64> = (0..ty.elements()).map(value).collect();
    Tensor::from_f64s(ty.clone(), &values).expect("one value an element")
}

/// The outputs of a plan on these inputs, through the contract.
fn outputs(
    device: &Arc<Emulated>,
    plan: &Plan,
    inputs: &[Tensor],
) -> Result<Vec<Tensor>, Box<Fault>> {
    let device: Arc<Emulated> = device.clone();
    let weights = plan.weights.iter().map(|weight| (weight.name.clone(), numbers(&weight.ty, 5)));
    let weights = Arc::new(Numbers(weights.collect()));
    let loaded = device.load(&[plan], weights, &mut |_, _| true).expect("its weights are there");
    let mut runner = loaded.prepare(vec![plan.clone()]).map_err(|error| match error {
        LoadError::Failed(fault) => fault,
        other => panic!("{other}"),
    })?;
    let mut made: Vec<Tensor> = plan
        .outputs
        .iter()
        .map(|port| Tensor::zeros(plan.buffer(port.buffer).ty.clone()))
        .collect();
    let given: Vec<&[u8]> = inputs.iter().map(Tensor::bytes).collect();
    let mut taken: Vec<&mut [u8]> = made.iter_mut().map(Tensor::bytes_mut).collect();
    let done = runner.run(0, Call { inputs: &given, outputs: &mut taken, ..Call::default() });
    done.map(|()| made).map_err(|error| match error {
        RunError::Failed { fault, .. } => fault,
        other => panic!("{other}"),
    })
}

/// A device whose sources have `to` in place of `from`.
fn device(
    folder: &Folder,
    architecture: Architecture,
    change: Option<(&'static str, &'static str)>,
) -> Arc<Emulated> {
    let compiler = Compiler::find(None).unwrap_or_else(|error| panic!("{error}"));
    let mut kernels = Kernels::new(compiler, folder.0.to_str()).unwrap();
    if let Some((from, to)) = change {
        kernels.change(move |source| {
            assert!(source.contains(from), "no kernel has {from:?}");
            source.replace(from, to)
        });
    }
    let about = About {
        name: format!("cuda-emulated:{}", architecture.name()),
        words: String::new(),
        instructions: architecture.name().to_owned(),
        capacity: None,
        target: target(architecture),
        warnings: Vec::new(),
    };
    Arc::new(Emulated { about, architecture, orders: Order::ALL.to_vec(), kernels })
}

/// A kernel with its types.
struct Toy {
    kernel: &'static str,
    operands: &'static [&'static str],
    results: &'static [&'static str],
}

impl Toy {
    fn plan(&self) -> Plan {
        toy::plan(self.kernel, self.operands, self.results)
    }
}

/// Sizes are no multiples of tiles, and sums have several steps.
const HALVES: Toy = Toy {
    kernel: "anchor linear {
    y0 = linear(a0, a1)
  }",
    operands: &["bf16[70,104]", "bf16[40,104]"],
    results: &["f32[70,40]"],
};
const NUMBERS: Toy = Toy {
    kernel: "anchor linear {
    y0 = linear(a0, a1)
  }",
    operands: &["f32[66,39]", "f32[65,39]"],
    results: &["f32[66,65]"],
};
const BLOCK: Toy = Toy {
    kernel: "rows i in 3, cols j in 2052 {
    in a0: f32[3,2052]
    out y0: f32[3,2052]
    v0 = a0[i*2052 + j]
    v1 = sum_j(v0)
    v2 = add(v0, v1)
    y0[i,j] = v2
  }",
    operands: &["f32[3,2052]"],
    results: &["f32[3,2052]"],
};
const LANES: Toy = Toy {
    kernel: "rows i in 5, cols j in 40 {
    in a0: f32[5,40]
    in a1: f32[3,40]
    in a2: i32[5]
    out y0: f32[5,40]
    v0 = a0[i*40 + j]
    v1 = sum_j(v0)
    v2 = add(v0, v1)
    v3 = a1[a2[i]*40 + j]
    v4 = mul(v2, v3)
    y0[i,j] = v4
  }",
    operands: &["f32[5,40]", "f32[3,40]", "i32[5]"],
    results: &["f32[5,40]"],
};
const ATTENTION: Toy = Toy {
    kernel: "anchor attention {heads=2, scale=0.25, lse=true} {
    y0, y1 = attention(a0, a1, a2)
  }",
    operands: &["f32[21,80]", "f32[35,80]", "f32[35,80]"],
    results: &["f32[21,80]", "f32[2,21]"],
};
const CONV: Toy = Toy {
    kernel: "anchor conv {stride=[1,1,1], pad=[0,0,1,1,1,1]} {
    y0 = conv(a0, a1)
  }",
    operands: &["f32[2,5,4,3]", "f32[6,3,1,3,3]"],
    results: &["f32[2,5,4,6]"],
};
const HALF_ATTENTION: Toy = Toy {
    kernel: "anchor attention {heads=2, scale=0.25, lse=true} {
    y0, y1 = attention(a0, a1, a2)
  }",
    operands: &["bf16[70,64]", "bf16[150,64]", "bf16[150,64]"],
    results: &["f32[70,64]", "f32[2,70]"],
};
const HALF_CONV: Toy = Toy {
    kernel: "anchor conv {stride=[1,1,1], pad=[2,0,1,1,1,1]} {
    y0 = conv(a0[t,h/2,w/2,c], a1)
  }",
    operands: &["bf16[2,3,3,16]", "weight bf16[24,16,3,3,3]"],
    results: &["f32[2,6,6,24]"],
};
const BACK: Toy = Toy {
    kernel: "anchor attention_vjp {heads=2, scale=0.25, bias=true} {
    y0, y1, y2, y3 = attention_vjp(a0, a1, a2, a3, a4, a5, a6)
  }",
    operands: &[
        "f32[21,80]",
        "f32[35,80]",
        "f32[35,80]",
        "f32[21,80]",
        "f32[2,21]",
        "f32[21,80]",
        "f32[2,55]",
    ],
    results: &["f32[21,80]", "f32[35,80]", "f32[35,80]", "f32[2,55]"],
};
/// Fewer rows than a template has, and columns and sums that end inside of a block's.
const FEW: Toy = Toy {
    kernel: "anchor linear {
    y0 = linear(a0, a1)
  }",
    operands: &["bf16[3,328]", "bf16[21,328]"],
    results: &["f32[3,21]"],
};
const COPY: Toy = Toy {
    kernel: "copy 4 lines {
    zeros: 16
    a0 from 0: 4 by 48, 48 by 1
  }",
    operands: &["bf16[4,48]"],
    results: &["bf16[4,64]"],
};

/// Several tiles for a block, and more steps than stages.
const GROUPS: Toy = Toy {
    kernel: "anchor linear {
    y0 = linear(a0, a1)
  }",
    operands: &["bf16[300,264]", "bf16[72,264]"],
    results: &["f32[300,72]"],
};

/// A tile that is not full, and more blocks of keys than stages.
const GROUP_ATTENTION: Toy = Toy {
    kernel: "anchor attention {heads=1, scale=0.25, lse=true} {
    y0, y1 = attention(a0, a1, a2)
  }",
    operands: &["bf16[70,128]", "bf16[400,128]", "bf16[400,128]"],
    results: &["f32[70,128]", "f32[1,70]"],
};

/// Faults in attention by warp groups, all of them in `GROUP_ATTENTION`.
const GROUP_ATTENTION_FAULTS: &[(&str, &str, &str)] = &[
    ("no wait for queries", "barrier_wait(arrived, 0);", ""),
    ("queries that arrive too often", "barrier_init(arrived, 1);", "barrier_init(arrived, 2);"),
    ("no wait for the first keys", "wait_for(0);", ""),
    ("no wait for keys", "wait_for(keys_turn);", ""),
    ("no wait for values", "wait_for(values_turn);", ""),
    ("no wait for the last values", "wait_for(2 * blocks - 1);", ""),
    (
        "no wait for an empty stage",
        "barrier_wait(empty + stage, unsigned(turn / STAGES + 1) % 2);",
        "",
    ),
    (
        "a wait for the other phase",
        "unsigned(turn / STAGES) % 2",
        "unsigned(turn / STAGES + 1) % 2",
    ),
    (
        "too few bytes of keys and values",
        "barrier_expect(full + stage, TILE);",
        "barrier_expect(full + stage, PART);",
    ),
    ("keys of another head", "k, column + part * 64", "k, column + part * 32"),
    ("scores that are not waited for", "group_wait<1>(scores);", ""),
    (
        "weights that change while they are multiplied",
        "group_wait<0>(sums);\n    barrier_arrive(empty + values_turn",
        "barrier_arrive(empty + values_turn",
    ),
    ("keys that are never given back", "barrier_arrive(empty + keys_turn % STAGES);", ""),
    (
        "values that are given back twice",
        "barrier_arrive(empty + values_turn % STAGES);",
        "barrier_arrive(empty + values_turn % STAGES);\n    barrier_arrive(empty + values_turn % STAGES);",
    ),
    ("a wrong step between rows of values", "128 * step", "64 * step"),
    (
        "a wrong step between columns of values",
        "turned_tile_of(from, PART)",
        "turned_tile_of(from, PART / 2)",
    ),
    ("queries of the other group", "group * 64 * 128", "group * 32 * 128"),
    ("weights in the wrong order", "scores[step * 8 + at * 2]", "scores[step * 8 + (at ^ 1) * 2]"),
    ("sums that are not scaled again", "sums[at] *= factors[at / 2 % 2];", ""),
    (
        "sums that are scaled as another row",
        "sums[at] *= factors[at / 2 % 2];",
        "sums[at] *= factors[at % 2];",
    ),
    ("keys beyond the last take part", "i < queries && j < keys ?", "i < queries ?"),
    (
        "a sum of weights of too few lanes",
        "sum_of_lanes<4>(total[half])",
        "sum_of_lanes<2>(total[half])",
    ),
    ("a largest score of too few lanes", "largest_of_lanes<4>(most) * factor", "most * factor"),
];

/// Faults in products of warp groups, all of them in `GROUPS`.
const GROUP_FAULTS: &[(&str, &str, &str)] = &[
    ("no wait for an empty stage", "barrier_wait(empty + stage, parity ^ 1);", ""),
    ("no wait for a full stage", "barrier_wait(full + stage, parity);", ""),
    (
        "a wait for the other phase",
        "barrier_wait(full + stage, parity);",
        "barrier_wait(full + stage, parity ^ 1);",
    ),
    (
        "too few bytes expected",
        "barrier_expect(full + stage, LEFT + RIGHT);",
        "barrier_expect(full + stage, LEFT);",
    ),
    (
        "too many bytes expected",
        "barrier_expect(full + stage, LEFT + RIGHT);",
        "barrier_expect(full + stage, LEFT + RIGHT + 16);",
    ),
    ("no wait for the last products", "group_wait<0>(sums);", ""),
    ("a stage that is given back too early", "group_wait<1>(sums);", ""),
    ("a group of products that is never closed", "group_commit();\n      //", "//"),
    ("a wrong step between parts of a tile", "left + 2 * part", "left + 3 * part"),
    ("too few arrivals", "barrier_init(empty + stage, 256);", "barrier_init(empty + stage, 128);"),
    ("sums of one tile that begin with another's", "step > 0 || part > 0", "true"),
    (
        "barriers that are used before they are ready",
        "block_barrier();\n  const Size steps",
        "const Size steps",
    ),
    (
        "a stage that is never given back",
        "group_wait<0>(sums);\n    barrier_arrive(empty + before);",
        "group_wait<0>(sums);",
    ),
];

/// What is wrong, in which kernel, and the change that makes it so.
const FAULTS: &[(&str, &Toy, &str, &str)] = &[
    ("no wait for copies", &HALVES, "copy_wait<1>();", ""),
    ("a wait for too few copies", &HALVES, "copy_wait<1>();", "copy_wait<2>();"),
    ("a group of copies that is never closed", &HALVES, "copy_commit();\n  };", "};"),
    (
        "no barrier behind the wait",
        &HALVES,
        "copy_wait<1>();\n    block_barrier();",
        "copy_wait<1>();",
    ),
    (
        "no barrier before memory is used again",
        &HALVES,
        "multiply_add<T>(sums[j], mine, other);\n      }\n    }\n    block_barrier();",
        "multiply_add<T>(sums[j], mine, other);\n      }\n    }",
    ),
    ("the stage that is being read is loaded", &HALVES, "load(stage ^ 1, from", "load(stage, from"),
    ("a wrong step between fragments", &HALVES, "8 * (at >> 1)) / 2", "4 * (at >> 1)) / 2"),
    ("a row too many is loaded", &HALVES, "row + line < m", "row + line <= m"),
    ("a column too many is stored", &HALVES, "place < n) end", "place <= n) end"),
    (
        "copies that are not aligned",
        &HALVES,
        "own = threadIdx.x % 4 * 8;",
        "own = threadIdx.x % 4 * 8 + 1;",
    ),
    (
        "no barrier behind loads",
        &NUMBERS,
        "from + own) : 0.0f;\n    }\n    block_barrier();",
        "from + own) : 0.0f;\n    }",
    ),
    (
        "no barrier before the next loads",
        &NUMBERS,
        "sums[i][j] += parts[i][j];\n    block_barrier();",
        "sums[i][j] += parts[i][j];",
    ),
    ("a summand too many", &NUMBERS, "from + own < k;", "from + own <= k;"),
    (
        "shared memory that is too short",
        &NUMBERS,
        "SHARED(float, left, SIDE_OF_NUMBERS<64>)",
        "SHARED(float, left, 16 * 64)",
    ),
    (
        "a barrier that half of a block reaches",
        &NUMBERS,
        "block_barrier();",
        "if (threadIdx.x < 128) block_barrier();",
    ),
    (
        "a reduction without a barrier",
        &BLOCK,
        "block_barrier();\n  value = parts[0];",
        "value = parts[0];",
    ),
    ("a reduction over too few warps", &BLOCK, "warp < 8;", "warp < 7;"),
    ("a row that is read too far", &BLOCK, "j < 2052", "j < 2056"),
    ("a reduction over too few lanes", &LANES, "int step = LANES / 2;", "int step = LANES / 4;"),
    (
        "lanes that leave before others are done",
        &LANES,
        "const bool live = row < rows;",
        "const bool live = row < rows;\n  if (!live) return;",
    ),
    (
        "rows beyond the last are read",
        &LANES,
        "const Size i = live ? row : 0;",
        "const Size i = row;",
    ),
    ("an index that is not checked", &LANES, "return index;\n", "return index + 2;\n"),
    (
        "keys that are overwritten while they are read",
        &ATTENTION,
        "if (key == 0) factors[row] = factor;\n    }\n    block_barrier();",
        "if (key == 0) factors[row] = factor;\n    }",
    ),
    (
        "values that are overwritten while they are read",
        &ATTENTION,
        "sums[own][part] = sum;\n      }\n    }\n    block_barrier();",
        "sums[own][part] = sum;\n      }\n    }",
    ),
    (
        "sums that are read before they are there",
        &ATTENTION,
        "  warp_barrier();\n  UNROLL",
        "  UNROLL",
    ),
    ("sums that are not scaled again", &ATTENTION, "sums[own][part] * factor;", "sums[own][part];"),
    ("keys beyond the last take part", &ATTENTION, "&& from + key < keys;", ";"),
    (
        "keys that are multiplied before they are there",
        &HALF_ATTENTION,
        "copy_wait<1>();\n    block_barrier();\n    float scores",
        "block_barrier();\n    float scores",
    ),
    (
        "values that are multiplied before they are there",
        &HALF_ATTENTION,
        "copy_wait<1>();\n    block_barrier();\n    UNROLL for (int step = 0; step < KEYS",
        "block_barrier();\n    UNROLL for (int step = 0; step < KEYS",
    ),
    (
        "no barrier behind the wait for keys",
        &HALF_ATTENTION,
        "copy_wait<1>();\n    block_barrier();\n    float scores",
        "copy_wait<1>();\n    float scores",
    ),
    (
        "no barrier behind the wait for values",
        &HALF_ATTENTION,
        "copy_wait<1>();\n    block_barrier();\n    UNROLL for (int step = 0; step < KEYS",
        "copy_wait<1>();\n    UNROLL for (int step = 0; step < KEYS",
    ),
    (
        "the next keys arrive over those that are read",
        &HALF_ATTENTION,
        "block_barrier();\n    if (from + KEYS < keys)",
        "if (from + KEYS < keys)",
    ),
    (
        "the next values arrive over those that are read",
        &HALF_ATTENTION,
        "multiply_add<T>(sums[part], mine, other);\n      }\n    }\n    block_barrier();",
        "multiply_add<T>(sums[part], mine, other);\n      }\n    }",
    ),
    (
        "a last group of copies that is not closed",
        &HALF_ATTENTION,
        "load_keys<WIDTH, KEYS>(key_rows, from + KEYS, keys, k);\n    else\n      copy_commit();",
        "load_keys<WIDTH, KEYS>(key_rows, from + KEYS, keys, k);",
    ),
    (
        "the same keys again",
        &HALF_ATTENTION,
        "(key_rows, from + KEYS, keys, k);",
        "(key_rows, from, keys, k);",
    ),
    (
        "a key too many",
        &HALF_ATTENTION,
        "const bool there = from + row < keys;",
        "const bool there = from + row <= keys;",
    ),
    (
        "rows that are turned from a wrong step",
        &HALF_ATTENTION,
        "lane % 16) * PITCH",
        "lane % 8) * PITCH",
    ),
    (
        "halves in the wrong order",
        &HALF_ATTENTION,
        "scores[step * 2 + (at >> 1)]",
        "scores[step * 2 + (at & 1)]",
    ),
    (
        "a largest score of too few lanes",
        &HALF_ATTENTION,
        "largest_of_lanes<4>",
        "largest_of_lanes<2>",
    ),
    ("a sum of too few lanes", &HALF_ATTENTION, "sum_of_lanes<4>(sum)", "sum_of_lanes<2>(sum)"),
    (
        "a query too many",
        &HALF_ATTENTION,
        "if (row >= queries) continue;",
        "if (row > queries) continue;",
    ),
    (
        "taps that lie inside channels",
        &HALF_CONV,
        "tap = int(at) / 16, channel = int(at) % 16;",
        "tap = int(at) % 27, channel = int(at) / 27;",
    ),
    ("a picture of half its size", &HALF_CONV, "h / 2", "h"),
    ("a tensor unit's picture without a border", &HALF_CONV, "h < 6 && w >= 0", "h < 6"),
    (
        "products of a tile that is being filled",
        &BACK,
        "load_rows<WIDTH, ROWS>(other, from, keys, k);\n    block_barrier();",
        "load_rows<WIDTH, ROWS>(other, from, keys, k);",
    ),
    (
        "slopes that are read before they are there",
        &BACK,
        "slopes[row * ROWS + column] = value;\n    }\n    block_barrier();",
        "slopes[row * ROWS + column] = value;\n    }",
    ),
    (
        "queries in place of cotangents that are still read",
        &BACK,
        "value + column * PITCH);\n    }\n    block_barrier();",
        "value + column * PITCH);\n    }",
    ),
    (
        "cotangents in place of queries that are still read",
        &BACK,
        "add_rows<WIDTH>(of_keys, slopes, 1, ROWS, other);\n    block_barrier();",
        "add_rows<WIDTH>(of_keys, slopes, 1, ROWS, other);",
    ),
    (
        "the next rows over those that are added",
        &BACK,
        "add_rows<WIDTH>(of_values, weights, 1, ROWS, other);\n    block_barrier();",
        "add_rows<WIDTH>(of_values, weights, 1, ROWS, other);",
    ),
    (
        "weights that are not turned",
        &BACK,
        "of_values, weights, 1, ROWS",
        "of_values, weights, ROWS, 1",
    ),
    (
        "a table that is summed before its slopes are there",
        &BACK,
        "slopes[at] = value;\n      }\n      block_barrier();",
        "slopes[at] = value;\n      }",
    ),
    (
        "a key too few for a tile of differences",
        &BACK,
        "2 * ROWS - 1>(other, key, keys, OfPage<K>",
        "2 * ROWS - 2>(other, key, keys, OfPage<K>",
    ),
    (
        "a difference too many",
        &BACK,
        "< queries + keys - 1)\n    end(",
        "<= queries + keys - 1)\n    end(",
    ),
    ("cotangents that are not centred", &BACK, "(products[pair] - own[row])", "products[pair]"),
    ("a picture without a border", &CONV, "h >= 0 && ", ""),
    ("a row too many of few", &FEW, "lane == row && row < m", "lane == row && row <= m"),
    ("a column too many of few", &FEW, "if (column >= n) return;", "if (column > n) return;"),
    (
        "a sum of too few lanes for few rows",
        &FEW,
        "sum_of_lanes<32>(sums[row])",
        "sum_of_lanes<16>(sums[row])",
    ),
    ("a part that begins one piece late", &COPY, "+ own - 2;", "+ own - 1;"),
];

#[test]
fn every_fault_is_found() {
    if !has_compiler() {
        return;
    }
    let folder = Folder::new("faults");
    let right = Architecture::ALL.map(|architecture| device(&folder, architecture, None));
    let all = FAULTS.iter().map(|fault| (Architecture::Sm80, *fault));
    let of = |toy: &'static Toy, faults: &'static [(&str, &'static str, &'static str)]| {
        faults.iter().map(move |(what, from, to)| (*what, toy, *from, *to))
    };
    let hopper = of(&GROUPS, GROUP_FAULTS).chain(of(&GROUP_ATTENTION, GROUP_ATTENTION_FAULTS));
    let all: Vec<_> = all.chain(hopper.map(|fault| (Architecture::Sm90a, fault))).collect();
    // What is wrong, and how that was found. Nearly all the time goes into the compiler.
    let next = Mutex::new(all.iter());
    let work = || {
        let mut done = Vec::new();
        loop {
            let taken = next.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((architecture, (what, toy, from, to))) = taken else { return done };
            let plan = toy.plan();
            let types = plan.inputs.iter().map(|port| &plan.buffer(port.buffer).ty);
            let inputs: Vec<Tensor> = types.enumerate().map(|(at, ty)| numbers(ty, at)).collect();
            let wanted = outputs(&right[*architecture as usize], &plan, &inputs);
            let wanted = wanted.unwrap_or_else(|fault| panic!("{what}: {}", fault.message));
            let wrong = device(&folder, *architecture, Some((*from, *to)));
            let same =
                |given: &[Tensor]| given.iter().zip(&wanted).all(|(a, b)| a.bytes() == b.bytes());
            let found = match outputs(&wrong, &plan, &inputs) {
                Err(fault) => {
                    assert!(["E0854", "E0855"].contains(&fault.code), "{what}: {fault:?}");
                    Some(fault.message)
                }
                Ok(given) => (!same(&given)).then(|| "wrong numbers".to_owned()),
            };
            done.push((*what, found));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let done: Vec<(&str, Option<String>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("it says why not")).collect()
    });
    for (what, found) in &done {
        println!("{what}: {}", found.as_deref().unwrap_or("NOT FOUND"));
    }
    let missed: Vec<&str> =
        done.iter().filter(|(_, found)| found.is_none()).map(|(what, _)| *what).collect();
    let all = FAULTS.len() + GROUP_FAULTS.len() + GROUP_ATTENTION_FAULTS.len();
    assert_eq!(done.len(), all);
    assert!(missed.is_empty(), "not found: {missed:?}");
}

/// The code and the message of a refusal.
fn refused(name: &str, settings: &Settings) -> (String, String) {
    match Registry::default().open(name, settings) {
        Err(OpenError::Failed(fault)) => (fault.code.to_owned(), fault.message),
        Err(error) => (format!("{error:?}"), error.to_string()),
        Ok(_) => panic!("{name} was opened"),
    }
}

#[test]
fn what_cannot_be_opened_says_why() {
    let folder = Folder::new("refused");
    let settings = folder.setting();
    for name in ["cuda-emulated:sm_70", "cuda-emulated:sm_90", "cuda-emulated:", "cuda-emulated:0"]
    {
        let architecture = match name.split_once(':').unwrap().1 {
            "" => "an architecture without a name",
            architecture => architecture,
        };
        let message = format!("there are no kernels for {architecture}");
        assert_eq!(refused(name, &settings), ("E0853".to_owned(), message));
    }
    let name = "cuda-emulated:sm_80";
    let without = settings.clone().with(COMPILER, "/nowhere/c++");
    let message = "there is no C++ compiler: tried /nowhere/c++".to_owned();
    assert_eq!(refused(name, &without), ("E0850".to_owned(), message));
    // Programs that are no compilers, whatever they say that they are.
    for other in ["/bin/sleep", "/bin/true", "/bin/cat"] {
        let (code, _) = refused(name, &settings.clone().with(COMPILER, other));
        assert_eq!(code, "E0850", "{other}");
    }
    let (shown, message) = refused(name, &settings.clone().with(ORDER, "backwards"));
    assert!(shown.contains("Setting"), "{shown}");
    assert_eq!(
        message,
        "unknown order: use all, ascending, descending, shuffled, first-warp, last-warp"
    );
    if has_compiler() {
        let opened = Registry::default().open(name, &settings.with(ORDER, "shuffled")).unwrap();
        assert_eq!((&*opened.about().name, opened.about().target.name), (name, "cuda:sm_80"));
    }
}

#[test]
fn source_that_does_not_compile_is_an_error_and_what_is_damaged_is_made_again() {
    if !has_compiler() {
        return;
    }
    let folder = Folder::new("damaged");
    let plan = COPY.plan();
    let inputs = [numbers(&plan.buffer(plan.inputs[0].buffer).ty, 0)];
    let wrong = device(&folder, Architecture::Sm80, Some(("whole<", "halved<")));
    let fault = outputs(&wrong, &plan, &inputs).unwrap_err();
    assert_eq!(fault.code, "E0851");
    let source = PathBuf::from(fault.place.expect("the source is named"));
    assert!(source.exists() && fault.cause.expect("what it says").contains("error"));
    let first = outputs(&device(&folder, Architecture::Sm80, None), &plan, &inputs).unwrap();
    let libraries = || {
        let files = std::fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|end| end == "so")).collect::<Vec<_>>()
    };
    assert_eq!(libraries().len(), 1);
    for bytes in [&b"no library"[..], b""] {
        // Written elsewhere and moved here: the old file may be in use.
        let other = folder.0.join("other");
        std::fs::write(&other, bytes).unwrap();
        std::fs::rename(&other, &libraries()[0]).unwrap();
        let again = outputs(&device(&folder, Architecture::Sm80, None), &plan, &inputs).unwrap();
        assert_eq!(again[0].bytes(), first[0].bytes());
    }
}
