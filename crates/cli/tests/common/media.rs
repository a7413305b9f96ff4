//! Films to test with, made by ffmpeg once, and what ffmpeg sees in what a node serves.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::program::run;
use super::text;

/// A moving picture that is quick to encode; `testsrc2` differs in every frame.
pub(crate) const PICTURE: &str = "-f lavfi -i testsrc2=size=320x180:rate=25";
/// A tone.
pub(crate) const TONE: &str = "-f lavfi -i sine=frequency=440:sample_rate=48000";
/// H.264 with B-frames and a key frame each second, and AAC.
pub(crate) const H264: &str = "-c:v libx264 -preset ultrafast -bf 2 -g 25 -pix_fmt yuv420p";
pub(crate) const AAC: &str = "-c:a aac -b:a 64k";

/// The folder of everything that is made once.
fn folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("films");
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    folder
}

/// Makes a file or folder once, whichever test comes first; `recipe` names what is made.
fn once(name: &str, recipe: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let mark = recipe
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let path = folder().join(format!("{mark:016x}-{name}"));
    let lock = File::create(path.with_added_extension("lock")).expect("a file can be made");
    lock.lock().expect("it can be locked");
    if !path.exists() {
        let new = folder().join(format!("new-{mark:016x}-{name}"));
        let _ = std::fs::remove_dir_all(&new);
        make(&new);
        std::fs::rename(&new, &path).expect("ffmpeg wrote the file");
    }
    path
}

/// A film made by ffmpeg from arguments divided by spaces.
pub(crate) fn film(name: &str, args: &str) -> PathBuf {
    once(name, args, |path| ffmpeg(args, text(path)))
}

/// As [`film`], with `{}` in the arguments for another film.
pub(crate) fn film_of(name: &str, source: &Path, args: &str) -> PathBuf {
    // The name of the source holds the mark of its own recipe.
    let recipe = format!("{args} {:?}", source.file_name());
    once(name, &recipe, |path| {
        ffmpeg(&args.replace("{}", text(source)), text(path));
    })
}

/// H.264 and AAC in MP4.
pub(crate) fn mp4(seconds: u32) -> PathBuf {
    let args = format!("{PICTURE} {TONE} -t {seconds} {H264} {AAC}");
    film("film.mp4", &args)
}

/// H.264 and AAC in MPEG-TS.
pub(crate) fn transport(seconds: u32) -> PathBuf {
    let args = format!("-i {{}} -c copy -muxdelay 0 -f mpegts -t {seconds}");
    film_of("film.ts", &mp4(seconds), &args)
}

/// Segments of a second each, H.264 in MPEG-TS, with times that go on.
pub(crate) fn pieces(seconds: u32) -> Vec<Vec<u8>> {
    let args = format!("{PICTURE} -t {seconds} {H264}");
    let recipe = format!("{args} in pieces");
    let folder = once("pieces", &recipe, |path| {
        std::fs::create_dir(path).expect("a folder can be made");
        let pattern = path.join("%03d.ts");
        let cut = "-f segment -segment_time 1 -segment_format mpegts";
        ffmpeg(&format!("{args} {cut}"), text(&pattern));
    });
    (0..seconds)
        .map(|number| {
            std::fs::read(folder.join(format!("{number:03}.ts"))).expect("ffmpeg wrote it")
        })
        .collect()
}

fn ffmpeg(args: &str, output: &str) {
    let mut words = vec!["-v", "error", "-nostdin", "-y"];
    words.extend(args.split_whitespace());
    words.push(output);
    run("ffmpeg", &words);
}

/// The hashes of all decoded frames of a stream (`v` or `a`) of a file or URL.
#[track_caller]
pub(crate) fn frames(of: &str, stream: &str) -> Vec<String> {
    let map = format!("0:{stream}:0");
    let plain = ["-v", "error", "-nostdin", "-i", of, "-map", &map];
    let rest = [
        "-fps_mode",
        "passthrough",
        "-f",
        "framehash",
        "-hash",
        "md5",
        "-",
    ];
    let done = run("ffmpeg", &[&plain[..], &rest[..]].concat());
    let hash = |line: &str| line.rsplit(',').next().map(|hash| hash.trim().to_owned());
    let lines = done.text();
    let lines = lines.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(hash).collect()
}

/// What ffprobe says of a stream: packets, and seconds from the first picture to the last.
#[track_caller]
pub(crate) fn count(of: &str, stream: &str) -> u64 {
    let select = format!("{stream}:0");
    let args = [
        "-v",
        "error",
        "-select_streams",
        &select,
        "-count_packets",
        "-show_entries",
        "stream=nb_read_packets",
        "-of",
        "csv=p=0",
        of,
    ];
    let text = run("ffprobe", &args).text();
    let number = text.trim().trim_end_matches(',').lines().next();
    let number = number.and_then(|line| line.trim().trim_end_matches(',').parse().ok());
    number.unwrap_or_else(|| panic!("ffprobe counts nothing in {of}: {text:?}"))
}

/// Times of all packets of a stream in seconds from the first, in the order of showing.
#[track_caller]
pub(crate) fn times(of: &str, stream: &str) -> Vec<f64> {
    let args = [
        "-v",
        "error",
        "-select_streams",
        stream,
        "-show_entries",
        "packet=pts_time",
        "-of",
        "csv=p=0",
        of,
    ];
    let text = run("ffprobe", &args).text();
    let number = |line: &str| line.trim().trim_end_matches(',').parse::<f64>().ok();
    let mut times: Vec<f64> = text.lines().filter_map(number).collect();
    times.sort_by(f64::total_cmp);
    let first = times.first().copied().unwrap_or_default();
    times.iter().map(|time| time - first).collect()
}

/// Whether `part` occurs in `whole` without a break.
pub(crate) fn contains_run(whole: &[String], part: &[String]) -> bool {
    !part.is_empty() && whole.windows(part.len()).any(|window| window == part)
}
