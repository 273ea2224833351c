"""Makes a corpus of MP4 and MOV variants and writes down how ffmpeg shows each of them.

    python clips.py DIR [--ffmpeg PATH] [--only NAME ...]

Every clip is a few frames of 64x48: four quarters of red, green, blue and a grey that steps from
frame to frame, so that turns, times and colours can be told from the middles of quarters. Some
variants ffmpeg writes; the rest are boxes changed here. DIR gets the clips and `expected.json`: size,
times in seconds from the first frame, and the mean colour in the middle of each quarter of each
frame, as ffmpeg and ffprobe give them. Where the product does something else on purpose the values
that it should give stand there, with a `note` that says why; `warning` is what its warnings must
contain, and without it there must be none. `ANYID_CLIPS=DIR cargo test -p anyid-files --lib
every_clip` compares the product's reader with the folder. The variants marked `keep` lie in
runtime/files/src/media/testdata/clips, written by `--keep` and tested always.
"""

import argparse
import json
import re
import struct
import subprocess
import tempfile
from pathlib import Path

import numpy as np

W, H, RATE = 64, 48, 10
CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"mvex", b"moof", b"traf"}
FFMPEG = "ffmpeg"


# Boxes: a tree of [name, bytes or list of boxes], changed in place and written again.

def parse(data):
    boxes, at = [], 0
    while at + 8 <= len(data):
        size, name = struct.unpack(">I4s", data[at:at + 8])
        head = 8
        if size == 1:
            size, head = struct.unpack(">Q", data[at + 8:at + 16])[0], 16
        size = size or len(data) - at
        body = data[at + head:at + size]
        boxes.append([name, parse(body) if name in CONTAINERS else body])
        at += size
    return boxes


def write(boxes):
    out = b""
    for name, body in boxes:
        body = write(body) if isinstance(body, list) else body
        out += struct.pack(">I4s", len(body) + 8, name) + body
    return out


def find(boxes, *path):
    for name in path:
        box = next(b for b in boxes if b[0] == name)
        boxes = box[1]
    return box


TRAK = (b"moov", b"trak")
STBL = (*TRAK, b"mdia", b"minf", b"stbl")


def put(box, at, form, *values):
    body = bytearray(box[1])
    struct.pack_into(">" + form, body, at, *values)
    box[1] = bytes(body)


def words(*values):
    return struct.pack(f">{len(values)}I", *(v & 0xFFFFFFFF for v in values))


def full(name, *values, version=0, flags=0):
    return [name, words(version << 24 | flags, *values)]


# Making clips.

def frames(count, width=W, height=H, first=0):
    out = np.zeros((count, height, width, 3), np.uint8)
    h, w = height // 2, width // 2
    for n in range(count):
        out[n, :h, :w], out[n, :h, w:], out[n, h:, :w] = (200, 30, 30), (30, 180, 40), (40, 50, 210)
        out[n, h:, w:] = 20 + (first + n) * 9
    return out


def encode(path, count=12, size=(W, H), first=0, codec="libx264", x264="", extra=(), rate=RATE):
    width, height = size
    command = [FFMPEG, "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24",
               "-s", f"{width}x{height}", "-r", str(rate), "-i", "-", "-c:v", codec]
    if codec == "libx264":
        command += ["-pix_fmt", "yuv420p", "-qp", "20", "-x264-params", "no-info=1" + x264]
    command += ["-bitexact", *extra, str(path)]
    subprocess.run(command, input=frames(count, width, height, first).tobytes(), check=True)
    return path


def remux(source, target, *options, before=()):
    subprocess.run([FFMPEG, "-v", "error", "-y", *before, "-i", str(source), "-c", "copy",
                    *options, str(target)], check=True)


VARIANTS = {}


def variant(function=None, **facts):
    """A variant: writes the clip to its first argument; `facts` go into expected.json."""
    def add(function):
        VARIANTS[function.__name__] = (function, facts)
        return function
    return add(function) if function else add


def patched(base, change):
    """Changes the boxes of a clip whose index lies behind its frames."""
    boxes = parse(base.read_bytes())
    change(boxes)
    return write(boxes)


def simple(name, base, change, **facts):
    def make(path, bases):
        path.write_bytes(patched(bases[base], change))
    VARIANTS[name] = (make, facts)


def bases(folder):
    """What the variants start from; b: B-frames, i: key frames every 4, p: no reordering."""
    made = {
        "p": encode(folder / "p.mp4", x264=":bframes=0:keyint=4:min-keyint=4:scenecut=0"),
        "b": encode(folder / "b.mp4", x264=":bframes=2:b-adapt=0:keyint=6:min-keyint=6:scenecut=0"),
        "open": encode(folder / "open.mp4", x264=":bframes=2:b-adapt=0:keyint=6:min-keyint=6"
                       ":scenecut=0:open-gop=1"),
        "small": encode(folder / "small.mp4", 4, (32, 24), 12, x264=":bframes=0"),
        "tall": encode(folder / "tall.mp4", 4, (24, 32), 12, x264=":bframes=0"),
        "same": encode(folder / "same.mp4", 4, (W, H), 12, x264=":bframes=2"),
    }
    return made


def both(*changes):
    def change(boxes):
        for each in changes:
            each(boxes)
    return change


# Geometry.

ONE = 0x10000


def matrix_of(track, movie=None):
    def change(boxes):
        put(find(boxes, *TRAK, b"tkhd"), 40, "9i", *track)
        if movie:
            put(find(boxes, b"moov", b"mvhd"), 36, "9i", *movie)
    return change


def square(a, b, c, d, scale=ONE):
    return (int(a * scale), int(b * scale), 0, int(c * scale), int(d * scale), 0, 0, 0, 1 << 30)


TURNS = {"none": (1, 0, 0, 1), "right": (0, 1, -1, 0), "half": (-1, 0, 0, -1), "left": (0, -1, 1, 0),
         "mirror": (-1, 0, 0, 1), "flip": (1, 0, 0, -1), "transpose": (0, 1, 1, 0),
         "transverse": (0, -1, -1, 0)}
for turn, m in TURNS.items():
    simple(f"track_{turn}", "b", matrix_of(square(*m)))
    simple(f"movie_{turn}", "b", matrix_of(square(1, 0, 0, 1), square(*m)))
simple("both_right", "b", matrix_of(square(*TURNS["right"]), square(*TURNS["right"])))
simple("both_right_mirror", "b", matrix_of(square(*TURNS["right"]), square(*TURNS["mirror"])))
simple("both_mirror_right", "b", matrix_of(square(*TURNS["mirror"]), square(*TURNS["right"])))
simple("turn_scaled", "b", matrix_of(square(*TURNS["right"], scale=ONE * 2)))
simple("turn_rounded", "b", matrix_of((3, 65535, 0, -65535, 3, 0, 48 << 16, 0, 1 << 30)))
simple("matrix_stretch", "b", matrix_of((2 * ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30)))


def pasp(across, down):
    def change(boxes):
        stsd = find(boxes, *STBL, b"stsd")
        body = stsd[1]
        entry = body[8:]
        size = struct.unpack(">I", entry[:4])[0]
        inner = [b for b in parse(entry[86:size]) if b[0] != b"pasp"]
        inner.append([b"pasp", words(across, down)])
        entry = entry[8:86] + write(inner)
        stsd[1] = body[:8] + struct.pack(">I4s", len(entry) + 8, b"avc1") + entry
    return change


def more_in_entry(*boxes_to_add, without=()):
    def change(boxes):
        stsd = find(boxes, *STBL, b"stsd")
        body = stsd[1]
        entry = body[8:]
        size, name = struct.unpack(">I4s", entry[:8])
        inner = [b for b in parse(entry[86:size]) if b[0] not in without] + list(boxes_to_add)
        entry = entry[8:86] + write(inner)
        stsd[1] = body[:8] + struct.pack(">I4s", len(entry) + 8, name) + entry
    return change


simple("pasp_wide", "b", pasp(4, 3))
simple("pasp_narrow", "b", pasp(3, 4))
simple("pasp_zero", "b", pasp(0, 0))
simple("tkhd_size", "b", lambda b: (more_in_entry(without=(b"pasp",))(b),
                                    put(find(b, *TRAK, b"tkhd"), 76, "2I", 96 << 16, 48 << 16)))


def vui(path, bases, base, bsf, *options):
    remux(bases[base], path, "-bsf:v", "h264_metadata=" + bsf, *options)


def without_boxes(path, *names):
    boxes = parse(path.read_bytes())
    more_in_entry(without=names)(boxes)
    path.write_bytes(write(boxes))


@variant
def vui_wide(path, bases):
    vui(path, bases, "b", "sample_aspect_ratio=4/3")
    without_boxes(path, b"pasp")
    boxes = parse(path.read_bytes())
    put(find(boxes, *TRAK, b"tkhd"), 76, "2I", W << 16, H << 16)
    path.write_bytes(write(boxes))


@variant
def pasp_over_vui(path, bases):
    vui(path, bases, "b", "sample_aspect_ratio=4/3")
    path.write_bytes(patched(path, pasp(2, 1)))


@variant
def pasp_square_over_vui(path, bases):
    vui(path, bases, "b", "sample_aspect_ratio=4/3")
    path.write_bytes(patched(path, pasp(1, 1)))


@variant(size=[48, 128])
def pasp_turned(path, bases):
    path.write_bytes(patched(bases["b"], lambda b: (pasp(2, 1)(b), matrix_of(square(0, 1, -1, 0))(b))))


@variant
def cropped(path, bases):
    encode(path, 4, (62, 46))


def clap(*fractions):
    return more_in_entry([b"clap", struct.pack(">IIIIiIiI", *fractions)])


simple("clap", "b", clap(48, 1, 32, 1, 4, 1, -2, 1), crop=(48, 32, 12, 6), warning="aperture",
       keep=True)
simple("clap_halves", "b", clap(95, 2, 33, 1, 1, 2, -1, 2), crop=(48, 33, 8, 7), warning="aperture")
simple("clap_whole", "b", clap(64, 1, 48, 1, 0, 1, 0, 1))
simple("clap_nonsense", "b", clap(0, 0, 48, 1, 0, 1, 0, 1))
simple("clap_turned", "b", both(clap(48, 1, 32, 1, 4, 1, -2, 1), matrix_of(square(0, 1, -1, 0))),
       crop=(32, 48, 10, 12), warning="aperture")


# Time.

def edits(*list_of_edits, version=0, movie_scale=1000):
    """(duration in movie ticks, media time, rate)"""
    def change(boxes):
        put(find(boxes, b"moov", b"mvhd"), 12, "I", movie_scale)
        trak = find(boxes, *TRAK)
        trak[1] = [b for b in trak[1] if b[0] != b"edts"]
        form = ">qqHH" if version else ">iiHH"
        rows = b""
        for duration, time, *rate in list_of_edits:
            rate = rate[0] if rate else 1
            rows += struct.pack(form, duration, time, int(rate), int(rate % 1 * 65536))
        body = words(version << 24, len(list_of_edits)) + rows
        trak[1].insert(1, [b"edts", [[b"elst", body]]])
    return change


# ffmpeg's own clock of such clips: 10240 ticks a second, 1024 a frame; B-frames start at 2048.
T, B0 = 1024, 2048
simple("edit_none", "b", edits())
simple("edit_trim_key", "b", edits((600, B0 + 6 * T)))
simple("edit_trim_inside", "b", edits((500, B0 + 3 * T)))
simple("edit_trim_inside_p", "p", edits((500, 6 * T)))
simple("edit_trim_between", "p", edits((500, 6 * T + 400)))
simple("edit_trim_end", "b", edits((400, B0)))
simple("edit_trim_end_between", "p", edits((450, 0)))
simple("edit_empty_start", "b", edits((700, -1), (1200, B0)))
simple("edit_empty_middle", "p", edits((300, 0), (500, -1), (300, 8 * T)),
       note="ffmpeg takes an empty edit that is not the first for a span of the media",
       of=("p", [0, 1, 2, 8, 9, 10]), times=[0, 0.1, 0.2, 0.8, 0.9, 1.0])
simple("edit_two", "p", edits((300, 0), (300, 8 * T)))
simple("edit_back", "p", edits((300, 8 * T), (300, 0)))
simple("edit_repeat", "b", edits((300, B0), (300, B0)))
simple("edit_overlap", "b", edits((500, B0), (500, B0 + 3 * T)),
       note="ffmpeg leaves out what was decoded before",
       of=("b", [0, 1, 2, 3, 4, 3, 4, 5, 6, 7]), times=[n / 10 for n in range(10)])
simple("edit_open_gop", "open", edits((400, B0 + 6 * T)))
simple("edit_version1", "b", edits((500, B0 + 3 * T), version=1))
simple("edit_zero_duration", "b", edits((0, B0 + 3 * T)),
       note="ffmpeg shows nothing; to the end here",
       of=("b", range(3, 12)), times=[n / 10 for n in range(9)])
simple("edit_beyond", "b", edits((500, B0 + 900 * T)),
       error="E0809")
simple("edit_long", "b", edits((99_000, B0 + 3 * T)))
simple("edit_rate_two", "p", edits((400, 0, 2)),
       warning="speed")
simple("edit_rate_half", "p", edits((400, 0, 0.5)),
       warning="speed")
simple("edit_dwell", "p", edits((400, 5 * T, 0), (300, 0)),
       warning="speed")
simple("edit_negative_time", "b", edits((500, -5)))


def table(name, *values, version=0):
    def change(boxes):
        stbl = find(boxes, *STBL)
        stbl[1] = [b for b in stbl[1] if b[0] != name] + [full(name, *values, version=version)]
    return change


def no_edits(boxes):
    trak = find(boxes, *TRAK)
    trak[1] = [b for b in trak[1] if b[0] != b"edts"]


def both(*changes):
    def change(boxes):
        for each in changes:
            each(boxes)
    return change


def negative_offsets(version):
    """The same times of frames with offsets that start at 0, so that some are negative."""
    def change(boxes):
        no_edits(boxes)
        ctts = find(boxes, *STBL, b"ctts")
        rows = struct.unpack(f">{(len(ctts[1]) - 8) // 4}i", ctts[1][8:])
        rows = [v - B0 * (n % 2) for n, v in enumerate(rows)]
        ctts[1] = words(version << 24, len(rows) // 2, *rows)
    return change


simple("ctts_negative", "b", negative_offsets(1))
simple("ctts_version0_negative", "b", negative_offsets(0))
simple("stts_short", "p", table(b"stts", 1, 5, T))
simple("stts_last_zero", "p", table(b"stts", 2, 11, T, 1, 0))
simple("stts_zero_inside", "p", table(b"stts", 3, 5, T, 1, 0, 6, T))
simple("stts_all_zero", "p", both(no_edits, table(b"stts", 1, 12, 0)),
       note="all at once in ffmpeg", times=[n / 25 for n in range(12)], warning="no times")
simple("stts_huge", "p", both(no_edits, table(b"stts", 3, 5, T, 1, 10 * 10240, 6, T)))
simple("stts_minus_one", "p", both(no_edits, table(b"stts", 3, 5, T, 1, -1, 6, T)))
simple("variable", "p", both(no_edits, table(b"stts", 4, 3, T, 4, 3 * T, 4, T // 2, 1, 2 * T)))


def drop(*names):
    def change(boxes):
        stbl = find(boxes, *STBL)
        stbl[1] = [b for b in stbl[1] if b[0] not in names]
    return change


simple("stss_missing", "p", drop(b"stss"))
simple("stss_missing_trim", "p", both(drop(b"stss"), edits((500, 6 * T))),
       note="ffmpeg starts where no key frame is and loses frames",
       of=("p", range(6, 11)), times=[n / 10 for n in range(5)])


def wide_offsets(boxes):
    stbl = find(boxes, *STBL)
    stco = next(b for b in stbl[1] if b[0] == b"stco")
    values = struct.unpack(f">{(len(stco[1]) - 8) // 4}I", stco[1][8:])
    stco[0], stco[1] = b"co64", stco[1][:8] + struct.pack(f">{len(values)}Q", *values)


simple("co64", "b", wide_offsets)


def compact_sizes(bits):
    def change(boxes):
        stsz = find(boxes, *STBL, b"stsz")
        sizes = struct.unpack(f">{(len(stsz[1]) - 12) // 4}I", stsz[1][12:])
        stsz[0] = b"stz2"
        stsz[1] = words(0, bits, len(sizes)) + struct.pack(f">{len(sizes)}H", *sizes)
    return change


simple("stz2_16", "b", compact_sizes(16))


# Fragments.

@variant
def fragments(path, bases):
    remux(bases["b"], path, "-movflags", "frag_keyframe+empty_moov")


@variant
def fragments_delay(path, bases):
    remux(bases["b"], path, "-movflags", "frag_keyframe+delay_moov")


@variant
def fragments_base_moof(path, bases):
    remux(bases["b"], path, "-movflags", "frag_keyframe+empty_moov+default_base_moof")


@variant
def fragments_dash(path, bases):
    remux(bases["b"], path, "-movflags", "dash+frag_keyframe+empty_moov", "-f", "mp4")


@variant
def fragments_every_frame(path, bases):
    remux(bases["p"], path, "-movflags", "frag_every_frame+empty_moov+default_base_moof")


@variant
def fragments_negative(path, bases):
    remux(bases["b"], path, "-movflags", "frag_keyframe+empty_moov+negative_cts_offsets")


@variant(note="ffmpeg gives the trimmed frames negative times; they are not shown here",
         of=("b", range(3, 12)), times=[n / 10 for n in range(9)], keep=True)
def fragments_trimmed(path, bases):
    remux(bases["b"], path, "-movflags", "frag_keyframe+delay_moov", before=("-ss", "0.3"))


@variant
def fragments_sound(path, bases):
    subprocess.run([FFMPEG, "-v", "error", "-y", "-i", str(bases["b"]), "-f", "lavfi", "-i",
                    "anullsrc=d=1.2", "-c:v", "copy", "-c:a", "aac", "-bitexact", "-movflags",
                    "frag_keyframe+empty_moov+omit_tfhd_offset", str(path)], check=True)


@variant
def fragments_after_samples(path, bases):
    remux(bases["b"], path, "-movflags", "frag_keyframe")


@variant
def fragments_no_tfdt(path, bases):
    remux(bases["b"], path, "-movflags", "frag_keyframe+empty_moov+default_base_moof")
    data = bytearray(path.read_bytes())
    at = 0
    while (at := data.find(b"tfdt", at)) >= 0:
        data[at:at + 4] = b"free"
    path.write_bytes(data)


# Sample descriptions.

def joined(path, first, second):
    """The frames of two clips in one track with a sample description each."""
    a, b = parse(first.read_bytes()), parse(second.read_bytes())
    media = [find(boxes, b"mdat")[1] for boxes in (a, b)]
    get = lambda boxes, name: find(boxes, *STBL, name)[1]
    counts = [struct.unpack(">I", get(x, b"stsz")[8:12])[0] for x in (a, b)]
    sizes = b"".join(get(x, b"stsz")[12:] for x in (a, b))
    entries = [get(x, b"stsd")[8:] for x in (a, b)]
    ftyp = find(a, b"ftyp")
    start = len(write([ftyp])) + 8
    moov = find(a, b"moov")
    stbl = find(a, *STBL)
    stbl[1] = [
        [b"stsd", words(0, 2) + entries[0] + entries[1]],
        full(b"stts", 1, sum(counts), T),
        full(b"stsc", 2, 1, counts[0], 1, 2, counts[1], 2),
        [b"stsz", words(0, 0, sum(counts)) + sizes],
        full(b"stco", 2, start, start + len(media[0])),
        full(b"stss", 2, 1, counts[0] + 1),
    ]
    no_edits(a)
    path.write_bytes(write([ftyp, [b"mdat", media[0] + media[1]], moov]))


@variant
def two_descriptions(path, bases):
    joined(path, bases["p"], bases["same"])


@variant(warning="size changes", keep=True)
def two_sizes(path, bases):
    joined(path, bases["p"], bases["small"])


@variant(note="ffmpeg distorts the second shape, the product fits it in", size=[64, 48],
         quarters=None, warning="size changes")
def two_shapes(path, bases):
    joined(path, bases["p"], bases["tall"])


def raw_joined(path, *clips):
    """A bare stream with its parameter sets in front of every key frame, put into MP4."""
    data = b""
    for clip in clips:
        bare = path.with_suffix(".h264")
        remux(clip, bare, "-bsf:v", "h264_mp4toannexb,dump_extra=freq=keyframe")
        data += bare.read_bytes()
        bare.unlink()
    subprocess.run([FFMPEG, "-v", "error", "-y", "-r", str(RATE), "-f", "h264", "-i", "-", "-c",
                    "copy", "-bitexact", str(path)], input=data, check=True)


@variant
def in_band(path, bases):
    raw_joined(path, bases["p"])
    data = path.read_bytes()
    path.write_bytes(data.replace(b"avc1\0\0\0", b"avc3\0\0\0"))


@variant(warning="size changes", keep=True)
def in_band_sizes(path, bases):
    raw_joined(path, bases["p"], bases["small"])


@variant
def in_band_only(path, bases):
    raw_joined(path, bases["p"])
    boxes = parse(path.read_bytes())
    entry = find(boxes, *STBL, b"stsd")
    avcc = entry[1].find(b"avcC")
    size = struct.unpack(">I", entry[1][avcc - 4:avcc])[0]
    empty = bytes([1, 100, 0, 10, 0xFF, 0xE0, 0])
    body = entry[1][:avcc + 4] + empty + entry[1][avcc - 4 + size:]
    body = bytearray(body)
    shorter = size - 8 - len(empty)
    struct.pack_into(">I", body, avcc - 4, 8 + len(empty))
    struct.pack_into(">I4s", body, 8, struct.unpack(">I", body[8:12])[0] - shorter, b"avc3")
    entry[1] = bytes(body)
    path.write_bytes(write(boxes))


# Colour.

def colr(kind, *codes, full_range=None):
    body = kind + struct.pack(">3H", *codes)
    if full_range is not None:
        body += bytes([0x80 if full_range else 0])
    return more_in_entry([b"colr", body], without=(b"colr",))


simple("colr_nclx_709", "b", colr(b"nclx", 1, 1, 1, full_range=False))
simple("colr_nclc_709", "b", colr(b"nclc", 1, 1, 1))
simple("colr_nclx_full", "b", colr(b"nclx", 1, 1, 1, full_range=True))
simple("colr_nclx_601", "b", colr(b"nclx", 6, 6, 6, full_range=False))
simple("colr_nclx_240", "b", colr(b"nclx", 7, 7, 7, full_range=False))
simple("colr_nclx_fcc", "b", colr(b"nclx", 4, 4, 4, full_range=False))
simple("colr_nclx_unknown", "b", colr(b"nclx", 2, 2, 2, full_range=False))
simple("colr_nclx_full_only", "b", colr(b"nclx", 2, 2, 2, full_range=True))


def vui_and_colr(name, bsf, change, **facts):
    def make(path, bases):
        vui(path, bases, "b", bsf)
        path.write_bytes(patched(path, change))
    VARIANTS[name] = (make, facts)


CODES = "colour_primaries={0}:transfer_characteristics={0}:matrix_coefficients={0}"
vui_and_colr("vui_709", CODES.format(1), more_in_entry(without=(b"colr",)))
vui_and_colr("vui_709_over_colr_601", CODES.format(1), colr(b"nclx", 6, 6, 6, full_range=False))
vui_and_colr("vui_601_over_colr_709", CODES.format(6), colr(b"nclx", 1, 1, 1, full_range=False))
vui_and_colr("vui_unknown_and_colr_709", CODES.format(2), colr(b"nclx", 1, 1, 1, full_range=False))
vui_and_colr("vui_full", "video_full_range_flag=1", more_in_entry(without=(b"colr",)))
vui_and_colr("vui_full_over_colr", "video_full_range_flag=1",
             colr(b"nclx", 2, 2, 2, full_range=False))
vui_and_colr("vui_limited_over_colr_full", "video_full_range_flag=0",
             colr(b"nclx", 2, 2, 2, full_range=True))
vui_and_colr("vui_primaries_only", "colour_primaries=1", colr(b"nclx", 1, 1, 1, full_range=False))


simple("fiel", "b", more_in_entry([b"fiel", bytes([2, 9])]), warning="interlaced", keep=True)


# HDR and wide gamut: what the product makes of them is tested where it is done.

HDR = dict(quarters=None)
for name, codes, says in (("hlg", (9, 18, 9), "HLG"), ("pq", (9, 16, 9), "PQ"),
                          ("bt2020", (9, 14, 9), "BT.2020"), ("p3", (12, 1, 1), "P3")):
    vui_and_colr(f"vui_{name}", "colour_primaries={}:transfer_characteristics={}:"
                 "matrix_coefficients={}".format(*codes), more_in_entry(without=(b"colr",)),
                 warning=says, keep=name == "hlg", **HDR)
    simple(f"colr_{name}", "b", colr(b"nclx", *codes, full_range=False), warning=says,
           keep=name == "pq", **HDR)


# Several tracks.

def tracks(path, *clips, flags):
    """Clips as tracks of one file, with the flags of their headers: 1 is switched on."""
    inputs = [word for clip in clips for word in ("-i", str(clip))]
    maps = [word for index in range(len(clips)) for word in ("-map", str(index))]
    subprocess.run([FFMPEG, "-v", "error", "-y", *inputs, *maps, "-c", "copy", "-bitexact",
                    str(path)], check=True)
    boxes = parse(path.read_bytes())
    traks = [b for b in find(boxes, b"moov")[1] if b[0] == b"trak"]
    for trak, flag in zip(traks, flags):
        put(next(b for b in trak[1] if b[0] == b"tkhd"), 0, "I", flag)
    path.write_bytes(write(boxes))


@variant(stream="v:1", warning="track 2 (64x48) is taken", keep=True)
def tracks_largest(path, bases):
    tracks(path, bases["small"], bases["b"], flags=(3, 3))


@variant(stream="v:1", warning="track 2 (32x24) is taken", keep=True)
def tracks_enabled(path, bases):
    tracks(path, bases["b"], bases["small"], flags=(2, 3))


@variant(error="E0835", keep=True)
def tracks_alike(path, bases):
    tracks(path, bases["b"], bases["p"], flags=(3, 3))


@variant(warning="switched off")
def track_off(path, bases):
    tracks(path, bases["b"], flags=(0,))


@variant
def track_of_pictures(path, bases):
    """Cover art as a track of its own, in front."""
    cover = path.with_suffix(".mov")
    subprocess.run([FFMPEG, "-v", "error", "-y", "-f", "lavfi", "-i", "color=white:s=200x200:d=0.1",
                    "-frames:v", "1", "-c:v", "png", str(cover)], check=True)
    made = path.with_suffix(".two.mov")
    tracks(made, cover, bases["b"], flags=(3, 3))
    made.replace(path)
    cover.unlink()


VARIANTS["track_of_pictures"] = (track_of_pictures, dict(stream="v:1"))


@variant
def cover_art(path, bases):
    cover = path.with_suffix(".png")
    subprocess.run([FFMPEG, "-v", "error", "-y", "-f", "lavfi", "-i", "color=white:s=200x200",
                    "-frames:v", "1", str(cover)], check=True)
    subprocess.run([FFMPEG, "-v", "error", "-y", "-i", str(bases["b"]), "-i", str(cover), "-map", "0",
                    "-map", "1", "-c", "copy", "-disposition:v:1", "attached_pic", str(path)],
                   check=True)
    cover.unlink()


@variant(keep=True)
def quicktime(path, bases):
    """A file of QuickTime's own kind, with its index in front."""
    made = path.with_suffix(".mov")
    remux(bases["b"], made, "-movflags", "faststart", "-bitexact")
    made.replace(path)


# What the built-in decoder does not know: to be named. They are not compared.

@variant(error="E0807", keep=True)
def foreign_interlaced(path, bases):
    encode(path, 2, x264=":interlaced=1:tff=1")


@variant(error="E0807", keep=True)
def foreign_deep(path, bases):
    encode(path, 2, extra=["-pix_fmt", "yuv420p10le"])


@variant(error="E0807")
def foreign_422(path, bases):
    encode(path, 2, extra=["-pix_fmt", "yuv422p"])


@variant(error="E0807")
def foreign_grey(path, bases):
    encode(path, 2, extra=["-pix_fmt", "gray"])


@variant(error="E0807")
def foreign_codec(path, bases):
    encode(path, 2, codec="mpeg4")


@variant(error="E0807")
def foreign_start(path, bases):
    """Begins with frames that need others."""
    path.write_bytes(patched(bases["b"], lambda b: (
        no_edits(b), first_sample_gone(b))))


def first_sample_gone(boxes):
    stsz, stco = find(boxes, *STBL, b"stsz"), find(boxes, *STBL, b"stco")
    size, = struct.unpack(">I", stsz[1][12:16])
    put(stsz, 8, "I", struct.unpack(">I", stsz[1][8:12])[0] - 1)
    stsz[1] = stsz[1][:12] + stsz[1][16:]
    put(stco, 8, "I", struct.unpack(">I", stco[1][8:12])[0] + size)
    put(find(boxes, *STBL, b"stsc"), 12, "I", 11)


# What ffmpeg says.

def run(command):
    return subprocess.run(command, capture_output=True, check=True).stdout


def middles(raw):
    """The mean colour in the middle of each quarter of each frame."""
    h, w = raw.shape[1] // 2, raw.shape[2] // 2
    y, x = h // 4, w // 4
    parts = [(a, b) for a in (0, h) for b in (0, w)]
    return [[[round(float(v), 1) for v in
              f[a + y:a + h - y, b + x:b + w - x].reshape(-1, 3).mean(0)] for a, b in parts]
            for f in raw]


def show(path, facts, known):
    stream = facts.get("stream", "V:0")
    probe = ["ffprobe", "-v", "error", "-select_streams", stream, "-of", "json", "-show_streams",
             "-show_frames", "-show_entries",
             "stream=width,height,sample_aspect_ratio:frame=pts_time", str(path)]
    found = json.loads(run(probe))
    shape = found["streams"][0]
    sar = [int(v) for v in shape.get("sample_aspect_ratio", "1:1").split(":")]
    size = (round(shape["width"] * (sar[0] / sar[1] if sar[0] else 1)), shape["height"])
    # The size that ffmpeg itself comes to, which tells whether it turns the picture.
    said = subprocess.run([FFMPEG, "-i", str(path), "-map", f"0:{stream}", "-frames:v", "1", "-f",
                           "null", "-"], capture_output=True).stderr.decode()
    line = [l for l in said.splitlines() if "Video: wrapped_avframe" in l]
    if line:
        turned = tuple(map(int, re.search(r" (\d+)x(\d+)", line[-1]).groups()))
        if turned == (shape["height"], shape["width"]) != (shape["width"], shape["height"]):
            size = size[::-1]
    size = facts.get("size", size)
    filters = f"scale={size[0]}:{size[1]}:flags=lanczos+accurate_rnd+full_chroma_int"
    if "crop" in facts:
        filters, size = "format=rgb24,crop={}:{}:{}:{}".format(*facts["crop"]), facts["crop"][:2]
    command = [FFMPEG, "-v", "error", "-i", str(path), "-map", f"0:{stream}", "-fps_mode",
               "passthrough", "-vf", filters, "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    raw = np.frombuffer(run(command), np.uint8).reshape(-1, size[1], size[0], 3)
    times = sorted(float(f["pts_time"]) for f in found["frames"] if "pts_time" in f)
    expected = {"width": size[0], "height": size[1], "times": [round(t - times[0], 5) for t in times],
                "quarters": middles(raw)}
    if "of" in facts:
        base, numbers = facts["of"]
        expected["quarters"] = [known[base]["quarters"][n] for n in numbers]
    for fact in ("times", "quarters", "note", "warning"):
        if fact in facts:
            expected[fact] = facts[fact]
    return expected


# Of these the product's tests have a copy, beside those that say so themselves.
KEEP = """track_right movie_mirror both_right_mirror turn_scaled matrix_stretch pasp_wide tkhd_size vui_wide
pasp_square_over_vui pasp_turned cropped edit_trim_inside edit_empty_middle edit_back edit_open_gop
edit_version1 edit_beyond edit_rate_two ctts_negative stts_minus_one stts_all_zero variable stz2_16
stss_missing_trim fragments_base_moof fragments_sound fragments_after_samples two_descriptions
in_band_only colr_nclx_709 colr_nclc_709 colr_nclx_full vui_601_over_colr_709 vui_full_over_colr
track_of_pictures""".split()


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ffmpeg", default="ffmpeg")
    parser.add_argument("--only", nargs="*", help="only these variants")
    parser.add_argument("--keep", action="store_true", help="only those that are kept with the tests")
    arguments = parser.parse_args()
    global FFMPEG
    FFMPEG = arguments.ffmpeg
    arguments.folder.mkdir(exist_ok=True, parents=True)
    with tempfile.TemporaryDirectory() as folder:
        made = bases(Path(folder))
        known = {name: show(path, {}, {}) for name, path in made.items()}
        expected = {}
        for name, (make, facts) in VARIANTS.items():
            kept = name in KEEP or facts.get("keep")
            if arguments.only and name not in arguments.only or arguments.keep and not kept:
                continue
            path = arguments.folder / f"{name}.mp4"
            make(path, made)
            error = {"error": facts.get("error")}
            expected[path.name] = error if facts.get("error") else show(path, facts, known)
    text = ",\n".join(f"{json.dumps(name)}: {json.dumps(e)}" for name, e in expected.items())
    (arguments.folder / "expected.json").write_text("{\n" + text + "\n}\n")
    print(f"{len(expected)} clips in {arguments.folder}")


if __name__ == "__main__":
    main()
