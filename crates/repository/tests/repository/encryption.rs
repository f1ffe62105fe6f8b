//! Encrypted repositories: written with public keys alone, read with the right secret key alone.

use std::io::Read as _;

use age::secrecy::ExposeSecret as _;
use age::x25519::Identity;
use mainstay_model::progress::Silent;
use mainstay_model::{ErrorKind, Secret, StoreKind};
use mainstay_repository::{Encryption, FRAME_BYTES, Repository, RepositoryOptions};
use mainstay_store::{Key, Store};

use crate::support::{Numbers, clock, name, options, small_set};

fn recipient(identity: &Identity) -> String {
    identity.to_public().to_string()
}

fn secret(identity: &Identity) -> Secret {
    Secret::new(format!("# a comment\n{}\n", identity.to_string().expose_secret()))
}

fn with_keys(recipients: &[&Identity], identities: &[&Identity]) -> RepositoryOptions {
    RepositoryOptions {
        recipients: recipients.iter().map(|identity| recipient(identity)).collect(),
        identities: identities.iter().map(|identity| secret(identity)).collect(),
        ..options()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn either_recipient_reads_and_age_does_too() {
    let (store, clock) = (Store::memory(), clock());
    let (one, two) = (Identity::generate(), Identity::generate());
    let writing =
        Repository::create(store.clone(), clock.clone(), with_keys(&[&one, &two], &[])).await.unwrap();
    assert!(writing.is_encrypted());
    let writer = writing.begin_set(StoreKind::Mongo, "test").await.unwrap();
    let mut numbers = Numbers::new(4);
    let sizes = [("zero", 0), ("one", 1), ("chunk", 64 * 1024), ("frames", 3 * FRAME_BYTES + 1)];
    let mut expected = Vec::new();
    for (text, size) in sizes {
        let plain = numbers.noise(size);
        let entry = writer.put(&name(text), "documents", plain.clone()).await.unwrap();
        assert_eq!(entry.encryption, Encryption::Age);
        expected.push((text, plain));
    }
    let id = writer.commit(&()).await.unwrap().id().clone();

    for identity in [&one, &two] {
        let reading =
            Repository::open(store.clone(), clock.clone(), with_keys(&[], &[identity])).await.unwrap();
        let set = reading.set(None, &id).await.unwrap();
        for (text, plain) in &expected {
            assert!(set.read_all(&name(text), usize::MAX).await.unwrap() == *plain, "{text}");
        }
        assert!(reading.verify(&set, &|_| None, 2, &Silent).await.unwrap().findings.is_empty());
    }
    // By hand, as the format's documentation says.
    for (text, plain) in &expected {
        let key = Key::new(format!("mongo/sets/{id}/{text}.zst.age")).unwrap();
        let stored = store.get(&key, u64::MAX).await.unwrap();
        let compressed = age::decrypt(&one, &stored).unwrap();
        let mut decoded = Vec::new();
        zstd::stream::read::Decoder::new(&compressed[..]).unwrap().read_to_end(&mut decoded).unwrap();
        assert!(decoded == *plain, "{text}");
    }
}

#[tokio::test]
async fn without_the_right_identity_sets_are_listed_but_not_read() {
    let (store, clock) = (Store::memory(), clock());
    let (owner, stranger) = (Identity::generate(), Identity::generate());
    let made =
        Repository::create(store.clone(), clock.clone(), with_keys(&[&owner], &[&owner])).await.unwrap();
    let id = small_set(&made).await.id().clone();
    let cases = [(vec![], ErrorKind::Precondition), (vec![&stranger], ErrorKind::Auth)];
    for (count, (identities, kind)) in (1..).zip(cases) {
        let opened =
            Repository::open(store.clone(), clock.clone(), with_keys(&[], &identities)).await.unwrap();
        assert_eq!(opened.sets(None).await.unwrap().len(), count);
        let set = opened.set(None, &id).await.unwrap();
        assert_eq!(set.manifest().recipients, [recipient(&owner)]);
        let error = set.read(&name("shop/users.bson")).await.err().unwrap();
        assert_eq!(error.kind(), kind);
        assert!(error.hint().unwrap().contains(&recipient(&owner)), "{error:?}");
        let shown = format!("{error:?}");
        assert!(
            !shown.contains("AGE-SECRET-KEY-1Q")
                && !shown.contains(secret(&stranger).expose().lines().nth(1).unwrap())
        );
        assert_eq!(opened.verify(&set, &|_| None, 2, &Silent).await.unwrap_err().kind(), kind);
        assert_eq!(set.check_readable().unwrap_err().kind(), kind);
        small_set(&opened).await; // Writing needs no identity.
    }
}

#[tokio::test]
async fn recipients_are_fixed_when_the_repository_is_made() {
    let (store, clock) = (Store::memory(), clock());
    let (owner, other) = (Identity::generate(), Identity::generate());
    Repository::create(store.clone(), clock.clone(), with_keys(&[&owner], &[])).await.unwrap();
    Repository::open(store.clone(), clock.clone(), with_keys(&[&owner], &[])).await.unwrap();
    let error = Repository::open(store.clone(), clock.clone(), with_keys(&[&other], &[])).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains(&recipient(&owner)) && error.to_string().contains(&recipient(&other)));

    let plain = Store::memory();
    Repository::create(plain.clone(), clock.clone(), options()).await.unwrap();
    let error = Repository::open(plain.clone(), clock.clone(), with_keys(&[&owner], &[])).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Config && error.to_string().contains("not encrypted"), "{error}");

    let wrong = RepositoryOptions { recipients: vec!["age1wrong".to_owned()], ..options() };
    let error = Repository::create(Store::memory(), clock.clone(), wrong).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Config && error.to_string().contains("age1wrong"), "{error}");
    let wrong = RepositoryOptions { identities: vec![Secret::new("AGE-SECRET-KEY-1WRONG")], ..options() };
    let error = Repository::open(plain, clock, wrong).await.unwrap_err();
    assert!(error.kind() == ErrorKind::Config && !format!("{error:?}").contains("WRONG"), "{error:?}");
}

#[tokio::test]
async fn every_flipped_byte_and_every_cut_of_an_encrypted_object_is_damage_and_not_a_wrong_key() {
    let (store, clock) = (Store::memory(), clock());
    let owner = Identity::generate();
    let repository = Repository::create(store.clone(), clock, with_keys(&[&owner], &[&owner])).await.unwrap();
    let set = small_set(&repository).await;
    let key = Key::new(format!("mongo/sets/{}/shop/users.metadata.json.zst.age", set.id())).unwrap();
    let whole = store.get(&key, 1 << 20).await.unwrap();
    for index in 0..whole.len() {
        for damaged in [
            whole
                .iter()
                .enumerate()
                .map(|(at, byte)| if at == index { byte ^ 0x10 } else { *byte })
                .collect::<Vec<_>>(),
            whole[..index].to_vec(),
        ] {
            store.put(&key, damaged.into()).await.unwrap();
            let report = repository.verify(&set, &|_| None, 1, &Silent).await.unwrap();
            assert_eq!(report.findings.len(), 1, "byte {index}");
            assert_eq!(report.findings[0].subject, key.as_str());
            let error = set.read_all(&name("shop/users.metadata.json"), 1 << 20).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "byte {index}");
        }
    }
}
