//! Results of every form signed, read and altered; every signer, and what each refuses.

use super::*;
use crate::local::init;
use crate::manifest::{MARKS, Reference};
use crate::verdict::Verdict;
use anyid_files::media::writer::{VideoWriter, WriterOptions};
use std::process::Command;

const SIDE: usize = 64;

fn claims() -> Claims {
    Claims {
        version: "0.0.0".to_owned(),
        references: ["ab", "cd"]
            .map(|byte| Reference { sha256: byte.repeat(32), format: "image/png".to_owned() })
            .to_vec(),
        salt: None,
        mark: Some((MARKS[0], "9c1f00a5".to_owned())),
        recipe: json!({ "steps": 4, "shift": 5.0, "noise": null, "solver": "unipc" }),
        policy: json!({ "text": "allow", "off": ["the watermark"] }),
    }
}

/// Three frames in the form of a name.
fn video(folder: &Path, name: &str) -> PathBuf {
    let path = folder.join(name);
    let options = WriterOptions { allow_ffmpeg: false, ..WriterOptions::default() };
    let mut writer = VideoWriter::create(&path, SIDE, SIDE, 24.0, &options).unwrap();
    for frame in 0..3usize {
        let pixel = |at: usize| (at * 7 + frame * 31 + (at / SIDE) * 3) as u8;
        writer.push(&(0..SIDE * SIDE * 3).map(pixel).collect::<Vec<u8>>()).unwrap();
    }
    writer.finish().unwrap();
    path
}

fn form(path: &Path) -> &str {
    path.extension().map_or(crate::FRAMES, |ending| ending.to_str().unwrap())
}

fn policy(signer: Who) -> Provenance {
    Provenance { signer, ..Provenance::default() }
}

fn ephemeral() -> Sealer {
    Sealer::open(&policy(Who::Ephemeral), None).unwrap()
}

/// The verdict without a look at the frames.
fn verdict(path: &Path) -> String {
    Verdict::of(read(path, &[]).unwrap().as_ref(), None).words()
}

#[test]
fn a_signed_result_says_how_it_was_made_and_still_plays() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.mp4", "a.gif", "frames"] {
        let path = video(folder.path(), name);
        assert_eq!(verdict(&path), "nothing found", "{name}");
        ephemeral().seal(&path, form(&path), &claims()).unwrap();
        let found = read(&path, &[]).unwrap().unwrap();
        assert_eq!(found.faults, [""; 0], "{name}");
        assert_eq!(Verdict::of(Some(&found), None), Verdict::Intact);
        assert_eq!(found.actions, ["c2pa.created", "c2pa.watermarked.bound"]);
        assert_eq!(found.mark.as_deref(), Some("9c1f00a5"));
        let hash = format!("sha256:{}", "ab".repeat(32));
        assert_eq!(found.ingredients[0], ("reference 1 (primary)".to_owned(), hash));
        assert_eq!((&found.recipe["steps"], &found.recipe["shift"]), (&json!(4), &json!(5.0)));
        assert_eq!(found.policy["off"][0], "the watermark");
        assert!(found.issuer.contains("LOCAL USE ONLY"), "{found:?}");
        let shown = if path.is_dir() { path.join("frame_00001.png") } else { path };
        let mut count = 0;
        anyid_files::media::visit_frames(&shown, &Default::default(), &mut |_| {
            count += 1;
            Ok(std::ops::ControlFlow::Continue(()))
        })
        .unwrap();
        assert_eq!(count, if name == "frames" { 1 } else { 3 });
    }
}

#[test]
fn one_altered_byte_shows_wherever_it_is() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.mp4", "a.gif"] {
        let path = video(folder.path(), name);
        ephemeral().seal(&path, form(&path), &claims()).unwrap();
        let good = std::fs::read(&path).unwrap();
        for part in 0..40 {
            let at = part * (good.len() - 1) / 39;
            let mut bad = good.clone();
            bad[at] ^= 1;
            std::fs::write(&path, &bad).unwrap();
            let said = verdict(&path);
            assert!(said == "altered" || exempt(&good, at), "{name}: byte {at}: {said}");
        }
        let mut longer = good.clone();
        longer.extend_from_slice(b"more");
        std::fs::write(&path, &longer).unwrap();
        assert_eq!(verdict(&path), "altered", "{name}");
        // Without the statement it is what it was before.
        std::fs::write(&path, &good[..good.len() / 2]).unwrap();
        assert_ne!(verdict(&path), "signed & intact");
    }
}

/// Whether a byte is one that C2PA leaves out of its hashes: the zeros that fill the statement, in a GIF
/// cut into pieces, and the box that names the type of an MP4 file.
fn exempt(file: &[u8], at: usize) -> bool {
    let near = &file[at.saturating_sub(16)..(at + 16).min(file.len())];
    let zeros = near.iter().filter(|byte| **byte == 0).count() + 1 >= near.len();
    let kind = file.get(4..8) == Some(b"ftyp".as_slice()) && at < 32;
    zeros || kind
}

#[test]
fn frames_in_a_folder_are_signed_together() {
    let folder = tempfile::tempdir().unwrap();
    let path = video(folder.path(), "frames");
    ephemeral().seal(&path, crate::FRAMES, &claims()).unwrap();
    let listed =
        Command::new("sha256sum").args(["-c", "frames.sha256"]).current_dir(&path).output();
    assert!(listed.is_ok_and(|listed| listed.status.success()));
    let frame = path.join("frame_00001.png");
    let good = std::fs::read(&frame).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    let list = std::fs::read_to_string(path.join("frames.sha256")).unwrap();
    let says = |what: &str| {
        let found = read(&path, &[]).unwrap().unwrap();
        assert!(found.faults.iter().any(|fault| fault.contains(what)), "{what}: {found:?}");
        assert_eq!(verdict(&path), "altered");
    };
    std::fs::write(&frame, &bad).unwrap();
    says("frame_00001.png was changed");
    // A list that fits the change is not what was signed.
    std::fs::write(path.join("frames.sha256"), hashes(&path).unwrap()).unwrap();
    says("assertion.dataHash.mismatch");
    std::fs::write(path.join("frames.sha256"), &list).unwrap();
    std::fs::remove_file(&frame).unwrap();
    says("frame_00001.png is missing");
    std::fs::write(&frame, &good).unwrap();
    std::fs::write(path.join("more.png"), &good).unwrap();
    says("more.png was added");
    std::fs::remove_file(path.join("more.png")).unwrap();
    assert_eq!(verdict(&path), "signed & intact");
    std::fs::write(path.join("manifest.c2pa"), b"nothing").unwrap();
    assert_eq!(verdict(&path), "altered");
    std::fs::remove_file(path.join("manifest.c2pa")).unwrap();
    assert_eq!(verdict(&path), "nothing found");
    // The next run may replace the folder, its list and its statement.
    ephemeral().seal(&path, crate::FRAMES, &claims()).unwrap();
    video(folder.path(), "frames");
    assert_eq!(verdict(&path), "nothing found");
}

#[test]
fn who_signed_counts_where_somebody_is_trusted() {
    let folder = tempfile::tempdir().unwrap();
    let (here, there) = (folder.path().join("here"), folder.path().join("there"));
    let [trusted, key] = init(&here, "here", SystemTime::now()).unwrap();
    let [other, _] = init(&there, "there", SystemTime::now()).unwrap();
    let path = video(folder.path(), "a.gif");
    Sealer::open(&policy(Who::Local), Some(&here)).unwrap().seal(&path, "gif", &claims()).unwrap();
    let found = |trust: &[&Path]| read(&path, trust).unwrap().unwrap();
    assert_eq!((found(&[]).trusted, found(&[]).signer.as_str()), (None, "here"));
    assert_eq!(found(&[&trusted]).trusted, Some(true));
    assert_eq!(found(&[&other, &trusted]).trusted, Some(true));
    let unknown = found(&[&other]);
    assert_eq!(Verdict::of(Some(&unknown), None), Verdict::Unknown);
    assert_eq!(read(&path, &[&key]).unwrap_err().code(), "E1107");
    assert_eq!(read(&path, &[&path]).unwrap_err().code(), "E1107");
}

#[test]
fn keys_that_cannot_be_used_are_refused_before_anything_is_made() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |signer: Who, state: &Path| {
        let error = Sealer::open(&policy(signer), Some(state)).unwrap_err();
        (error.code(), error.to_string())
    };
    let (code, said) = refused(Who::Local, folder.path());
    assert!(code == "E1107" && said.contains("provenance init"), "{said}");
    assert_eq!(Sealer::open(&policy(Who::Local), None).unwrap_err().code(), "E1107");
    let [certificates, key] = init(folder.path(), "here", SystemTime::now()).unwrap();
    let other = folder.path().join("other");
    let [others, _] = init(&other, "there", SystemTime::now()).unwrap();
    let pem = |certificates: &Path, key: &Path| Who::Pem {
        certificates: certificates.to_owned(),
        key: key.to_owned(),
    };
    Sealer::open(&policy(pem(&certificates, &key)), None).unwrap();
    // The certificate of another key, files in the wrong order, none, and nonsense.
    let (code, said) = refused(pem(&others, &key), folder.path());
    assert!(["E1107", "E1111"].contains(&code), "{said}");
    assert_eq!(refused(pem(&key, &certificates), folder.path()).0, "E1107");
    assert_eq!(refused(pem(&folder.path().join("none"), &key), folder.path()).0, "E1107");
    let nonsense = folder.path().join("nonsense");
    let text = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    std::fs::write(&nonsense, text).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        mode(&nonsense, 0o600);
        let (code, said) = refused(pem(&certificates, &nonsense), folder.path());
        assert!(code == "E1107" && said.contains("PKCS #8"), "{said}");
        mode(&key, 0o644);
        for signer in [Who::Local, pem(&certificates, &key)] {
            let (code, said) = refused(signer, folder.path());
            assert!(code == "E1107" && said.contains("chmod 600"), "{said}");
        }
    }
}

/// A program that signs as openssl does, or does what `then` says in place of that.
#[cfg(unix)]
fn program(folder: &Path, then: Option<&str>) -> Who {
    use std::os::unix::fs::PermissionsExt;
    let state = folder.join("program");
    let [certificates, key] = match state.exists() {
        true => LOCAL.map(|file| state.join(file)),
        false => init(&state, "a program", SystemTime::now()).unwrap(),
    };
    let chain = std::fs::read_to_string(certificates).unwrap().replace('\n', "\\\\n");
    let sign = format!(
        "cat >{0}/bytes && openssl pkeyutl -sign -rawin -inkey {1} -in {0}/bytes",
        folder.display(),
        key.display()
    );
    let then = then.unwrap_or(&sign);
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = --signer-info ]; then\n  printf '{{\"alg\":\"ed25519\",\"sign_cert\":\"{chain}\",\"reserve_size\":20000}}'\n  exit\nfi\n{then}\n"
    );
    let path = folder.join("sign.sh");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    Who::Command(vec!["/bin/sh".to_owned(), path.display().to_string()])
}

#[test]
#[cfg(unix)]
fn a_program_signs_or_nothing_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = video(folder.path(), "a.gif");
    let before = std::fs::read(&path).unwrap();
    let seal = |then: Option<&str>| {
        let patience = if then == Some("sleep 100") { 2 } else { 60 };
        let policy = Provenance { patience, ..policy(program(folder.path(), then)) };
        Sealer::open(&policy, None)?.seal(&path, "gif", &claims())
    };
    for (then, what) in [
        ("sleep 100", "did not end within 2 seconds"),
        ("echo the key is busy >&2; exit 3", "said: the key is busy"),
        ("exit 0", "signed"),
        ("cat /dev/zero | head -c 64", "signed"),
        ("cat /dev/zero | head -c 30000", "signed"),
    ] {
        let error = seal(Some(then)).unwrap_err();
        assert!(error.code() == "E1111" && error.to_string().contains(what), "{then}: {error}");
        assert!(std::fs::read(&path).unwrap() == before, "{then}");
    }
    for words in
        [&["/nowhere/sign"][..], &["/bin/sh", "-c", "exit 1"], &["/bin/sh", "-c", "echo {}"]]
    {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        let refused = Sealer::open(&policy(Who::Command(words)), None).unwrap_err();
        assert_eq!(refused.code(), "E1111");
    }
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("skipped: no openssl program");
        return;
    }
    seal(None).unwrap();
    assert_eq!(verdict(&path), "signed & intact");
    assert_eq!(read(&path, &[]).unwrap().unwrap().signer, "a program");
}

/// A chain of this kind of key, made by openssl; none without the program.
fn chain(folder: &Path, kind: &[&str]) -> Option<Who> {
    let at = |name: &str| folder.join(name).display().to_string();
    let run = |words: &[&str]| {
        let done = Command::new("openssl").args(words).output().ok()?;
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{words:?}: {said}");
        Some(())
    };
    let (key, top_key, top, own) = (at("own.key"), at("top.key"), at("top.pem"), at("own.pem"));
    let (request, usage) = (at("own.csr"), at("usage"));
    let text = "basicConstraints=critical,CA:false\nkeyUsage=critical,digitalSignature\n\
                extendedKeyUsage=emailProtection\nsubjectKeyIdentifier=hash\n\
                authorityKeyIdentifier=keyid\n";
    std::fs::write(&usage, text).unwrap();
    let usual = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"][..];
    for (key, kind) in [(&key, kind), (&top_key, usual)] {
        run(&[&["genpkey", "-out", key], kind].concat())?;
    }
    let ca = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"];
    run(&[
        &["req", "-x509", "-new", "-key", &top_key, "-subj", "/O=Tests/CN=top", "-out", &top],
        &ca[..],
    ]
    .concat())?;
    run(&["req", "-new", "-key", &key, "-subj", "/O=Tests/CN=own", "-out", &request])?;
    run(&[
        "x509",
        "-req",
        "-in",
        &request,
        "-CA",
        &top,
        "-CAkey",
        &top_key,
        "-set_serial",
        "77",
        "-days",
        "30",
        "-extfile",
        &usage,
        "-out",
        &own,
    ])?;
    let both = std::fs::read_to_string(&own).unwrap() + &std::fs::read_to_string(&top).unwrap();
    std::fs::write(&own, both).unwrap();
    Some(Who::Pem { certificates: own.into(), key: key.into() })
}

#[test]
fn keys_of_every_kind_sign() {
    let folder = tempfile::tempdir().unwrap();
    for kind in [
        &["-algorithm", "ed25519"][..],
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"],
        &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"],
        &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    ] {
        let Some(signer) = chain(folder.path(), kind) else {
            eprintln!("skipped: no openssl program");
            return;
        };
        let path = video(folder.path(), "a.gif");
        let sealer =
            Sealer::open(&policy(signer), None).unwrap_or_else(|e| panic!("{kind:?}: {e}"));
        sealer.seal(&path, "gif", &claims()).unwrap();
        let top = folder.path().join("top.pem");
        let found = read(&path, &[&top]).unwrap().unwrap();
        assert_eq!((found.faults.len(), found.trusted), (0, Some(true)), "{kind:?}: {found:?}");
    }
}

#[test]
fn what_was_never_signed_is_no_fault() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("a.txt");
    std::fs::write(&text, "words").unwrap();
    assert_eq!(read(&text, &[]).unwrap(), None);
    assert_eq!(read(&folder.path().join("none"), &[]).unwrap_err().code(), "E0911");
    let cut = video(folder.path(), "a.mp4");
    let bytes = std::fs::read(&cut).unwrap();
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    assert_eq!(read(&cut, &[]).unwrap(), None);
}
