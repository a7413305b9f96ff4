//! What can be played of a content that is still arriving.

use super::admit::{fetch, said};
use super::*;
use crate::playlist::{Ready, Unplayable};

fn playlist(bench: &Bench, name: &str) -> Result<String, Unplayable> {
    let catalog = bench.store().catalog();
    let content = bench.content(name);
    let rendered = Ready::default().get(bench.store(), &catalog, &content, Some(0))?;
    Ok(String::from_utf8(rendered.text.to_vec()).unwrap())
}

fn ready(bench: &Bench, name: &str) -> u64 {
    let content = bench.content(name);
    bench.store().ready_ticks(&content).unwrap() / TICKS
}

fn count(text: &str, what: &str) -> usize {
    text.lines().filter(|line| line.starts_with(what)).count()
}

#[test]
fn a_finished_content_that_arrives_is_played_from_its_start_as_far_as_it_is_here() {
    let (from, here) = (Bench::new(), Bench::new());
    publish(from.store(), "Film", 1, 6).unwrap();
    let (manifest, records) = said(from.store(), &from.content("film"));
    here.store().admit(manifest, records.clone()).unwrap();
    let text = playlist(&here, "film").unwrap_err().to_string();
    assert_eq!(
        text,
        "no segment of \"film\" is here yet; it is still on its way"
    );
    assert_eq!(ready(&here, "film"), 0);

    fetch(from.store(), here.store(), &records[0..2]);
    let text = playlist(&here, "film").unwrap();
    assert_eq!(
        (count(&text, "#EXTINF"), count(&text, "#EXT-X-GAP")),
        (2, 0)
    );
    assert!(text.contains("#EXT-X-PLAYLIST-TYPE:EVENT"), "{text}");
    assert!(text.contains("#EXT-X-START:TIME-OFFSET=0"), "{text}");
    assert!(!text.contains("ENDLIST"), "{text}");
    assert_eq!(ready(&here, "film"), 2);

    fetch(from.store(), here.store(), &records[3..4]);
    let text = playlist(&here, "film").unwrap();
    assert_eq!(
        (count(&text, "#EXTINF"), count(&text, "#EXT-X-GAP")),
        (4, 1)
    );
    assert_eq!(ready(&here, "film"), 2);

    fetch(from.store(), here.store(), &records);
    let text = playlist(&here, "film").unwrap();
    assert_eq!(
        (count(&text, "#EXTINF"), count(&text, "#EXT-X-GAP")),
        (6, 0)
    );
    assert!(
        text.contains("ENDLIST") && text.contains("TYPE:VOD"),
        "{text}"
    );
    assert_eq!(
        Ok(text),
        playlist(&from, "film").map_err(|error| error.to_string())
    );
    assert_eq!(ready(&here, "film"), 6);
}

#[test]
fn a_list_does_not_become_shorter_when_its_end_goes() {
    let bench = Bench::with(|settings| settings.limit = Some(size(20_000) * 6));
    publish(bench.store(), "Film", 1, 5).unwrap();
    bench.at(5);
    bench.store().append(live("cam", 0)).unwrap();
    publish(bench.store(), "Other", 2, 1).unwrap();
    let text = playlist(&bench, "film").unwrap();
    assert_eq!(
        (count(&text, "#EXTINF"), count(&text, "#EXT-X-GAP")),
        (5, 1)
    );
    assert_eq!(ready(&bench, "film"), 4);
}

#[test]
fn a_list_with_a_gap_does_not_end_though_the_catalogue_is_older_than_the_index() {
    let bench = Bench::new();
    publish(bench.store(), "Film", 1, 5).unwrap();
    let (catalog, content) = (bench.store().catalog(), bench.content("film"));
    let segment = bench.store().segment(&content, 0, Kind::Media, 2);
    let root = segment.unwrap().unwrap().row.root;
    std::fs::write(bench.store().settings().layout.payload(&root), "torn").unwrap();
    assert!(bench.store().doubt(&root).unwrap());
    let rendered = Ready::default().get(bench.store(), &catalog, &content, Some(0));
    let text = String::from_utf8(rendered.unwrap().text.to_vec()).unwrap();
    assert_eq!(
        (count(&text, "#EXTINF"), count(&text, "#EXT-X-GAP")),
        (5, 1)
    );
    assert!(
        !text.contains("ENDLIST") && text.contains("TYPE:EVENT"),
        "{text}"
    );
}

#[test]
fn nothing_is_ready_without_its_init_segment() {
    let bench = Bench::new();
    let cmaf = |kind, sequence| NewSegment {
        version: None,
        ttl: None,
        kind,
        mime: MimeType::Mp4,
        init: (kind == Kind::Media).then_some(0),
        duration: if kind == Kind::Media { TICKS } else { 0 },
        payload: bytes(sequence + u64::from(kind == Kind::Init) * 100, 9_000),
        ..vod("film", sequence)
    };
    bench.store().append(cmaf(Kind::Media, 0)).unwrap();
    assert_eq!(ready(&bench, "film"), 0);
    bench.store().append(cmaf(Kind::Init, 0)).unwrap();
    assert_eq!(ready(&bench, "film"), 1);
}
