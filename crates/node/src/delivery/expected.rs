//! The answers that a contact owes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lavant_proto::ids::Root;
use lavant_proto::numbers::RequestNo;
use lavant_proto::runs::GroupRun;
use lavant_proto::verify::FrameReader;

use crate::store::Partial;

/// An answer that is expected.
pub(super) struct Expected {
    pub(super) reader: FrameReader,
    pub(super) partial: Arc<Partial>,
}

impl Expected {
    pub(super) fn new(root: Root, length: u64, groups: GroupRun, partial: Arc<Partial>) -> Self {
        Self {
            reader: FrameReader::new(root, length, groups),
            partial,
        }
    }
}

/// The answers that a contact owes, by request: shared by the driver, which adds and removes, and
/// the reading task, which works through them. There is none at a request of which frames are being
/// worked through.
#[derive(Clone, Default)]
pub(super) struct Expectations(Arc<Mutex<BTreeMap<RequestNo, Option<Expected>>>>);

impl Expectations {
    pub(super) fn insert(&self, request: RequestNo, expected: Expected) {
        self.lock().insert(request, Some(expected));
    }

    /// Nothing more is expected of a request, also when frames of it are being worked through.
    pub(super) fn remove(&self, request: RequestNo) {
        self.lock().remove(&request);
    }

    /// Takes an answer out to work through frames of it; none when it was given up.
    pub(super) fn take(&self, request: RequestNo) -> Option<Expected> {
        self.lock().get_mut(&request)?.take()
    }

    /// Puts an answer back of which more is to come, unless it was given up meanwhile.
    pub(super) fn put_back(&self, request: RequestNo, expected: Expected) {
        if let Some(place) = self.lock().get_mut(&request) {
            *place = Some(expected);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<RequestNo, Option<Expected>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use lavant_proto::content::{Kind, Unverified};
    use lavant_proto::ids::{ContentId, SigningKey};
    use lavant_proto::runs::Run;

    use super::super::answers::tests::store_of_one;
    use super::*;
    use crate::store::{Settings, Store};

    /// An answer that is to go into a store of its own.
    fn answer_of_a_segment(folder: &std::path::Path) -> Expected {
        let (sender, root) = store_of_one(&folder.join("sender"));
        let catalog = sender.catalog();
        let id = ContentId::new("film").unwrap();
        let content = catalog.find(None, &id, None).unwrap();
        let segment = sender.segment(content, 0, Kind::Media, 0);
        let segment = segment.unwrap().unwrap();
        let record = Unverified::new(sender.record(content, &segment));
        let record = record.verify(&segment.row.signature.unwrap()).unwrap();
        // A disk that is nearly full has no room for strangers.
        let settings = Settings {
            trusted: [sender.publisher()].into(),
            ..Settings::new(&folder.join("receiver"))
        };
        let receiver = Store::open(settings, SigningKey::from_seed(&[6; 32])).unwrap();
        let partial = receiver.partial_of(&record).unwrap();
        Expected::new(root, record.length, Run::new(0, 4), partial)
    }

    #[test]
    fn an_answer_that_is_given_up_while_it_is_worked_through_is_not_put_back() {
        let folder = tempfile::tempdir().unwrap();
        let (expected, kept) = (Expectations::default(), RequestNo(1));
        expected.insert(kept, answer_of_a_segment(folder.path()));
        let answer = expected.take(kept).unwrap();
        assert!(expected.take(kept).is_none(), "it is being worked through");
        expected.put_back(kept, answer);
        let answer = expected.take(kept).expect("more of it is to come");
        expected.remove(kept);
        expected.put_back(kept, answer);
        assert!(expected.take(kept).is_none());
        assert_eq!(expected.len(), 0);
    }
}
