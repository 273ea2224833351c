//! What a file is, from its first bytes.
//!
//! One answer decides everything that follows: which of our decoders reads the file, or which
//! demuxer `ffmpeg` is told to use. `ffmpeg` never looks for itself, so a file cannot be one thing
//! to us and another to it. Names and endings are not looked at, and nothing is decoded here.

use ::image::ImageFormat as F;

/// Media that is read with the help of `ffmpeg`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreign<'a> {
    /// In words, such as `an AVI video`.
    pub name: &'a str,
    /// The one demuxer that `ffmpeg` may use for it.
    pub demuxer: &'a str,
    /// A picture: its first frame is all there is to see.
    pub picture: bool,
}

/// What the first bytes of a file say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// A picture (or animation) that the built-in decoders read.
    Still(F),
    /// ISO base media: MP4, MOV and kin.
    Mp4,
    /// The picture relatives of MP4; the words name it.
    Heif(&'static str),
    /// Known media that needs `ffmpeg`.
    Foreign(Foreign<'static>),
    /// Something else; the words name it.
    NotMedia(&'static str),
}

const fn clip(name: &'static str, demuxer: &'static str) -> Signature {
    Signature::Foreign(Foreign { name, demuxer, picture: false })
}

const fn picture(name: &'static str, demuxer: &'static str) -> Signature {
    Signature::Foreign(Foreign { name, demuxer, picture: true })
}

/// Names a file by its first bytes (256 are enough).
pub fn sniff(head: &[u8]) -> Signature {
    let at = |offset: usize, magic: &[u8]| head.get(offset..offset + magic.len()) == Some(magic);
    if at(0, b"\x89PNG\r\n\x1a\n") {
        return Signature::Still(F::Png);
    }
    if at(0, b"\xff\xd8\xff") {
        return Signature::Still(F::Jpeg);
    }
    if at(0, b"GIF87a") || at(0, b"GIF89a") {
        return Signature::Still(F::Gif);
    }
    if at(0, b"RIFF") {
        return match head.get(8..12).unwrap_or_default() {
            b"WEBP" => Signature::Still(F::WebP),
            b"AVI " | b"AVIX" => clip("an AVI video", "avi"),
            b"WAVE" => Signature::NotMedia("a WAV sound file"),
            _ => Signature::NotMedia("a RIFF file of another kind"),
        };
    }
    // "BM" alone is too weak a mark: also ask for the reserved zeros and a known header size.
    let bmp_header = head.get(14).copied().unwrap_or(0);
    if at(0, b"BM")
        && at(6, &[0; 4])
        && matches!(bmp_header, 12 | 16 | 40 | 52 | 56 | 64 | 108 | 124)
    {
        return Signature::Still(F::Bmp);
    }
    if at(4, b"ftyp") {
        return branded(head);
    }
    if [b"moov", b"mdat", b"free", b"wide", b"skip", b"pnot"].iter().any(|name| at(4, *name)) {
        return Signature::Mp4;
    }
    let table: [(&[u8], Signature); 28] = [
        (b"\x1a\x45\xdf\xa3", clip("a WebM or Matroska video", "matroska")),
        (b"FLV\x01", clip("an FLV video", "flv")),
        (b"OggS", clip("an Ogg file", "ogg")),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", clip("a Windows Media video", "asf")),
        (b"\x00\x00\x01\xba", clip("an MPEG program stream", "mpeg")),
        (b"\x00\x00\x01\xb3", clip("an MPEG video stream", "mpegvideo")),
        (b"\x00\x00\x00\x01\x67", clip("a bare H.264 stream", "h264")),
        (b"\x00\x00\x00\x01\x09", clip("a bare H.264 stream", "h264")),
        (b"\x00\x00\x00\x01\x40\x01", clip("a bare HEVC stream", "hevc")),
        (b"YUV4MPEG2 ", clip("a Y4M video", "yuv4mpegpipe")),
        (b"DKIF", clip("an IVF video", "ivf")),
        (b"II*\0", picture("a TIFF picture", "tiff_pipe")),
        (b"MM\0*", picture("a TIFF picture", "tiff_pipe")),
        (b"\xff\x0a", picture("a JPEG XL picture", "jpegxl_pipe")),
        (b"\0\0\0\x0cJXL \r\n\x87\n", picture("a JPEG XL picture", "jpegxl_pipe")),
        (b"\0\0\0\x0cjP  \r\n\x87\n", picture("a JPEG 2000 picture", "j2k_pipe")),
        (b"8BPS\0\x01", picture("a Photoshop document", "psd_pipe")),
        (b"qoif", picture("a QOI picture", "qoi_pipe")),
        (b"\x76\x2f\x31\x01", picture("an OpenEXR picture", "exr_pipe")),
        (b"ID3", Signature::NotMedia("an MP3 sound file")),
        (b"fLaC", Signature::NotMedia("a FLAC sound file")),
        (b"%PDF", Signature::NotMedia("a PDF document")),
        (b"PK\x03\x04", Signature::NotMedia("a ZIP archive")),
        (b"\x1f\x8b", Signature::NotMedia("a gzip archive")),
        (b"7z\xbc\xaf\x27\x1c", Signature::NotMedia("a 7-Zip archive")),
        (b"\x7fELF", Signature::NotMedia("a program")),
        (b"MZ", Signature::NotMedia("a Windows program")),
        (b"version https://git-lfs", Signature::NotMedia("a Git LFS pointer, not the file")),
    ];
    if let Some((_, found)) = table.iter().find(|(magic, _)| at(0, magic)) {
        return *found;
    }
    // A transport stream repeats its mark every 188 bytes.
    if at(0, b"G") && at(188, b"G") {
        return clip("an MPEG transport stream", "mpegts");
    }
    let texts: [(&[u8], &str); 5] = [
        (b"#EXTM3U", "a playlist, not the clip"),
        (b"ffconcat version", "a list of clips for ffmpeg, not a clip"),
        (b"v=0", "a description of a stream, not a clip"),
        (b"<svg", "an SVG drawing"),
        (b"<", "an HTML or XML text"),
    ];
    if let Some((_, what)) = texts.iter().find(|(magic, _)| at(0, magic)) {
        return Signature::NotMedia(what);
    }
    let text = |b: &u8| matches!(*b, b'\t' | b'\n' | b'\r' | 0x20..=0x7e | 0x80..);
    if std::str::from_utf8(head).is_ok() && head.iter().all(text) {
        return Signature::NotMedia("a text file");
    }
    Signature::NotMedia("of no known kind")
}

/// A file that begins with a list of brands: the main one, then the compatible ones.
fn branded(head: &[u8]) -> Signature {
    let length = head.get(..4).map_or(0, |b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]) as usize);
    let main = head.get(8..12).unwrap_or_default();
    let compatible = head.get(16..length.clamp(16, head.len().max(16))).unwrap_or_default();
    let mut brands = std::iter::once(main).chain(compatible.chunks_exact(4));
    match main {
        b"M4A " | b"M4B " | b"M4P " => Signature::NotMedia("an M4A sound file"),
        b"avif" | b"avis" => Signature::Heif("an AVIF picture"),
        b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"hevm" | b"hevs" => {
            Signature::Heif("a HEIC picture")
        }
        b"mif1" | b"mif2" | b"msf1" | b"miaf" => {
            match brands.any(|brand| matches!(brand, b"avif" | b"avis")) {
                true => Signature::Heif("an AVIF picture"),
                false => Signature::Heif("a HEIC picture"),
            }
        }
        // A name that nobody knows, and pictures among what it is compatible with.
        _ if !brands.clone().any(|b| matches!(b, b"isom" | b"mp41" | b"mp42" | b"qt  "))
            && brands.any(|b| matches!(b, b"mif1" | b"heic" | b"avif")) =>
        {
            Signature::Heif("a HEIF picture")
        }
        _ => Signature::Mp4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_that_ffmpeg_reads_has_its_demuxer() {
        let demuxer = |head: &[u8]| match sniff(head) {
            Signature::Foreign(foreign) => foreign.demuxer,
            other => panic!("{other:?}"),
        };
        assert_eq!(demuxer(b"\x1a\x45\xdf\xa3 webm"), "matroska");
        assert_eq!(demuxer(b"RIFF\x10\0\0\0AVI LIST"), "avi");
        assert_eq!(demuxer(b"II*\0\x08\0\0\0"), "tiff_pipe");
        assert_eq!(demuxer(b"YUV4MPEG2 W8 H8"), "yuv4mpegpipe");
        let mut stream = vec![0; 256];
        (stream[0], stream[188]) = (b'G', b'G');
        assert_eq!(demuxer(&stream), "mpegts");
    }

    #[test]
    fn a_mark_in_the_middle_is_no_mark() {
        // Playlists that carry the letters of AVI where an AVI file has them.
        let playlist = b"#EXTM3U\nAVI \n#EXT-X-TARGETDURATION:1\nfile:///etc/passwd\n";
        assert_eq!(sniff(playlist), Signature::NotMedia("a playlist, not the clip"));
        let dash = b"<!-- xxxAVI --><MPD xmlns=\"urn:mpeg:dash:schema:mpd:2011\">";
        assert_eq!(sniff(dash), Signature::NotMedia("an HTML or XML text"));
        let list = b"ffconcat version 1.0\nfile other.mp4\n";
        assert!(matches!(sniff(list), Signature::NotMedia(_)));
        assert!(matches!(sniff(b"xxxxxxxxWAVE"), Signature::NotMedia("a text file")));
        assert!(matches!(sniff(b"RIFF\0\0\0\0ACON"), Signature::NotMedia(_)));
    }

    #[test]
    fn brands_say_whether_it_is_a_picture() {
        let avif = b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif";
        assert_eq!(sniff(avif), Signature::Heif("an AVIF picture"));
        assert_eq!(sniff(b"\0\0\0\x14ftypheic\0\0\0\0mif1"), Signature::Heif("a HEIC picture"));
        let unknown = b"\0\0\0\x18ftypMiHE\0\0\0\0mif1heic";
        assert_eq!(sniff(unknown), Signature::Heif("a HEIF picture"));
        // A phone's clip that also carries a poster picture is a clip.
        assert_eq!(sniff(b"\0\0\0\x18ftypisom\0\0\0\0isomheic"), Signature::Mp4);
        assert_eq!(sniff(b"\0\0\0\x14ftypM4A \0\0\0\0isom"), {
            Signature::NotMedia("an M4A sound file")
        });
        // The list of brands ends with its box, and a length beyond the file is no harm.
        assert_eq!(sniff(b"\0\0\0\x10ftypXXXX\0\0\0\0mif1"), Signature::Mp4);
        assert_eq!(sniff(b"\xff\xff\xff\xffftypisom\0\0"), Signature::Mp4);
    }
}
