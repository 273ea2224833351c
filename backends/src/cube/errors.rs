//! What a device says, as errors for people.

use crate::Fault;

const SMALLER: &str = "run smaller sizes, or use another device";

/// Bytes of text from a compiler or a driver that are shown.
const SHOWN: usize = 2000;

fn fault(code: &'static str, message: String, help: &str, cause: Option<String>) -> Box<Fault> {
    let help = (!help.is_empty()).then(|| help.to_owned());
    let short = |text: String| match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{} …", &text[..end]),
        None => text,
    };
    Box::new(Fault { code, message, place: None, help, cause: cause.map(short) })
}

/// There is no adapter.
pub(super) fn no_adapter(kind: &str) -> Box<Fault> {
    let message = format!("this machine has no adapter for {kind} devices");
    let help = "install a driver for Vulkan, Metal or DirectX 12; Mesa's mesa-vulkan-drivers has \
                one that needs no GPU";
    fault("E0870", message, help, None)
}

/// The adapter gives no device.
pub(super) fn refused(device: &str, cause: String) -> Box<Fault> {
    fault("E0860", format!("the driver of {device} refuses"), "", Some(cause))
}

/// What the device would compile kernels with is not whole.
#[cfg(feature = "cubecl-cuda")]
pub(super) fn no_compiler(message: &str, help: &str) -> Box<Fault> {
    fault("E0856", message.to_owned(), help, None)
}

/// The compiler of the device refuses a kernel, whose source was kept, if that was possible.
pub(super) fn kernel_refused(
    device: &str,
    kernel: &str,
    source: Option<String>,
    cause: String,
) -> Box<Fault> {
    let message = format!("{device} does not take kernel {kernel}");
    let help = source.map_or_else(String::new, |path| format!("its source is in {path}"));
    fault("E0871", message, &help, Some(cause))
}

/// Elements of a type that the device does not compute with.
pub(super) fn no_type(device: &str, dtype: anyid_ir::DType, label: &str) -> Box<Fault> {
    let message = format!("{device} does not compute with {dtype}");
    let help = "use another device, such as cpu";
    let mut fault = fault("E0872", message, help, None);
    fault.place = Some(label.to_owned());
    fault
}

/// What would have to lie or to be bound in one piece is more than the device allows.
pub(super) fn too_large(device: &str, what: &str, bytes: u64, most: u64) -> Box<Fault> {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let message = format!(
        "{what} take {} MiB in one piece, of which {device} takes {} MiB at most",
        mib(bytes),
        mib(most)
    );
    fault("E0603", message, SMALLER, None)
}

/// The driver has no memory left.
pub(super) fn no_memory(device: &str, cause: String) -> Box<Fault> {
    fault("E0603", format!("{device} has too little memory left"), SMALLER, Some(cause))
}

/// The device stopped working.
pub(super) fn lost(device: &str, cause: String) -> Box<Fault> {
    let message = format!("{device} was lost while it worked");
    let help = "what was finished before is kept; run again, and look at the log of the system if it \
                happens again";
    fault("E0862", message, help, Some(cause))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_a_code_and_says_what_to_do() {
        let kernel = kernel_refused("wgpu:0", "k_silu", Some("/tmp/x".into()), "why".into());
        let help = |fault: &Fault| fault.help.clone().unwrap_or_default();
        assert_eq!((kernel.code, help(&kernel).as_str()), ("E0871", "its source is in /tmp/x"));
        assert_eq!(no_adapter("wgpu").code, "E0870");
        let dtype = no_type("wgpu:0", anyid_ir::DType::F64, "main/x");
        assert_eq!((dtype.code, dtype.place.as_deref()), ("E0872", Some("main/x")));
        let large = too_large("wgpu:0", "weights", 300 << 20, 128 << 20);
        let said = "weights take 300 MiB in one piece, of which wgpu:0 takes 128 MiB at most";
        assert_eq!((large.code, large.message.as_str()), ("E0603", said));
        assert_eq!(no_memory("wgpu:0", "out of memory".into()).code, "E0603");
        assert_eq!(lost("wgpu:0", "Unknown: gone".into()).code, "E0862");
        let long = refused("wgpu:0", "x".repeat(3000));
        let cause = long.cause.unwrap_or_default();
        assert_eq!((long.code, cause.chars().count()), ("E0860", SHOWN + 2));
    }
}
