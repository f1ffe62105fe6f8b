//! Damage of every sort is found, and the object is named.

use bytes::Bytes;
use mainstay_model::progress::{Silent, Tally, Work};
use mainstay_model::{Blake3, ErrorKind, ExitStatus, ObjectName, Severity, StoreKind, sealed};
use mainstay_repository::{Leftover, LeftoverKind, Manifest, Repository, Set, SetEntry};
use mainstay_store::{Key, Store};

use crate::support::{Numbers, clock, name, options, repository, small_set, verify};

fn flipped(bytes: &Bytes, index: usize) -> Bytes {
    let mut damaged = bytes.to_vec();
    damaged[index] ^= 1 << (index % 8);
    damaged.into()
}

fn object_key(set: &Set, text: &str) -> Key {
    Key::new(format!("mongo/sets/{}/{text}.zst", set.id())).unwrap()
}

/// What reading an object to its end says.
async fn read_error(set: &Set, name: &ObjectName) -> mainstay_model::Error {
    let mut source = match set.read(name).await {
        Ok(source) => source,
        Err(error) => return error,
    };
    loop {
        match source.next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("{name} reads as if it were whole"),
            Err(error) => {
                assert!(source.next().await.is_err(), "an error is no end");
                return error;
            }
        }
    }
}

#[tokio::test]
async fn every_flipped_byte_of_every_object_is_found_and_named() {
    let (store, clock) = (Store::memory(), clock());
    let repository = repository(&store, &clock).await;
    let set = small_set(&repository).await;
    for entry in &set.manifest().objects {
        let key = object_key(&set, entry.name.as_str());
        let whole = store.get(&key, 1 << 20).await.unwrap();
        for index in 0..whole.len() {
            store.put(&key, flipped(&whole, index)).await.unwrap();
            let report = verify(&repository, &set).await;
            assert_eq!(report.findings.len(), 1, "byte {index} of {key}");
            let finding = &report.findings[0];
            assert_eq!(
                (finding.id.as_str(), finding.subject.as_str()),
                ("object.hash_differs", key.as_str())
            );
            assert_eq!(Severity::worst_exit_status(&report.findings), ExitStatus::Critical);
            let error = read_error(&set, &entry.name).await;
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains(key.as_str()), "{error}");
        }
        store.put(&key, whole).await.unwrap();
    }
    assert!(verify(&repository, &set).await.findings.is_empty());
}

#[tokio::test]
async fn stored_bytes_are_proven_without_being_decoded() {
    let (store, clock) = (Store::memory(), clock());
    let repository = repository(&store, &clock).await;
    let set = small_set(&repository).await;
    let stored: u64 = set.manifest().stored_bytes();
    let tally = Tally::default();
    let report = repository.verify_stored(&set, 2, &tally).await.unwrap();
    assert!(report.is_sound() && report.findings.is_empty());
    let objects = set.manifest().objects.len() as u64;
    assert_eq!(tally.total(), Work { items: objects, bytes: stored });
    for entry in &set.manifest().objects {
        let key = object_key(&set, entry.name.as_str());
        let whole = store.get(&key, 1 << 20).await.unwrap();
        let cut = whole.slice(..whole.len() - 1);
        for (damaged, id) in
            [(flipped(&whole, whole.len() / 2), "object.hash_differs"), (cut, "object.size_differs")]
        {
            store.put(&key, damaged).await.unwrap();
            let report = repository.verify_stored(&set, 2, &Silent).await.unwrap();
            assert_eq!((report.findings.len(), report.findings[0].id.as_str()), (1, id), "{key}");
            assert_eq!(report.findings[0].subject, key.as_str());
        }
        store.delete(&key).await.unwrap();
        let report = repository.verify_stored(&set, 2, &Silent).await.unwrap();
        assert_eq!(report.findings[0].id, "object.missing", "{key}");
        store.put(&key, whole).await.unwrap();
    }
    let manifest = Key::new(format!("mongo/sets/{}/manifest.json", set.id())).unwrap();
    store.put(&manifest, Bytes::from_static(b"?")).await.unwrap();
    let report = repository.verify_stored(&set, 2, &Silent).await.unwrap();
    assert_eq!(report.findings[0].id, "manifest.damaged");
}

#[tokio::test]
async fn every_flipped_byte_of_the_manifest_is_found_and_named() {
    let (store, clock) = (Store::memory(), clock());
    let repository = repository(&store, &clock).await;
    let set = small_set(&repository).await;
    let key = Key::new(format!("mongo/sets/{}/manifest.json", set.id())).unwrap();
    let whole = store.get(&key, 1 << 20).await.unwrap();
    for index in 0..whole.len() {
        store.put(&key, flipped(&whole, index)).await.unwrap();
        let error = repository.set(None, set.id()).await.unwrap_err();
        assert_eq!(error.kind().exit_status(), ExitStatus::Critical, "byte {index}: {error:?}");
        assert!(error.to_string().contains(key.as_str()), "{error}");
        let entries = repository.sets(None).await.unwrap();
        assert!(matches!(&entries[..], [SetEntry::Damaged { id, .. }] if id == set.id()), "byte {index}");
        assert!(repository.latest(StoreKind::Mongo).await.is_err());
        assert_eq!(repository.leftovers().await.unwrap(), [], "a damaged set is nobody's leftover");
        let report = verify(&repository, &set).await;
        assert_eq!(
            (report.findings[0].id.as_str(), report.findings[0].subject.as_str()),
            ("manifest.damaged", key.as_str())
        );
    }
    for length in 0..whole.len() {
        store.put(&key, whole.slice(..length)).await.unwrap();
        assert_eq!(
            repository.set(None, set.id()).await.unwrap_err().kind(),
            ErrorKind::Corrupt,
            "cut at {length}"
        );
    }
}

#[tokio::test]
async fn a_verified_set_without_its_manifest_is_damaged_and_kept() {
    let (store, clock) = (Store::memory(), clock());
    let repository = repository(&store, &clock).await;
    let unverified = small_set(&repository).await;
    let set = small_set(&repository).await;
    let report = verify(&repository, &set).await;
    repository.record_verification(&report).await.unwrap();
    let manifest = |set: &Set| Key::new(format!("mongo/sets/{}/manifest.json", set.id())).unwrap();
    let whole = store.get(&manifest(&set), 1 << 20).await.unwrap();
    for set in [&unverified, &set] {
        store.delete(&manifest(set)).await.unwrap();
    }
    let entries = repository.sets(None).await.unwrap();
    assert!(matches!(&entries[..], [SetEntry::Damaged { id, .. }] if id == set.id()), "{entries:?}");
    for error in [
        repository.set(None, set.id()).await.unwrap_err(),
        repository.latest(StoreKind::Mongo).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
        assert!(error.to_string().contains("manifest.json is missing"), "{error}");
    }
    assert_eq!(repository.headless_sets().await.unwrap(), [(StoreKind::Mongo, set.id().clone())]);
    let leftovers = repository.leftovers().await.unwrap();
    let [leftover] = &leftovers[..] else { panic!("{leftovers:?}") };
    assert_eq!(leftover.subject(), format!("mongo/sets/{}", unverified.id()));
    repository.remove_leftover(leftover).await.unwrap();

    // Not even somebody who saw it before it was verified removes it.
    let kind = LeftoverKind::Set { store: StoreKind::Mongo, id: set.id().clone() };
    let error = repository.remove_leftover(&Leftover { kind, ..leftover.clone() }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    store.put_new(&manifest(&set), whole).await.unwrap();
    assert!(verify(&repository, &set).await.is_sound());
}

#[tokio::test]
async fn every_flipped_byte_of_the_description_is_found_and_named() {
    let (store, clock) = (Store::memory(), clock());
    let opened = repository(&store, &clock).await;
    let set = small_set(&opened).await;
    let key = Key::new("mainstay.json").unwrap();
    let whole = store.get(&key, 1 << 20).await.unwrap();
    for index in 0..whole.len() {
        store.put(&key, flipped(&whole, index)).await.unwrap();
        let error = Repository::open(store.clone(), clock.clone(), options()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {index}");
        assert!(error.to_string().contains("mainstay.json"), "{error}");
        let report = verify(&opened, &set).await;
        assert_eq!(
            (report.findings[0].id.as_str(), report.findings[0].subject.as_str()),
            ("repository.damaged", "mainstay.json")
        );
    }
}

#[tokio::test]
async fn missing_short_long_and_extra_objects_are_told_apart() {
    let (store, clock) = (Store::memory(), clock());
    let repository = repository(&store, &clock).await;
    let set = small_set(&repository).await;
    let key = object_key(&set, "shop/users.bson");
    let whole = store.get(&key, 1 << 20).await.unwrap();
    let finding = async || {
        let report = verify(&repository, &set).await;
        assert_eq!(report.findings.len(), 1, "{:?}", report.findings);
        (report.findings[0].id.clone(), report.findings[0].subject.clone(), report.is_sound())
    };
    for length in 0..whole.len() {
        store.put(&key, whole.slice(..length)).await.unwrap();
        assert_eq!(
            finding().await,
            ("object.size_differs".to_owned(), key.to_string(), false),
            "cut at {length}"
        );
        let error = read_error(&set, &name("shop/users.bson")).await;
        assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains(key.as_str()), "{error}");
    }
    store.put(&key, [&whole[..], b"x"].concat().into()).await.unwrap();
    assert_eq!(finding().await.0, "object.size_differs");
    store.delete(&key).await.unwrap();
    assert_eq!(finding().await, ("object.missing".to_owned(), key.to_string(), false));
    let error = read_error(&set, &name("shop/users.bson")).await;
    assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("missing"), "{error}");
    store.put(&key, whole).await.unwrap();
    let extra = object_key(&set, "shop/other.bson");
    store.put(&extra, Bytes::from_static(b"?")).await.unwrap();
    assert_eq!(finding().await, ("object.unnamed".to_owned(), extra.to_string(), true));
}

#[tokio::test]
async fn a_manifest_in_the_wrong_place_is_damage() {
    let (store, clock) = (Store::memory(), clock());
    let opened = repository(&store, &clock).await;
    let (one, two) = (small_set(&opened).await, small_set(&opened).await);
    let key = |set: &Set| Key::new(format!("mongo/sets/{}/manifest.json", set.id())).unwrap();
    let bytes = store.get(&key(&one), 1 << 20).await.unwrap();
    store.put(&key(&two), bytes.clone()).await.unwrap();
    assert_eq!(opened.set(None, two.id()).await.unwrap_err().kind(), ErrorKind::Corrupt);

    let other = Store::memory();
    let stranger = repository(&other, &clock).await;
    other.put(&key(&one), bytes).await.unwrap();
    let error = stranger.set(None, one.id()).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains(opened.id()), "{error}");
}

#[tokio::test]
async fn a_newer_format_is_told_from_damage() {
    let (store, clock) = (Store::memory(), clock());
    let repository = repository(&store, &clock).await;
    let set = small_set(&repository).await;
    let mut manifest = serde_json::to_value(set.manifest()).unwrap();
    manifest["format"] = 2.into();
    manifest["objects"] = serde_json::json!({"shape": "unheard of"});
    let (bytes, _) = sealed::seal("manifest", &manifest).unwrap();
    store
        .put(&Key::new(format!("mongo/sets/{}/manifest.json", set.id())).unwrap(), bytes.into())
        .await
        .unwrap();
    let error = repository.set(None, set.id()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(matches!(&repository.sets(None).await.unwrap()[..], [SetEntry::Damaged { .. }]));
}

/// Replaces the one object of a set by `stored`, with a manifest that vouches for it and claims `plain_bytes`.
async fn forge(store: &Store, repository: &Repository, stored: Vec<u8>, plain_bytes: u64) -> Set {
    let writer = repository.begin_set(StoreKind::Mongo, "test").await.unwrap();
    writer.put(&name("o"), "documents", Bytes::new()).await.unwrap();
    let set = writer.commit(&()).await.unwrap();
    let mut manifest: Manifest = set.manifest().clone();
    manifest.objects[0].stored_bytes = stored.len() as u64;
    manifest.objects[0].blake3 = Blake3::of(&stored);
    manifest.objects[0].plain_bytes = plain_bytes;
    let (bytes, _) = sealed::seal("manifest", &manifest).unwrap();
    store
        .put(&Key::new(format!("mongo/sets/{}/manifest.json", set.id())).unwrap(), bytes.into())
        .await
        .unwrap();
    store.put(&object_key(&set, "o"), stored.into()).await.unwrap();
    repository.set(None, set.id()).await.unwrap()
}

#[tokio::test]
async fn hostile_frames_end_in_errors_without_taking_memory() {
    let (store, clock) = (Store::memory(), clock());
    let repository = repository(&store, &clock).await;
    let magic = [0x28, 0xB5, 0x2F, 0xFD];
    let tebibyte = (1_u64 << 40).to_le_bytes();
    // A single segment of one tebibyte: the whole content would be the window.
    let huge_segment = [&magic[..], &[0xE0], &tebibyte, &[0x01, 0, 0]].concat();
    // A window of 3.75 TiB.
    let huge_window = [&magic[..], &[0xC0, 0xFF], &tebibyte, &[0x01, 0, 0]].concat();
    // A small window, a tebibyte claimed, nothing there.
    let huge_claim = [&magic[..], &[0xC0, 0x50], &tebibyte, &[0x01, 0, 0]].concat();
    let zeros = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    let noise = Numbers::new(5).noise(5_000).to_vec();
    let two = [zstd::bulk::compress(b"one", 1).unwrap(), b"trailing".to_vec()].concat();
    let half = zstd::bulk::compress(&Numbers::new(6).noise(5_000), 1).unwrap()[..2_000].to_vec();
    let cases = [
        ("huge segment", huge_segment, 1 << 40, "object.undecodable"),
        ("huge window", huge_window, 1 << 40, "object.undecodable"),
        ("huge claim", huge_claim, 1 << 40, "object.plain_size_differs"),
        ("more than promised", zeros.clone(), 10, "object.plain_size_differs"),
        ("less than promised", zeros, u64::MAX, "object.plain_size_differs"),
        ("noise", noise, 5_000, "object.undecodable"),
        ("garbage behind", two, 3, "object.undecodable"),
        ("half a frame", half, 5_000, "object.undecodable"),
        ("nothing", Vec::new(), 5, "object.undecodable"),
    ];
    for (case, stored, plain_bytes, expected) in cases {
        let set = forge(&store, &repository, stored, plain_bytes).await;
        let report = verify(&repository, &set).await;
        assert_eq!(report.findings.len(), 1, "{case}: {:?}", report.findings);
        assert_eq!(report.findings[0].id, expected, "{case}: {:?}", report.findings);
        let error = read_error(&set, &name("o")).await;
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{case}");
    }
}

#[tokio::test]
async fn sizes_that_a_manifest_claims_do_not_overflow() {
    let (store, clock) = (Store::memory(), clock());
    let repository = repository(&store, &clock).await;
    let set = small_set(&repository).await;
    let mut manifest: Manifest = set.manifest().clone();
    for object in &mut manifest.objects {
        (object.plain_bytes, object.stored_bytes) = (u64::MAX, u64::MAX);
    }
    let (bytes, _) = sealed::seal("manifest", &manifest).unwrap();
    let key = Key::new(format!("mongo/sets/{}/manifest.json", set.id())).unwrap();
    store.put(&key, bytes.clone().into()).await.unwrap();
    let set = repository.set(None, set.id()).await.unwrap();
    assert_eq!((set.manifest().plain_bytes(), set.manifest().stored_bytes()), (u64::MAX, u64::MAX));
    let tally = Tally::default();
    let report = repository.verify(&set, &|_| None, 2, &tally).await.unwrap();
    assert_eq!(report.findings.len(), 3);
    assert_eq!((report.bytes, report.stored_bytes), (0, u64::MAX));
    repository.record_verification(&report).await.unwrap();

    // The stored sizes are true, the plain ones are not: no memory is taken for what is claimed.
    for object in &mut manifest.objects {
        let key = object_key(&set, object.name.as_str());
        object.stored_bytes = store.get(&key, 1 << 20).await.unwrap().len() as u64;
    }
    let (bytes, _) = sealed::seal("manifest", &manifest).unwrap();
    store.put(&key, bytes.into()).await.unwrap();
    let set = repository.set(None, set.id()).await.unwrap();
    for entry in &set.manifest().objects {
        let error = set.read_all(&entry.name, usize::MAX).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
    let report = repository.verify(&set, &|_| None, 2, &tally).await.unwrap();
    assert!(report.findings.iter().all(|finding| finding.id == "object.plain_size_differs"), "{report:?}");
    assert_eq!((report.findings.len(), report.bytes), (3, 760));
}

#[tokio::test]
async fn a_store_that_fails_is_not_mistaken_for_damage() {
    use mainstay_store::{Fault, Faults, Verb};
    let (store, clock) = (Store::memory(), clock());
    small_set(&repository(&store, &clock).await).await;
    let faults = Faults::new();
    let shaky = repository(&store.with_faults(faults.clone()), &clock).await;
    let set = shaky.latest(StoreKind::Mongo).await.unwrap().unwrap();
    let _ = faults.clone().and(Fault::fail(ErrorKind::Unreachable).on(Verb::Read));
    let error = shaky.verify(&set, &|_| None, 4, &Silent).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert_eq!(read_error(&set, &name("shop/users.bson")).await.kind(), ErrorKind::Unreachable);
    faults.mend();
    let _ = faults.clone().and(Fault::flip_byte(20).on(Verb::Read).below("mongo/"));
    assert_eq!(verify(&shaky, &set).await.findings.len(), 2, "the empty object has fewer bytes");
}
