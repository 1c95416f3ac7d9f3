use weft_api::k8s::filter::OciReference;

use super::*;

struct Rig {
    modules: Modules,
    store: Store,
    now: Instant,
    _dir: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path().join("modules")).expect("opened");
        Self {
            modules: Modules::new(store.clone(), Duration::from_secs(600)),
            store,
            now: Instant::now(),
            _dir: dir,
        }
    }

    fn want(&mut self, sources: &[&ModuleSource]) {
        self.want_for(&sources.iter().map(|one| (*one, "shop")).collect::<Vec<_>>());
    }

    /// Each for filters of a namespace.
    fn want_for(&mut self, sources: &[(&ModuleSource, &str)]) {
        let mut all: BTreeMap<ModuleSource, Wanted> = BTreeMap::new();
        for (source, tenant) in sources {
            let wanted = all.entry((*source).clone()).or_default();
            wanted.add(tenant, true);
        }
        self.modules.want(&all, self.now);
    }

    /// Nothing on this node needs these.
    fn leave(&mut self, sources: &[ModuleSource]) {
        let mut idle = Wanted::default();
        idle.add("shop", false);
        let all = sources.iter().map(|source| (source.clone(), idle.clone()));
        self.modules.want(&all.collect(), self.now);
    }

    /// How long until the next look; none when nothing is due.
    fn wait(&self) -> Option<Duration> {
        let due = self.modules.due()?;
        Some(due.saturating_duration_since(self.now))
    }

    fn looks(&mut self) -> Vec<Look> {
        self.now += self.wait().unwrap_or_default();
        self.modules.start(self.now)
    }

    fn start(&mut self) -> Vec<ModuleSource> {
        self.looks().into_iter().map(|look| look.source).collect()
    }

    /// This is looked at now, and nothing else.
    fn starts(&mut self, source: &ModuleSource) {
        let started = self.start();
        assert!(
            matches!(&started[..], [only] if only == source),
            "{started:?}"
        );
    }

    fn find(&mut self, source: &ModuleSource, content: &[u8]) -> ModuleDigest {
        let digest = self.store.put(content, "shop").expect("kept");
        let found = Some(Ok(Found::Module(digest, None)));
        self.modules.ended(source, found, self.now);
        digest
    }

    fn fail(&mut self, source: &ModuleSource) {
        let failed = Some(Err("gone".to_owned()));
        self.modules.ended(source, failed, self.now);
    }
}

fn source(location: Location, refresh: Refresh) -> ModuleSource {
    ModuleSource {
        location,
        sha256: None,
        pull_secret: None,
        refresh,
    }
}

fn image(tag: &str, refresh: Refresh) -> ModuleSource {
    let reference = OciReference {
        registry: "registry.example".into(),
        repository: "jwt".into(),
        tag: Some(tag.into()),
        digest: None,
    };
    source(Location::Oci(reference), refresh)
}

#[test]
fn failures_are_tried_again_ever_later_and_leave_what_there_was() {
    let mut rig = Rig::new();
    let image = image("latest", Refresh::Periodic);
    rig.want(&[&image]);
    let mut waits = Vec::new();
    for _ in 0..12 {
        rig.starts(&image);
        assert_eq!(rig.wait(), None, "it runs");
        rig.fail(&image);
        waits.push(rig.wait().expect("again").as_secs());
    }
    assert_eq!(waits[..4], [1, 2, 4, 8]);
    assert_eq!(waits[11], 300);
    let (none, told) = rig.modules.state(&image);
    assert_eq!(none, None);
    assert_eq!(told, Some("oci://registry.example/jwt:latest: gone"));

    rig.start();
    let digest = rig.find(&image, b"one");
    assert_eq!(rig.modules.state(&image), (Some(digest), None));
    assert_eq!(rig.wait(), Some(Duration::from_secs(600)));
    rig.start();
    rig.fail(&image);
    let (still, told) = rig.modules.state(&image);
    assert_eq!(still, Some(digest));
    assert!(told.is_some());
    assert_eq!(rig.wait(), Some(Duration::from_secs(1)), "it begins anew");
}

#[test]
fn what_cannot_change_is_looked_at_once() {
    let mut rig = Rig::new();
    let fixed = image("1", Refresh::Never);
    rig.want(&[&fixed]);
    rig.start();
    let digest = rig.find(&fixed, b"one");
    assert_eq!(rig.wait(), None);
    // After a restart it is there at once.
    rig.modules = Modules::new(rig.store.clone(), Duration::from_secs(600));
    rig.want(&[&fixed]);
    assert_eq!(rig.modules.state(&fixed), (Some(digest), None));
    assert_eq!(rig.wait(), None);
    rig.store.put(b"other", "shop").expect("kept");
    rig.want(&[]);
    rig.want(&[&fixed]);
    assert_eq!(
        rig.modules.state(&fixed),
        (None, None),
        "forgotten with its filter"
    );
}

#[test]
fn files_and_maps_are_watched() {
    let mut rig = Rig::new();
    let file = source(Location::File("a.wasm".into()), Refresh::Never);
    let map = Location::ConfigMap {
        namespace: "shop".into(),
        name: "filters".into(),
        key: "a.wasm".into(),
    };
    let map = source(map, Refresh::Never);
    rig.want(&[&file, &map]);
    assert_eq!(rig.start().len(), 2);
    let both = [("shop".to_owned(), "filters".to_owned())];
    assert_eq!(rig.modules.maps(), BTreeSet::from(both));
    // It changes while it is read: it is read again.
    rig.modules.map_changed("shop", "filters", rig.now);
    rig.find(&map, b"map");
    assert_eq!(rig.wait(), Some(Duration::ZERO));
    rig.starts(&map);
    rig.find(&map, b"map");
    assert_eq!(rig.wait(), None);
    rig.modules.map_changed("bank", "filters", rig.now);
    assert_eq!(rig.wait(), None);
    rig.modules.map_changed("shop", "filters", rig.now);
    rig.starts(&map);
    rig.find(&map, b"map");

    let digest = rig.find(&file, b"file");
    assert_eq!(rig.wait(), Some(FILES));
    rig.starts(&file);
    rig.modules.ended(&file, Some(Ok(Found::Same)), rig.now);
    assert_eq!(rig.modules.state(&file), (Some(digest), None));
    for _ in 0..9 {
        rig.start();
        rig.fail(&file);
    }
    assert_eq!(rig.wait(), Some(FILES), "a file that is missing may come");
}

fn images(names: &str, count: usize) -> Vec<ModuleSource> {
    let tags = (0..count).map(|tag| format!("{names}{tag}"));
    tags.map(|tag| image(&tag, Refresh::Never)).collect()
}

/// Each of these for filters of a namespace.
fn of<'s>(tenant: &'s str, sources: &'s [ModuleSource]) -> Vec<(&'s ModuleSource, &'s str)> {
    sources.iter().map(|source| (source, tenant)).collect()
}

#[test]
fn only_what_the_node_needs_is_looked_at_and_not_everything_at_once() {
    let mut rig = Rig::new();
    let (shop, bank) = (images("a", 4), images("b", 4));
    rig.leave(&shop);
    assert_eq!((rig.start(), rig.wait()), (vec![], None));
    rig.want_for(&[of("shop", &shop), of("bank", &bank)].concat());
    let mut first = rig.start();
    first.sort();
    assert_eq!(first, [&shop[..2], &bank[..2]].concat());
    assert_eq!((rig.start(), rig.wait()), (vec![], None));
    rig.fail(&shop[1]);
    assert_eq!(rig.start(), [shop[2].clone()]);
    rig.leave(&[shop.clone(), bank].concat());
    for image in &shop {
        rig.find(image, b"late");
    }
    assert_eq!(rig.wait(), None);
}

#[test]
fn a_source_that_changes_all_the_time_is_not_looked_at_in_all_its_versions() {
    let mut rig = Rig::new();
    let versions = images("a", 100);
    let mut looks = Vec::new();
    for version in &versions {
        rig.want(&[version]);
        looks.extend(rig.looks());
        let open = looks.iter().filter(|look| !look.stop.is_cancelled());
        assert!(open.count() <= 1, "nobody wants the others");
    }
    assert_eq!(looks.len(), 2, "they have their slots until they end");
    rig.modules.ended(&versions[0], None, rig.now);
    rig.starts(&versions[99]);
    rig.modules.ended(&versions[1], None, rig.now);
    assert_eq!(rig.wait(), None);
    rig.find(&versions[99], b"the last");
    assert!(rig.modules.state(&versions[99]).0.is_some());
}

#[test]
fn a_look_that_was_broken_off_is_done_again_for_who_wants_it_again() {
    let mut rig = Rig::new();
    let image = image("1", Refresh::Never);
    rig.want(&[&image]);
    let looks = rig.looks();
    rig.want(&[]);
    assert!(looks[0].stop.is_cancelled());
    rig.want(&[&image]);
    assert_eq!(rig.start(), [], "the first has not ended");
    rig.modules.ended(&image, None, rig.now);
    rig.starts(&image);
}

#[test]
fn servers_that_never_answer_keep_nobody_else_waiting() {
    let mut rig = Rig::new();
    let tarpits = images("tarpit", 20);
    let more = images("more", 20);
    rig.want_for(&[of("mallory", &tarpits), of("marvin", &more)].concat());
    let stuck = rig.start();
    assert_eq!(stuck.len(), 4);
    // Others come later; what is at hand needs none of these slots.
    rig.now += Duration::from_secs(1);
    let shop = images("shop", 1);
    let file = source(Location::File("a.wasm".into()), Refresh::Never);
    let all = [
        of("mallory", &tarpits),
        of("marvin", &more),
        of("shop", &shop),
    ]
    .concat();
    rig.want_for(&[all, vec![(&file, "shop")]].concat());
    rig.starts(&file);
    // The first slot that is free is that of who has none.
    rig.fail(&stuck[0]);
    rig.starts(&shop[0]);
    rig.find(&shop[0], b"shop");
    assert_eq!(rig.start().len(), 1);
}

#[test]
fn of_one_namespace_what_is_due_longest_comes_first() {
    let mut rig = Rig::new();
    let https = |host: &str| {
        let url = format!("https://{host}/a.wasm");
        source(Location::Https(url), Refresh::Never)
    };
    let hosts: Vec<_> = ["a", "b", "c", "d"].map(https).into();
    let image = images("", 1);
    // In order of their names all of HTTPS comes before all registries.
    rig.want(&[&hosts[2], &hosts[3]]);
    rig.start();
    rig.want(&[&hosts[2], &hosts[3], &image[0]]);
    rig.now += Duration::from_secs(1);
    rig.want(&[&hosts[0], &hosts[1], &hosts[2], &hosts[3], &image[0]]);
    rig.fail(&hosts[2]);
    rig.starts(&image[0]);
    rig.fail(&hosts[3]);
    rig.starts(&hosts[0]);
}

#[test]
fn only_maps_that_the_node_needs_are_watched() {
    let mut rig = Rig::new();
    let map = Location::ConfigMap {
        namespace: "shop".into(),
        name: "filters".into(),
        key: "a.wasm".into(),
    };
    let map = source(map, Refresh::Never);
    rig.leave(std::slice::from_ref(&map));
    assert!(rig.modules.maps().is_empty());
    rig.want(&[&map]);
    assert_eq!(rig.modules.maps().len(), 1);
    rig.starts(&map);
}

#[test]
fn who_needs_a_source_is_whose_turn_it_is() {
    let mut wanted = Wanted::default();
    wanted.add("idle", false);
    wanted.add("shop", true);
    wanted.add("other", false);
    wanted.add("bank", true);
    let tenants: Vec<_> = wanted.tenants.iter().map(|one| &**one).collect();
    assert_eq!(tenants, ["bank", "shop"]);
}

#[test]
fn what_gave_way_before_it_was_noted_is_fetched_again() {
    let mut rig = Rig::new();
    let fixed = image("1", Refresh::Never);
    rig.want(&[&fixed]);
    rig.start();
    // Read, and gone by the time that it is told.
    let found = Some(Ok(Found::Module(ModuleDigest([7; 32]), None)));
    rig.modules.ended(&fixed, found, rig.now);
    let (none, told) = rig.modules.state(&fixed);
    assert_eq!(none, None);
    assert!(
        told.is_some_and(|told| told.contains("gave way")),
        "{told:?}"
    );
    rig.starts(&fixed);
}

#[test]
fn what_the_disk_lost_is_fetched_again() {
    let mut rig = Rig::new();
    let fixed = image("1", Refresh::Never);
    rig.want(&[&fixed]);
    rig.start();
    let digest = rig.find(&fixed, b"one");
    rig.modules.lost(rig.now);
    assert_eq!(rig.wait(), None, "it is there");
    let path = rig._dir.path().join("modules").join(digest.to_string());
    std::fs::write(path, "two").expect("written");
    let mut file = rig.store.read(digest).expect("opened");
    while file.part(1).is_ok() {}
    rig.modules.lost(rig.now);
    assert_eq!(rig.modules.state(&fixed), (None, None));
    assert_eq!(rig.start(), [fixed]);
}

#[test]
fn a_module_whose_file_was_removed_is_fetched_again() {
    let mut rig = Rig::new();
    let file = source(Location::File("a.wasm".into()), Refresh::Never);
    let fixed = image("1", Refresh::Never);
    rig.want(&[&fixed, &file]);
    rig.start();
    let digest = rig.find(&fixed, b"one");
    rig.find(&file, b"one");
    rig.starts(&file);
    let path = rig._dir.path().join("modules").join(digest.to_string());
    std::fs::remove_file(&path).expect("removed");
    let none = rig.store.read(digest).expect_err("gone");
    assert_eq!(none.kind(), std::io::ErrorKind::NotFound);
    rig.modules.lost(rig.now);
    assert_eq!(rig.modules.state(&fixed), (None, None));
    rig.starts(&fixed);
    rig.find(&fixed, b"one");
    assert!(path.is_file());
    // The file was being looked at, and was the one that it had been.
    rig.modules.ended(&file, Some(Ok(Found::Same)), rig.now);
    assert_eq!(rig.wait(), Some(Duration::ZERO));
    rig.starts(&file);
}

#[test]
fn what_may_be_a_secret_is_not_told() {
    let mut rig = Rig::new();
    let url = "https://modules.example/a.wasm?token=secret";
    let signed = source(Location::Https(url.into()), Refresh::Never);
    rig.want(&[&signed]);
    rig.starts(&signed);
    rig.fail(&signed);
    let (_, told) = rig.modules.state(&signed);
    assert_eq!(told, Some("https://modules.example/a.wasm?...: gone"));
}
