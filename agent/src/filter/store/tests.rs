use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn opened(dir: &tempfile::TempDir) -> Store {
    Store::open(dir.path().join("modules")).expect("opened")
}

fn whole(store: &Store, digest: ModuleDigest) -> io::Result<Vec<u8>> {
    let mut file = store.read(digest)?;
    let mut all = Vec::new();
    loop {
        match file.part(4)? {
            part if part.is_empty() => return Ok(all),
            part => all.extend(part),
        }
    }
}

/// Modules in use, each by filters of a namespace.
fn by(used: &[(ModuleDigest, &str)]) -> BTreeMap<ModuleDigest, BTreeSet<Box<str>>> {
    let mut all: BTreeMap<_, BTreeSet<Box<str>>> = BTreeMap::new();
    for (digest, tenant) in used {
        all.entry(*digest).or_default().insert((*tenant).into());
    }
    all
}

#[test]
fn what_was_kept_is_there_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = opened(&dir);
    let digest = store.put(b"a module", "shop").expect("kept");
    store.note("file://a", digest);
    store.note("file://b", ModuleDigest([7; 32]));
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&dir.path().join("modules")), 0o700);
    assert_eq!(mode(&store.path(digest)), 0o600);
    fs::write(dir.path().join("modules/half.new"), "x").expect("written");

    let store = opened(&dir);
    assert_eq!(store.last_of("file://a"), Some(digest));
    assert_eq!(store.last_of("file://b"), None, "its module is not there");
    assert_eq!(whole(&store, digest).expect("read"), b"a module");
    assert!(!dir.path().join("modules/half.new").exists());
}

#[test]
fn what_nothing_names_goes_in_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = opened(&dir);
    let used = store.put(b"used", "shop").expect("kept");
    let idle = store.put(b"idle", "shop").expect("kept");
    store.note("file://used", used);
    store.note("file://idle", idle);
    let sources = BTreeSet::from(["file://used".to_owned()]);
    let now = Instant::now();
    store.retain(&sources, by(&[(used, "shop")]), now);
    assert!(store.has(idle), "a proxy may still ask for it");
    assert_eq!(store.last_of("file://idle"), None);
    let later = now + KEPT_UNUSED + Duration::from_secs(60);
    store.retain(&sources, by(&[(used, "shop")]), later);
    assert!(!store.has(idle) && store.has(used));
    assert!(!store.path(idle).exists());
    assert_eq!(store.last_of("file://used"), Some(used));
}

#[test]
fn what_is_in_use_keeps_its_room() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = opened(&dir);
    let used = store.put(b"used", "shop").expect("kept");
    let idle = store.put(b"idle", "shop").expect("kept");
    let now = Instant::now();
    store.retain(&BTreeSet::new(), by(&[(used, "shop")]), now);
    // As if it were that large.
    store.kept().sizes.insert(idle, MAX_STORE - 8);
    let new = store
        .put(b"another", "shop")
        .expect("the idle one gives way");
    assert!(!store.has(idle) && store.has(used) && store.has(new));
    store.retain(&BTreeSet::new(), by(&[(used, "shop"), (new, "shop")]), now);
    store.kept().sizes.insert(used, MAX_STORE - 8);
    let full = store.put(b"one more", "shop").expect_err("no room");
    assert!(matches!(full, StoreError::Full { .. }), "{full}");
}

#[test]
fn a_module_that_changed_on_disk_is_never_handed_on_as_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = opened(&dir);
    let digest = store.put(b"a module", "shop").expect("kept");
    store.note("file://a", digest);
    fs::write(store.path(digest), b"a nodule").expect("written");
    let error = whole(&store, digest).expect_err("noticed");
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    assert!(!store.has(digest));
    assert_eq!(store.last_of("file://a"), None);
    let none = store.read(digest).expect_err("gone");
    assert_eq!(none.kind(), io::ErrorKind::NotFound);
}

#[tokio::test]
async fn a_namespace_that_takes_most_gives_way_to_others() {
    const SHARE: u64 = MAX_STORE / 4;
    let dir = tempfile::tempdir().expect("a directory");
    let store = opened(&dir);
    let keep = |name: &[u8], tenant: &str, size: u64| {
        let digest = store.put(name, tenant).expect("kept");
        // As if it were that large.
        store.kept().sizes.insert(digest, size);
        digest
    };
    let large: Vec<_> = (0..4)
        .map(|number| keep(&[number], "mallory", SHARE - u64::from(number)))
        .collect();
    let mut used: Vec<_> = large.iter().map(|one| (*one, "mallory")).collect();
    store.retain(&BTreeSet::new(), by(&used), Instant::now());
    let own = store.put(&[b'm'; 100], "mallory").expect_err("no room");
    let StoreError::Full {
        own: of, used: all, ..
    } = own
    else {
        panic!("{own}")
    };
    assert_eq!(of, all);

    let shop = store.put(&[b's'; 100], "shop").expect("others give way");
    assert!(store.has(shop) && !store.has(large[0]), "the largest");
    assert!(large[1..].iter().all(|one| store.has(*one)));
    // Its sources are told.
    store.lost().await;
    used.remove(0);
    used.push((shop, "shop"));
    // To name what another one has takes nothing from it.
    used.push((shop, "mallory"));
    store.retain(&BTreeSet::new(), by(&used), Instant::now());
    assert_eq!(store.kept().accounts()[&shop].0, "shop");
    store.kept().sizes.insert(shop, SHARE);
    store.put(&[b'b'; 100], "bank").expect("mallory gives way");
    assert!(store.has(shop));
}

#[tokio::test]
async fn a_file_that_was_removed_is_lost() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = opened(&dir);
    let digest = store.put(b"a module", "shop").expect("kept");
    store.note("file://a", digest);
    fs::remove_file(store.path(digest)).expect("removed");
    let none = store.read(digest).expect_err("gone");
    assert_eq!(none.kind(), io::ErrorKind::NotFound);
    store.lost().await;
    assert!(!store.has(digest));
    assert_eq!(store.last_of("file://a"), None);
    // Put before anybody noticed, it is written again.
    let digest = store.put(b"a module", "shop").expect("kept");
    fs::remove_file(store.path(digest)).expect("removed");
    store.put(b"a module", "shop").expect("kept");
    assert_eq!(whole(&store, digest).expect("read"), b"a module");
}
