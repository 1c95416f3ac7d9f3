use std::io::{Error, Result};
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

use super::{
    Account, Answered, BUFFER, Flow, Frames, Held, LEASE, Piece, Purses, SLACK, Unread,
    WriteBuffer, unshared,
};

const MIB: usize = 1024 * 1024;
const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

fn leased(account: &Account) -> usize {
    account.purse.leased.load(Ordering::Relaxed)
}

#[test]
fn a_source_has_one_purse_on_all_workers_and_none_is_kept_for_nothing() {
    let purses = Purses::new(8 * MIB as u64);
    let [first, second] = [purses.open(POD), purses.open(POD)];
    let other = purses.open(OTHER);
    first.take(3 * MIB);
    assert!(!second.is_scarce());
    second.take(2 * MIB);
    assert!(first.is_scarce() && second.is_scarce() && !other.is_scarce());
    first.take(3 * MIB / 2);
    assert!(second.is_full() && !second.is_spent());
    first.take(2 * MIB);
    assert!(second.is_spent());
    let usage = purses.usage();
    assert_eq!((usage.all, usage.largest), (leased(&first), leased(&first)));
    purses.set_limit(64 * MIB as u64);
    assert!(!second.is_scarce());
    drop(first);
    assert_eq!(leased(&second), (2 * MIB).next_multiple_of(LEASE));
    drop((second, other));
    assert!(purses.known().is_empty());
}

#[test]
fn little_things_do_not_touch_what_workers_share() {
    let account = Account::unbounded();
    account.take(1000);
    let before = leased(&account);
    for _ in 0..100 {
        account.take(15_000);
        account.give(15_000);
    }
    assert_eq!(leased(&account), before.max(LEASE));
    account.take(MIB);
    account.give(MIB);
    assert!(leased(&account) <= account.held() + SLACK);
    assert_eq!(account.held(), 1000);
}

#[test]
fn what_is_held_is_given_back() {
    let account = Account::unbounded();
    let mut held = Held::new(&account, 10);
    held.set(100);
    assert_eq!(account.held(), 100);
    held.set(30);
    assert_eq!(account.held(), 30);
    drop(held);
    assert_eq!(account.held(), 0);
    let lent = account.lend(MIB);
    assert_eq!(account.purse.of.usage().all, leased(&account));
    assert!(leased(&account) >= MIB);
    std::thread::spawn(|| drop(lent)).join().expect("dropped");
    assert!(leased(&account) < MIB);
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_source_short_of_memory_sends_piece_by_piece() {
    let purses = Purses::new(8 * MIB as u64);
    let account = purses.open(POD);
    let flow = Arc::new(Flow::new(Arc::clone(&account)));
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let context = Context::from_waker(&waker);
    let piece = |size: usize| Piece::new(vec![0; size].into(), size, Arc::clone(&flow));
    let [first, second] = [piece(1000), piece(2000)];
    assert_eq!(flow.poll_room(&context), Poll::Ready(()));
    account.take(5 * MIB);
    assert_eq!(flow.poll_room(&context), Poll::Pending);
    drop(second);
    assert_eq!(woken.0.load(Ordering::Relaxed), 0);
    drop(first);
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    assert_eq!(flow.poll_room(&context), Poll::Ready(()));
    // Nobody asked any more.
    drop(piece(1));
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    assert_eq!(account.held(), 5 * MIB);
}

#[test]
fn the_largest_write_buffer_counts_to_the_end() {
    const KIB: usize = 1024;
    let account = Purses::new(8 * MIB as u64).open(POD);
    let written = WriteBuffer::new(Arc::clone(&account));
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let context = Context::from_waker(&waker);
    written.put(8 * KIB);
    assert_eq!(account.held(), 0, "part of any connection");
    let Poll::Ready(window) = written.poll_room(&context) else {
        panic!("more may follow");
    };
    written.put(window);
    let size = 2 * window - 8 * KIB;
    assert_eq!(account.held(), size, "it doubles as it grows");
    assert_eq!(written.poll_room(&context), Poll::Pending);
    written.wrote(window + 9 * KIB, window);
    assert_eq!(woken.0.load(Ordering::Relaxed), 0);
    written.wrote(9 * KIB, 9 * KIB);
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    assert_eq!(account.held(), size, "it keeps its size");
    written.put(1);
    assert_eq!(written.poll_room(&context), Poll::Ready(window));
    account.take(5 * MIB);
    assert_eq!(written.poll_room(&context), Poll::Pending, "piece by piece");
    account.give(5 * MIB);
    // What the server puts around content takes room, too.
    written.wrote(8 * window, 1);
    assert_eq!(account.held(), 8 * window - 8 * KIB);
    drop(written);
    assert_eq!(account.held(), 0);
}

#[test]
fn what_the_server_leaves_out_does_not_wait() {
    let account = Purses::new(8 * MIB as u64).open(POD);
    let written = WriteBuffer::new(account);
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let context = Context::from_waker(&waker);
    written.put(70_000);
    assert_eq!(written.poll_room(&context), Poll::Pending);
    written.wrote(10, 3);
    assert_eq!(woken.0.load(Ordering::Relaxed), 0);
    written.wrote(7, 7);
    assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    assert!(written.poll_room(&context).is_ready());
}

#[test]
fn a_piece_says_what_it_holds() {
    let flow = Arc::new(Flow::new(Account::unbounded()));
    let mut piece = Piece::new(Bytes::from_static(b"abc"), 3, Arc::clone(&flow));
    piece.advance(1);
    assert_eq!((piece.remaining(), piece.chunk()), (2, &b"bc"[..]));
    let held = flow.account().held();
    assert!(held > 3);
    drop(piece);
    let free = Piece::<Arc<Flow>>::free(Bytes::from_static(b"abc"));
    assert_eq!((free.remaining(), flow.account().held()), (3, 0));

    let buffer = Bytes::from(vec![7; BUFFER]);
    let (small, memory) = unshared(buffer.slice(..10));
    assert_eq!((&*small, memory), (&[7; 10][..], 10));
    assert_ne!(small.as_ptr(), buffer.as_ptr());
    let (large, memory) = unshared(buffer.slice(..2000));
    assert_eq!((large.as_ptr(), memory), (buffer.as_ptr(), BUFFER));
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;

fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Vec<u8> {
    let size = u32::try_from(length).expect("short").to_be_bytes();
    let mut frame = size[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.resize(frame.len() + length, 0);
    frame
}

/// A client's connection on which these bytes were read, in steps.
async fn read(account: &Arc<Account>, bytes: &[u8], step: usize) -> Result<Rc<Unread>> {
    let unread = Rc::new(Unread::new(account, 10_000));
    let (mut client, server) = duplex(MIB * 4);
    let mut frames = Frames::of_client(server, Rc::clone(&unread));
    client
        .write_all(&[&[0; 24], bytes].concat())
        .await
        .map_err(Error::other)?;
    drop(client);
    let mut buffer = vec![0; step];
    while frames.read(&mut buffer).await? > 0 {}
    Ok(unread)
}

#[tokio::test]
async fn frames_count_until_they_are_taken_however_they_arrive() {
    let bytes = [
        frame(HEADERS, 4, 1, 20),
        frame(DATA, 0, 1, 300),
        frame(PING, 0, 0, 8),
        frame(DATA, 1, 1, 10),
        frame(DATA, 0, 1, 0),
    ]
    .concat();
    for step in [1, 7, 100, 10_000] {
        let account = Account::unbounded();
        let unread = read(&account, &bytes, step).await.expect("read");
        assert_eq!(unread.frames.get(), 2, "{step}");
        assert!(account.held() >= 310, "{step}: {}", account.held());
        unread.taken();
        assert!(account.held() > 0);
        unread.taken();
        assert_eq!(account.held(), 0, "{step}");
    }
}

#[tokio::test]
async fn a_frame_counts_for_what_came_with_it_but_for_no_more_than_it_can_keep() {
    let held = async |between: usize| {
        let account = Account::unbounded();
        let one = [frame(DATA, 0, 1, 1), frame(0xfa, 0, 0, between)].concat();
        let _unread = read(&account, &one.repeat(10), 4096).await.expect("read");
        account.held()
    };
    assert!(held(0).await < 3 * BUFFER);
    assert!(held(8 * 1024).await >= 10 * 8 * 1024);
    assert!(held(200 * 1024).await < 10 * (2 * BUFFER + 1000));
}

#[tokio::test]
async fn blocks_and_trailers_count_as_they_may_unpack() {
    let account = Account::unbounded();
    let open = [frame(HEADERS, 0, 1, 30), frame(CONTINUATION, 0, 1, 200)].concat();
    let unread = read(&account, &open, 100).await.expect("read");
    assert_eq!(account.held(), 20_000);
    drop(unread);
    let closed = [open, frame(CONTINUATION, 4, 1, 1)].concat();
    let unread = read(&account, &closed, 100).await.expect("read");
    assert_eq!(account.held(), 0, "a new request is taken at once");
    drop(unread);
    let trailers = [closed, frame(HEADERS, 5, 1, 10), frame(HEADERS, 5, 1, 20)].concat();
    let unread = read(&account, &trailers, 100).await.expect("read");
    assert_eq!(account.held(), 30 * 128);
    unread.trailers_taken();
    assert_eq!(account.held(), 15 * 128);
    unread.trailers_taken();
    unread.trailers_taken();
    assert_eq!(account.held(), 0);
}

#[tokio::test]
async fn what_was_thrown_away_is_forgotten_when_nobody_waits() {
    let account = Account::unbounded();
    let bytes = frame(DATA, 0, 1, 100).repeat(3);
    let unread = read(&account, &bytes, 4096).await.expect("read");
    unread.settle(false);
    assert!(account.held() > 0, "someone has not read it yet");
    unread.settle(true);
    assert_eq!(account.held(), 0);
    let unread = read(&account, &bytes, 4096).await.expect("read");
    unread.settle(true);
    assert!(account.held() > 0, "it came just now");
    unread.settle(true);
    assert_eq!(account.held(), 0);
}

#[tokio::test]
async fn a_source_without_memory_brings_nothing_more() {
    let purses = Purses::new(8 * MIB as u64);
    let account = purses.open(POD);
    account.take(9 * MIB);
    for kind in [DATA, HEADERS] {
        let refused = read(&account, &frame(kind, 0, 1, 10), 4096).await;
        assert!(refused.is_err());
    }
    // What lets go of something may come.
    let window = read(&account, &frame(8, 0, 0, 4), 4096).await;
    assert!(window.is_ok_and(|unread| !unread.is_cut()));
}

#[test]
fn complete_answers_count_until_the_socket_took_them() {
    let account = Account::unbounded();
    let answered = Answered::new(&account);
    answered.add(1000, 0, true);
    answered.settle(true);
    answered.settle(true);
    answered.add(1000, 0, true);
    assert!(account.held() > 2000, "nobody took anything");
    answered.settle(false);
    let held = account.held();
    assert!(
        held > 1000 && held < 3000,
        "the last may just have come: {held}"
    );
    answered.settle(false);
    assert_eq!(account.held(), 0);
}

#[test]
fn answers_count_until_they_are_written_however_fast_they_come() {
    let account = Account::unbounded();
    let answered = Answered::new(&account);
    for written in 1..10_000 {
        answered.add(1000, written, false);
        assert!(account.held() < 5000, "{} after {written}", account.held());
    }
    for _nothing_written in 0..100 {
        answered.add(1000, 10_000, false);
    }
    assert!(account.held() > 100_000, "they wait together");
    for written in 10_001..10_100 {
        answered.add(1000, written, true);
    }
    assert!(account.held() > 200_000, "the socket takes no more");
    answered.add(1000, 10_101, false);
    answered.add(1000, 10_102, false);
    assert!(account.held() < 5000, "{}", account.held());
}
