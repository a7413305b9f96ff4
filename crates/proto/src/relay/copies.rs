//! Who has what is here: counted for the order of eviction, and by receipts of a group.

use super::Relay;
use super::entry::Entry;
use super::message::{ManifestHint, RECEIPTS_MAX};
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
        if remote.manifest.is_some() {
            for (index, (ours, there)) in remote.tracks.iter().enumerate() {
                if let Some(track) = entry.tracks.get_mut(ours.at()) {
                    track.rarity.met(self.meetings, there, said.get(index));
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
                track.rarity.met(self.meetings, &track.here, None);
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
                    let copies = track.copies(entry.everywhere);
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

    /// Takes receipts of nodes of the group, and spreads those that are new.
    pub(super) fn receive(
        &mut self,
        base: &mut Base,
        (no, at): (ContactNo, ContentNo),
        manifest: &ManifestHint,
        receipts: Vec<Receipt>,
    ) {
        let mut new = false;
        for receipt in receipts {
            let Some(entry) = self.entries.get_mut(&at) else {
                return;
            };
            let ours = entry.hint().as_ref() == Some(manifest);
            let known = entry.receipts.contains_key(&receipt.node);
            if !ours || known || !base.config.group.contains(&receipt.node) {
                continue;
            }
            let hash = entry.manifest.map(|(hash, _)| hash).unwrap_or_default();
            if receipt.verify(&entry.key, &hash).is_err() {
                return base.leave(no, "a receipt is not signed by the node it names".into());
            }
            entry.receipts.insert(receipt.node, receipt.signature);
            entry.changed();
            new = true;
        }
        if new {
            self.retell(base, at);
            self.look_everywhere(base, at);
        }
    }

    /// Notes when all nodes of the group have a content.
    pub(super) fn look_everywhere(&mut self, base: &mut Base, at: ContentNo) {
        let Some(entry) = self.entries.get_mut(&at) else {
            return;
        };
        let has = |node| entry.receipts.contains_key(node);
        let group = &base.config.group;
        let all = !group.is_empty() && group.iter().all(has);
        if all && !entry.everywhere {
            entry.everywhere = true;
            self.counted.insert(at);
            self.count_copies(base);
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
