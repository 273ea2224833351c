//! Settings: what is read, what is refused and where, what may change in a run.

use super::*;

fn open(text: &str, overrides: &[&str]) -> Result<Settings> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.toml");
    std::fs::write(&path, text).unwrap();
    let overrides: Vec<Override> = overrides.iter().map(|item| Override::set(*item)).collect();
    Settings::open(&path, &overrides, Kind::Lora)
}

const LEAST: &str = "[data]\nmanifest = \"train.jsonl\"\n";

#[test]
fn defaults_are_the_papers() {
    let settings = open(LEAST, &[]).unwrap();
    let TrainSettings { learning_rate, weight_decay, batch, null_probability, shift, .. } =
        settings.train;
    assert_eq!((learning_rate, weight_decay, batch), (1e-4, 0.001, 64));
    assert_eq!((null_probability, shift, settings.train.timesteps), (0.1, 5.0, 1000));
    assert_eq!((settings.lora.rank, settings.lora.alpha, settings.dpo.beta), (128, 128.0, 500.0));
    assert_eq!(settings.size(), Size { width: 1280, height: 704, frames: 121 });
    assert_eq!(settings.train.loss_weight, LossWeight::Diffsynth);
    assert!(settings.data.manifest.is_absolute(), "paths start at the folder of the file");
}

#[test]
fn flags_override_the_file() {
    let overrides = ["train.steps=7", "lora.targets=[\"blocks.*\"]", "model.precision=bf16"];
    let settings = open(LEAST, &overrides).unwrap();
    assert_eq!((settings.train.steps, settings.lora.targets), (7, vec!["blocks.*".to_owned()]));
    assert_eq!(settings.model.precision.as_deref(), Some("bf16"));
    let draws = |item: &str| open(LEAST, &[item]).unwrap().dpo.draws;
    assert_eq!(draws("dpo.draws=4"), Draws::Fixed(4));
    for item in ["dpo.draws=fresh", "dpo.draws=\"fresh\""] {
        let settings = open(LEAST, &[item]).unwrap();
        assert_eq!(settings.dpo.draws, Draws::Fresh(Fresh::Fresh));
        assert_eq!(settings.to_json()["dpo"]["draws"], "fresh");
    }
}

#[test]
fn what_is_no_setting_is_named_with_its_line() {
    for (text, overrides, place) in [
        ("[data]\nmanifest = \"x\"\n[train]\nstep = 3\n", &[][..], "run.toml:4"),
        ("[data]\nmanifest = 3\n", &[], "run.toml:2"),
        ("[data\n", &[], "run.toml:1"),
        ("{\"schema\": \"anyid.sample/1\"}", &[], "run.toml"),
        ("[nothing]\n[data]\nmanifest = \"x\"\n", &[], "run.toml:1"),
        (LEAST, &["train.steps=2", "train.step=3"], "--set train.step=3"),
        (LEAST, &["train.steps=many", "lora.rank=2"], "--set train.steps=many"),
        (LEAST, &["steps=3"], "--set steps=3"),
        (LEAST, &["train.steps"], "--set train.steps"),
        (LEAST, &["trian.steps=2"], "--set trian.steps=2"),
        (LEAST, &["dpo.draws=some"], "--set dpo.draws=some"),
        ("[data]\nmanifest = \"x\"\n[dpo]\ndraws = \"some\"\n", &[], "run.toml:4"),
    ] {
        let error = open(text, overrides).unwrap_err();
        assert_eq!(error.code(), "E0955", "{text} {overrides:?}");
        let found = error.place().unwrap();
        assert!(found.ends_with(place), "{error}, expected {place}");
    }
    let error = open(LEAST, &["train.steps=many"]).unwrap_err();
    assert!(error.message().contains("expected a whole number"), "{error}");
    let help = open(LEAST, &["train.step=3"]).unwrap_err();
    assert!(help.help_text().unwrap().contains("did you mean steps?"), "{help}");
}

#[test]
fn an_error_names_the_line_or_the_flag_that_gave_the_value() {
    let text = format!("{LEAST}[train]\nbatch = 0\n[video]\nwidth = 100\n");
    for (text, overrides, place, said) in [
        (text.as_str(), &[][..], "run.toml:4", "train.batch cannot be 0"),
        (&text, &["train.batch=-0"], "--set train.batch=-0", "train.batch cannot be 0"),
        (LEAST, &["train.clip=nan", "train.steps=4"], "--set train.clip=nan", "cannot be nan"),
        (LEAST, &["lora.alpha=1e300"], "--set lora.alpha=1e300", "lora.alpha cannot be 1e300"),
        (LEAST, &["train.latent_noise=1e39"], "--set train.latent_noise=1e39", "cannot be"),
        (LEAST, &["train.keep=some"], "--set train.keep=some", "some"),
        (LEAST, &["train.budget=much"], "--set train.budget=much", "much"),
        (LEAST, &["model.precision=f8"], "--set model.precision=f8", "f8"),
        ("", &[], "run.toml", "data.manifest is not set"),
        ("\u{feff}[train]\nsteps = 0\n", &["data.manifest=a"], "run.toml:2", "cannot be 0"),
    ] {
        let error = open(text, overrides).unwrap_err();
        assert!(error.place().unwrap().ends_with(place), "{error}, expected {place}");
        assert!(error.message().contains(said), "{error}, expected {said}");
    }
}

#[test]
fn sizes_are_those_of_the_model_and_all_that_is_wrong_is_said_at_once() {
    let text = format!("{LEAST}[video]\nwidth = 100\nheight = 20000\n");
    let flags = ["video.height=50", "video.frames=6"];
    for (text, overrides, code, places, said, help) in [
        (
            text.as_str(),
            &[][..],
            "E0901",
            &["run.toml:4", "run.toml:5"][..],
            &["width 100 is", "of 32 up to 16384; height 20000 is"][..],
            "the nearest size is 96x16384",
        ),
        (
            &text,
            &flags,
            "E0901",
            &["run.toml:4", "--set video.height=50", "--set video.frames=6"],
            &["width 100 is", "height 50 is", "the number of frames cannot be 6"],
            "the nearest size is 96x64, 5 frames",
        ),
        (
            LEAST,
            &["video.height=8"],
            "E0901",
            &["--set video.height=8"],
            &["height 8 is not a positive multiple of 32 up to 16384"],
            "the nearest size is 1280x32",
        ),
        (
            LEAST,
            &["video.frames=8"],
            "E0902",
            &["--set video.frames=8"],
            &["the number of frames cannot be 8"],
            "use 5 or 9",
        ),
    ] {
        let settings = open(text, overrides).unwrap();
        let error = settings.check_size(Geometry::TI2V_5B).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        let found: Vec<&str> = error.place().unwrap().split(", ").collect();
        assert_eq!(found.len(), places.len(), "{error}");
        let mut each = found.iter().zip(places);
        assert!(each.all(|(found, place)| found.ends_with(place)), "{error}");
        said.iter().for_each(|said| assert!(error.message().contains(said), "{said}: {error}"));
        assert_eq!(error.help_text(), Some(help), "{error}");
    }
    let smaller = Geometry { space: 8, time: 1, patch: [1, 1] };
    open(LEAST, &["video.height=8", "video.frames=8"]).unwrap().check_size(smaller).unwrap();
}

#[test]
fn all_that_is_wrong_is_said_at_once_and_what_follows_from_it_is_not() {
    let rows = |text: &str, overrides: &[&str]| {
        let error = open(text, overrides).unwrap_err();
        let rows = error.message().lines().skip(1).map(|row| row.trim().to_owned());
        (error.code(), rows.collect::<Vec<String>>())
    };
    let text = "[data]\nmanifst = \"x\"\n[train]\nsteps = 0\nbatch = -1\n[trian]\na = 1\n";
    let (code, found) = rows(text, &["lora.rank=0", "lora.alpha=x", "nothing"]);
    assert_eq!(code, "E0955");
    let wanted = [
        "run.toml:2: unknown field `manifst`; did you mean manifest?",
        "run.toml:4: train.steps cannot be 0; give 1 or more",
        "run.toml:5: train.batch: invalid value: integer `-1`",
        "run.toml:6: unknown field `trian`; did you mean train?",
        "--set lora.alpha=x: lora.alpha: invalid type: string \"x\", expected a number",
        "--set nothing: \"nothing\" is not section.key=value; write it as in",
        "--set lora.rank=0: lora.rank cannot be 0; give 1 to 4096",
    ];
    assert_eq!(found.len(), wanted.len(), "{found:#?}");
    for (row, wanted) in found.iter().zip(wanted) {
        assert!(row.contains(wanted), "{row}, expected {wanted}");
    }
    let (code, found) = rows(LEAST, &["train.batch=0", "train.steps=0"]);
    assert_eq!((code, found.len()), ("E0956", 2), "{found:?}");
    let (code, found) = rows(LEAST, &["train.keep=some", "train.budget=much"]);
    assert_eq!((code, found.len()), ("E0956", 2), "{found:?}");
    // Of a group whose optimiser is none, whether it has a momentum is not known.
    let group = "[[group]]\nmatch = \"a\"\noptimiser = \"sgd\"\nmomentum = 0.5\n";
    let error = open(&format!("{LEAST}{group}"), &[]).unwrap_err();
    assert!(error.message().contains("unknown variant `sgd`"), "{error}");
}

#[test]
fn a_budget_is_text_or_a_number_of_bytes() {
    let budget = |item: &str| open(LEAST, &[item]).map(|settings| settings.train.budget);
    assert_eq!(budget("train.budget=24GiB").unwrap().as_deref(), Some("24GiB"));
    assert_eq!(budget("train.budget=1000").unwrap().as_deref(), Some("1000"));
    let error = budget("train.budget=0").unwrap_err();
    assert_eq!(error.code(), "E0602");
    assert_eq!(error.message(), "train.budget: \"0\" is no memory at all");
    let settings = open(LEAST, &["train.budget=1GiB"]).unwrap();
    let again: Settings = serde_json::from_value(settings.to_json()).unwrap();
    assert_eq!(again.train.budget, settings.train.budget);
}

#[test]
fn preferences_have_a_learning_rate_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.toml");
    std::fs::write(&path, LEAST).unwrap();
    let rate = |overrides: &[Override], kind| {
        Settings::open(&path, overrides, kind).unwrap().train.learning_rate
    };
    assert_eq!((rate(&[], Kind::Dpo), rate(&[], Kind::Lora)), (1e-5, 1e-4));
    assert_eq!(rate(&[Override::set("train.learning_rate=1e-4")], Kind::Dpo), 1e-4);
}

#[test]
fn values_that_no_run_can_use_are_refused() {
    assert_eq!(open("", &[]).unwrap_err().code(), "E0956", "there is no manifest");
    for (item, code) in [
        ("train.batch=0", "E0956"),
        ("train.together=0", "E0956"),
        ("train.learning_rate=-1.0", "E0956"),
        ("train.learning_rate=nan", "E0956"),
        ("train.null_probability=1.5", "E0956"),
        ("train.beta2=1.0", "E0956"),
        ("train.latent_noise=-0.1", "E0956"),
        ("train.latent_penalty=-1.0", "E0956"),
        ("train.network=code", "E0955"),
        ("train.decay=0.0", "E0956"),
        ("train.decay=1.5", "E0956"),
        ("train.floor=-0.1", "E0956"),
        ("train.schedule=steps", "E0955"),
        ("lora.rank=0", "E0956"),
        ("dpo.label_smoothing=0.5", "E0956"),
        ("dpo.draws=0", "E0956"),
        ("model.precision=f8", "E0956"),
        ("run.sample_steps=0", "E0923"),
    ] {
        let error = open(LEAST, &[item]).unwrap_err();
        assert_eq!(error.code(), code, "{item}: {error}");
    }
}

#[test]
fn settings_that_differ_are_listed_unless_they_change_nothing() {
    let settings = open(LEAST, &[]).unwrap();
    let mut other = settings.clone();
    other.train.steps = 5;
    other.run.folder = "elsewhere".into();
    assert!(other.differences(&settings.to_json()).is_empty());
    other.train.learning_rate = 0.5;
    other.lora.rank = 4;
    let names: Vec<String> =
        other.differences(&settings.to_json()).into_iter().map(|row| row.0).collect();
    assert_eq!(names, ["lora.rank", "train.learning_rate"]);
}

#[test]
fn the_number_of_updates_lasts_where_rates_fall_by_it() {
    let settings = open(LEAST, &["train.schedule=linear"]).unwrap();
    let mut longer = settings.clone();
    longer.train.steps = 5000;
    let [a, b] = [&settings, &longer].map(|s| lasting_digest(&s.to_json()));
    assert_ne!(a, b);
    let rows = longer.differences(&settings.to_json());
    let row = |name: &str, then: &str, now: &str| [name, then, now].map(str::to_owned).into();
    assert_eq!(rows, [row("train.steps", "1000", "5000")]);
    longer.train.schedule = Schedule::Constant;
    let rows = longer.differences(&settings.to_json());
    let schedule = row("train.schedule", "\"linear\"", "\"constant\"");
    assert_eq!(rows, [schedule, row("train.steps", "1000", "5000")]);
    // A checkpoint of before there were schedules.
    let mut old = open(LEAST, &[]).unwrap().to_json();
    for key in ["schedule", "decay", "floor"] {
        old["train"].as_object_mut().unwrap().remove(key).unwrap();
    }
    old.as_object_mut().unwrap().remove("group").unwrap();
    assert_eq!(open(LEAST, &["train.steps=7"]).unwrap().differences(&old), []);
}

#[test]
fn groups_are_read_in_order_and_what_is_wrong_has_its_line() {
    let groups = "\
[[group]]
match = \"head.*\"
learning_rate = 0.5
[[group]]
match = [\"blocks.*_attn.q.weight\", \"blocks.*.ffn.*.weight\"]
optimiser = \"muon\"
";
    let with = |more: &str| open(&format!("{LEAST}{groups}{more}\n"), &[]);
    let settings = with("momentum = 0.9").unwrap();
    let [head, blocks] = &settings.group[..] else { panic!("{:?}", settings.group) };
    assert_eq!((&head.patterns[..], head.optimiser), (&["head.*".to_owned()][..], Method::AdamW));
    assert_eq!((head.learning_rate, blocks.learning_rate), (Some(0.5), None));
    assert_eq!((blocks.patterns.len(), blocks.optimiser), (2, Method::Muon));
    for (more, code, line, said) in [
        ("momentum = 1.0", "E0956", 9, "group.2.momentum cannot be 1.0"),
        ("learning_rate = -0.5", "E0956", 9, "group.2.learning_rate cannot be -0.5"),
        ("weight_decay = nan", "E0956", 9, "group.2.weight_decay cannot be nan"),
        ("[[group]]\nmatch = []", "E0956", 10, "group.3.match cannot be []"),
        ("[[group]]\nmatch = \"a\"\nmomentum = 0.5", "E0956", 11, "group.3.momentum cannot be"),
        ("rate = 1.0", "E0955", 9, "unknown field `rate`"),
        ("[[group]]\nmatch = 3", "E0955", 10, "a name in quotes, or a list of names"),
        ("[[group]]\nmatch = \"a\"\noptimiser = \"sgd\"", "E0955", 11, "unknown variant `sgd`"),
    ] {
        let error = with(more).unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.place().unwrap().ends_with(&format!("run.toml:{line}")), "{more}: {error}");
        assert!(error.message().contains(said), "{error}");
    }
    let error = with("[[group]]").unwrap_err();
    assert_eq!((error.code(), error.message()), ("E0956", "group.3.match is not set"));
    let error = open(LEAST, &["group.1.momentum=0.5"]).unwrap_err();
    assert_eq!(error.code(), "E0955", "{error}");
    assert!(error.help_text().unwrap().contains("in the file"), "{error}");
    // What differs is named by the number of the group.
    let before = with("momentum = 0.9").unwrap().to_json();
    let names = |now: Settings| -> Vec<String> {
        now.differences(&before).into_iter().map(|row| row.0).collect()
    };
    assert_eq!(names(with("").unwrap()), ["group.2.momentum"]);
    let fewer = open(LEAST, &[]).unwrap();
    assert_eq!(names(fewer), ["group.1", "group.2"]);
}
