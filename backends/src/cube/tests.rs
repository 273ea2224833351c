//! Tests of the devices that are here. Machines without an adapter skip what needs one, and say so.

use super::compile;
use super::device::Portable;
use super::kernels::{Body, Moved};
use super::launch::{Bound, Object, Place, Use};
use super::webgpu::{KIND, apart, portable};
use crate::device::{Call, Runner};
use crate::errors::OpenError;
use crate::registry::Opening;
use crate::{Device, Registry, Settings};
use anyid_ir::plan_text::parse_plans;
use cubecl::wgpu::WgpuRuntime;
use std::sync::Arc;

/// The first device, if there is one.
fn first() -> Option<Arc<Portable<WgpuRuntime>>> {
    match (KIND.devices)() {
        Ok(names) => {
            let settings = Settings::default();
            let opening = Opening { name: &names[0], variant: Some("0"), settings: &settings };
            Some(portable(&opening).unwrap_or_else(|error| panic!("{}: {error}", names[0])))
        }
        Err(OpenError::Failed(fault)) => {
            assert_eq!(fault.code, "E0870");
            println!("skipped: {}", fault.message);
            None
        }
        Err(other) => panic!("{other}"),
    }
}

#[test]
fn a_device_says_what_it_is_and_whether_it_is_a_processor() {
    let Some(device) = first() else { return };
    let about = device.about();
    assert_eq!((about.name.as_str(), about.target.name), ("wgpu:0", "wgpu"));
    assert!(about.words.contains("binds") && about.words.contains("f32"), "{}", about.words);
    let software = about.words.contains("software");
    assert_eq!(software, about.warnings.iter().any(|said| said.contains("E0873")));
}

#[test]
fn a_number_that_is_not_there_is_told_with_those_that_are() {
    if first().is_none() {
        return;
    }
    for name in ["wgpu:99", "wgpu:x", "wgpu:-1"] {
        let error = Registry::default().open(name, &Settings::default()).err();
        let error = error.unwrap_or_else(|| panic!("{name} was opened"));
        assert!(matches!(error, OpenError::NotThere(_)), "{name}: {error}");
        assert!(error.to_string().contains("wgpu:0"), "{error}");
    }
}

/// A plan with one row kernel on `rows` rows of four elements.
fn plan(dtype: &str, rows: usize) -> anyid_ir::plan::Plan {
    let form = if dtype == "f64" { " as f64" } else { "" };
    let text = format!(
        "plan \"toy\" {{
  memory alignment=256 workspace=0 lower_bound=0 naive=0 persistent=0
  buffer %0 = input 0 + 0 : {dtype}[{rows},4]
  input \"x\" = %0
  output \"y\" = %1
  kernel k0 \"neg\" rows i in {rows}, cols j in 4{form} {{
    in a0: {dtype}[{rows},4]
    out y0: {dtype}[{rows},4]
    v0 = a0[i*4 + j]
    v1 = neg(v0)
    y0[i,j] = v1
  }}
  %1 = k0 %0 : output 0 + 0 {dtype}[{rows},4] \"toy/y\"
}}
"
    );
    let plans = parse_plans(&text).unwrap_or_else(|error| panic!("{error:?}\n{text}"));
    plans.into_iter().next().expect("one was written")
}

/// No weights.
struct Nothing;

impl crate::WeightProvider for Nothing {
    fn find(&self, _: &str) -> Option<crate::StoredWeight> {
        None
    }

    fn read(&self, _: &str, _: u64, _: &mut [u8]) -> Result<(), crate::Fault> {
        unreachable!("there are no weights")
    }
}

#[test]
fn doubles_are_refused_by_name_before_anything_is_loaded() {
    let Some(device) = first() else { return };
    let plan = plan("f64", 3);
    let error = device.load(&[&plan], Arc::new(Nothing), &mut |_, _| true).err();
    let Some(crate::LoadError::Failed(fault)) = error else { panic!("{error:?}") };
    assert_eq!((fault.code, fault.place.as_deref()), ("E0872", Some("toy/y")));
}

#[test]
fn a_kernel_that_is_refused_is_named_and_kept() {
    let Some(device) = first() else { return };
    let to = Place::words(Object::WORKSPACE.span(1024));
    let mut bound = Bound::new(&[(&to, Use::WRITE)], &device.limits);
    let (count, value) = (bound.size(256), bound.size(0));
    let moved = Moved { from: None, to: bound.slots[0], count, value };
    // More threads than any device has in a cube.
    let launch = bound.launch("too wide", Body::Moved(moved), 1 << 20, 1);
    let fault = compile::all(&device, std::iter::once(&launch.kernel)).unwrap_err();
    let said = (fault.code, fault.message.as_str());
    assert_eq!(said, ("E0871", "wgpu:0 does not take kernel k_too_wide"));
    let path = fault.help.unwrap_or_default().replace("its source is in ", "");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{path}: {why}"));
    assert!(text.contains("Moved") && text.contains("@compute"), "{text}");
    let _ = std::fs::remove_file(path);
    // The device goes on.
    device.wait().unwrap_or_else(|fault| panic!("{fault:?}"));
}

#[test]
fn what_is_bound_at_once_is_within_the_limits_of_the_device() {
    let Some(device) = first() else { return };
    // Sixteen bytes a row: more than any device takes.
    let plan = plan("f32", 1 << 33);
    let error = device.load(&[&plan], Arc::new(Nothing), &mut |_, _| panic!("nothing is loaded"));
    let Err(crate::LoadError::Failed(fault)) = error else { panic!("it was loaded") };
    assert_eq!(fault.code, "E0603", "{}", fault.message);
    let said = " MiB in one piece, of which wgpu:0 takes ";
    assert!(fault.message.contains(said), "{}", fault.message);
}

/// One run of [`plan`] with some numbers in.
fn once(runner: &mut dyn Runner) -> Result<Vec<f32>, crate::RunError> {
    let given: Vec<u8> = (0..12).flat_map(|i| (i as f32).to_le_bytes()).collect();
    let mut taken = vec![0; given.len()];
    runner.run(
        0,
        Call { inputs: &[&given[..]], outputs: &mut [&mut taken[..]], ..Call::default() },
    )?;
    let words = taken.as_chunks::<4>().0;
    Ok(words.iter().map(|word| f32::from_le_bytes(*word)).collect())
}

#[test]
fn a_device_that_is_lost_says_so_and_another_can_be_opened() {
    if first().is_none() {
        return;
    }
    let (device, own) = apart();
    let weights = device.clone().load(&[&plan("f32", 3)], Arc::new(Nothing), &mut |_, _| true);
    let weights = weights.unwrap_or_else(|error| panic!("{error}"));
    let ready = weights.prepare(vec![plan("f32", 3)]);
    let mut runner = ready.unwrap_or_else(|error| panic!("{error}"));
    let right: Vec<f32> = (0..12).map(|i| -(i as f32)).collect();
    let done = once(&mut *runner);
    assert_eq!(done.unwrap_or_else(|error| panic!("{error:?}")), right);
    own.destroy();
    for _ in 0..2 {
        let error = once(&mut *runner).err();
        let Some(crate::RunError::Failed { fault, .. }) = error else { panic!("{error:?}") };
        assert_eq!(fault.code, "E0862", "{fault:?}");
    }
    let (device, _) = apart();
    let weights = device.load(&[&plan("f32", 3)], Arc::new(Nothing), &mut |_, _| true);
    let ready = weights.and_then(|weights| weights.prepare(vec![plan("f32", 3)]));
    let mut runner = ready.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(once(&mut *runner).unwrap_or_else(|error| panic!("{error:?}")), right);
}

/// One run of the product of a matrix of 80 rows with itself, the other way round, on the device that these
/// settings open.
fn squared(settings: &Settings) -> Vec<u8> {
    let text = "plan \"toy\" {
  memory alignment=256 workspace=0 lower_bound=0 naive=0 persistent=0
  buffer %0 = input 0 + 0 : f32[80,80]
  input \"x\" = %0
  output \"y\" = %1
  kernel k0 \"linear\" anchor linear {
    y0 = linear(a0, a1)
  }
  %1 = k0 %0, %0 : output 0 + 0 f32[80,80] \"toy/y\"
}
";
    let plan = parse_plans(text).unwrap_or_else(|error| panic!("{error:?}")).remove(0);
    let device = Registry::default().open("wgpu:0", settings);
    let device = device.unwrap_or_else(|error| panic!("{error}"));
    assert!(device.about().warnings.iter().all(|said| said.contains("E0873")));
    let weights = device.load(&[&plan], Arc::new(Nothing), &mut |_, _| true);
    let ready = weights.and_then(|weights| weights.prepare(vec![plan]));
    let mut runner = ready.unwrap_or_else(|error| panic!("{error}"));
    let given: Vec<u8> = (0..6400).flat_map(|i| (i as f32).sin().to_le_bytes()).collect();
    let mut taken = vec![0; given.len()];
    let call = Call { inputs: &[&given[..]], outputs: &mut [&mut taken[..]], ..Call::default() };
    runner.run(0, call).unwrap_or_else(|error| panic!("{error:?}"));
    taken
}

#[test]
fn tiles_are_tried_once_and_kept_and_change_no_bit() {
    if first().is_none() {
        return;
    }
    let folder = std::env::temp_dir().join(format!("anyid-tiles-{}", std::process::id()));
    let usual = squared(&Settings::default().with("tune", "off"));
    assert!(!folder.exists(), "nothing is tried");
    let settings = Settings::default().with("tune", "on");
    let settings = settings.with("cache", folder.to_str().expect("it is UTF-8"));
    let kept = || {
        let files = std::fs::read_dir(&folder).unwrap_or_else(|why| panic!("{why}"));
        let all: Vec<Vec<u8>> = files
            .map(|file| file.and_then(|file| std::fs::read(file.path())))
            .collect::<Result<_, _>>()
            .unwrap_or_else(|why| panic!("{why}"));
        assert_eq!(all.len(), 1);
        all.concat()
    };
    assert!(squared(&settings) == usual);
    let choices = kept();
    let text = String::from_utf8_lossy(&choices);
    assert!(text.contains(" 1 128 80 80 f32 f32 Linear { stride: 80 }\n"), "{text}");
    // What is known stays as it is.
    assert!(squared(&settings) == usual);
    assert_eq!(kept(), choices);
    let _ = std::fs::remove_dir_all(&folder);
    let wrong = Registry::default().open("wgpu:0", &Settings::default().with("tune", "maybe"));
    assert!(matches!(wrong.err(), Some(OpenError::Setting { name: "tune", .. })));
}

/// One test of this file in a process of its own, which `changed` has made different.
#[cfg(target_os = "linux")]
fn apart_from_this(
    test: &str,
    changed: impl FnOnce(&mut std::process::Command),
) -> std::process::Output {
    let own = std::env::current_exe().expect("tests are a file");
    let mut apart = std::process::Command::new(own);
    apart.args(["--exact", &format!("cube::tests::{test}")]).env(ALONE, "1");
    changed(&mut apart);
    let done = apart.output().expect("it starts");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
    assert!(String::from_utf8_lossy(&done.stdout).contains("1 passed"));
    done
}

/// Set where a test is in a process of its own.
#[cfg(target_os = "linux")]
const ALONE: &str = "ANYID_TEST_ALONE";

#[cfg(target_os = "linux")]
#[test]
fn a_machine_without_an_adapter_says_so() {
    if std::env::var_os(ALONE).is_some() {
        let there = (KIND.devices)().err();
        let opened = Registry::default().open("wgpu:0", &Settings::default()).err();
        for error in [there, opened] {
            let Some(OpenError::Failed(fault)) = error else { panic!("{error:?}") };
            assert_eq!(fault.code, "E0870");
        }
        return;
    }
    // The loader of Vulkan finds no driver.
    apart_from_this("a_machine_without_an_adapter_says_so", |apart| {
        for driver in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
            apart.env(driver, "/nonexistent");
        }
    });
}
