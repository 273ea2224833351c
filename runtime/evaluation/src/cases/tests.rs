//! What is drawn, and that it is locked.

use super::*;
use crate::set::{About, Person};
use std::collections::BTreeSet;

fn set(women: usize, men: usize) -> Set {
    let person = |at: usize| {
        let id = format!("{:03}", at + 1);
        let gender = if at < women { Gender::Female } else { Gender::Male };
        Person {
            references: ["p1.png", "p2.png", "clip.mp4"].map(|f| format!("{id}/{f}")).to_vec(),
            consent: format!("{id}/consent.json"),
            pictures: 2,
            gender,
            id,
        }
    };
    let about = serde_json::from_value::<About>(json!({"schema": schema::SET, "name": "t"}));
    Set {
        folder: PathBuf::new(),
        about: about.unwrap(),
        people: (0..women + men).map(person).collect(),
    }
}

fn drawn(set: &Set, count: usize, seed: u64, per_case: usize) -> Vec<Case> {
    let draw = Draw { count, seed, per_case, tasks: Task::ALL.to_vec() };
    super::draw(set, &Prompts::built_in(), &draw).unwrap()
}

#[test]
fn each_person_has_one_case_a_task_with_a_prompt_of_the_gender() {
    let set = set(25, 25);
    let cases = drawn(&set, 50, 0, 1);
    assert_eq!(cases.len(), 100);
    for task in Task::ALL {
        let own: Vec<&Case> = cases.iter().filter(|case| case.task == task).collect();
        let people: BTreeSet<&str> = own.iter().map(|case| case.person.as_str()).collect();
        let prompts: BTreeSet<&str> = own.iter().map(|case| case.prompt_id.as_str()).collect();
        assert_eq!((own.len(), people.len(), prompts.len()), (50, 50, 50));
        assert!(own.iter().all(|case| !case.rewritten));
    }
    let seeds: BTreeSet<u64> = cases.iter().map(|case| case.seed).collect();
    assert_eq!((seeds.len(), seeds.first(), seeds.last()), (100, Some(&1001), Some(&1100)));
    let one = &cases[99];
    assert_eq!(one.id, format!("IEPT2V-050-{}", one.prompt_id));
    assert_eq!((one.primary.as_str(), one.references.len()), ("050/p1.png", 3));
    assert!(!one.preserve.is_empty() && one.prompt_full.as_ref().unwrap().len() > one.prompt.len());
    assert!(cases[0].preserve.is_empty() && cases[0].prompt_full.is_none());
    // The same seed draws the same, another one something else.
    assert_eq!(drawn(&set, 50, 0, 1), cases);
    assert_ne!(drawn(&set, 50, 1, 1)[0].prompt_id, String::new());
    let of = |cases: &[Case]| cases.iter().map(|c| c.prompt_id.clone()).collect::<Vec<_>>();
    assert_ne!(of(&drawn(&set, 50, 1, 1)), of(&cases));
}

#[test]
fn where_prompts_of_a_gender_are_used_up_others_are_rewritten() {
    let cases = drawn(&set(30, 20), 50, 0, 1);
    for task in Task::ALL {
        let own = cases.iter().filter(|case| case.task == task);
        let rewritten: Vec<&Case> = own.filter(|case| case.rewritten).collect();
        assert_eq!(rewritten.len(), 5);
        for case in rewritten {
            assert!(case.person.as_str() <= "030");
            let lower = case.prompt.to_lowercase();
            assert!(!lower.split(|c: char| !c.is_alphabetic()).any(|word| word == "he"));
        }
    }
}

#[test]
fn small_sets_have_several_cases_a_person() {
    let cases = drawn(&set(3, 2), 20, 7, 1);
    for person in ["001", "002", "003", "004", "005"] {
        for task in Task::ALL {
            let own = cases.iter().filter(|case| case.person == person && case.task == task);
            assert_eq!(own.count(), 4);
        }
    }
}

#[test]
fn further_seeds_are_of_the_same_case() {
    let cases = drawn(&set(1, 1), 2, 0, 3);
    assert_eq!(cases.len(), 12);
    let [first, second, third] = &cases[..3] else { panic!() };
    assert_eq!((first.of.as_ref(), first.unit()), (None, first.id.as_str()));
    assert_eq!((second.id.clone(), second.unit()), (format!("{}-s2", first.id), first.id.as_str()));
    assert_eq!([first.seed, second.seed, third.seed], [1001, 1_001_001, 2_001_001]);
    assert_eq!(third.prompt, first.prompt);
}

#[test]
fn more_cases_than_prompts_are_refused() {
    let draw = Draw { count: 51, seed: 0, per_case: 1, tasks: Task::ALL.to_vec() };
    let refused = super::draw(&set(25, 25), &Prompts::built_in(), &draw).unwrap_err();
    assert_eq!(refused.code(), "E1702");
}

#[test]
fn cases_are_locked_with_their_references() {
    let folder = tempfile::tempdir().unwrap();
    let set = set(1, 0);
    for file in &set.people[0].references {
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, file).unwrap();
    }
    let path = folder.path().join("cases.jsonl");
    let cases = drawn(&set, 1, 0, 1);
    write(&path, &cases, folder.path()).unwrap();
    assert_eq!(crate::raw::read_cases(&path).unwrap(), cases);
    let references = locked(&path).unwrap();
    assert_eq!(references.len(), 3);
    let clip = &references["001/clip.mp4"];
    assert_eq!(*clip, anyid_study::lines::hash(b"001/clip.mp4"));
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"seed\":1001", "\"seed\":7")).unwrap();
    let changed = locked(&path).unwrap_err();
    assert_eq!(changed.code(), "E1702");
    assert!(changed.message().contains("changed after they were locked"), "{changed}");
    // Cases without a lock are those of somebody else.
    std::fs::remove_file(folder.path().join("cases.lock.json")).unwrap();
    assert!(locked(&path).unwrap().is_empty());
}

#[test]
fn files_of_prompts_are_those_of_eval_prompts() {
    let folder = tempfile::tempdir().unwrap();
    let built_in = Prompts::built_in();
    let all = fixed();
    let write = |name: &str, lines: Vec<Value>| {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(folder.path().join(name), text).unwrap();
    };
    write("ipt2v.jsonl", all.iter().map(|one| one.line(Some("m"))).collect());
    let reduced = all.iter().enumerate().map(|(at, one)| one.reduced(Omission::Main, at, 0, None));
    write("iept2v.jsonl", reduced.collect());
    assert_eq!(Prompts::open(folder.path()).unwrap(), built_in);
    write("ipt2v.jsonl", vec![all[0].line(None), all[0].line(None)]);
    let twice = Prompts::open(folder.path()).unwrap_err();
    assert!(twice.message().starts_with("line 2: \"P001\""), "{twice}");
}

#[test]
fn cases_have_the_fields_of_their_schema() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/schemas/case.json");
    let rule: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let known = rule["properties"].as_object().unwrap();
    assert_eq!(rule["properties"]["schema"]["const"], schema::CASE);
    for case in drawn(&set(30, 20), 50, 0, 2) {
        let line = json!(case);
        let fields = line.as_object().unwrap();
        assert!(fields.keys().all(|key| known.contains_key(key)), "{line}");
        for key in rule["required"].as_array().unwrap() {
            assert!(fields.contains_key(key.as_str().unwrap()), "{key}: {line}");
        }
    }
}
