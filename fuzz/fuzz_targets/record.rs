//! Segment records, manifests, have-ranges and frames from a hostile peer: never a panic, and
//! whatever is decoded encodes to the same bytes.
#![no_main]

use lavant_proto::content::{Manifest, SegmentRecord, Unverified};
use lavant_proto::ids::{ContentId, Root, Signature};
use lavant_proto::verify::{FrameReader, GroupRange, HaveRanges};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(record) = SegmentRecord::decode(data) {
        assert_eq!(record.claim().encode(), data);
        assert!(
            Unverified::new(record.claim().clone())
                .verify(&Signature([1; 64]))
                .is_err()
        );
    }
    if let Ok(manifest) = Manifest::decode(data) {
        assert_eq!(manifest.claim().encode(), data);
        assert!(manifest.verify(Signature([1; 64]), Vec::new()).is_err());
    }
    if let Ok(ranges) = HaveRanges::decode(data) {
        assert_eq!(ranges.encode(), data);
    }
    let groups = GroupRange::new(3, 9);
    let mut reader = FrameReader::new(Root([7; 32]), 40 * 16 * 1024, groups);
    assert!(reader.push(data).is_err() && reader.push(data).is_err() && !reader.is_done());
    if let Ok(text) = std::str::from_utf8(data) {
        let id = ContentId::from_title(text);
        assert_eq!(ContentId::new(id.as_str()), Ok(id));
    }
});
