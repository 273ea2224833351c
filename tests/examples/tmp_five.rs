use anyid_runtime::*;
use std::path::Path;
fn rss() -> String { std::fs::read_to_string("/proc/self/status").unwrap().lines().filter(|l| l.starts_with("VmHWM")||l.starts_with("VmRSS")||l.starts_with("RssAnon")).collect::<Vec<_>>().join(" ") }
fn main() -> Result<()> {
    let a: Vec<String> = std::env::args().collect();
    if a[1]=="init" {
        let t=std::time::Instant::now(); let mut last=0;
        init::write_folder(Path::new(&a[2]), a[3].parse()?, 0, &mut |d,n| { if d*20/n!=last { last=d*20/n; eprintln!("{:.0}% {:?} {}", 100.0*d as f64/n as f64, t.elapsed(), rss()); } })?;
        return Ok(());
    }
    let pipeline = Pipeline::open(&a[2])?;
    let request = Request { references: vec![ReferenceSource::File("examples/astronaut.png".into())], prompt: "smiling, in a garden".into(), size: Size { width: 256, height: 256, frames: 9 }, steps: 2, ..Request::default() };
    let t=std::time::Instant::now();
    let r = pipeline.generate(&request, &mut |e| { if !matches!(e, Event::Loading{..}) { eprintln!("{:?} {e:?} {}", t.elapsed(), rss()) } }, &mut |v| { eprintln!("video {:?}", v.shape()); Ok(()) })?;
    for p in r.phases { println!("{p:?}"); }
    println!("{}", rss());
    Ok(())
}
