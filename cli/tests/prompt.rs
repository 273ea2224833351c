//! Prompts as users meet them: what is wrong with one, and those that say what changes.

mod common;

use common::Folder;
use serde_json::{Value, json};

const REFERENCE: &str = "\
shot = \"Static close-up shot.\"
hairstyle = \"He has short black hair.\"
clothing = \"He wears a white shirt and a navy tie.\"
accessory = \"No accessories.\"
pronoun = \"he\"
";
const TARGET: &str = "\
shot = \"Static close-up shot.\"
hairstyle = \"He has short blond hair.\"
clothing = \"He wears a white shirt and a navy tie.\"
accessory = \"No accessories.\"
action = \"He nods.\"
pronoun = \"he\"
keep = [\"hairstyle\"]
";

fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("a.aspects.toml", REFERENCE);
    folder.write("b.aspects.toml", TARGET);
    folder
}

#[test]
fn a_prompt_says_what_changes() {
    let folder = folder();
    let diff = "prompt diff --ref a.aspects.toml --target b.aspects.toml";
    assert_eq!(folder.run(diff).fine().out, "He has short blond hair. He nods.\n");
    // What a face does not show is said as well.
    let told = folder.run(&format!("{diff} --form face --style tagged")).fine().out;
    assert!(told.contains("[shot] Static") && told.contains("[clothing] He wears"), "{told}");
    let kept = folder.run(&format!("{diff} --similarity manual --json")).fine().json();
    let prompt = kept["prompt"].as_str().unwrap();
    assert!(!prompt.contains("blond") && prompt.contains("navy tie"), "{prompt}");
    folder.write("c.aspects.toml", "shot = \"Not visible.\"\n");
    folder.run("prompt diff --ref a.aspects.toml --target c.aspects.toml").fails("E1220");
    folder.run("prompt make d.jpg").fails("E1220");
}

#[test]
fn a_comparison_is_measured_by_what_people_say() {
    let folder = Folder::new();
    let line = |reference: &str, target: &str, changed: bool| {
        let [reference, target] = [reference, target].map(|text| json!({"clothing": text}));
        json!({"ref": reference, "tgt": target, "changed": {"clothing": changed}}).to_string()
    };
    let lines = [
        line("He wears a red tie.", "He wears a blue tie.", true),
        line("He wears a red tie.", "A red tie.", false),
        line("A grey wool coat.", "A thin summer shirt.", true),
    ];
    folder.write("gold.jsonl", lines.join("\n"));
    let calibrate = "prompt calibrate --gold gold.jsonl";
    let found = folder.run(&format!("{calibrate} --json")).fine().json();
    assert_eq!((&found["all"]["precision"], &found["all"]["recall"]), (&json!(1.0), &json!(1.0)));
    assert_eq!(found["elements"]["clothing"]["quiet"], 1);
    let shown = folder.run(calibrate).fine().out;
    assert!(shown.contains("clothing         1.000     1.000     1.000"), "{shown}");
    folder.run(&format!("{calibrate} --similarity manual")).fails("E0900");
    folder.write("gold.jsonl", "{}");
    folder.run(calibrate).fails("E1202");
}

#[test]
fn kept_answers_are_counted_written_out_and_removed() {
    let folder = Folder::new();
    folder.write("work/cache/ab/ab1.json", "{\"parsed\": {\"x\": 1}}");
    folder.write("work/cache/cd/cd2.json", "half");
    let stats = folder.run("prompt cache stats --out work --json").fine().json();
    assert_eq!(stats["entries"], 2);
    folder.run("prompt cache export --out work --into all.jsonl").fine();
    let all = std::fs::read_to_string(folder.path("all.jsonl")).unwrap();
    let all: Value = serde_json::from_str(&all).unwrap();
    assert_eq!(all, json!({"parsed": {"x": 1}, "key": "ab1"}));
    let removed = folder.run("prompt cache prune --out work --json").fine().json();
    assert_eq!(removed["entries"], 1);
    folder.run("prompt cache prune --out work --older -1").fails("E0900");
    folder.run("prompt cache prune --out work --older 0").fine();
    let stats = folder.run("prompt cache stats --out work --json").fine().json();
    assert_eq!(stats["entries"], 0);
}

#[test]
fn prompts_to_measure_by_come_with_the_program() {
    let folder = Folder::new();
    let report = folder.run("eval prompts --out bench --json").fine().json();
    assert_eq!(report["prompts"], 50);
    let lines = |name: &str| -> Vec<Value> {
        let text = std::fs::read_to_string(folder.path("bench").join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let (whole, reduced) = (lines("ipt2v.jsonl"), lines("iept2v.jsonl"));
    assert_eq!((whole.len(), reduced.len()), (50, 50));
    assert!(whole.iter().all(|line| line["elements"].as_object().unwrap().len() == 7));
    for (line, rest) in whole.iter().zip(&reduced) {
        let gone = rest["preserve"].as_array().unwrap().len();
        assert_eq!(rest["elements"].as_object().unwrap().len(), 7 - gone, "{rest}");
        assert_eq!(line["id"], rest["id"]);
    }
    folder.run("eval prompts --out few --n 3 --drop-policy appendix --seed 4").fine();
    folder.run("eval prompts --out few --n 51").fails("E0900");
}

#[test]
fn every_style_is_read_back() {
    let folder = folder();
    for style in ["tagged", "numbered", "labelled", "plain"] {
        let made = folder.run(&format!("prompt make b.aspects.toml --style {style}")).fine().out;
        let read = folder.run_with("prompt parse", &[made.trim_end()]).fine().json();
        assert_eq!(read["hairstyle"], "He has short blond hair.", "{style}: {made}");
        assert_eq!(read["action"], "He nods.", "{style}: {made}");
    }
}

#[test]
fn a_faulty_prompt_is_refused_with_the_place_of_its_faults() {
    let folder = folder();
    let text = "Static close-up shot. The camera pans left. He wears a red shirt.";
    let lint = |text: &str, more: &str| folder.run_with(&format!("prompt lint {more}"), &[text]);
    let done = lint(text, "").fails("E1221");
    assert!(done.out.contains("error[L020]") && done.out.contains("--> column"), "{}", done.out);
    let sound = lint("He nods and smiles.", "--ref a.aspects.toml").fine().out;
    assert!(sound.contains("note[L030]") && !sound.contains("error"), "{sound}");
    let done = lint("He nods and smiles.", "--json").fine().json();
    assert!(done["findings"].as_array().is_some_and(|all| !all.is_empty()), "{done}");
    lint("He nods.", "--ref none.jpg").fails("E1220");
    // Lengths count in tokens of a model, and the safeguards have their say.
    let long = "He nods and smiles. ".repeat(200);
    let done = lint(&long, "--model @micro").fails("E1221");
    assert!(done.out.contains("tokens, at most 512 are read: "), "{}", done.out);
    lint("He nods.", "--model @micro").fine();
    let done = lint("A naked child.", "").fails("E1221");
    assert!(done.out.contains("error[L050]"), "{}", done.out);
}
