//! Reels: all pictures of a group, one behind the other, in the one file that manifests name.
//!
//! A set shows clips of one group, and there are thousands of groups with a few small pictures each.
//! So a group has one file, in which lines of manifests say where a picture begins: the faces of
//! its clips first, then their portraits, then the frames of each clip. What a reel holds depends on
//! the group and the number of clips alone, whichever sets are drawn. The file has to keep pictures
//! as they are: what a codec changes of 48 pixels a side, training would learn.

use crate::error::Result;
use crate::group::Group;
use crate::prompt::ReferenceForm;
use crate::world::{FRAMES, Painter};

/// Where the pictures of a form of a clip lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file, below the folder of the manifest.
    pub media: String,
    /// The first picture in it.
    pub first: usize,
}

/// The reels of groups of which so many clips are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reel {
    /// Clips of each group.
    pub clips: usize,
}

impl Reel {
    /// The file of a group: `groups/g12.png`.
    pub fn file(group: u64) -> String {
        format!("groups/g{group}.png")
    }

    /// Pictures of a reel.
    pub fn pictures(&self) -> usize {
        self.clips * ReferenceForm::ALL.map(ReferenceForm::pictures).iter().sum::<usize>()
    }

    /// Where a form of a clip lies.
    pub fn place(&self, group: u64, clip: usize, form: ReferenceForm) -> Place {
        let first = match form {
            ReferenceForm::Face => clip,
            ReferenceForm::Portrait => self.clips + clip,
            ReferenceForm::Video => 2 * self.clips + FRAMES * clip,
        };
        Place { media: Self::file(group), first }
    }

    /// Paints all pictures of a group, RGB bytes one behind the other.
    ///
    /// # Errors
    /// E0981 where a group has not so many clips.
    pub fn paint(&self, group: &Group, painter: &mut Painter) -> Result<Vec<u8>> {
        let mut out = Vec::with_capacity(self.pictures() * painter.frame_bytes());
        for form in ReferenceForm::ALL {
            for number in 0..self.clips {
                let clip = group.clip(number)?;
                for view in group.views(number, form)? {
                    let scene = group.world().scene(&group.identity, &clip, view);
                    out.extend_from_slice(&painter.frame(&scene));
                }
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::CLIPS;
    use crate::world::{SIDE, View, World};

    #[test]
    fn every_picture_lies_where_it_is_said_to() {
        let world = World::new(2).unwrap();
        let group = world.group(12).unwrap();
        let (reel, mut painter) = (Reel { clips: 3 }, Painter::new(SIDE).unwrap());
        let film = reel.paint(&group, &mut painter).unwrap();
        let pictures: Vec<&[u8]> = film.chunks(painter.frame_bytes()).collect();
        assert_eq!(pictures.len(), reel.pictures());
        let mut seen = vec![0; pictures.len()];
        for form in ReferenceForm::ALL {
            for number in 0..3 {
                let place = reel.place(12, number, form);
                assert_eq!(place.media, "groups/g12.png");
                let clip = group.clip(number).unwrap();
                for (at, view) in group.views(number, form).unwrap().into_iter().enumerate() {
                    seen[place.first + at] += 1;
                    let scene = world.scene(&group.identity, &clip, view);
                    assert!(painter.frame(&scene) == pictures[place.first + at], "{form:?} {at}");
                }
            }
        }
        assert!(seen.iter().all(|count| *count == 1), "{seen:?}");
        let first = world.scene(&group.identity, &group.clip(1).unwrap(), View::Frame(0.0));
        assert!(painter.frame(&first) == pictures[2 * 3 + FRAMES]);
    }

    #[test]
    fn groups_have_only_so_many_clips() {
        let group = World::new(1).unwrap().group(3).unwrap();
        let mut painter = Painter::new(SIDE).unwrap();
        let refused = Reel { clips: CLIPS + 1 }.paint(&group, &mut painter).unwrap_err();
        assert_eq!(refused.code(), "E0981");
    }
}
