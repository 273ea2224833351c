//! What the GPU can do at most: own products of large matrices of random numbers, and copies between
//! pieces of its memory that no cache holds.

use super::Gpu;
use super::driver::{Event, Result, Value};
use crate::cuda::emit;
use crate::cuda::launches::{self, Parameter, Ports, Roots, Span};
use crate::device::Throughput;
use anyid_ir::DType;
use anyid_ir::plan::Plan;
use anyid_ir::plan_text::parse_plans;
use std::time::{Duration, Instant};

/// Rows, columns and summands of the products, in halves and singles.
const SIZES: [usize; 2] = if cfg!(test) { [64, 64] } else { [8192, 4096] };
/// Bytes of a copy.
const COPY: u64 = if cfg!(test) { 1 << 12 } else { 1 << 30 };
/// Bytes of random numbers, which are repeated.
const RANDOM: usize = 4 << 20;

/// What is allocated for a measurement.
struct Room<'g> {
    gpu: &'g Gpu,
    memory: Vec<u64>,
    events: Vec<Event>,
}

impl<'g> Room<'g> {
    fn new(gpu: &'g Gpu) -> Result<Self> {
        let mut room = Self { gpu, memory: Vec::new(), events: Vec::new() };
        for _ in 0..2 {
            room.events.push(gpu.driver.event()?);
        }
        Ok(room)
    }

    fn memory(&mut self, bytes: u64) -> Result<Span> {
        let address = self.gpu.driver.allocate(bytes)?;
        self.memory.push(address);
        Ok(Span::dense(address, bytes))
    }

    /// The best seconds of one of `work` among many, spending about `each`.
    fn best(&self, each: Duration, work: impl Fn() -> Result<()>) -> Result<f64> {
        const TOGETHER: u32 = 4;
        let driver = &self.gpu.driver;
        work()?;
        driver.wait()?;
        let (begun, mut best) = (Instant::now(), f64::INFINITY);
        loop {
            driver.record(self.events[0])?;
            (0..TOGETHER).try_for_each(|_| work())?;
            driver.record(self.events[1])?;
            driver.wait()?;
            let seconds = driver.seconds(self.events[0], self.events[1])?;
            best = best.min(seconds / f64::from(TOGETHER));
            if begun.elapsed() >= each {
                return Ok(best);
            }
        }
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        let driver = &self.gpu.driver;
        let _ = driver.wait();
        // SAFETY: all of it was allocated here, and the stream is empty.
        self.memory.drain(..).for_each(|address| unsafe { driver.free(address) });
        self.events.drain(..).for_each(|event| driver.drop_event(event));
    }
}

/// Measures for about `each` a figure. What cannot be measured is 0: whatever runs next says why.
pub(super) fn measure(gpu: &Gpu, each: Duration) -> Throughput {
    let product = |dtype, size| product(gpu, dtype, size, each).unwrap_or(0.0);
    let [half, single] = SIZES;
    Throughput {
        threads: 1,
        f32_gflops: product(DType::F32, single),
        bf16_gflops: Some(product(DType::Bf16, half)),
        instructions: [
            "fma",
            if gpu.kernels.architecture() == emit::Architecture::Sm90a { "wgmma" } else { "mma" },
        ],
        copy_gb_per_second: copies(gpu, each).unwrap_or(0.0),
    }
}

fn copies(gpu: &Gpu, each: Duration) -> Result<f64> {
    let _turn = gpu.turn();
    let mut room = Room::new(gpu)?;
    let [from, to] = [room.memory(COPY)?, room.memory(COPY)?];
    // SAFETY: both pieces are there until the room is gone, which waits for the stream.
    let copy = || unsafe { gpu.driver.copy(to.address, from.address, COPY) };
    let seconds = room.best(each, copy)?;
    Ok(2.0 * COPY as f64 / seconds * 1e-9)
}

fn product(gpu: &Gpu, dtype: DType, size: usize, each: Duration) -> Result<f64> {
    let plan = plan(dtype, size);
    let ports = Ports::new(&plan);
    let step = &plan.steps[0];
    let emitted = emit::step(&plan, step, gpu.kernels.architecture());
    let loaded = gpu.kernels.load(&gpu.about.name, &*gpu.driver, std::iter::once(&emitted));
    if loaded.is_err() {
        return Ok(0.0);
    }
    let numbers = random(dtype);
    let _turn = gpu.turn();
    let mut room = Room::new(gpu)?;
    let edge = room.memory(ports.bytes())?;
    let none = |_: &str, _: bool| Span::default();
    let (workspace, kept, states) = (Span::default(), Span::default(), Span::default());
    let roots = Roots {
        plan: &plan,
        ports: &ports,
        states_at: &[],
        weights: &none,
        workspace,
        kept,
        states,
        edge,
    };
    for operand in &step.operands {
        let to = roots.span(*operand);
        for from in (0..to.bytes).step_by(numbers.len()) {
            let piece = to.part(from, (numbers.len() as u64).min(to.bytes - from));
            // SAFETY: the numbers are there until the wait below.
            unsafe {
                gpu.driver.upload(piece.address, numbers.as_ptr(), piece.bytes as usize)?;
            }
        }
    }
    gpu.driver.wait()?;
    let grid = launches::grid(&emitted, gpu.processors);
    let given = roots.parameters(step, &emitted, [Span::default(); 2], grid.blocks[0]);
    let values = given.iter().map(|parameter| match parameter {
        Parameter::Memory(span) => Ok(Value::Memory(*span)),
        Parameter::Size(size) => Ok(Value::Size(*size)),
        Parameter::Map(matrix) => gpu.driver.map(matrix).map(Value::Map),
    });
    let values = values.collect::<Result<Vec<Value>>>()?;
    let function = gpu.kernels.find(&emitted.name);
    // SAFETY: the memory is there until the room is gone, which waits for the stream.
    let launch = || unsafe { gpu.driver.launch(function, grid, &values) };
    let seconds = room.best(each, launch)?;
    Ok(2.0 * (size as f64).powi(3) / seconds * 1e-9)
}

/// A product of two square matrices of inputs, with sums in f32.
fn plan(dtype: DType, size: usize) -> Plan {
    let ty = format!("{}[{size},{size}]", dtype.name());
    let text = format!(
        "plan \"peak\" {{
  memory alignment=256 workspace=0 lower_bound=0 naive=0 persistent=0
  buffer %0 = input 0 + 0 : {ty}
  buffer %1 = input 1 + 0 : {ty}
  input \"a\" = %0
  input \"b\" = %1
  output \"y\" = %2
  kernel k0 \"linear\" anchor linear {{
    y0 = linear(a0, a1)
  }}
  %2 = k0 %0, %1 : output 0 + 0 f32[{size},{size}] \"y\"
}}
"
    );
    let plans = parse_plans(&text).expect("the text is ours");
    plans.into_iter().next().expect("it has one")
}

/// Numbers between −1 and 1: products of zeros are faster than others.
fn random(dtype: DType) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        // splitmix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let count = RANDOM / dtype.bytes();
    let mut out = vec![0; RANDOM];
    for at in 0..count {
        crate::element::write(dtype, &mut out, at, f64::from(next()));
    }
    out
}
