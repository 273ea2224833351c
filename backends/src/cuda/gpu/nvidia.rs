//! The driver of NVIDIA, through the bindings of `cudarc`.
//!
//! The bindings end the process where the library or one of its functions is not there, so both are
//! looked for first ([`System::find`]). Every call makes the context the current one of its thread.

use super::choose;
use super::driver::{
    Driver, Event, Function, Graph, Module, Refused, Result, Room, TensorMap, Trouble, Value,
};
use crate::Fault;
use crate::cuda::emit::Grid;
use crate::cuda::launches::Matrix;
use anyid_ir::DType;
use cudarc::driver::sys;
use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr;

/// The library's names.
const NAMES: &[&str] =
    if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so.1", "libcuda.so"] };

/// Every function that is called here.
const CALLS: [&str; 43] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceTotalMem_v2",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxSetCurrent",
    "cuMemGetInfo_v2",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuFuncLoad",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
    "cuTensorMapEncodeTiled",
    "cuEventCreate",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuEventElapsedTime_v2",
    "cuEventDestroy_v2",
    "cuStreamCreate",
    "cuStreamSynchronize",
    "cuStreamDestroy_v2",
    "cuStreamBeginCapture_v2",
    "cuStreamEndCapture",
    "cuGraphInstantiateWithFlags",
    "cuGraphUpload",
    "cuGraphLaunch",
    "cuGraphExecDestroy",
    "cuGraphDestroy",
    "cuGetErrorName",
    "cuGetErrorString",
];

/// A GPU that the driver knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Card {
    pub(super) name: String,
    /// Compute capability.
    pub(super) capability: (i32, i32),
    pub(super) bytes: u64,
    /// Multiprocessors.
    pub(super) processors: u32,
}

/// A driver that is there and can be called.
pub(super) struct System {
    /// The CUDA that the driver is for.
    pub(super) version: (i32, i32),
    /// How many GPUs it knows.
    pub(super) count: usize,
}

impl System {
    /// Looks for a driver.
    ///
    /// # Errors
    /// E0858 where there is none, E0859 where it is too old, E0860 where it refuses to start.
    pub(super) fn find() -> std::result::Result<Self, Box<Fault>> {
        let missing = missing().map_err(|cause| choose::no_driver(Some(cause)))?;
        // SAFETY: the bindings look for the library in the same way as `missing`.
        if !unsafe { sys::is_culib_present() } {
            return Err(choose::no_driver(None));
        }
        if ["cuInit", "cuDriverGetVersion"].iter().any(|name| missing == Some(name)) {
            choose::new_enough((0, 0), missing)?;
        }
        let (mut version, mut count) = (0, 0);
        // SAFETY: the functions are there (just asked), and so are the places for what they give.
        unsafe {
            if sys::cuDriverGetVersion(&raw mut version) == sys::CUresult::CUDA_SUCCESS {
                choose::new_enough(choose::version(version), missing)?;
            }
            match sys::cuInit(0) {
                sys::CUresult::CUDA_SUCCESS => {}
                // A driver on a machine whose GPU is gone, hidden or not ours.
                sys::CUresult::CUDA_ERROR_NO_DEVICE => {
                    return Ok(Self { version: choose::version(version), count: 0 });
                }
                other => {
                    return Err(choose::not_opened(None, &refused("cuInit", other)));
                }
            }
            check("cuDeviceGetCount", sys::cuDeviceGetCount(&raw mut count))
                .map_err(|refused| choose::not_opened(None, &refused))?;
        }
        let count = usize::try_from(count).unwrap_or(0);
        Ok(Self { version: choose::version(version), count })
    }

    /// What GPU number `number` is.
    pub(super) fn card(&self, number: usize) -> Result<Card> {
        use sys::CUdevice_attribute_enum as Attribute;
        let device = self.device(number)?;
        let mut name = [0u8; 256];
        let mut bytes = 0;
        // SAFETY: the device is one; places and lengths are those of the variables.
        unsafe {
            let room = (name.len() - 1) as c_int;
            let done = sys::cuDeviceGetName(name.as_mut_ptr().cast(), room, device);
            check("cuDeviceGetName", done)?;
            check("cuDeviceTotalMem", sys::cuDeviceTotalMem_v2(&raw mut bytes, device))?;
        }
        let attribute = |which: Attribute| -> Result<c_int> {
            let mut value = 0;
            // SAFETY: as above.
            let done = unsafe { sys::cuDeviceGetAttribute(&raw mut value, which, device) };
            check("cuDeviceGetAttribute", done).map(|()| value)
        };
        let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
        Ok(Card {
            name: String::from_utf8_lossy(&name[..end]).into_owned(),
            capability: (
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
                attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
            ),
            bytes: bytes as u64,
            processors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)? as u32,
        })
    }

    fn device(&self, number: usize) -> Result<sys::CUdevice> {
        let mut device = 0;
        // SAFETY: the place is there.
        let done = unsafe { sys::cuDeviceGet(&raw mut device, number as c_int) };
        check("cuDeviceGet", done).map(|()| device)
    }

    /// A context and a stream on GPU number `number`.
    pub(super) fn open(&self, number: usize) -> Result<Nvidia> {
        let device = self.device(number)?;
        let mut context = ptr::null_mut();
        // SAFETY: the device is one.
        let done = unsafe { sys::cuDevicePrimaryCtxRetain(&raw mut context, device) };
        check("cuDevicePrimaryCtxRetain", done)?;
        let mut nvidia = Nvidia { device, context, stream: ptr::null_mut() };
        let mut stream = ptr::null_mut();
        nvidia.here()?;
        let flags = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the context is current.
        let done = unsafe { sys::cuStreamCreate(&raw mut stream, flags) };
        check("cuStreamCreate", done)?;
        nvidia.stream = stream;
        Ok(nvidia)
    }
}

/// The first of [`CALLS`] that the library lacks; why there is none.
fn missing() -> std::result::Result<Option<&'static str>, String> {
    let mut first = None;
    for name in NAMES {
        // SAFETY: loading it runs the constructors of NVIDIA's library, which need nothing of ours.
        match unsafe { libloading::Library::new(*name) } {
            Ok(library) => {
                let has = |name: &str| {
                    // SAFETY: the place of the function is looked at, and not used.
                    unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_ok()
                };
                return Ok(CALLS.into_iter().find(|name| !has(name)));
            }
            Err(error) => first = first.or(Some(crate::cuda::said(&error))),
        }
    }
    Err(first.unwrap_or_default())
}

fn refused(call: &'static str, result: sys::CUresult) -> Refused {
    let text = |get: unsafe fn(sys::CUresult, *mut *const std::ffi::c_char) -> sys::CUresult| {
        let mut at = ptr::null();
        // SAFETY: the function gives a text that is always there, or an error.
        unsafe {
            let done = get(result, &raw mut at);
            let known = done == sys::CUresult::CUDA_SUCCESS && !at.is_null();
            known.then(|| CStr::from_ptr(at).to_string_lossy().into_owned())
        }
    };
    let name = text(sys::cuGetErrorName).unwrap_or_else(|| format!("error {}", result as u32));
    let said = match text(sys::cuGetErrorString) {
        Some(words) => format!("{name}, {words}"),
        None => name,
    };
    Refused { trouble: choose::trouble(result as u32), call, said }
}

fn check(call: &'static str, result: sys::CUresult) -> Result<()> {
    match result {
        sys::CUresult::CUDA_SUCCESS => Ok(()),
        other => Err(refused(call, other)),
    }
}

/// A context and its stream.
pub(super) struct Nvidia {
    device: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
}

// SAFETY: the driver's functions may be called from any thread; whoever uses the stream takes turns.
unsafe impl Send for Nvidia {}
// SAFETY: as above.
unsafe impl Sync for Nvidia {}

impl Drop for Nvidia {
    fn drop(&mut self) {
        // SAFETY: both were made in `open` and are not used again.
        unsafe {
            if sys::cuCtxSetCurrent(self.context) == sys::CUresult::CUDA_SUCCESS
                && !self.stream.is_null()
            {
                let _ = sys::cuStreamDestroy_v2(self.stream);
            }
            let _ = sys::cuDevicePrimaryCtxRelease_v2(self.device);
        }
    }
}

impl Nvidia {
    /// Makes the context the current one of this thread.
    fn here(&self) -> Result<()> {
        // SAFETY: the context is held.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.context) })
    }
}

/// A handle of the driver as a number.
fn number<T>(handle: *mut T) -> u64 {
    handle.expose_provenance() as u64
}

/// And back.
fn handle<T>(number: u64) -> *mut T {
    ptr::with_exposed_provenance_mut(number as usize)
}

// Every block below that is marked as unsafe calls a function of the driver with the context made
// current, on handles that it gave and places that live for as long as the call takes.
impl Driver for Nvidia {
    fn room(&self) -> Result<Room> {
        self.here()?;
        let (mut free, mut all) = (0, 0);
        // SAFETY: both places are there.
        let done = unsafe { sys::cuMemGetInfo_v2(&raw mut free, &raw mut all) };
        check("cuMemGetInfo", done).map(|()| Room { free: free as u64, all: all as u64 })
    }

    fn allocate(&self, bytes: u64) -> Result<u64> {
        self.here()?;
        let mut address = 0;
        // SAFETY: the place is there.
        let done = unsafe { sys::cuMemAlloc_v2(&raw mut address, bytes as usize) };
        check("cuMemAlloc", done).map(|()| address)
    }

    unsafe fn free(&self, address: u64) {
        if self.here().is_ok() {
            // SAFETY: as the caller says.
            let _ = unsafe { sys::cuMemFree_v2(address) };
        }
    }

    fn pin(&self, bytes: usize) -> Result<*mut u8> {
        self.here()?;
        let mut at: *mut c_void = ptr::null_mut();
        // SAFETY: the place is there.
        let done = unsafe { sys::cuMemHostAlloc(&raw mut at, bytes, 0) };
        check("cuMemHostAlloc", done).map(|()| at.cast())
    }

    unsafe fn unpin(&self, memory: *mut u8) {
        if self.here().is_ok() {
            // SAFETY: as the caller says.
            let _ = unsafe { sys::cuMemFreeHost(memory.cast()) };
        }
    }

    unsafe fn upload(&self, to: u64, from: *const u8, bytes: usize) -> Result<()> {
        self.here()?;
        // SAFETY: as the caller says.
        let done = unsafe { sys::cuMemcpyHtoDAsync_v2(to, from.cast(), bytes, self.stream) };
        check("cuMemcpyHtoDAsync", done)
    }

    unsafe fn download(&self, to: *mut u8, from: u64, bytes: usize) -> Result<()> {
        self.here()?;
        // SAFETY: as the caller says.
        let done = unsafe { sys::cuMemcpyDtoHAsync_v2(to.cast(), from, bytes, self.stream) };
        check("cuMemcpyDtoHAsync", done)
    }

    unsafe fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<()> {
        self.here()?;
        // SAFETY: as the caller says.
        let done = unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes as usize, self.stream) };
        check("cuMemcpyDtoDAsync", done)
    }

    unsafe fn set(&self, at: u64, byte: u8, bytes: u64) -> Result<()> {
        self.here()?;
        // SAFETY: as the caller says.
        let done = unsafe { sys::cuMemsetD8Async(at, byte, bytes as usize, self.stream) };
        check("cuMemsetD8Async", done)
    }

    fn module(&self, cubin: &[u8]) -> Result<Module> {
        self.here()?;
        let mut module = ptr::null_mut();
        // SAFETY: machine code says itself how long it is; what the cache holds is whole, by its digest.
        let done = unsafe { sys::cuModuleLoadData(&raw mut module, cubin.as_ptr().cast()) };
        check("cuModuleLoadData", done).map(|()| Module(number(module)))
    }

    unsafe fn unload(&self, module: Module) {
        if self.here().is_ok() {
            // SAFETY: as the caller says.
            let _ = unsafe { sys::cuModuleUnload(handle(module.0)) };
        }
    }

    fn function(&self, module: Module, name: &str, shared_bytes: u32) -> Result<Function> {
        use sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        self.here()?;
        let name = CString::new(name).expect("names of kernels have no zeros");
        let mut function = ptr::null_mut();
        // SAFETY: the module is loaded, and the name ends in a zero.
        let done =
            unsafe { sys::cuModuleGetFunction(&raw mut function, handle(module.0), name.as_ptr()) };
        check("cuModuleGetFunction", done)?;
        // Now, and not when it is first recorded: loading code waits for the GPU.
        // SAFETY: the function was just found.
        check("cuFuncLoad", unsafe { sys::cuFuncLoad(function) })?;
        if shared_bytes > 0 {
            let which = CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function was just found.
            let done = unsafe { sys::cuFuncSetAttribute(function, which, shared_bytes as c_int) };
            check("cuFuncSetAttribute", done)?;
        }
        Ok(Function(number(function)))
    }

    fn map(&self, matrix: &Matrix) -> Result<TensorMap> {
        self.here()?;
        let mut map = TensorMap([0; 16]);
        let dtype = match matrix.dtype {
            DType::F16 => sys::CUtensorMapDataType_enum::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            _ => sys::CUtensorMapDataType_enum::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        };
        let sizes = [matrix.columns, matrix.rows];
        let strides = [matrix.stride_bytes];
        // 64 elements are the 128 bytes of a row of the pattern in which they lie in shared memory.
        let (pieces, steps) = ([64, matrix.box_rows], [1u32; 2]);
        // SAFETY: the map has the 128 bytes and the alignment of one, and lengths are those of the arrays.
        let done = unsafe {
            sys::cuTensorMapEncodeTiled(
                (&raw mut map).cast(),
                dtype,
                2,
                handle(matrix.memory.address),
                sizes.as_ptr(),
                strides.as_ptr(),
                pieces.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave_enum::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle_enum::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion_enum::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                sys::CUtensorMapFloatOOBfill_enum::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        check("cuTensorMapEncodeTiled", done).map(|()| map)
    }

    unsafe fn launch(&self, function: Function, grid: Grid, values: &[Value]) -> Result<()> {
        self.here()?;
        let mut places: smallvec::SmallVec<[*mut c_void; 24]> = values
            .iter()
            .map(|value| match value {
                Value::Memory(span) => (&raw const span.address).cast_mut().cast(),
                Value::Size(size) => ptr::from_ref(size).cast_mut().cast(),
                Value::Map(map) => ptr::from_ref(map).cast_mut().cast(),
            })
            .collect();
        let [x, y, z] = grid.blocks;
        // SAFETY: the values are the kernel's, as the caller says, and are copied by the call.
        let done = unsafe {
            sys::cuLaunchKernel(
                handle(function.0),
                x,
                y,
                z,
                grid.threads,
                1,
                1,
                grid.shared_bytes,
                self.stream,
                places.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        check("cuLaunchKernel", done)
    }

    fn event(&self) -> Result<Event> {
        self.here()?;
        let mut event = ptr::null_mut();
        // SAFETY: the place is there.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&raw mut event, 0) })
            .map(|()| Event(number(event)))
    }

    fn drop_event(&self, event: Event) {
        if self.here().is_ok() {
            // SAFETY: the event was made here and is given back once.
            let _ = unsafe { sys::cuEventDestroy_v2(handle(event.0)) };
        }
    }

    fn record(&self, event: Event) -> Result<()> {
        self.here()?;
        // SAFETY: the event was made here.
        check("cuEventRecord", unsafe { sys::cuEventRecord(handle(event.0), self.stream) })
    }

    fn wait_for(&self, event: Event) -> Result<()> {
        self.here()?;
        // SAFETY: the event was made here.
        check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(handle(event.0)) })
    }

    fn seconds(&self, from: Event, to: Event) -> Result<f64> {
        self.here()?;
        let mut milliseconds = 0f32;
        // SAFETY: both events were made here.
        let done = unsafe {
            sys::cuEventElapsedTime_v2(&raw mut milliseconds, handle(from.0), handle(to.0))
        };
        check("cuEventElapsedTime", done).map(|()| f64::from(milliseconds) * 1e-3)
    }

    fn begin_capture(&self) -> Result<()> {
        self.here()?;
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: the stream is ours.
        check("cuStreamBeginCapture", unsafe { sys::cuStreamBeginCapture_v2(self.stream, mode) })
    }

    fn end_capture(&self) -> Result<Graph> {
        self.here()?;
        let (mut graph, mut ready) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the stream is ours; what was recorded is given back once it has been made ready.
        unsafe {
            let done = sys::cuStreamEndCapture(self.stream, &raw mut graph);
            check("cuStreamEndCapture", done)?;
            if graph.is_null() {
                let said = "nothing was recorded".to_owned();
                return Err(Refused { trouble: Trouble::Other, call: "cuStreamEndCapture", said });
            }
            let done = sys::cuGraphInstantiateWithFlags(&raw mut ready, graph, 0);
            let _ = sys::cuGraphDestroy(graph);
            check("cuGraphInstantiate", done)?;
            check("cuGraphUpload", sys::cuGraphUpload(ready, self.stream))?;
        }
        Ok(Graph(number(ready)))
    }

    unsafe fn launch_graph(&self, graph: Graph) -> Result<()> {
        self.here()?;
        // SAFETY: as the caller says.
        check("cuGraphLaunch", unsafe { sys::cuGraphLaunch(handle(graph.0), self.stream) })
    }

    unsafe fn drop_graph(&self, graph: Graph) {
        if self.here().is_ok() {
            // SAFETY: as the caller says.
            let _ = unsafe { sys::cuGraphExecDestroy(handle(graph.0)) };
        }
    }

    fn wait(&self) -> Result<()> {
        self.here()?;
        // SAFETY: the stream is ours.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.stream) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On machines with a driver it is found, and its GPUs have names; on others an error says so.
    #[test]
    fn a_machine_without_a_driver_is_told_so_and_nothing_panics() {
        match System::find() {
            Ok(system) => {
                for number in 0..system.count {
                    let card = system.card(number).unwrap();
                    assert!(!card.name.is_empty() && card.bytes > 1 << 30, "{card:?}");
                }
            }
            Err(fault) => {
                assert!(["E0858", "E0859", "E0860"].contains(&fault.code), "{fault:?}");
                if fault.code == "E0858" {
                    assert!(fault.cause.expect("what the system says").contains("cuda"));
                }
            }
        }
    }

    #[test]
    fn no_call_is_named_twice_and_all_that_are_made_are_named() {
        let source = include_str!("nvidia.rs");
        for name in CALLS {
            assert!(source.contains(&format!("sys::{name}")), "{name} is not called");
            assert_eq!(CALLS.iter().filter(|other| **other == name).count(), 1, "{name}");
        }
        let called = source.split("sys::cu").skip(1).map(|rest| {
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            format!("cu{}", &rest[..end.unwrap_or(rest.len())])
        });
        for name in called.filter(|name| name.len() > 2) {
            assert!(CALLS.contains(&&*name), "{name} is not looked for");
        }
    }
}
