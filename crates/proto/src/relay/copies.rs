//! Who has what is here: counted for the order of eviction.

use super::Relay;
use super::entry::Entry;
use super::message::RECEIPTS_MAX;
use super::rarity::Said;
use super::receipt::Receipt;
use crate::delivery::{Base, Output};
use crate::numbers::{ContactNo, ContentNo, TrackNo};

impl Relay {
    /// Notes what a contact has of a content, and what it says of the nodes that it met.
    pub(super) fn compare(&mut self, base: &Base, no: ContactNo, at: ContentNo, said: &[Said]) {
        let (Some(contact), Some(entry)) = (base.contacts.get(no), self.entries.get_mut(&at))
        else {
            return;
        };
        let session = self.sessions.get(&no);
        let Some(remote) = session.and_then(|session| session.remote.get(&at)) else {
            return;
        };
        // Growing contents go by sequence, whatever is rare.
        if remote.manifest.is_some() {
            for (index, (ours, there)) in remote.tracks.iter().enumerate() {
                if let Some(track) = entry.tracks.get_mut(ours.at()) {
                    track.more.rarity.met(self.meetings, there, said.get(index));
                }
            }
        }
        if !base.config.count_copies {
            return;
        }
        for (ours, there) in &remote.tracks {
            if let Some(track) = entry.tracks.get_mut(ours.at()) {
                track.saw(contact.label(), there);
            }
        }
        self.counted.insert(at);
    }

    /// A contact has exactly what is here of a content.
    pub(super) fn seen_on(&mut self, base: &Base, no: ContactNo, at: ContentNo) {
        let (Some(contact), Some(entry)) = (base.contacts.get(no), self.entries.get_mut(&at))
        else {
            return;
        };
        if entry.manifest.is_some() {
            for track in &mut entry.tracks {
                track.more.rarity.met(self.meetings, &track.here, None);
            }
        }
        if base.config.count_copies {
            for track in &mut entry.tracks {
                let here = track.here.clone();
                track.saw(contact.label(), &here);
            }
            self.counted.insert(at);
        }
    }

    /// Says on how many other nodes the segments are of contents of which that changed.
    pub(crate) fn count_copies(&mut self, base: &mut Base) {
        for at in std::mem::take(&mut self.counted) {
            let Some(entry) = self.entries.get(&at) else {
                continue;
            };
            for (index, track) in entry.tracks.iter().enumerate() {
                if !track.here.is_empty() {
                    let copies = track.copies(entry.everywhere, entry.carried_by());
                    let track = TrackNo(index as u16);
                    base.out.push_back(Output::Copies {
                        content: at,
                        track,
                        copies,
                    });
                }
            }
        }
    }
}

pub(super) fn receipts_of(entry: &Entry) -> Vec<Receipt> {
    let all = entry.receipts.iter().take(RECEIPTS_MAX as usize);
    all.map(|(node, signature)| Receipt {
        node: *node,
        signature: *signature,
    })
    .collect()
}
