use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::{Kv, KvError, KvQuota};

const MS: u64 = 1_000_000;

fn kv(keys: usize, bytes: usize) -> Kv {
    Kv::new(KvQuota {
        keys,
        bytes,
        ..KvQuota::default()
    })
}

fn read(kv: &Kv, key: &str, now: u64) -> Option<Vec<u8>> {
    kv.get(key, now).map(|entry| entry.value.to_vec())
}

#[test]
fn a_value_lives_as_long_as_it_was_told_to() {
    let kv = Kv::new(KvQuota::default());
    let ttl = Some(Duration::from_millis(10));
    kv.set("a", b"1", ttl, 0).expect("room");
    assert_eq!(read(&kv, "a", 10 * MS - 1), Some(b"1".to_vec()));
    assert_eq!(read(&kv, "a", 10 * MS), None);
    kv.set("a", b"2", None, 10 * MS).expect("room");
    assert_eq!(read(&kv, "a", u64::MAX), Some(b"2".to_vec()));
    assert_eq!(kv.keys(), 1);
}

#[test]
fn a_swap_needs_the_version_that_is_there() {
    let kv = Kv::new(KvQuota::default());
    let first = kv.compare_and_swap("a", None, b"1", None, 0).expect("new");
    assert_eq!(
        kv.compare_and_swap("a", None, b"2", None, 0),
        Err(KvError::Conflict(Some(first)))
    );
    let second = kv
        .compare_and_swap("a", Some(first), b"2", None, 0)
        .expect("unchanged");
    assert!(second > first);
    assert_eq!(
        kv.compare_and_swap("a", Some(first), b"3", None, 0),
        Err(KvError::Conflict(Some(second)))
    );
    kv.remove("a");
    assert_eq!(
        kv.compare_and_swap("a", Some(second), b"3", None, 0),
        Err(KvError::Conflict(None))
    );
}

#[test]
fn a_swap_takes_what_is_over_for_gone() {
    let kv = Kv::new(KvQuota::default());
    let ttl = Some(Duration::from_millis(1));
    let version = kv.set("a", b"1", ttl, 0).expect("room");
    assert_eq!(
        kv.compare_and_swap("a", Some(version), b"2", None, MS),
        Err(KvError::Conflict(None))
    );
    kv.compare_and_swap("a", None, b"2", None, MS)
        .expect("gone");
}

#[test]
fn a_counter_counts_from_its_first_increment() {
    let kv = Kv::new(KvQuota::default());
    let ttl = Some(Duration::from_secs(1));
    assert_eq!(kv.increment("n", 2, ttl, 0), Ok(2));
    assert_eq!(kv.increment("n", -5, ttl, 999 * MS), Ok(-3));
    assert_eq!(kv.increment("n", 1, ttl, 1000 * MS), Ok(1), "a new window");
    assert_eq!(
        read(&kv, "n", 1000 * MS),
        Some(1_i64.to_le_bytes().to_vec())
    );
}

#[test]
fn a_counter_neither_overflows_nor_adds_to_text() {
    let kv = Kv::new(KvQuota::default());
    kv.set("text", b"one", None, 0).expect("room");
    assert!(matches!(
        kv.increment("text", 1, None, 0),
        Err(KvError::Invalid(_))
    ));
    assert_eq!(kv.increment("n", i64::MAX, None, 0), Ok(i64::MAX));
    assert!(matches!(
        kv.increment("n", 1, None, 0),
        Err(KvError::Invalid(_))
    ));
    assert_eq!(kv.increment("n", 0, None, 0), Ok(i64::MAX));
}

#[test]
fn the_quota_is_of_keys_and_of_bytes() {
    let kv = kv(2, 1000);
    kv.set("a", &[0; 300], None, 0).expect("room");
    kv.set("b", &[0; 300], None, 0).expect("room");
    assert_eq!(kv.set("c", b"", None, 0), Err(KvError::Quota));
    assert_eq!(kv.increment("c", 1, None, 0), Err(KvError::Quota));
    assert_eq!(kv.set("b", &[0; 600], None, 0), Err(KvError::Quota));
    kv.set("b", &[0; 400], None, 0)
        .expect("in place of another");
    kv.remove("a");
    kv.set("c", b"", None, 0).expect("room again");
    assert_eq!(kv.keys(), 2);
    kv.remove("b");
    kv.remove("c");
    assert_eq!((kv.keys(), kv.bytes()), (0, 0));
}

#[test]
fn what_is_over_makes_room() {
    let kv = kv(2, 10_000);
    let ttl = Some(Duration::from_millis(1));
    kv.set("a", b"", ttl, 0).expect("room");
    kv.set("b", b"", ttl, 0).expect("room");
    assert_eq!(kv.set("c", b"", None, 0), Err(KvError::Quota));
    kv.set("c", b"", None, MS).expect("both are over");
    // Where the first that was looked at made enough room, the other is still kept.
    kv.sweep(MS, usize::MAX);
    assert_eq!(kv.keys(), 1);
}

#[test]
fn keys_and_values_have_a_length() {
    let kv = Kv::new(KvQuota::default());
    let long = "k".repeat(513);
    for (key, value) in [("", 0), (long.as_str(), 0), ("k", (1 << 20) + 1)] {
        let error = kv.set(key, &vec![0; value], None, 0);
        assert!(matches!(error, Err(KvError::Invalid(_))), "{error:?}");
    }
    assert_eq!(kv.keys(), 0);
}

#[test]
fn no_increment_of_many_threads_is_lost() {
    let kv = Arc::new(Kv::new(KvQuota::default()));
    let threads: Vec<_> = (0..4)
        .map(|_thread| {
            let kv = Arc::clone(&kv);
            thread::spawn(move || {
                for round in 0..1000 {
                    kv.increment(&format!("n{}", round % 5), 1, None, 0)
                        .expect("room");
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    for key in 0..5 {
        assert_eq!(kv.increment(&format!("n{key}"), 0, None, 0), Ok(800));
    }
    assert_eq!(kv.keys(), 5);
}

fn set_while_room(kv: &Kv, key: &str, value: &[u8]) -> Result<u64, KvError> {
    kv.set_while_room(key, value, 0)
}

#[test]
fn what_was_written_first_gives_way() {
    let kv = kv(3, 10_000);
    for key in ["a", "b", "c"] {
        set_while_room(&kv, key, b"1").expect("room");
    }
    set_while_room(&kv, "a", b"2").expect("in place of another");
    set_while_room(&kv, "d", b"1").expect("room is made");
    let there = |key| read(&kv, key, 0).is_some();
    assert_eq!(
        ["a", "b", "c", "d"].map(there),
        [true, false, true, true],
        "reading does not count, writing does"
    );
    let b = kv.compare_low("b", 1, b"2", 0);
    assert_eq!(b, Err(KvError::Conflict(None)), "it is gone");
    let version = kv.get("c", 0).expect("there").version;
    kv.compare_low("c", super::low(version), b"2", 0)
        .expect("unchanged");
    set_while_room(&kv, "e", b"1").expect("room is made");
    assert_eq!(["a", "c", "d", "e"].map(there), [false, true, true, true]);
    assert_eq!(kv.keys(), 3);
}

#[test]
fn as_much_gives_way_as_there_has_to_be_room() {
    let kv = kv(1000, 10_000);
    // Each takes 100 bytes.
    for number in 0..100 {
        set_while_room(&kv, &format!("k{number:02}"), b"1").expect("room");
    }
    assert_eq!(kv.bytes(), 10_000);
    set_while_room(&kv, "large", &[0; 399]).expect("room is made");
    assert_eq!(kv.keys(), 96);
    assert_eq!(read(&kv, "k04", 0), None);
    assert_eq!(read(&kv, "k05", 0), Some(b"1".to_vec()));
    // Larger than all of it: nothing gives way for what finds no room after.
    assert_eq!(
        set_while_room(&kv, "larger", &[0; 10_001]),
        Err(KvError::Quota)
    );
    assert_eq!(kv.keys(), 96);
}

#[test]
fn only_what_may_gives_way_and_only_for_its_like() {
    let kv = kv(2, 10_000);
    kv.set("good", b"1", None, 0).expect("room");
    let ttl = Some(Duration::from_secs(1));
    kv.set("timed", b"1", ttl, 0).expect("room");
    assert_eq!(set_while_room(&kv, "x", b""), Err(KvError::Quota));
    kv.remove("timed");
    set_while_room(&kv, "x", b"").expect("room");
    assert_eq!(kv.set("y", b"", None, 0), Err(KvError::Quota));
    assert_eq!(kv.set("y", b"", ttl, 0), Err(KvError::Quota));
    assert_eq!(kv.increment("n", 1, None, 0), Err(KvError::Quota));
    // Written otherwise, it stays.
    kv.set("x", b"2", None, 0).expect("in place of another");
    assert_eq!(set_while_room(&kv, "z", b""), Err(KvError::Quota));
    assert_eq!(read(&kv, "x", 0), Some(b"2".to_vec()));
    kv.remove("x");
    kv.remove("good");
    assert_eq!((kv.keys(), kv.bytes()), (0, 0));
}

#[test]
fn what_is_over_goes_before_what_gives_way() {
    let kv = kv(2, 10_000);
    kv.set("timed", b"1", Some(Duration::from_millis(1)), 0)
        .expect("room");
    set_while_room(&kv, "first", b"").expect("room");
    kv.set_while_room("second", b"", MS).expect("room");
    assert_eq!(read(&kv, "first", MS), Some(Vec::new()));
}

#[test]
fn workers_that_make_room_at_once_find_it() {
    let kv = Arc::new(kv(64, 1 << 20));
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let kv = Arc::clone(&kv);
            thread::spawn(move || {
                for round in 0..2000 {
                    set_while_room(&kv, &format!("{thread}-{round}"), b"v").expect("room");
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().expect("no panic");
    }
    assert!(kv.keys() <= 64, "{}", kv.keys());
    let newest = (0..4).filter(|thread| read(&kv, &format!("{thread}-1999"), 0).is_some());
    assert!(newest.count() > 0);
}
