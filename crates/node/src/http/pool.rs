//! Who holds how many connections and event streams, and who gives way when there are too many.
//!
//! A connection that has sent no whole request, or nothing since its last answer, is quiet and
//! costs its owner nothing: it gives way, the oldest first, so that a newcomer always gets in
//! past them. Connections with a request in work are never cut; there are limits for those of one
//! source instead, with room that no stranger can take.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::metrics::Counter;

/// Event streams in all. Each wakes twice a second at most; a tab of the page holds one.
const STREAMS_MAX: usize = 256;
/// Of one source: a household or an office behind one address with 32 open tabs.
const STREAMS_EACH: usize = 32;
/// Of loopback, where a reverse proxy stands for everybody: three quarters.
const STREAMS_LOOPBACK: usize = 192;
/// However few connections there may be, one source may have so many of them: a browser opens six.
const SOURCE_MIN: usize = 16;

/// Where a connection comes from: one IPv4 address, or one IPv6 network of 64 bits, since a host
/// can take any address in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Source {
    /// This machine, by whichever of its addresses.
    Loopback,
    V4(u32),
    V6(u64),
}

impl Source {
    pub(super) fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            ip if ip.is_loopback() => Self::Loopback,
            IpAddr::V4(ip) => Self::V4(ip.to_bits()),
            IpAddr::V6(ip) => Self::V6((ip.to_bits() >> 64) as u64),
        }
    }
}

/// How many connections there may be.
#[derive(Clone, Copy, Debug)]
struct Limits {
    all: usize,
    /// Of all sources but loopback: a sixteenth of all stays free for the operator.
    outside: usize,
    /// Of loopback: a reverse proxy brings everybody from there, so it gets three quarters; the
    /// last quarter stays for others.
    loopback: usize,
    /// Of each other source: an eighth, 512 of 4096, is a school of 85 browsers behind one address.
    each: usize,
}

impl Limits {
    fn of(all: usize) -> Self {
        // With few connections in all, one browser must still work.
        let least = all.min(SOURCE_MIN);
        Self {
            all,
            outside: (all - all / 16).max(least),
            loopback: (all / 4 * 3).max(least),
            each: (all / 8).max(least),
        }
    }
}

/// What a connection does at the moment, as its server, its socket and the pool see it.
#[derive(Debug)]
pub(super) struct Activity {
    begun: Instant,
    requests: AtomicU64,
    is_busy: AtomicBool,
    is_stream: AtomicBool,
    /// When it was opened or became quiet, in milliseconds.
    quiet_since: AtomicU64,
}

impl Activity {
    pub(super) fn new(begun: Instant) -> Self {
        let activity = Self {
            begun,
            requests: AtomicU64::new(0),
            is_busy: AtomicBool::new(false),
            is_stream: AtomicBool::new(false),
            quiet_since: AtomicU64::new(0),
        };
        activity.touch();
        activity
    }

    /// It moved: it is the youngest of the quiet ones.
    pub(super) fn touch(&self) {
        // Milliseconds since one common start fit an atomic, and no clock can set them back.
        let since = self.begun.elapsed().as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        self.quiet_since.store(since, Ordering::Relaxed);
    }

    /// A whole head came; the request is in work until the value is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> Busy {
        // The socket tells by this number whether the head that it waits for has come.
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.is_busy.store(true, Ordering::Release);
        Busy(self.clone())
    }

    /// The number of requests that came whole.
    pub(super) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(super) fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Acquire)
    }

    /// It carries events from now on, and nothing else.
    pub(super) fn carry_events(&self) {
        self.is_stream.store(true, Ordering::Release);
    }

    pub(super) fn is_stream(&self) -> bool {
        self.is_stream.load(Ordering::Acquire)
    }
}

/// A request in work.
#[derive(Debug)]
pub(super) struct Busy(Arc<Activity>);

impl Drop for Busy {
    fn drop(&mut self) {
        // First, or it would count as quiet for as long as the request took.
        self.0.touch();
        self.0.is_busy.store(false, Ordering::Release);
    }
}

#[derive(Debug)]
struct Slot {
    source: Source,
    activity: Arc<Activity>,
    end: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Table {
    next: u64,
    slots: HashMap<u64, Slot>,
    connections: HashMap<Source, usize>,
    streams: HashMap<Source, usize>,
}

impl Table {
    fn remove(&mut self, id: u64) -> Option<Slot> {
        let slot = self.slots.remove(&id)?;
        less(&mut self.connections, slot.source);
        Some(slot)
    }

    /// Ends the quiet connection that has been so for longest.
    fn end_oldest(&mut self, among: impl Fn(Source) -> bool) -> bool {
        // All slots are looked at, some thousands, and only when a limit is reached.
        let quiet = self
            .slots
            .iter()
            .filter(|(_, slot)| among(slot.source) && !slot.activity.is_busy());
        let oldest = quiet
            .min_by_key(|(id, slot)| (slot.activity.quiet_since.load(Ordering::Relaxed), **id));
        let Some(id) = oldest.map(|(id, _)| *id) else {
            return false;
        };
        // Its place is free at once, and not only when its task has ended.
        if let Some(slot) = self.remove(id) {
            slot.end.notify_one();
        }
        true
    }
}

fn less(counts: &mut HashMap<Source, usize>, source: Source) {
    if let Some(count) = counts.get_mut(&source) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&source);
        }
    }
}

/// All connections of the API.
#[derive(Debug)]
pub(super) struct Pool {
    limits: Limits,
    begun: Instant,
    table: Mutex<Table>,
    /// Newcomers that were sent away.
    pub(super) refused: Counter,
    /// Quiet connections that gave way.
    pub(super) ended: Counter,
    /// Event streams that were not begun.
    pub(super) streams_refused: Counter,
}

impl Pool {
    pub(super) fn new(connections_max: usize) -> Arc<Self> {
        Arc::new(Self {
            limits: Limits::of(connections_max),
            begun: Instant::now(),
            table: Mutex::default(),
            refused: Counter::default(),
            ended: Counter::default(),
            streams_refused: Counter::default(),
        })
    }

    /// Every change leaves the table whole, also one that panics.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection; none when all that could give way are in work.
    pub(super) fn admit(self: &Arc<Self>, ip: IpAddr) -> Option<Place> {
        let source = Source::of(ip);
        let limits = self.limits;
        let mut table = self.table();
        let all = table.slots.len();
        let count = |of| table.connections.get(&of).copied().unwrap_or(0);
        let (own, local) = (count(source), count(Source::Loopback));
        let is_local = source == Source::Loopback;
        let most = if is_local {
            limits.loopback
        } else {
            limits.each
        };
        // The narrowest limit first: whoever has its share gives up one of its own, and nobody
        // else's.
        let made_room = if own >= most {
            Some(table.end_oldest(|other| other == source))
        } else if !is_local && all - local >= limits.outside {
            Some(table.end_oldest(|other| other != Source::Loopback))
        } else if all >= limits.all {
            Some(table.end_oldest(|_| true))
        } else {
            None
        };
        match made_room {
            // All of them have a request in work, and none of those is cut.
            Some(false) => {
                self.refused.add(1);
                return None;
            }
            Some(true) => self.ended.add(1),
            None => {}
        }
        let (activity, end) = (Arc::new(Activity::new(self.begun)), Arc::default());
        let id = table.next;
        table.next += 1;
        *table.connections.entry(source).or_default() += 1;
        let slot = Slot {
            source,
            activity: Arc::clone(&activity),
            end: Arc::clone(&end),
        };
        table.slots.insert(id, slot);
        Some(Place {
            pool: self.clone(),
            id,
            caller: Caller {
                source,
                address: ip.to_canonical(),
                activity,
            },
            end,
        })
    }

    /// Ends the oldest quiet connection, where the system gives no more files.
    pub(super) fn shed(&self) {
        if self.table().end_oldest(|_| true) {
            self.ended.add(1);
        }
    }

    /// A place for an event stream.
    pub(super) fn stream(self: &Arc<Self>, caller: &Caller) -> Option<StreamPlace> {
        let source = caller.source;
        let mut table = self.table();
        let all: usize = table.streams.values().sum();
        let own = table.streams.entry(source).or_default();
        let most = match source {
            Source::Loopback => STREAMS_LOOPBACK,
            _ => STREAMS_EACH,
        };
        if all >= STREAMS_MAX || *own >= most {
            // `entry` may have made it just now: many sources that are refused must leave nothing
            // behind.
            if *own == 0 {
                table.streams.remove(&source);
            }
            self.streams_refused.add(1);
            return None;
        }
        *own += 1;
        caller.activity.carry_events();
        Some(StreamPlace {
            pool: self.clone(),
            source,
        })
    }

    /// How many connections and event streams there are.
    pub(super) fn counts(&self) -> (usize, usize) {
        let table = self.table();
        (table.slots.len(), table.streams.values().sum())
    }
}

/// Who sends a request, for handlers.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    source: Source,
    /// The address that the connection comes from.
    pub(super) address: IpAddr,
    pub(super) activity: Arc<Activity>,
}

impl Caller {
    /// Whether the request comes from this machine.
    pub(super) fn is_local(&self) -> bool {
        self.source == Source::Loopback
    }
}

/// Whether a reader sees what is the operator's alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SeesAll(pub(super) bool);

/// A connection's place, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    pool: Arc<Pool>,
    id: u64,
    pub(super) caller: Caller,
    end: Arc<Notify>,
}

impl Place {
    /// Done when it has to give way.
    pub(super) async fn ended(&self) {
        self.end.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Nothing is there to remove when it gave way already.
        self.pool.table().remove(self.id);
    }
}

/// An event stream's place, given back when this is dropped.
#[derive(Debug)]
pub(super) struct StreamPlace {
    pool: Arc<Pool>,
    source: Source,
}

impl Drop for StreamPlace {
    fn drop(&mut self) {
        less(&mut self.pool.table().streams, self.source);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// The `n`th address of as many hosts as are wanted.
    fn host(n: u32) -> IpAddr {
        IpAddr::V4((0x0a00_0000 + n).into())
    }

    fn is_ended(place: &Place) -> bool {
        place.ended().now_or_never().is_some()
    }

    #[test]
    fn sources_are_addresses_or_networks() {
        assert_eq!(Source::of(ip("127.0.0.9")), Source::of(ip("::1")));
        assert_eq!(
            Source::of(ip("::ffff:10.0.0.1")),
            Source::of(ip("10.0.0.1"))
        );
        assert_eq!(
            Source::of(ip("2001:db8::1")),
            Source::of(ip("2001:db8::ffff:2"))
        );
        assert_ne!(
            Source::of(ip("2001:db8::1")),
            Source::of(ip("2001:db8:0:1::1"))
        );
    }

    #[test]
    fn the_oldest_quiet_connection_of_a_source_gives_way() {
        let pool = Pool::new(160);
        let places: Vec<_> = (0..20).map(|_| pool.admit(host(1)).unwrap()).collect();
        let _busy = places[0].caller.activity.begin();
        let other = pool.admit(host(2)).unwrap();
        let newest = pool.admit(host(1)).unwrap();
        let ended: Vec<_> = places.iter().map(is_ended).collect();
        assert!(!ended[0] && ended[1] && ended[2..].iter().all(|ended| !ended));
        assert!(!is_ended(&other) && !is_ended(&newest));
        drop(places);
        assert_eq!(pool.counts().0, 2);
    }

    #[test]
    fn one_source_cannot_hold_all_and_strangers_not_the_operators_part() {
        let pool = Pool::new(160);
        let mut held = Vec::new();
        let mut fill = |ip| {
            let begun = held.len();
            while let Some(place) = pool.admit(ip) {
                let busy = place.caller.activity.begin();
                held.push((place, busy));
            }
            held.len() - begun
        };
        let taken: Vec<_> = (0..9).map(|n| fill(host(n))).collect();
        assert_eq!(taken, [20, 20, 20, 20, 20, 20, 20, 10, 0]);
        assert_eq!(fill(ip("127.0.0.2")), 10);
        assert_eq!((pool.refused.get() > 0, pool.counts().0), (true, 160));
        drop(held);
        assert_eq!(pool.counts(), (0, 0));
        let mut held = Vec::new();
        while let Some(place) = pool.admit(ip("::1")) {
            held.push((place.caller.activity.begin(), place));
        }
        assert_eq!(held.len(), 120);
        assert!(pool.admit(host(1)).is_some());
    }

    #[test]
    fn few_connections_are_enough_for_a_browser() {
        let pool = Pool::new(1);
        let only = pool.admit(host(1)).unwrap();
        let next = pool.admit(ip("::1")).unwrap();
        assert!(is_ended(&only));
        drop(only);
        let _busy = next.caller.activity.begin();
        assert!(pool.admit(host(1)).is_none());
    }

    #[test]
    fn event_streams_are_few_for_each_source_and_in_all() {
        let pool = Pool::new(4096);
        let begin = |ip| {
            let caller = pool.admit(ip).unwrap().caller.clone();
            pool.stream(&caller).map(|place| (caller, place))
        };
        let mut own: Vec<_> = (0..STREAMS_EACH).map(|_| begin(host(1)).unwrap()).collect();
        assert!(begin(host(1)).is_none() && own[0].0.activity.is_stream());
        own.pop();
        assert!(begin(host(1)).is_some());
        let held: Vec<_> = (2..).map_while(|n| begin(host(n))).collect();
        assert_eq!(held.len() + own.len(), STREAMS_MAX);
        assert_eq!(pool.streams_refused.get(), 2);
        drop((own, held));
        assert_eq!(pool.counts().1, 0);
    }
}
