//! Safeguards of the program: what is refused, marked, asked for and written down, and that nothing
//! weakens a locked policy.

mod common;

use common::{Folder, training};
use serde_json::Value;
use std::path::Path;

/// A run whose frames are large enough for a mark.
const MARKED: &str = "generate --model @micro --size 256x256 --frames 1 --steps 1 --guidance 1";
/// One that is fast.
const SMALL: &str = "generate --model @micro --size 64x64 --frames 1 --steps 1 --guidance 1";

fn prompt(text: &str) -> [&str; 2] {
    ["--prompt", text]
}

fn recipe(folder: &Folder, name: &str) -> Value {
    let bytes = std::fs::read(folder.path(&format!("{name}.recipe.json"))).unwrap();
    serde_json::from_slice(&bytes).unwrap()
}

fn records(folder: &Folder) -> Vec<Value> {
    let shown = folder.run("audit show --json -n 100").fine().json();
    shown["records"].as_array().unwrap().clone()
}

#[test]
fn prompts_are_checked_before_anything_is_made() {
    let folder = Folder::new();
    for text in ["a nude woman", "a n u d e man", "a nud3 man", "he is beheaded", "色情"] {
        folder.run_with(&format!("{SMALL} -o a.gif"), &prompt(text)).fails("E1101").says("help: ");
        // The model is not even looked for.
        let words = "generate --model none --size 64x64 --frames 1 -o a.gif";
        folder.run_with(words, &prompt(text)).fails("E1101");
    }
    assert!(folder.names().is_empty());
    let blocked = records(&folder);
    assert_eq!(blocked.len(), 10);
    assert!(blocked.iter().all(|r| r["event"] == "block" && r["code"] == "E1101"), "{blocked:?}");
    assert!(!blocked[0].to_string().contains("nude"), "prompts are not stored");
    let warned = folder.run_with(&format!("{SMALL} -o w.gif"), &prompt("a news anchor speaks"));
    warned.fine().says("warning").says("deception");
    // Switched off it passes, and that is said and recorded; what is always in force stays.
    let off = format!("{SMALL} --no-text-filter -o off.gif -q");
    folder.run_with(&off, &prompt("a nude woman")).fine().says("switched off: the filter of texts");
    assert_eq!(recipe(&folder, "off.gif")["safeguards"]["text"], "off");
    let last = records(&folder).pop().unwrap();
    assert_eq!(last["off"][0], "the filter of texts");
    let always = format!("{SMALL} --no-text-filter -o b.gif");
    folder.run_with(&always, &prompt("a nude child")).fails("E1101").says("no setting");
    let long = "a woman walks by the river ".repeat(4000);
    folder.run_with("policy check --prompt", &[&long]).fine();
}

#[test]
fn results_are_marked_and_the_mark_is_found() {
    let folder = Folder::new();
    // Signatures hold random numbers.
    let unsigned = format!("{MARKED} --no-provenance -o a.mp4");
    folder.run_with(&unsigned, &prompt("x")).fine();
    let made = recipe(&folder, "a.mp4");
    let id = made["safeguards"]["watermark"]["id"].as_str().unwrap().to_owned();
    let found = folder.run("watermark detect a.mp4 --json --fast").fine().json();
    assert_eq!((found["present"].as_bool(), found["id"].as_str()), (Some(true), Some(id.as_str())));
    assert_eq!((found["decoded"].as_bool(), found["flip"].as_bool()), (Some(true), Some(false)));
    assert!(folder.run("watermark detect a.mp4 --fast").fine().out.contains("no proof"));
    let kept = records(&folder);
    assert_eq!(
        kept.iter().map(|r| &r["event"]).collect::<Vec<_>>(),
        ["generate", "verify", "verify"]
    );
    for record in &kept {
        assert_eq!(record["watermark_id"], Value::from(id.as_str()));
        assert_eq!(record["output_sha256"], kept[0]["output_sha256"]);
    }
    assert_eq!(kept[0]["output_sha256"].as_str().unwrap().len(), 64);
    // A recipe makes the same bits, and so do frames in a folder.
    folder.run("generate --recipe a.mp4.recipe.json --no-provenance -o b.mp4").fine();
    let bytes = |name: &str| std::fs::read(folder.path(name)).unwrap();
    assert!(bytes("a.mp4") == bytes("b.mp4"));
    folder.run("generate --recipe a.mp4.recipe.json -o frames").fine();
    let found = folder.run("watermark detect frames --json --fast").fine().json();
    assert_eq!(found["id"], Value::from(id.as_str()));

    folder
        .run_with(&format!("{MARKED} --watermark off -o off.mp4"), &prompt("x"))
        .fine()
        .says("switched off: the watermark");
    assert_eq!(recipe(&folder, "off.mp4")["safeguards"]["watermark"], "off");
    let none = folder.run("watermark detect off.mp4 --json --fast");
    assert_eq!((none.code, none.json()["present"].as_bool()), (4, Some(false)));
    folder.run_with(&format!("{SMALL} -o small.gif"), &prompt("x")).fine();
    assert_eq!(recipe(&folder, "small.gif")["safeguards"]["watermark"], "too_small");
    assert_eq!(folder.run("watermark detect small.gif").code, 4);
    folder.run("watermark detect none.mp4").fails("E0801");
    std::fs::create_dir(folder.path("empty")).unwrap();
    folder.run("watermark detect empty").fails("E0802");
}

#[test]
fn private_marks_need_their_key() {
    let folder = Folder::new();
    folder.run("watermark key -o mine.key").fine();
    folder.run("watermark key -o mine.key").fails("E1016");
    folder.run("watermark key -o other.key").fine();
    let words = format!("{MARKED} --watermark strong --watermark-key mine.key -o a.gif");
    folder.run_with(&words, &prompt("x")).fine();
    let found = folder.run("watermark detect a.gif --key mine.key --json --fast").fine().json();
    assert_eq!(found["version"], 2);
    assert_eq!(folder.run("watermark detect a.gif --key other.key --fast").code, 4);
    assert_eq!(folder.run("watermark detect a.gif --fast").code, 4);
    folder.run("watermark detect a.gif --key none.key").fails("E1107");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let open = std::fs::Permissions::from_mode(0o644);
        std::fs::set_permissions(folder.path("mine.key"), open).unwrap();
        folder.run("watermark detect a.gif --key mine.key").fails("E1107").says("chmod 600");
        let words = format!("{MARKED} --watermark-key mine.key -o b.gif");
        folder.run_with(&words, &prompt("x")).fails("E1107");
    }
    assert!(!folder.path("b.gif").exists());
}

#[test]
fn consent_is_asked_for_and_checked() {
    let folder = Folder::new();
    let picture = common::repository().join("examples/characters/first/portrait.png");
    std::fs::copy(&picture, folder.path("me.png")).unwrap();
    let other = common::repository().join("examples/characters/second/portrait.png");
    std::fs::copy(&other, folder.path("other.png")).unwrap();
    let run = |words: &str| folder.run_with(&format!("{SMALL} {words}"), &prompt("x"));
    run("--ref me.png -o a.gif").fine().says("no consent record for reference 1");
    run("--ref me.png --consent off -o b.gif").fine().says("switched off: the check of consent");
    run("--ref me.png --consent require -o c.gif").fails("E1105").says("consent self");
    assert!(!folder.path("c.gif").exists());
    assert_eq!(records(&folder).pop().unwrap()["code"], "E1105");

    folder.run("consent key -o studio.key").fine();
    folder.run("consent new --person p-1 --adult --ref me.png --id c-1").fine();
    // Not signed yet, then signed, for another picture, with a change.
    run("--ref me.png --consent require -o d.gif").fails("E1105").says("signature is wrong");
    folder.run("consent sign consents/c-1.json --key studio.key").fine();
    assert!(folder.run("consent verify consents/c-1.json").fine().out.contains("in order"));
    run("--ref me.png --consent require -o e.gif").fine();
    assert_eq!(recipe(&folder, "e.gif")["safeguards"]["consents"][0], "c-1");
    run("--ref me.png other.png --consent require -o f.gif").fails("E1105").says("reference 2");
    let path = folder.path("consents/c-1.json");
    let good = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, good.replace("p-1", "p-2")).unwrap();
    run("--ref me.png --consent require -o g.gif").fails("E1105").says("forged");
    folder.run("consent verify consents/c-1.json").fails("E1106").says("forged");
    std::fs::write(&path, "{}").unwrap();
    run("--ref me.png -o h.gif").fails("E1106");
    std::fs::write(&path, &good).unwrap();

    folder.run("consent self --ref other.png").fine();
    run("--ref me.png other.png --consent require -o i.gif").fine();
    let listed = folder.run("consent list --json").fine().json();
    assert_eq!(listed["records"].as_array().unwrap().len(), 2, "{listed}");
    folder.run("consent revoke c-1 --key consents/self.key").fails("E1106").says("another key");
    folder.run("consent revoke c-9 --key studio.key").fails("E1106");
    folder.run("consent revoke c-1 --key studio.key").fine();
    run("--ref me.png --consent require -o j.gif").fails("E1105").says("was revoked");
    folder
        .run(
            "consent new --person p-1 --ref me.png --id c-2 --from 2020-01-01 --expires 2021-01-01",
        )
        .fine();
    folder.run("consent sign consents/c-2.json --key studio.key").fine();
    folder.run("consent verify consents/c-2.json").fails("E1106").says("has expired");
    folder.run("consent new --person p-1 --ref me.png --id c-3 --expires never").fails("E1106");
    folder.run("consent new --person p-1 --ref me.png --scope all").fails("E1106");
    assert!(!folder.path("consents/c-3.json").exists());
    // What happened to records is written down as well.
    assert!(records(&folder).iter().any(|r| r["event"] == "consent" && r["what"] == "revoke"));
}

#[test]
fn the_audit_log_shows_what_was_changed() {
    let folder = Folder::new();
    for name in ["a.gif", "b.gif", "c.gif"] {
        folder.run_with(&format!("{SMALL} -o {name}"), &prompt("x")).fine();
    }
    let verified = folder.run("audit verify --json").fine().json();
    assert_eq!(verified["records"], 3);
    folder.run("audit export -o all.jsonl").fine();
    folder.run("audit export -o all.jsonl").fails("E1016");
    folder.run("audit verify --file all.jsonl").fine();
    let path = folder.temporary().join("anyid-rt/audit.jsonl");
    let good = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = good.lines().collect();
    for (text, line) in [
        (format!("{}\n{}\n", lines[0], lines[2]), 2),
        (good.replacen("allow", "block", 2).replacen("block", "allow", 1), 2),
        (good[..good.len() - 5].to_owned(), 3),
    ] {
        std::fs::write(&path, text).unwrap();
        let words = folder.run("audit verify").fails("E1108");
        assert!(words.err.contains(&format!("audit.jsonl:{line}")), "{}", words.err);
    }
    // Torn at the end: nothing is started, and nothing hidden behind more lines.
    folder.run_with(&format!("{SMALL} -o d.gif"), &prompt("x")).fails("E1108").says(":3");
    assert!(!folder.path("d.gif").exists());
    std::fs::write(&path, &good).unwrap();
    // What is no log is not written to.
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    folder.run_with(&format!("{SMALL} -o e.gif"), &prompt("x")).fails("E0911");
    // A place that cannot be written is said, and where nothing is locked it stops nobody.
    let mut command = folder.command(&format!("{SMALL} -o f.gif"), &prompt("x"));
    let file = folder.write("file", "");
    let output = command.env("XDG_STATE_HOME", file).output().unwrap();
    common::Done::of("generate", output).fine().says("the audit log was not written");
}

const LOCKED: &str = "locked = true\n[watermark]\nstrength = \"normal\"\nkey = \"lock.key\"\n\
    [consent]\nmode = \"require\"\nadult = true\n[audit]\nfile = \"log/audit.jsonl\"\n";

/// Writes the locked policy into a folder of its own.
fn lock(folder: &Folder) {
    folder.run("watermark key -o lock.key").fine();
    std::fs::create_dir(folder.path("etc")).unwrap();
    std::fs::rename(folder.path("lock.key"), folder.path("etc/lock.key")).unwrap();
    folder.write("etc/policy.toml", LOCKED);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        for (name, mode) in [("etc", 0o755), ("etc/policy.toml", 0o644)] {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(folder.path(name), mode).unwrap();
        }
    }
}

fn is_root() -> bool {
    let done = std::process::Command::new("id").arg("-u").output();
    done.is_ok_and(|done| done.stdout == b"0\n")
}

/// Flags of safeguards, each with words that would weaken [`LOCKED`]; none for those that only add.
const FLAGS: [(&str, &[&str]); 11] = [
    ("--policy", &[]),
    ("--moderation-report", &[]),
    ("--moderation-llm", &[]),
    ("--no-text-filter", &["--no-text-filter"]),
    ("--watermark", &["--watermark off", "--watermark light", "--watermark videoseal"]),
    ("--watermark-key", &["--watermark-key my.key"]),
    ("--consent", &["--consent off", "--consent warn"]),
    ("--consents", &["--consents mine"]),
    ("--frame-check", &["--frame-check off"]),
    ("--no-provenance", &["--no-provenance"]),
    ("--signer", &["--signer local"]),
];

/// All other flags of `generate`. Whoever adds one thinks of what it does to a locked policy:
/// whether anything can be made past it, or marked, kept or told in another way.
const UNCONCERNED: &str = "--ref --first-frame --prompt --change --keep --prompt-style --negative-prompt \
    --output --force --format --codec --quality --pix-format --model --transformer --text-encoder --vae --tokenizer --lora --allow-unmatched \
    --allow-mismatch --size --frames --fps --steps --sigmas --shift --guidance --guidance-interval --cache \
    --solver --schedule --seed --seeds --noise --precision --residual --verbose --budget --quiet --tile \
    --device --threads --save-latents --resume --preview --preview-every --jobs --shard --shards --latents \
    --dry-run --recipe --no-recipe-inside --trace --config --json --help --version";

/// Sources in which the program looks at its environment, and what for.
const ENVIRONMENT: [(&str, &str); 14] = [
    (
        "cli/src/cmd/safeguards/mod.rs",
        "a policy, behind that of the system; the state folder, unless a policy says",
    ),
    ("runtime/src/safeguards/llm.rs", "the key of a server: without it nothing is made"),
    ("runtime/files/src/media/ffmpeg/process.rs", "PATH: where ffmpeg is (docs/safety.md)"),
    ("runtime/study/src/model/ort.rs", "ONNX Runtime, which runs no safeguard"),
    ("cli/src/cmd/generate/defaults.rs", "defaults, among which no safeguard is"),
    ("cli/src/cmd/generate/jobs.rs", "shares of work"),
    ("cli/src/cmd/data/args.rs", "shares of work"),
    ("cli/src/cmd/eval.rs", "shares of work"),
    ("cli/src/cmd/eval/score.rs", "shares of work; keys of servers that judge"),
    ("cli/src/cmd/prompt/servers.rs", "keys of servers that describe"),
    ("cli/src/cmd/serve.rs", "the token of clients"),
    ("runtime/src/engine/backend.rs", "settings of devices"),
    ("runtime/files/src/media/clips.rs", "where clips for tests are"),
    ("cli/src", "terminals and traces"),
];

/// Flags in the help of a verb, those of a section if it is named.
fn flags(folder: &Folder, verb: &str, section: &str) -> Vec<String> {
    let help = folder.run(&format!("{verb} --help")).fine().out;
    let (_, rest) = help.split_once(section).expect("there is such a section");
    let inside = |line: &&str| section.is_empty() || line.is_empty() || line.starts_with(' ');
    let names = rest.lines().skip(1).take_while(inside).filter_map(|line| {
        let line = line.trim_start();
        let long = match line.as_bytes() {
            [b'-', b'-', ..] => line,
            [b'-', _, b',', b' ', ..] => &line[4..],
            _ => return None,
        };
        Some(long.split([' ', '[', '=']).next()?.to_owned())
    });
    names.collect()
}

#[test]
fn every_flag_and_variable_is_known_to_the_test_of_locks() {
    let folder = Folder::new();
    let listed: Vec<&str> = FLAGS.iter().map(|(flag, _)| *flag).collect();
    let verbs = ["generate", "serve", "train lora", "train dpo", "train stages", "policy show"];
    let mut seen = Vec::new();
    for verb in verbs {
        for flag in flags(&folder, verb, "Safeguards:") {
            assert!(listed.contains(&&*flag), "{flag} of {verb}: say how it could weaken a lock");
            seen.push(flag);
        }
    }
    let gone: Vec<_> = listed.iter().filter(|flag| !seen.iter().any(|own| own == *flag)).collect();
    assert!(gone.is_empty(), "{gone:?} are no flags any more");
    let all = flags(&folder, "generate", "");
    assert!(all.len() > 60, "{all:?}");
    for flag in all {
        let known = UNCONCERNED.split_whitespace().any(|own| own == flag);
        assert!(known || listed.contains(&&*flag), "{flag}: say what it does to a locked policy");
    }
    // Files that look at the environment; those of tests are named so.
    let mut open = vec![common::repository().join("cli/src"), common::repository().join("runtime")];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !matches!(name, "tests" | "examples" | "target") {
                open.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
            continue;
        }
        let own = path.strip_prefix(common::repository()).unwrap().to_str().unwrap().to_owned();
        if !own.ends_with(".rs") || own.ends_with("tests.rs") || own.ends_with("testing.rs") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        // What comes before the tests of a file.
        let text = text.split("#[cfg(test)]").next().unwrap_or_default();
        let known = |(place, _): &(&str, &str)| match place.ends_with(".rs") {
            true => own == *place,
            false => path.parent().unwrap().ends_with(place),
        };
        assert!(
            !text.contains("env::var") || ENVIRONMENT.iter().any(known),
            "{own} looks at the environment: say what it does to a locked policy"
        );
    }
}

#[test]
#[cfg(unix)]
fn nothing_weakens_a_locked_policy() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    lock(&folder);
    if !is_root() {
        // Whoever is bound by the lock owns the file here.
        folder.run("policy show --policy etc/policy.toml").fails("E1104");
        println!("only in part: to own a policy that binds takes root");
        return;
    }
    folder.run("watermark key -o my.key").fine();
    let run = |words: &str, more: &[(&str, &Path)]| {
        let mut command = folder.command(&format!("{SMALL} {words}"), &prompt("x"));
        command.env("ANYID_RT_POLICY", folder.path("etc/policy.toml"));
        command.envs(more.iter().copied());
        common::Done::of(words, command.output().unwrap())
    };
    for flags in FLAGS.iter().flat_map(|(_, attempts)| *attempts) {
        run(&format!("{flags} -o a.gif"), &[]).fails("E1103").says("would weaken it");
    }
    for (name, text) in [
        ("text", "[text]\nfilter = false"),
        ("mark", "[watermark]\nstrength = \"off\""),
        ("key", "[watermark]\nkey = \"my.key\""),
        ("consent", "[consent]\nmode = \"warn\""),
        ("private", "[consent]\nprivate = \"warn\""),
        ("adult", "[consent]\nadult = false"),
        ("issuers", "[consent]\nissuers = [\"ed25519:mine\"]"),
        ("folders", "[consent]\nfolders = [\"mine\"]"),
        ("frames", "[frames]\ncheck = \"off\""),
        ("unsigned", "[provenance]\nsign = \"off\""),
        ("keyless", "[provenance]\nsigner = \"local\""),
        ("told", "[provenance]\nprompt = \"text\""),
        ("audit", "[audit]\nenabled = false"),
        ("log", "[audit]\nfile = \"mine.jsonl\""),
        ("signer", "[audit]\nkey = \"my.key\""),
        ("prompts", "[audit]\nstore_prompts = true"),
        ("networks", "[watermark]\nmodel = \"mine.toml\""),
        ("faces", "[consent.faces]\nface = {}\nidentity = {}\npictures = [\"mine\"]"),
        ("trust", "[provenance]\ntrust = [\"mine.pem\"]"),
    ] {
        folder.write(&format!("{name}.toml"), text);
        run(&format!("--policy {name}.toml -o a.gif"), &[]).fails("E1103").says("would weaken it");
    }
    let verify = folder
        .command("verify a.mp4 --trust mine.pem", &[])
        .env("ANYID_RT_POLICY", folder.path("etc/policy.toml"))
        .output()
        .unwrap();
    common::Done::of("verify --trust", verify).fails("E1103").says("would weaken it");
    // Homes and state folders move nothing; what is stricter is taken.
    let elsewhere = folder.path("elsewhere");
    let moved = [("XDG_STATE_HOME", elsewhere.as_path()), ("HOME", elsewhere.as_path())];
    run("--watermark strong -o b.gif", &moved).fine();
    assert!(!elsewhere.exists() && folder.path("etc/log/audit.jsonl").exists());
    run("--frame-check require -o c.gif", &[]).fails("E1110");
    assert_eq!(recipe(&folder, "b.gif")["safeguards"]["locked"], true);
    // A lock that others can open holds nobody.
    let mode = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(folder.path("etc/policy.toml"), mode).unwrap();
    run("-o d.gif", &[]).fails("E1104").says("others may change it");
    assert!(["a.gif", "c.gif", "d.gif"].iter().all(|name| !folder.path(name).exists()));
}

#[test]
fn training_asks_for_consent_and_is_written_down() {
    let folder = training::world(&training::samples());
    let train =
        |words: &str| folder.run(&format!("train lora --config run.toml --steps 1 {words}"));
    let private = "--set data.private=true";
    // Of a set that is not marked it is said.
    let done = train("-o open").fine().says("no consent record for ");
    assert!(!done.err.contains("warning"), "{}", done.err);
    let refused = train(&format!("{private} -o none")).fails("E1105").says("consent self");
    assert!(refused.err.contains("a.png") && refused.err.contains("pan.mp4"), "{}", refused.err);
    assert!(!folder.path("none/adapter.safetensors").exists());
    folder.run(&format!("train check --config run.toml {private} -o look")).fails("E1105");
    train(&format!("{private} --consent warn -o warned")).fine().says("warning: no consent record");
    train("--consent off -o quiet").fine();

    // A record that allows videos does not allow training.
    folder.run("consent key -o studio.key").fine();
    let record = |id: &str, scope: &str| {
        let new = format!("consent new --person p-1 --ref a.png pan.mp4 --id {id} --scope {scope}");
        folder.run(&new).fine();
        folder.run(&format!("consent sign consents/{id}.json --key studio.key")).fine();
    };
    record("c-1", "generate,study");
    train(&format!("{private} -o none")).fails("E1105").says("c-1 does not allow this use");
    folder.write(
        "stages.toml",
        "model = \"micro\"\nfolder = \"staged\"\n[[stage]]\nname = \"first\"\nkind = \"lora\"\n\
         [stage.settings.data]\nmanifest = \"train.jsonl\"\nprivate = true\n\
         [stage.settings.video]\nwidth = 64\nheight = 64\nframes = 5\n\
         [stage.settings.lora]\nrank = 4\nalpha = 4.0\n[stage.settings.train]\nsteps = 1\nbatch = 2\n",
    );
    folder.run("train stages --config stages.toml").fails("E1105").says("c-1 does not allow");
    record("c-2", "train");
    folder.run("train stages --config stages.toml").fine();
    train(&format!("{private} -o agreed")).fine();
    let shown = folder.run("lora inspect agreed/adapter.safetensors").fine().out;
    assert!(shown.contains("Use restrictions: ") && shown.contains("made of it."), "{shown}");
    folder.run("lora convert agreed/adapter.safetensors --to peft -o peft").fine();
    // A run that goes on asks again.
    folder.run("consent revoke c-2 --key studio.key").fine();
    let on = format!("train lora --config run.toml --steps 2 {private} -o agreed --resume");
    folder.run(&on).fails("E1105").says("was revoked");

    let kept = records(&folder);
    let trained: Vec<&Value> = kept.iter().filter(|r| r["event"] == "train").collect();
    assert_eq!(trained.len(), 5);
    assert_eq!(
        (&trained[0]["consents"], &trained[4]["consents"][0]),
        (&Value::Array(vec![]), &Value::from("c-2"))
    );
    for record in &trained {
        assert_eq!(record["manifest_sha256"], trained[0]["manifest_sha256"]);
        assert_eq!(record["output_sha256"].as_str().unwrap().len(), 64);
    }
    let events = |event: &str| kept.iter().filter(|record| record["event"] == event).count();
    assert_eq!((events("block"), events("export")), (5, 1));
    folder.run("audit verify").fine();
}

#[test]
fn a_log_with_a_key_is_signed() {
    let folder = Folder::new();
    let key = folder.run("consent key -o log.key").fine().out;
    let key = key.split_whitespace().find(|word| word.starts_with("ed25519:")).unwrap();
    let other = folder.run("consent key -o other.key").fine().out;
    let other = other.split_whitespace().find(|word| word.starts_with("ed25519:")).unwrap();
    folder.write("p.toml", "[audit]\nkey = \"log.key\"\n");
    folder.run_with(&format!("{SMALL} -o a.gif --watermark off"), &prompt("x")).fine();
    let made = folder.path("a.gif");
    for _ in 0..99 {
        let mut command = folder.command("watermark detect --fast", &[made.to_str().unwrap()]);
        let output = command.env("ANYID_RT_POLICY", folder.path("p.toml")).output().unwrap();
        assert_eq!(output.status.code(), Some(4));
    }
    let found = folder.run_with("audit verify --json --signer", &[key]).fine().json();
    assert_eq!((&found["records"], &found["signed"]), (&Value::from(100), &Value::from(100)));
    assert!(folder.run("audit verify").fine().out.contains(key));
    folder.run_with("audit verify --signer", &[other]).fails("E1108").says("audit.jsonl:100");
    folder.write("none.toml", "[audit]\nkey = \"none.key\"\n");
    folder.run_with(&format!("{SMALL} --policy none.toml -o b.gif"), &prompt("x")).fails("E1107");
    assert!(!folder.path("b.gif").exists());
}

#[test]
fn policies_are_shown_and_checked() {
    let folder = Folder::new();
    let shown = folder.run("policy show --json").fine().json();
    assert_eq!(
        (shown["watermark"].as_str(), shown["text_filter"].as_bool()),
        (Some("normal"), Some(true))
    );
    folder.write("p.toml", "[watermark]\nstrength = \"strong\"\n[text]\nrules = [\"rules\"]\n");
    folder.write(
        "rules/a.toml",
        "[[rule]]\nid = \"ME\"\ncategory = \"custom\"\nany = [\"\\\\bzebra\\\\b\"]\n",
    );
    let text = folder.run("policy show --policy p.toml --watermark off").fine().out;
    assert!(text.contains("--watermark") && text.contains("p.toml"), "{text}");
    let checked = folder.run("policy check p.toml --json --prompt zebra").fine().json();
    assert_eq!(
        (checked["decision"].as_str(), checked["findings"][0]["rule"].as_str()),
        (Some("warn"), Some("ME"))
    );
    assert!(folder.run("policy check p.toml --prompt zebra").fine().out.contains("warn"));
    folder.write("bad.toml", "colour = \"red\"\n");
    folder.run("policy check bad.toml").fails("E1102").says("unknown field");
    folder.write("both.toml", "[watermark]\nstrength = \"off\"\nkey = \"k\"\n");
    folder.run("policy check both.toml").fails("E1102").says("has a key");
    folder.write("rules/b.toml", "[[rule]]\nid = \"ME\"\ncategory = \"custom\"\nany = [\"x\"]\n");
    folder.run("policy check p.toml").fails("E1102").says("another rule of this id");
    folder.run("policy check none.toml").fails("E0911");
    folder.run_with(&format!("{SMALL} --policy bad.toml -o a.gif"), &prompt("x")).fails("E1102");
    assert!(!folder.path("a.gif").exists());
}
