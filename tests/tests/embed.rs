//! The embedding example as another program would use it: it compiles, runs and writes a video.

#[path = "../../examples/embed.rs"]
mod embed;

use anyid_tests::folders::Folder;
use std::path::Path;

#[test]
fn the_example_writes_nine_frames() {
    let folder = Folder::new();
    let out = folder.path().join("embed.mp4");
    let picture = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/astronaut.png");
    let frames = embed::generate(&picture, &out).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(frames, 9);
    let bytes = std::fs::read(&out).expect("the video was written");
    assert_eq!(&bytes[4..8], b"ftyp", "an mp4 file");
    assert!(bytes.len() > 1000);
}
