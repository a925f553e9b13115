//! The places for connections: how many there are, and who loses one.
//!
//! Anybody who reaches a port can open connections to it, by the thousand and for nothing. Each
//! takes a file descriptor and some memory. A server that refused newcomers when it is full would
//! let a stranger keep the workers out. So a newcomer always gets a place: that of the connection
//! that has asked for nothing for the longest time, or else of the oldest one that no service
//! vouches for. Services vouch for the streams of workers and samplers that they have admitted, so
//! these keep their places, and only when all places are theirs a newcomer is turned away.
//!
//! A connection also loses its place when it asks for nothing, or takes longer than it may.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

/// Connections that a program accepts, if it may open files enough. A newcomer beyond takes the
/// place of another connection. An idle connection takes about 40 KB of memory.
pub const CONNECTIONS_MAX: usize = 1024;
/// Descriptors that connections leave for files, pipes and the program's own connections, or half
/// of all if there are fewer than twice as many.
pub const DESCRIPTORS_RESERVED: usize = 256;
/// A connection that asks for nothing at all for this long is closed.
pub const FIRST_REQUEST_MAX: Duration = Duration::from_secs(10);
/// A connection without an open request is closed this long after its last one.
pub const IDLE_MAX: Duration = Duration::from_secs(60);
/// A connection is closed when one of its requests takes longer than this, unless a service allows
/// the request more.
pub const REQUEST_MAX: Duration = Duration::from_secs(60);

/// The places for connections of one program. Clones share them.
#[derive(Clone, Debug)]
pub struct Places(Arc<Mutex<Table>>);

#[derive(Debug)]
struct Table {
    max: usize,
    /// The number of the last connection or request. Numbers are never used twice.
    last_number: u64,
    occupants: BTreeMap<u64, Occupant>,
}

/// A connection that has a place.
#[derive(Debug)]
struct Occupant {
    /// Since when it has been here, or without an open request.
    since: Instant,
    /// True after its first request.
    has_asked: bool,
    /// The open requests.
    requests: BTreeMap<u64, Open>,
    /// Dropping it closes the connection. None if that has happened.
    evict: Option<oneshot::Sender<()>>,
}

/// A request that is open.
#[derive(Clone, Copy, Debug)]
struct Open {
    /// When it is to be over. None for the stream of somebody who was admitted.
    deadline: Option<Instant>,
}

/// The place of one connection. Dropping it frees the place.
#[derive(Debug)]
pub(super) struct Seat {
    places: Places,
    number: u64,
    pub(super) peer: SocketAddr,
    /// Completes when another connection needs the place.
    pub(super) evicted: oneshot::Receiver<()>,
}

/// An open request, as the place of its connection sees it. A service finds it in the extensions
/// of a request. Clones are of the same request.
#[derive(Clone, Debug)]
pub struct OpenRequest {
    places: Places,
    connection: u64,
    number: u64,
    peer: SocketAddr,
}

impl Places {
    /// Makes the places of a program that may open so many files.
    pub fn new(open_files: usize) -> Self {
        let reserved = DESCRIPTORS_RESERVED.min(open_files / 2);
        let max = CONNECTIONS_MAX.min(open_files.saturating_sub(reserved)).max(1);
        Self(Arc::new(Mutex::new(Table { max, last_number: 0, occupants: BTreeMap::new() })))
    }

    /// Returns whether connections that have lost their places still hold their descriptors, too
    /// many to accept another one.
    pub(super) fn are_overfull(&self) -> bool {
        let table = self.lock();
        table.occupants.len() > table.max + table.max / 8
    }

    /// Gives a place to a new connection from `peer`. `None` if all places are taken by connections
    /// that keep them.
    pub(super) fn take(&self, peer: SocketAddr, now: Instant) -> Option<Seat> {
        let mut table = self.lock();
        if table.seated() >= table.max && !table.evict() {
            return None;
        }
        let (evict, evicted) = oneshot::channel();
        let number = table.next_number();
        let occupant = Occupant {
            since: now,
            has_asked: false,
            requests: BTreeMap::new(),
            evict: Some(evict),
        };
        table.occupants.insert(number, occupant);
        drop(table);
        Some(Seat { places: self.clone(), number, peer, evicted })
    }

    /// Takes a place away, so that its descriptor becomes free. Returns whether there was one to
    /// take.
    pub(super) fn evict_one(&self) -> bool {
        self.lock().evict()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    /// The number of connections that have not lost their places.
    fn seated(&self) -> usize {
        self.occupants.values().filter(|occupant| occupant.evict.is_some()).count()
    }

    /// Takes the place of the connection that matters least. Returns false if all are kept.
    fn evict(&mut self) -> bool {
        let seated = self.occupants.values_mut().filter(|occupant| occupant.evict.is_some());
        let candidates = seated.filter(|occupant| !occupant.is_kept());
        let least = candidates.min_by_key(|one| (!one.requests.is_empty(), one.since));
        least.and_then(|occupant| occupant.evict.take()).is_some()
    }
}

impl Occupant {
    /// True if a service vouches for a request of the connection.
    fn is_kept(&self) -> bool {
        self.requests.values().any(|open| open.deadline.is_none())
    }

    /// Why the connection is to be closed now, if it is.
    fn overdue(&self, now: Instant) -> Option<&'static str> {
        let Some(first) = self.requests.values().filter_map(|open| open.deadline).min() else {
            let max = if self.has_asked { IDLE_MAX } else { FIRST_REQUEST_MAX };
            let is_idle = self.requests.is_empty() && now >= self.since + max;
            return is_idle.then_some("it asks for nothing");
        };
        (now >= first).then_some("a request takes too long")
    }
}

impl Seat {
    /// Why the connection is to be closed now, if it is, and whether that is worth a warning.
    pub(super) fn overdue(&self, now: Instant) -> Option<(&'static str, bool)> {
        let table = self.places.lock();
        let occupant = table.occupants.get(&self.number)?;
        // A client may keep a connection for its next request, and makes another one if need be.
        let is_warning = !occupant.has_asked || !occupant.requests.is_empty();
        occupant.overdue(now).map(|why| (why, is_warning))
    }

    /// The connection, as its requests need to know it.
    pub(super) fn info(&self) -> ConnectionInfo {
        ConnectionInfo { places: self.places.clone(), number: self.number, peer: self.peer }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.places.lock().occupants.remove(&self.number);
    }
}

/// The connection of a request.
#[derive(Clone, Debug)]
pub(super) struct ConnectionInfo {
    places: Places,
    number: u64,
    peer: SocketAddr,
}

impl ConnectionInfo {
    /// Notes that a request has begun.
    pub(super) fn begin(&self, now: Instant) -> OpenRequest {
        let mut table = self.places.lock();
        let number = table.next_number();
        if let Some(occupant) = table.occupants.get_mut(&self.number) {
            occupant.has_asked = true;
            occupant.requests.insert(number, Open { deadline: Some(now + REQUEST_MAX) });
        }
        let (places, connection, peer) = (self.places.clone(), self.number, self.peer);
        OpenRequest { places, connection, number, peer }
    }
}

impl OpenRequest {
    /// Finds the account of a request. A request that has none, because it did not come over a
    /// connection of this crate's servers, gets one that nobody looks at.
    pub fn of<T>(request: &tonic::Request<T>) -> Self {
        let detached = || Self {
            places: Places::new(0),
            connection: 0,
            number: 0,
            peer: SocketAddr::from(([0; 4], 0)),
        };
        request.extensions().get().cloned().unwrap_or_else(detached)
    }

    /// The address of the client.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Lets the request go on without a deadline, and its connection keep its place: the service
    /// knows the client, and ends the stream itself.
    pub fn keep(&self) {
        self.set_deadline(None);
    }

    /// Closes the connection if the request is not over within this time.
    pub fn end_within(&self, max: Duration) {
        self.set_deadline(Some(Instant::now() + max));
    }

    fn set_deadline(&self, deadline: Option<Instant>) {
        let mut table = self.places.lock();
        let occupant = table.occupants.get_mut(&self.connection);
        if let Some(open) = occupant.and_then(|one| one.requests.get_mut(&self.number)) {
            open.deadline = deadline;
        }
    }

    /// Notes that the request is over.
    pub(super) fn end(&self, now: Instant) {
        if let Some(occupant) = self.places.lock().occupants.get_mut(&self.connection) {
            occupant.requests.remove(&self.number);
            if occupant.requests.is_empty() {
                occupant.since = now;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEER: SocketAddr =
        SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

    fn is_evicted(seat: &mut Seat) -> bool {
        seat.evicted.try_recv() == Err(oneshot::error::TryRecvError::Closed)
    }

    #[test]
    fn descriptors_are_left_for_files() {
        let max = |open_files| Places::new(open_files).lock().max;
        assert_eq!(
            [65_536, 1024, 512, 64, 1, 0].map(max),
            [CONNECTIONS_MAX, 1024 - DESCRIPTORS_RESERVED, 256, 32, 1, 1]
        );
    }

    #[test]
    fn a_newcomer_takes_the_place_of_the_longest_idle_then_of_the_oldest_stranger_and_of_no_worker()
    {
        let (places, start) = (Places::new(6), Instant::now());
        let second = |n| start + Duration::from_secs(n);
        // Three places: a worker, a stranger with a request, and one without.
        let mut worker = places.take(PEER, second(0)).unwrap();
        worker.info().begin(second(0)).keep();
        let mut stranger = places.take(PEER, second(1)).unwrap();
        let request = stranger.info().begin(second(1));
        let mut idle = places.take(PEER, second(2)).unwrap();

        let mut newcomer = places.take(PEER, second(3)).unwrap();
        assert!(is_evicted(&mut idle) && !is_evicted(&mut stranger));
        newcomer.info().begin(second(3)).keep();
        let another = places.take(PEER, second(4)).unwrap();
        assert!(is_evicted(&mut stranger) && !is_evicted(&mut newcomer));
        another.info().begin(second(4)).keep();
        assert!(places.take(PEER, second(5)).is_none(), "all are known");
        assert!(!is_evicted(&mut worker));

        // Those that lost their places still have their descriptors until they are dropped.
        assert!(places.are_overfull());
        request.end(second(5));
        drop((idle, stranger));
        assert!(!places.are_overfull());
        drop(another);
        assert!(places.take(PEER, second(6)).is_some());
    }

    #[test]
    fn a_connection_that_asks_for_nothing_or_for_too_long_loses_its_place() {
        let (places, start) = (Places::new(100), Instant::now());
        let seat = places.take(PEER, start).unwrap();
        let moment = Duration::from_millis(1);
        assert_eq!(seat.overdue(start + FIRST_REQUEST_MAX - moment), None);
        assert_eq!(seat.overdue(start + FIRST_REQUEST_MAX), Some(("it asks for nothing", true)));

        let request = seat.info().begin(start);
        assert_eq!(seat.overdue(start + REQUEST_MAX - moment), None);
        let too_long = Some(("a request takes too long", true));
        assert_eq!(seat.overdue(start + REQUEST_MAX), too_long);
        request.keep();
        assert_eq!(seat.overdue(start + 1000 * REQUEST_MAX), None);
        request.end_within(Duration::ZERO);
        assert_eq!(seat.overdue(Instant::now()), too_long);

        request.end(start);
        assert_eq!(seat.overdue(start + IDLE_MAX - moment), None);
        assert_eq!(seat.overdue(start + IDLE_MAX), Some(("it asks for nothing", false)));
    }
}
