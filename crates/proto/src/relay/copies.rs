//! Who has what is here: counted for the order of eviction, and by receipts of a group.

use super::engine::Relay;
use super::entry::Entry;
use super::io::{ContactNo, Output};
use super::message::RECEIPTS_MAX;
use super::receipt::Receipt;

impl Relay {
    /// Notes what a contact has of a content.
    pub(super) fn compare(&mut self, no: ContactNo, at: u32) {
        let (Some(contact), Some(entry)) = (self.contacts.get(&no), self.entries.get_mut(&at))
        else {
            return;
        };
        let Some(remote) = contact.remote.get(&at).filter(|_| self.config.count_copies) else {
            return;
        };
        for (ours, there) in &remote.tracks {
            if let Some(track) = entry.tracks.get_mut(usize::from(*ours)) {
                track.saw(contact.label(), there);
            }
        }
        self.counted.insert(at);
    }

    /// A contact has exactly what is here of a content.
    pub(super) fn seen_on(&mut self, no: ContactNo, at: u32) {
        let (Some(contact), Some(entry)) = (self.contacts.get(&no), self.entries.get_mut(&at))
        else {
            return;
        };
        if self.config.count_copies {
            for track in &mut entry.tracks {
                let here = track.here.clone();
                track.saw(contact.label(), &here);
            }
            self.counted.insert(at);
        }
    }

    /// Says on how many other nodes the segments are of contents of which that changed.
    pub(super) fn count_copies(&mut self) {
        for at in std::mem::take(&mut self.counted) {
            let Some(entry) = self.entries.get(&at) else {
                continue;
            };
            for (index, track) in entry.tracks.iter().enumerate() {
                if !track.here.is_empty() {
                    let copies = track.copies(entry.everywhere);
                    self.out.push_back(Output::Copies(at, index as u16, copies));
                }
            }
        }
    }

    /// Takes receipts of nodes of the group, and spreads those that are new.
    pub(super) fn receive(
        &mut self,
        no: ContactNo,
        at: u32,
        manifest: &[u8; 32],
        receipts: Vec<Receipt>,
    ) {
        let mut new = false;
        for receipt in receipts {
            let Some(entry) = self.entries.get_mut(&at) else {
                return;
            };
            let ours = entry.manifest.is_some_and(|(hash, _)| hash == *manifest);
            let known = entry.receipts.contains_key(&receipt.node);
            if !ours || known || !self.config.group.contains(&receipt.node) {
                continue;
            }
            if receipt.verify(&entry.key, manifest).is_err() {
                return self.leave(no, "a receipt is not signed by the node it names".into());
            }
            entry.receipts.insert(receipt.node, receipt.signature);
            entry.changed();
            new = true;
        }
        if new {
            self.retell(at);
            self.look_everywhere(at);
        }
    }

    /// Notes when all nodes of the group have a content.
    pub(super) fn look_everywhere(&mut self, at: u32) {
        let Some(entry) = self.entries.get_mut(&at) else {
            return;
        };
        let has = |node| entry.receipts.contains_key(node);
        let all = !self.config.group.is_empty() && self.config.group.iter().all(has);
        if all && !entry.everywhere {
            entry.everywhere = true;
            self.counted.insert(at);
            self.count_copies();
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
