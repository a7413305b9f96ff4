//! What others ask of contents: the questions that wait, and the manifests that are kept ready for
//! their answers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use lavant_proto::content::{Manifest, MerkleTree, SignedManifest};
use lavant_proto::numbers::ContactNo;
use lavant_proto::relay::message::Question;
use tokio::time::Instant;

use crate::store::{Content, Store};

/// Records of manifests that are kept ready with what proves them: 64 bytes each, 64 MB.
const LEAVES_MAX: usize = 1 << 20;

/// A manifest with what proves its records.
pub(super) struct Sheet {
    pub(super) manifest: Manifest,
    pub(super) tree: MerkleTree,
}

/// Manifests of contents that are being fetched or given, verified once; the one used last is at
/// the end.
#[derive(Clone, Default)]
pub(super) struct Sheets(Arc<Mutex<Vec<Kept>>>);

/// A manifest by its content's number in the store.
type Kept = (u64, Arc<Sheet>);

impl Sheets {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The manifest of a content. Blocks.
    pub(super) fn get(&self, store: &Store, content: &Content) -> Option<Arc<Sheet>> {
        // A block of its own, so that the lock is not held while a file is read and hashed. Two
        // that read the same manifest at once both keep it, which costs memory for a while.
        let kept = {
            let mut sheets = self.lock();
            let at = sheets.iter().position(|(no, _)| *no == content.no);
            at.map(|at| {
                let sheet = sheets.remove(at);
                let kept = Arc::clone(&sheet.1);
                // To the end, away from where room is made.
                sheets.push(sheet);
                kept
            })
        };
        if kept.is_some() {
            return kept;
        }
        let SignedManifest {
            manifest, leaves, ..
        } = store.manifest(content)?.into_inner();
        let tree = MerkleTree::new(leaves);
        let sheet = Arc::new(Sheet { manifest, tree });
        let mut sheets = self.lock();
        sheets.push((content.no, Arc::clone(&sheet)));
        let size = |sheets: &[Kept]| -> usize {
            sheets.iter().map(|(_, it)| it.tree.leaves().len()).sum()
        };
        // The one that is needed now stays, even if it is more than all may take.
        while sheets.len() > 1 && size(&sheets) > LEAVES_MAX {
            sheets.remove(0);
        }
        Some(sheet)
    }

    /// Forgets the manifest of a content that changed.
    pub(super) fn forget(&self, content_no: u64) {
        self.lock().retain(|(no, _)| *no != content_no);
    }
}

/// The questions that wait, and how many are being read.
#[derive(Default)]
pub(super) struct Library {
    // The question that is being read stays in front until it was read: a queue that is not empty
    // is in `turn`, or is being read, and never both.
    pub(super) waiting: BTreeMap<ContactNo, VecDeque<Question>>,
    /// Contacts of which a question may be read next, in turn.
    pub(super) turn: VecDeque<ContactNo>,
    pub(super) reading: usize,
}

impl Library {
    /// When a question may be read of a contact that is slowed down until then; one of any other
    /// contact is read at once, or when another one was read.
    pub(super) fn next_of(
        &self,
        now: Instant,
        slow: impl Fn(&ContactNo) -> Option<Instant>,
    ) -> Option<Instant> {
        let ends = self.turn.iter().filter_map(slow);
        ends.filter(|end| *end > now).min()
    }

    /// Forgets what a contact asked.
    pub(super) fn close(&mut self, no: ContactNo) {
        self.waiting.remove(&no);
        self.turn.retain(|other| *other != no);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_first_pause_that_ends_is_waited_for() {
        let mut library = Library::default();
        library.turn.extend([1, 2, 3, 4].map(ContactNo));
        let now = Instant::now();
        let after = |seconds| Some(now + Duration::from_secs(seconds));
        let slow = |no: &ContactNo| match no.0 {
            1 => after(0),
            2 => after(9),
            3 => after(4),
            _ => None,
        };
        assert_eq!(library.next_of(now, slow), after(4));
        library.close(ContactNo(3));
        assert_eq!(library.next_of(now, slow), after(9));
        library.close(ContactNo(2));
        assert_eq!(library.next_of(now, slow), None);
    }
}
