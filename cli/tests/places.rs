//! Every place where something is written: standard output, pipes, mount points, shared folders,
//! long names, few descriptors. Nothing is lost in silence, and nothing of others is touched.
#![cfg(unix)]

mod common;

use common::Folder;
use std::path::Path;
use std::process::Output;

/// `A` is the program, and `G` a run of `generate` by tiny networks that is quick unless `S`, `F` and `N` say more.
/// What started the tests may have left descriptors open.
const WORDS: &str = "exec 3>&- 4>&- 5>&- 6>&- 7>&- 8>&- 9>&-; A() { $PROGRAM \"$@\"; }; G() { A generate --model $MICRO --prompt hi --size ${S:-64x64} \
                     --frames ${F:-5} --steps ${N:-1} --guidance 1 \"$@\"; }; ";
const PROGRAM: &str = env!("CARGO_BIN_EXE_anyid-rt");

/// Runs lines of a shell in `folder`, which is also that for temporary files.
fn shell(folder: &Folder, lines: &str) -> Output {
    let mut command = folder.other("bash");
    command.args(["-c", &format!("{WORDS}{lines}")]);
    command.env("PROGRAM", PROGRAM).env("TMPDIR", folder.path("")).env("MICRO", common::micro());
    command.output().unwrap_or_else(|e| panic!("bash is needed: {e}"))
}

/// `lines` for a shell in the shell.
fn quoted(lines: &str) -> String {
    format!("'{}'", format!("{WORDS}{lines}").replace('\'', r"'\''"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn fine(folder: &Folder, lines: &str) -> Output {
    let done = shell(folder, lines);
    assert!(done.status.success(), "{lines}\n{}", text(&done.stderr));
    done
}

/// Asserts a coded error; gives all that was said.
#[track_caller]
fn fails(folder: &Folder, lines: &str, code: &str) -> String {
    let done = shell(folder, lines);
    let said = text(&done.stderr);
    assert_eq!(done.status.code(), Some(1), "{lines}\n{said}");
    assert!(said.contains(&format!("error[{code}]")), "{lines}\n{said}");
    said
}

fn read(folder: &Folder, name: &str) -> Vec<u8> {
    std::fs::read(folder.path(name)).unwrap()
}

fn picture(folder: &Folder, name: &str) {
    let bytes = std::fs::read(common::repository().join("examples/astronaut.png")).unwrap();
    folder.write(name, bytes);
}

#[test]
fn few_descriptors_are_an_error_that_leaves_nothing() {
    let folder = Folder::new();
    picture(&folder, "a.png");
    folder.write(
        "x.ir",
        "module @a\nfunc @m() -> f32[] {\n  %r = const {value=1.0} : f32[]\n  return %r\n}\n",
    );
    let before = folder.names();
    let quick = "--prompt hi --size 64x64 --frames 5 --steps 1 --guidance 1 --ref a.png";
    for run in [
        &format!("generate {quick} -o x.mp4"),
        &format!("generate {quick} -o x.gif"),
        &format!("generate {quick} -o frames"),
        &format!("generate {quick} -o -"),
        "export dit -o x.txt",
        "init m",
        "run x.ir -o y.st",
        "opt x.ir --dump-dir dumps -o y.ir",
    ] {
        let mut worked = false;
        for most in 4..24 {
            let line = format!("ulimit -n {most}; exec timeout 60 $PROGRAM {run}");
            let done = shell(&folder, &line);
            let said = text(&done.stderr);
            match done.status.code() {
                Some(0) => {
                    worked = true;
                    break;
                }
                Some(1) => assert!(
                    said.contains("error[E1013]: too many files are open"),
                    "{line}\n{said}"
                ),
                other => panic!("{line}: {other:?}\n{said}"),
            }
            let mut left = folder.names();
            // An empty folder for dumps is no partial result.
            left.retain(|name| name != "dumps");
            assert_eq!(left, before, "{line}\n{said}");
        }
        assert!(worked, "{run} never worked");
        fine(&folder, "rm -rf x.mp4* x.gif* frames* x.txt m y.st y.ir dumps");
    }
    let said = fails(&folder, "ulimit -n 4; A init m", "E1013");
    assert!(said.contains("too many files") && said.contains("ulimit -n"), "{said}");
}

#[test]
fn latents_that_nobody_asked_for_replace_and_remove_nothing() {
    let folder = Folder::new();
    fine(&folder, "G -o fo.gif --save-latents fo.gif.latents.safetensors");
    let kept = read(&folder, "fo.gif.latents.safetensors");
    fine(&folder, "G -o fo.gif --force --seed 2");
    assert!(read(&folder, "fo.gif.latents.safetensors") == kept);
    // Nor does the run that fails, which leaves its own beside them.
    let said = fails(&folder, "ulimit -f 32; S=128x128 G -o fo.gif --force --seed 3", "E1013");
    assert!(read(&folder, "fo.gif.latents.safetensors") == kept);
    assert!(said.contains("fo.gif.latents-1.safetensors --force"), "{said}");
    fine(&folder, "A generate --latents fo.gif.latents-1.safetensors --force");
    // A pipe's lie where nobody could have put anything before.
    let names = folder.names();
    fine(&folder, "G -o - >/dev/null");
    assert_eq!(folder.names(), names);
    let said = fails(&folder, "G -o /dev/full --format gif", "E1012");
    let new: Vec<String> = folder.names().into_iter().filter(|n| !names.contains(n)).collect();
    let [spare] = &new[..] else { panic!("{new:?}") };
    assert!(spare.starts_with("anyid-rt-") && spare.len() > 40, "{spare}");
    assert!(said.contains(spare.as_str()) && said.contains("-o video.gif"), "{said}");
    fails(&folder, &format!("A generate --latents {spare}"), "E0900");
    // The advice can be pasted.
    let advice = said.split('`').find(|part| part.starts_with("anyid-rt generate")).unwrap();
    fine(&folder, &advice.replace("anyid-rt generate", "A generate"));
    assert!(folder.path("video.gif").exists());
}

#[test]
fn advice_can_be_pasted_whatever_the_name() {
    let folder = Folder::new();
    for name in ["it's \"my\" film; $HOME.gif", "-x.gif"] {
        let line = format!("ulimit -f 32; S=128x128 G --output='{}'", name.replace('\'', r"'\''"));
        let said = fails(&folder, &line, "E1013");
        let advice = said.split('`').find(|part| part.starts_with("anyid-rt generate")).unwrap();
        fine(&folder, &advice.replace("anyid-rt generate", "A generate"));
        assert!(folder.path(name).exists(), "{name}\n{said}");
    }
}

#[test]
fn names_that_are_too_long_are_refused_before_the_run() {
    let folder = Folder::new();
    let long = |count: usize| "n".repeat(count);
    folder.write(
        "x.ir",
        "module @a\nfunc @m() -> f32[] {\n  %r = const {value=1.0} : f32[]\n  return %r\n}\n",
    );
    let before = folder.names();
    for line in [
        format!("G --dry-run -o {}.mp4", long(245)),
        format!("G --dry-run -o {}.mp4", long(300)),
        format!("G --dry-run -o {}", long(256)),
        format!("G --dry-run -o a.mp4 --save-latents {}", long(256)),
        format!("G --dry-run -o a.mp4 --trace {}", long(256)),
        format!("A run x.ir -o {}", long(256)),
        format!("A init {}", long(256)),
        format!("A export dit -o {}", long(256)),
    ] {
        let said = fails(&folder, &line, "E1013");
        assert!(said.contains("too long"), "{line}\n{said}");
        assert_eq!(folder.names(), before);
    }
    // The longest that its recipe leaves; the spare latents find a shorter name.
    fine(&folder, &format!("G -o {}.gif", long(239)));
    assert_eq!(folder.names().len(), before.len() + 2);
    let line = format!("ulimit -f 32; S=128x128 G -o {}.gif", long(238));
    assert!(fails(&folder, &line, "E1013").contains("the latents are in ./anyid-rt-"));
}

#[test]
fn standard_output_is_a_place_like_any_other() {
    let folder = Folder::new();
    picture(&folder, "b.png");
    let reference = read(&folder, "b.png");
    let ir = "module @a\nfunc @m(%x: f32[2]) -> f32[2] {\n  %y = add %x, %x\n  return %y\n}\n";
    folder.write("s.ir", ir);
    folder.write(
        "r.ir",
        "module @a\nfunc @m() -> f32[] {\n  %r = const {value=1.0} : f32[]\n  return %r\n}\n",
    );
    for (line, code) in [
        ("G -o - --save-latents z --force >z", "E0951"),
        ("G -o - --trace z --force >z", "E0951"),
        ("G --json -o v.mp4 --save-latents z --force >z", "E0951"),
        ("G --json -o v.mp4 --trace /dev/stdout --force >z", "E0951"),
        ("G -o v.mp4 --trace - >z", "E0951"),
        ("G -o v.mp4 --force >v.mp4", "E0951"),
        ("G -o v.mp4 --force >v.mp4.recipe.json", "E0951"),
        ("G -o - --trace /dev/stdout | cat; exit ${PIPESTATUS[0]}", "E0951"),
        ("G --ref b.png -o - >>b.png", "E0950"),
        ("G --ref b.png -o v.mp4 >>b.png", "E0950"),
        ("A opt s.ir >>s.ir", "E0950"),
        ("A compile s.ir -o s.plan >s.plan", "E0951"),
        ("A compile s.ir --json >>s.ir", "E0950"),
        ("A compile s.ir --json -o -", "E0948"),
        ("A compile s.ir --emit plan -o -", "E0948"),
        ("A export dit -o x.ir >x.ir", "E0951"),
        ("A run r.ir -o y.st >y.st", "E0951"),
    ] {
        fails(&folder, line, code);
        assert!(read(&folder, "b.png") == reference && read(&folder, "s.ir") == ir.as_bytes());
    }
    fine(&folder, "rm -f z v.mp4* s.plan x.ir y.st");
    // `-` is standard output for every verb that writes one file.
    fine(&folder, "A opt s.ir -o a.ir; A opt s.ir -o - >b.ir; cmp a.ir b.ir");
    fine(&folder, "A compile s.ir -o a.plan; A compile s.ir -o - >b.plan; cmp a.plan b.plan");
    fine(
        &folder,
        "A run r.ir -o a.st; A run r.ir -o - >b.st; A run r.ir -o /dev/stdout | cmp - a.st",
    );
    fine(
        &folder,
        "cmp a.st b.st; A export dit -o - >d.ir; A export dit -o /dev/stdout | cmp - d.ir",
    );
    fine(&folder, "A export dit -o /dev/stdout | head -1 >/dev/null; exit ${PIPESTATUS[0]}");
    fine(&folder, "G -o a.gif; G -o - --format gif >b.gif; cmp a.gif b.gif");
    assert!(!folder.path("-").exists());
}

#[test]
fn pipes_and_descriptors_take_any_result() {
    let folder = Folder::new();
    folder.write(
        "r.ir",
        "module @a\nfunc @m() -> f32[] {\n  %r = const {value=1.0} : f32[]\n  return %r\n}\n",
    );
    fine(&folder, "G -o a.gif --save-latents a.st; A run r.ir -o r.st");
    fine(&folder, "G -o a.gif --force --trace >(cat >t) --save-latents >(cat >l); sleep 1");
    assert!(read(&folder, "l") == read(&folder, "a.st"));
    assert!(text(&read(&folder, "t")).starts_with(['[', '{']));
    fine(&folder, "A run r.ir -o >(cat >p.st); sleep 1; cmp p.st r.st");
    // What the shell has opened is written through what it opened.
    fine(&folder, "G -o /dev/fd/3 --format gif 3>y.gif; cmp a.gif y.gif");
    fine(&folder, "echo old >log; A run r.ir -o /dev/fd/3 3>>log; head -1 log | grep -q old");
    fails(&folder, "G -o /dev/fd/77 --format gif", "E1014");
    let link = folder.path("link.gif");
    std::os::unix::fs::symlink("nowhere/x.gif", link).unwrap();
    let said = fails(&folder, "G -o link.gif", "E1010");
    assert!(said.contains("link leads to ./nowhere/x.gif, and the folder ./nowhere "), "{said}");
}

#[test]
fn dumps_stay_in_their_folder_and_spare_other_files() {
    let folder = Folder::new();
    let ir = "module @a\nfunc @m(%x: f32[2]) -> f32[2] {\n  %y = add %x, %x\n  return %y\n}\n";
    for name in ["dd/01-inline.ir", "s.ir"] {
        folder.write(name, ir);
    }
    folder.write("notes.txt", "mine");
    let said = fails(&folder, "A opt dd/01-inline.ir --dump-dir dd", "E0950");
    assert!(said.contains("--dump-dir"), "{said}");
    assert_eq!(folder.path("dd").read_dir().unwrap().count(), 1);
    fails(&folder, "A opt s.ir --dump-dir dd -o dd/01-inline.ir", "E0951");
    fails(&folder, "A compile s.ir --dump-dir dd -o dd/01-inline.ir", "E0951");
    fails(&folder, "A kernels s.ir --dump-dir dd >dd/01-inline.ir", "E0951");
    fine(&folder, "rm dd/*; ln -s ../notes.txt dd/01-inline.ir");
    fails(&folder, "A opt s.ir --dump-dir dd", "E1014");
    fine(&folder, "rm dd/*; ln -s ../s.ir dd/01-inline.ir");
    fails(&folder, "A opt s.ir --dump-dir dd", "E1014");
    fine(&folder, "rm dd/*; mkfifo dd/01-inline.ir");
    fails(&folder, "timeout 20 $PROGRAM opt s.ir --dump-dir dd", "E1014");
    assert_eq!(read(&folder, "notes.txt"), b"mine");
    assert_eq!(read(&folder, "s.ir"), ir.as_bytes());

    let func = |name: &str| ir.split_once('\n').unwrap().1.replace("@m", name);
    folder.write("x.ir", format!("module @a\n{}{}", func("@.."), func("@con")));
    let before = folder.names();
    fine(&folder, "A compile x.ir --func ..,con --dump-dir in/dq");
    assert_eq!(folder.path("in").read_dir().unwrap().count(), 1);
    assert!(folder.path("in/dq/con").is_dir() && folder.path("in/dq/%2e%2e").is_dir());
    fine(&folder, "rm -r in/dq/con; mkdir out; ln -s ../../out in/dq/con");
    fails(&folder, "A compile x.ir --func ..,con --dump-dir in/dq", "E0917");
    assert_eq!(folder.path("out").read_dir().unwrap().count(), 0);
    assert_eq!(folder.names().len(), before.len() + 2);
}

#[test]
fn what_cannot_be_stored_does_not_cost_what_can() {
    let folder = Folder::new();
    // 24 KiB of latents do not fit where they were wanted: a limit stands for a full disk there.
    let done = fine(&folder, "G -o a.gif --save-latents /dev/full");
    let said = text(&done.stderr);
    assert!(
        said.contains("the latents could not be stored in /dev/full (the disk is full)"),
        "{said}"
    );
    let spare = folder.names().into_iter().find(|name| name.starts_with("anyid-rt-")).unwrap();
    assert!(said.contains(&spare) && text(&done.stdout).contains(&spare), "{said}");
    fine(&folder, &format!("A generate --latents {spare} -o b.gif; cmp a.gif b.gif"));

    let said = fails(&folder, "G -o c.gif --trace /dev/full", "E1012");
    assert!(said.contains("the video is complete: c.gif"), "{said}");
    fine(&folder, "cmp a.gif c.gif");
    let said = fails(&folder, "G -o d.gif >/dev/full", "E1012");
    assert!(said.contains("the video is complete: d.gif"), "{said}");
    folder.write(
        "r.ir",
        "module @a\nfunc @m() -> f32[] {\n  %r = const {value=1.0} : f32[]\n  return %r\n}\n",
    );
    let said = fails(&folder, "A run r.ir -o r.st --trace /dev/full", "E1012");
    assert!(said.contains("the results are complete: r.st") && folder.path("r.st").exists());
}

#[test]
fn a_folder_that_goes_away_is_not_said_to_hold_the_latents() {
    let folder = Folder::new();
    let run = |change: &str, until: &str| {
        let line = format!(
            "mkdir out; S=128x128 N=6 F=41 G -o out/a.gif & p=$!; \
             while ! {until}; do sleep 0.01; kill -0 $p || break; done; {change}; wait $p"
        );
        fails(&folder, &line, "E1010")
    };
    // Before sampling ends: the latents go elsewhere.
    let said = run("mv out moved", "compgen -G 'out/.anyid*' >/dev/null");
    let spare = folder.names().into_iter().find(|name| name.starts_with("anyid-rt-")).unwrap();
    assert!(said.contains(&spare) && said.contains(" -o a.gif"), "{said}");
    let advice = said.split('`').find(|part| part.starts_with("anyid-rt generate")).unwrap();
    fine(&folder, &advice.replace("anyid-rt generate", "A generate"));
    // Afterwards: they are gone, which is said.
    let said = run("rm -r out", "compgen -G 'out/a.gif.latents*' >/dev/null");
    assert!(said.contains("was moved or removed since"), "{said}");
}

/// Whether this process may mount; says so where it may not.
fn mounts(folder: &Folder) -> bool {
    let works = shell(folder, "unshare -m true").status.success();
    if !works {
        println!("skipped: mounting needs root and `unshare`");
    }
    works
}

/// Runs lines in a space of mounts of their own.
fn apart(lines: &str) -> String {
    format!("unshare -m bash -c {}", quoted(&format!("mount --make-rprivate / && {{ {lines}; }}")))
}

#[test]
fn mount_points_are_filled_or_refused_before_the_run() {
    let folder = Folder::new();
    if !mounts(&folder) {
        return;
    }
    fine(&folder, "mkdir mnt store; echo old >file.gif; echo other >other.gif");
    // A volume of a container: empty, then with the frames of an earlier run.
    let bind = "mount --bind store mnt";
    fine(&folder, &apart(&format!("{bind} && G -o mnt && G -o mnt --force --seed 2")));
    assert_eq!(folder.path("store").read_dir().unwrap().count(), 5, "frames alone");
    fine(&folder, "G -o plain --seed 2; diff -r plain store");
    fails(&folder, &apart(&format!("{bind} && G -o mnt")), "E1016");
    // What a killed run has left is no content.
    fine(&folder, "rm store/* mnt.recipe.json; touch store/.anyid-rt-a1-2b-3c-0.tmp");
    fine(&folder, &apart(&format!("{bind} && G -o mnt")));
    assert_eq!(folder.path("store").read_dir().unwrap().count(), 5);
    fine(&folder, "rm -r store/* mnt.recipe.json");
    fine(&folder, &apart(&format!("{bind} && A init mnt")));
    assert!(folder.path("store/model_index.json").exists());
    // A folder that came with the image of a container cannot be renamed either.
    fine(&folder, "mkdir -p low/frames up work all; touch low/frames/frame_00000.png");
    let layers = "mount -t overlay none -o lowerdir=low,upperdir=up,workdir=work all";
    match shell(&folder, &apart(layers)).status.success() {
        false => println!("skipped: there is no overlay file system"),
        true => {
            let run =
                format!("{layers} && G -o all/frames --force --seed 2 && diff -r all/frames plain");
            fine(&folder, &apart(&run));
        }
    }
    let file = "mount --bind other.gif file.gif; G --dry-run -o file.gif --force";
    let said = fails(&folder, &apart(file), "E1018");
    assert!(said.contains("mounted by itself"), "{said}");
    assert_eq!(read(&folder, "other.gif"), b"other\n");
}

#[test]
fn files_of_others_in_shared_folders_are_refused_before_the_run() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let drop = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    if !shell(&folder, &format!("{drop} {PROGRAM} explain E1018")).status.success() {
        println!("skipped: changing the user needs root and `setpriv`");
        return;
    }
    folder.write("a.gif", "of root");
    std::fs::set_permissions(folder.path(""), PermissionsExt::from_mode(0o1777)).unwrap();
    std::fs::set_permissions(folder.path("a.gif"), PermissionsExt::from_mode(0o666)).unwrap();
    let run = |line: &str| format!("{drop} bash -c {}", quoted(line));
    let said = fails(&folder, &run("G --dry-run -o a.gif --force"), "E1018");
    assert!(said.contains("another user"), "{said}");
    fine(&folder, &run("G -o b.gif; G -o b.gif --force"));
    assert_eq!(read(&folder, "a.gif"), b"of root");
    assert!(Path::new(&folder.path("b.gif")).exists());
}
