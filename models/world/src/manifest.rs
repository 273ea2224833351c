//! Sets as lines of a manifest (`formats.md` §6.1), and back.
//!
//! A line is what `train` reads, with one more field, `world`, that says which set of which world it
//! is. From that alone the set is made again, so that what was generated for a line can be judged
//! without anything else; the rest of the line has to agree with it.

use crate::contrast::Feature;
use crate::error::{Error, Result};
use crate::person::{Element, Slot};
use crate::prompt::ReferenceForm;
use crate::reel::{Place, Reel};
use crate::set::{Reference, Set};
use crate::visible::Visibility;
use crate::world::{FRAMES, World};
use serde_json::{Map, Value, json};

/// Frames a second that manifests say.
pub const FPS: u32 = 24;

/// A clip that a model made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The file, below the folder of the manifest.
    pub media: String,
    /// Its SHA-256.
    pub sha256: String,
}

impl Set {
    /// The line of this set, without a line break. `id` is its name, `reel` says where its pictures lie,
    /// and `shows` is what the target shows, if the line is to say that.
    pub fn line(&self, id: &str, reel: &Reel, shows: Option<&[(Feature, u8)]>) -> String {
        let place = reel.place(self.group.number(), self.target, ReferenceForm::Video);
        let mut value = self.described(id, reel, place, FRAMES);
        if let Some(shows) = shows {
            let classes = shows.iter().map(|(feature, class)| (feature.name(), json!(class)));
            value["shows"] = classes.collect();
        }
        value.to_string()
    }

    /// As [`Self::line`], with a single picture of the target clip as the target: of all its pictures in
    /// the order of a reel (face, portrait, frames) the one of this number, counted round and round.
    pub fn line_of_picture(&self, id: &str, reel: &Reel, number: u64) -> String {
        let places: Vec<Place> = ReferenceForm::ALL
            .into_iter()
            .flat_map(|form| {
                let Place { media, first } = reel.place(self.group.number(), self.target, form);
                (first..first + form.pictures())
                    .map(move |first| Place { media: media.clone(), first })
            })
            .collect();
        let place = places[(number % places.len() as u64) as usize].clone();
        self.described(id, reel, place, 1).to_string()
    }

    /// All of a line but what the target shows; the target is so many frames from `target` on.
    fn described(&self, id: &str, reel: &Reel, target: Place, frames: usize) -> Value {
        let labels: Map<String, Value> = self
            .labels()
            .into_iter()
            .map(|(slot, class)| (slot.name().to_owned(), json!(class)))
            .collect();
        json!({
            "schema": "anyid.sample/1",
            "id": id,
            "group": format!("g{}", self.group.number()),
            "target": {
                "clip": self.named(self.target), "media": target.media,
                "start": target.first, "frames": frames, "fps": FPS
            },
            "references": self.pictured(reel),
            "prompt": self.prompt.text,
            "prompt_full": self.full_prompt(),
            "elements": self.elements(),
            "prompt_style": "plain",
            "labels": labels,
            "world": self.section()
        })
    }

    /// The line of a pair of clips that were made for this set, the chosen one first (`formats.md`
    /// §6.2), without a line break.
    pub fn pair(&self, id: &str, reel: &Reel, clips: &[Made; 2]) -> String {
        let [chosen, rejected] =
            clips.each_ref().map(|clip| json!({"video": clip.media, "sha256": clip.sha256}));
        let value = json!({
            "schema": "anyid.dpo/1",
            "id": id,
            "sample": {"references": self.pictured(reel), "prompt": self.prompt.text},
            "chosen": chosen,
            "rejected": rejected,
            "world": self.section()
        });
        value.to_string()
    }

    /// The references, and where their pictures lie.
    fn pictured(&self, reel: &Reel) -> Vec<Value> {
        let references = self.references.iter().enumerate().map(|(at, one)| {
            let role = if at == 0 { "primary" } else { "aux" };
            let place = reel.place(self.group.number(), one.clip, one.form);
            let name = self.named(one.clip);
            match one.form {
                ReferenceForm::Face | ReferenceForm::Portrait => json!({
                    "role": role, "form": one.form.name(), "clip": name, "media": place.media,
                    "frame": place.first
                }),
                ReferenceForm::Video => json!({
                    "role": role, "form": one.form.name(), "clip": name, "media": place.media,
                    "start": place.first, "frames": FRAMES, "fps": FPS
                }),
            }
        });
        references.collect()
    }

    /// The name of a clip of the person.
    fn named(&self, clip: usize) -> String {
        format!("g{}_c{clip}", self.group.number())
    }

    /// What the set is made again from.
    fn section(&self) -> Value {
        let named = |one: &Reference| json!([one.clip, one.form.name()]);
        json!({
            "name": self.group.world().to_string(), "group": self.group.number(),
            "target": self.target,
            "references": self.references.iter().map(named).collect::<Vec<_>>(),
            "absolute": self.absolute
        })
    }

    /// The class of every attribute and slot that can be read off first and last frame of the target.
    pub fn shows(&self, visibility: &mut Visibility) -> Vec<(Feature, u8)> {
        let clip = self.group.clip(self.target).expect("a set's clips were checked");
        let (world, identity) = (self.group.world(), &self.group.identity);
        let readable = visibility.readable(&world, identity, &clip, &[0.0, 1.0]);
        readable.into_iter().map(|feature| (feature, feature.class(identity, &clip))).collect()
    }

    /// The class of every slot that the prompt names.
    pub fn labels(&self) -> Vec<(Slot, u8)> {
        let clip = self.group.clip(self.target).expect("a set's clips were checked");
        let named = |slot: &Slot| self.prompt.mentioned.contains(&slot.element());
        let world = self.group.world();
        world.slots().filter(named).map(|slot| (slot, clip.class(slot))).collect()
    }

    /// The prompt that names every element.
    fn full_prompt(&self) -> String {
        let clip = self.group.clip(self.target).expect("a set's clips were checked");
        self.group.world().absolute_prompt(&clip).text
    }

    /// Every element: its sentence, whether it is kept in the prompt, and whether and how far the
    /// primary has it.
    fn elements(&self) -> Value {
        let world = self.group.world();
        let clip = |number| self.group.clip(number).expect("a set's clips were checked");
        let (target, primary) = (clip(self.target), clip(self.references[0].clip));
        let described = |element: Element| {
            let value = json!({
                "text": world.sentence(&target, element),
                "score": u8::from(target.shares(element, &primary)),
                "keep": self.prompt.mentioned.contains(&element),
                "visible": self.references[0].form.shows(element)
            });
            (element.name().to_owned(), value)
        };
        Value::Object(world.elements().map(described).collect())
    }

    /// The set of a line, which has to be one of `world`. Files are not looked at.
    ///
    /// # Errors
    /// E0983 for a line that is no sample of a world, is one of another world or version, or whose
    /// prompt or references are not those of its set; E0981 and E0986 for a set that there is not.
    pub fn parse(world: &World, line: &str) -> Result<Self> {
        let refused = |what: String| {
            let help = "give a manifest that `world sample` wrote for this version of the world";
            Error::new("E0983", what, help)
        };
        let value: Value = serde_json::from_str(line)
            .map_err(|fault| refused(format!("the line is not JSON: {fault}")))?;
        let section = value.get("world").and_then(Value::as_object);
        let section = section.ok_or_else(|| refused("the line says no world".to_owned()))?;
        let name = section.get("name").and_then(Value::as_str).unwrap_or_default();
        if name != world.to_string() {
            let what = format!("the line is of \"{name}\", not of \"{world}\"");
            return Err(refused(what).of("version"));
        }
        let set = Section(section).set(world).map_err(|fault| match fault {
            Fault::Field(field) => {
                refused(format!("\"world.{field}\" is missing or no such value"))
            }
            Fault::Set(error) => error,
        })?;
        if value.get("prompt").and_then(Value::as_str) != Some(set.prompt.text.as_str()) {
            return Err(refused("the prompt is not that of its set".to_owned()));
        }
        let forms = value.get("references").and_then(Value::as_array);
        let forms = forms.map(|list| {
            list.iter().map(|one| one.get("form").and_then(Value::as_str)).collect::<Vec<_>>()
        });
        let own = set.references.iter().map(|one| Some(one.form.name())).collect::<Vec<_>>();
        if forms != Some(own) {
            return Err(refused("the references are not those of its set".to_owned()));
        }
        Ok(set)
    }
}

/// Why a set could not be made.
enum Fault {
    Field(&'static str),
    Set(Error),
}

/// The field `world` of a line.
struct Section<'v>(&'v Map<String, Value>);

impl Section<'_> {
    fn number(&self, key: &'static str) -> std::result::Result<u64, Fault> {
        self.0.get(key).and_then(Value::as_u64).ok_or(Fault::Field(key))
    }

    fn set(&self, world: &World) -> std::result::Result<Set, Fault> {
        let (group, target) = (self.number("group")?, self.number("target")?);
        let target = usize::try_from(target).map_err(|_| Fault::Field("target"))?;
        let list = self.0.get("references").and_then(Value::as_array);
        let reference = |one: &Value| {
            let clip = usize::try_from(one.get(0)?.as_u64()?).ok()?;
            let form = ReferenceForm::named(one.get(1)?.as_str()?)?;
            Some(Reference { clip, form })
        };
        let references: Option<Vec<Reference>> =
            list.and_then(|list| list.iter().map(reference).collect());
        let references = references.ok_or(Fault::Field("references"))?;
        let absolute = self.0.get("absolute").and_then(Value::as_bool);
        let absolute = absolute.ok_or(Fault::Field("absolute"))?;
        world.set(group, target, references, absolute).map_err(Fault::Set)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::Split;
    use crate::set::Sampling;

    fn line(index: u64) -> (World, Set, String) {
        let world = World::new(2).unwrap();
        let sampling = Sampling::new(Split::HeldOut.some(0, 50).unwrap());
        let set = world.sample(&sampling, 3, index).unwrap();
        let line = set.line(&format!("s_{index}"), &Reel { clips: 5 }, None);
        (world, set, line)
    }

    #[test]
    fn every_picture_of_a_clip_can_be_a_target() {
        let world = World::new(2).unwrap();
        let set = world.sample(&Sampling::new(0..40), 3, 7).unwrap();
        let reel = Reel { clips: 5 };
        let mut places = Vec::new();
        for number in 0..9 {
            let line: Value =
                serde_json::from_str(&set.line_of_picture("s_1", &reel, number)).unwrap();
            assert_eq!((&line["target"]["frames"], &line["id"]), (&json!(1), &json!("s_1")));
            assert_eq!(line["target"]["clip"], set.named(set.target));
            places.push(line["target"]["start"].as_u64().unwrap() as usize);
        }
        let (clip, first) = (set.target, 10 + FRAMES * set.target);
        let wanted = [clip, 5 + clip, first, first + 1, first + 2, first + 3, first + 4];
        assert_eq!(places[..7], wanted);
        assert_eq!(places[7..], wanted[..2]);
    }

    #[test]
    fn lines_are_read_as_they_were_written() {
        for index in 0..50 {
            let (world, set, line) = line(index);
            assert_eq!(Set::parse(&world, &line).unwrap(), set);
            assert!(!line.contains('\n'));
        }
    }

    #[test]
    fn lines_say_what_manifests_need() {
        let world = World::new(1).unwrap();
        let references = vec![
            Reference { clip: 4, form: ReferenceForm::Portrait },
            Reference { clip: 0, form: ReferenceForm::Video },
        ];
        let set = world.set(12, 3, references, false).unwrap();
        let value: Value =
            serde_json::from_str(&set.line("s_1", &Reel { clips: 5 }, None)).unwrap();
        assert_eq!(value["schema"], "anyid.sample/1");
        assert_eq!(value["target"]["media"], "groups/g12.png");
        assert_eq!(
            (&value["target"]["start"], &value["target"]["frames"]),
            (&json!(25), &json!(5))
        );
        assert_eq!(value["references"][0]["media"], "groups/g12.png");
        assert_eq!(value["references"][0]["frame"], 9);
        assert_eq!(value["references"][1]["start"], 10);
        assert_eq!(value["references"][0]["role"], "primary");
        assert_eq!(value["references"][1]["role"], "aux");
        assert_eq!(value["references"][1]["frames"], 5);
        assert_eq!(value["elements"]["shot"]["visible"], false);
        assert_eq!(value["elements"]["shot"]["keep"], true);
        assert_eq!(value["elements"].as_object().unwrap().len(), 7);
        assert_eq!(value["world"]["name"], "world/1");
        let (labels, clip) = (set.labels(), set.group.clip(3).unwrap());
        assert!(labels.contains(&(Slot::Shot, clip.class(Slot::Shot))));
        assert_eq!(value["labels"].as_object().unwrap().len(), labels.len());
        assert_eq!(value["labels"]["action"], clip.class(Slot::Action));
        let said = |slot: Slot| set.prompt.mentioned.contains(&slot.element());
        assert_eq!(labels.len(), world.slots().filter(|slot| said(*slot)).count());
        assert!(value.get("shows").is_none());
        let shows = set.shows(&mut Visibility::new());
        let line = set.line("s_1", &Reel { clips: 5 }, Some(&shows));
        let with: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(with["shows"].as_object().unwrap().len(), shows.len());
        let skin = Feature::Attribute(crate::person::Attribute::Skin);
        assert_eq!(with["shows"]["skin"], skin.class(&set.group.identity, &clip));
        assert!(Set::parse(&world, &line).is_ok());
    }

    #[test]
    fn pairs_have_the_references_and_the_prompt_of_their_set() {
        let (_, set, line) = line(7);
        let made = |media: &str| Made { media: media.to_owned(), sha256: "00".to_owned() };
        let reel = Reel { clips: 5 };
        let pair = set.pair("s_7", &reel, &[made("clips/a.png"), made("clips/b.png")]);
        let [sample, pair]: [Value; 2] =
            [&line, &pair].map(|line| serde_json::from_str(line).unwrap());
        assert_eq!(pair["schema"], "anyid.dpo/1");
        for key in ["references", "prompt"] {
            assert_eq!(pair["sample"][key], sample[key]);
        }
        assert_eq!(pair["world"], sample["world"]);
        assert_eq!(pair["chosen"], json!({"video": "clips/a.png", "sha256": "00"}));
        assert_eq!(pair["rejected"]["video"], "clips/b.png");
    }

    #[test]
    fn lines_of_something_else_are_refused() {
        let (world, _, line) = line(0);
        let refused = |line: &str| Set::parse(&world, line).unwrap_err().code();
        assert_eq!(refused("{"), "E0983");
        assert_eq!(refused("[]"), "E0983");
        assert_eq!(refused(r#"{"schema":"anyid.sample/1","id":"s_1"}"#), "E0983");
        let error = Set::parse(&World::new(1).unwrap(), &line).unwrap_err();
        assert_eq!(error.code(), "E0983");
        assert_eq!(error.message(), "the line is of \"world/2\", not of \"world/1\"");
        let changed = |path: &str, to: Value| {
            let mut value: Value = serde_json::from_str(&line).unwrap();
            *value.pointer_mut(path).unwrap() = to;
            refused(&value.to_string())
        };
        assert_eq!(changed("/prompt", json!("The face is calm.")), "E0983");
        assert_eq!(changed("/references", json!([])), "E0983");
        assert_eq!(changed("/world/group", json!(-1)), "E0983");
        assert_eq!(changed("/world/target", json!("x")), "E0983");
        assert_eq!(changed("/world/references", json!([[0, "profile"]])), "E0983");
        assert_eq!(changed("/world/absolute", json!(null)), "E0983");
        assert_eq!(changed("/world/group", json!(1_000_000_000u64)), "E0981");
        assert_eq!(changed("/world/target", json!(99)), "E0981");
        assert_eq!(changed("/world/references", json!([])), "E0986");
    }
}
