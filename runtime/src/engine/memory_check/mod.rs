//! Whether there is room for what plans ask for: asked before anything is reserved, since a system
//! may promise memory it does not have and end the process later.
//!
//! Plans are checked for sense when they are read, but an honest plan of absurd sizes is one too.

mod limits;

pub use limits::{Bound, Limit, Room};

use crate::error::{Error, Kind, Result};
use anyid_backends::device::Device;
use anyid_backends::errors::NoMemory;
use anyid_ir::plan::Plan;
use anyid_ir::{Tensor, TensorType};

/// Memory that this process could still take, swap included; `None` where the system does not tell.
pub fn available_memory() -> Option<u64> {
    Room::now().least().map(|limit| limit.bytes)
}

/// Memory that this process has now, without what was swapped out; `None` where the system does not
/// tell.
pub fn resident_memory() -> Option<u64> {
    limits::resident()
}

/// Bytes that a run of one of `plans` takes beside the weights and the caller's inputs.
pub(super) fn planned<'p>(plans: impl Iterator<Item = &'p Plan> + Clone) -> u64 {
    let most = |of: &dyn Fn(&Plan) -> u64| plans.clone().map(of).max().unwrap_or(0);
    let outputs = |plan: &Plan| {
        plan.outputs
            .iter()
            .fold(0u64, |sum, port| sum.saturating_add(plan.buffer(port.buffer).ty.bytes()))
    };
    [
        most(&|plan| plan.workspace_bytes),
        most(&|plan| plan.persistent_bytes),
        most(&Plan::state_bytes),
        most(&outputs),
    ]
    .into_iter()
    .fold(0, u64::saturating_add)
}

/// Refuses `needed` bytes that the device, or the machine where it has no memory of its own, does
/// not have.
///
/// # Errors
/// E0603.
pub(super) fn check(device: &dyn Device, needed: u64, what: &str) -> Result<()> {
    let least = of_device(device).or_else(|| Room::now().least().cloned());
    match least.filter(|least| least.bytes < needed) {
        None => Ok(()),
        Some(least) => Err(refused(needed, what, Some(&least))),
    }
}

/// What a device with memory of its own has left.
pub(crate) fn of_device(device: &dyn Device) -> Option<Limit> {
    let bound = || Bound::Device(device.about().name.clone());
    device.free_bytes().map(|bytes| Limit { bytes, bound: bound() })
}

/// The error of memory that is not there.
pub(crate) fn refused(needed: u64, what: &str, least: Option<&Limit>) -> Error {
    let (taken, free) = match least {
        Some(least) => left(needed, least),
        None => (size(needed), "the system does not give them".to_owned()),
    };
    let message = format!("{what} take {taken} of memory, {free}");
    Error::new(Kind::Budget, "E0603", message)
        .help("run smaller sizes, or free memory; `compile` shows what a plan needs")
}

/// The error of memory that a device refuses, though nothing said so before.
pub(crate) fn no_memory(none: NoMemory, what: &str) -> Error {
    let Some(free) = none.free.filter(|free| *free < none.bytes) else {
        return refused(none.bytes, what, None);
    };
    let [wanted, short, free] = [none.bytes, none.bytes - free, free].map(size);
    let message = format!("{what} take {wanted} of memory, {short} more than the device has left");
    Error::new(Kind::Budget, "E0603", message)
        .help(format!("{free} are free there: end other programs on it, or run smaller sizes"))
}

/// What is needed, and what a limit leaves, in words.
pub(crate) fn left(needed: u64, limit: &Limit) -> (String, String) {
    let [needed, left] = sizes([needed, limit.bytes]);
    let left = match &limit.bound {
        Bound::Machine => format!("{left} can be had"),
        Bound::Device(_) => format!("{} has {left} left", limit.bound),
        Bound::Budget => format!("{} is {left}", limit.bound),
        other => format!("{other} leaves {left}"),
    };
    (needed, left)
}

/// Two amounts, to the byte where they are not told apart otherwise.
pub(crate) fn sizes(both: [u64; 2]) -> [String; 2] {
    let short = both.map(size);
    match short[0] == short[1] && both[0] != both[1] {
        true => both.map(|bytes| format!("{bytes} bytes")),
        false => short,
    }
}

/// A zero tensor for `what`.
///
/// # Errors
/// E0603 where the system does not give the memory.
pub(crate) fn zeros(ty: &TensorType, what: &str) -> Result<Tensor> {
    Tensor::try_zeros(ty.clone()).ok_or_else(|| refused(ty.bytes(), what, None))
}

/// An amount in the unit that leaves the fewest digits, three of them.
pub(crate) fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut amount, mut unit) = (bytes as f64, 0);
    while amount >= 1024.0 && unit + 1 < units.len() {
        amount /= 1024.0;
        unit += 1;
    }
    match amount {
        _ if unit == 0 => format!("{bytes} B"),
        a if a < 10.0 => format!("{a:.2} {}", units[unit]),
        a if a < 100.0 => format!("{a:.1} {}", units[unit]),
        a => format!("{a:.0} {}", units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyid_ir::DType;

    #[test]
    fn amounts_that_are_compared_are_told_apart() {
        let texts = |both: [u64; 2]| sizes(both).join(", ");
        assert_eq!(texts([3 << 20, 5 << 20]), "3.00 MiB, 5.00 MiB");
        assert_eq!(texts([3 << 20, 3 << 20]), "3.00 MiB, 3.00 MiB");
        assert_eq!(texts([(3 << 20) + 1, 3 << 20]), "3145729 bytes, 3145728 bytes");
        let limit = Limit { bytes: 3 << 20, bound: Bound::Machine };
        let error = refused((3 << 20) + 1, "plans", Some(&limit));
        assert_eq!(error.message(), "plans take 3145729 bytes of memory, 3145728 bytes can be had");
    }

    #[test]
    fn sums_that_overflow_and_memory_that_no_system_has_are_refused() {
        let plan =
            |bytes| Plan { workspace_bytes: bytes, persistent_bytes: bytes, ..Plan::default() };
        let [small, huge] = [plan(1 << 10), plan(u64::MAX)];
        assert_eq!(planned([&small].into_iter()), 2 << 10);
        assert_eq!(planned([&small, &huge].into_iter()), u64::MAX);
        let ty = TensorType::new(DType::F32, [1 << 30, 1 << 29]);
        assert_eq!(zeros(&ty, "outputs").err().unwrap().code(), "E0603");
        assert_eq!(zeros(&TensorType::new(DType::Bf16, [3]), "outputs").unwrap().shape(), [3]);
        let error = no_memory(NoMemory { bytes: 5 << 30, free: Some(2 << 30) }, "states");
        assert_eq!((error.code(), error.kind()), ("E0603", Kind::Budget));
        let message = "states take 5.00 GiB of memory, 3.00 GiB more than the device has left";
        assert_eq!(error.message(), message);
        assert!(error.help_text().is_some_and(|help| help.starts_with("2.00 GiB are free")));
        let untold = no_memory(NoMemory::of(5 << 30), "states");
        assert!(untold.message().contains("the system does not give them"), "{untold}");
        let cpu = crate::engine::Backend::open("cpu", 1).unwrap();
        if available_memory().is_some() {
            assert_eq!(check(&**cpu.device(), 1 << 60, "plans").unwrap_err().code(), "E0603");
        }
        check(&**cpu.device(), 0, "plans").unwrap();
        assert_eq!(of_device(&**cpu.device()), None);
        let own = Limit { bytes: 80 << 30, bound: Bound::Device("cuda:1".into()) };
        let error = refused(81 << 30, "plans", Some(&own));
        assert_eq!(error.code(), "E0603");
        assert_eq!(
            error.message(),
            "plans take 81.0 GiB of memory, the device cuda:1 has 80.0 GiB left"
        );
    }

    #[test]
    fn amounts_have_three_digits() {
        for (bytes, text) in [(12, "12 B"), (1536, "1.50 KiB"), (70 << 30, "70.0 GiB")] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(size(u64::MAX), "16384 PiB");
    }
}
