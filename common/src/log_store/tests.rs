use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap()
}

async fn file_store(root: &Path) -> FileLogStore {
    FileLogStore::open(root, FileOptions { fsync: false })
        .await
        .unwrap()
}

#[cfg(feature = "s3")]
fn object_store(prefix: &str) -> ObjectLogStore {
    ObjectLogStore::new(s3::Bucket::in_memory(Arc::new(SystemClock::new())), prefix)
}

fn temporary_files(root: &Path) -> usize {
    std::fs::read_dir(root.join(".tmp")).unwrap().count()
}

#[derive(Clone, Debug)]
enum Op {
    Put(String, Vec<u8>),
    Get(String),
    List(String),
    Delete(String),
}

fn entry_name() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ab]",
        "offsets/[0-3]",
        "offsets/1[0-2]",
        "sources/[01]/start",
        "sources/[01]/seen/[0-2]",
        "off"
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let prefix = prop_oneof![
        Just(String::new()),
        entry_name(),
        "of",
        "offsets/",
        "offsets/1",
        "sources/",
        "sources/0/s",
        "sources"
    ];
    prop_oneof![
        3 => (entry_name(), proptest::collection::vec(any::<u8>(), 0..3)).prop_map(|(name, bytes)| Op::Put(name, bytes)),
        2 => entry_name().prop_map(Op::Get),
        2 => prefix.prop_map(Op::List),
        1 => entry_name().prop_map(Op::Delete),
    ]
}

async fn agrees_with_a_map(store: &dyn LogStore, ops: &[Op]) {
    let mut model: BTreeMap<String, Bytes> = BTreeMap::new();
    for op in ops {
        match op {
            Op::Put(name, bytes) => {
                let bytes = Bytes::from(bytes.clone());
                let outcome = store.put_if_absent(name, bytes.clone()).await.unwrap();
                let expected = match model.get(name) {
                    Some(existing) if *existing != bytes => PutOutcome::Lost(existing.clone()),
                    _ => PutOutcome::Won,
                };
                model.entry(name.clone()).or_insert(bytes);
                assert_eq!(outcome, expected, "{op:?}");
            }
            Op::Get(name) => assert_eq!(
                store.get(name).await.unwrap(),
                model.get(name).cloned(),
                "{op:?}"
            ),
            Op::List(prefix) => {
                let expected: Vec<&String> = model
                    .keys()
                    .filter(|name| name.starts_with(prefix))
                    .collect();
                assert_eq!(
                    store.list(prefix).await.unwrap().iter().collect::<Vec<_>>(),
                    expected,
                    "{op:?}"
                );
            }
            Op::Delete(name) => {
                store.delete(name).await.unwrap();
                model.remove(name);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn stores_agree_with_a_map(ops in proptest::collection::vec(op(), 0..40)) {
        let folder = tempfile::tempdir().unwrap();
        runtime().block_on(async {
            agrees_with_a_map(&MemoryLogStore::new(), &ops).await;
            agrees_with_a_map(&file_store(folder.path()).await, &ops).await;
            #[cfg(feature = "s3")]
            agrees_with_a_map(&object_store("prefix"), &ops).await;
        });
        prop_assert_eq!(temporary_files(folder.path()), 0);
    }
}

async fn one_winner(stores: Vec<Arc<dyn LogStore>>) {
    for round in 0..20 {
        let name = format!("commits/{round}");
        let puts: Vec<_> = (0..16)
            .map(|writer| {
                let (store, name) = (stores[writer % stores.len()].clone(), name.clone());
                tokio::spawn(async move {
                    store
                        .put_if_absent(&name, Bytes::from(format!("writer {writer}")))
                        .await
                        .unwrap()
                })
            })
            .collect();
        let mut winners = Vec::new();
        let mut seen = Vec::new();
        for (writer, put) in puts.into_iter().enumerate() {
            match put.await.unwrap() {
                PutOutcome::Won => winners.push(Bytes::from(format!("writer {writer}"))),
                PutOutcome::Lost(existing) => seen.push(existing),
            }
        }
        assert_eq!(winners.len(), 1);
        assert_eq!(seen, vec![winners[0].clone(); 15]);
        assert_eq!(
            stores[0].get(&name).await.unwrap().as_ref(),
            Some(&winners[0])
        );
    }
}

#[test]
fn of_many_writers_exactly_one_wins() {
    let folder = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        one_winner(vec![Arc::new(MemoryLogStore::new())]).await;
        #[cfg(feature = "s3")]
        {
            let store = object_store("");
            one_winner(vec![Arc::new(store.clone()), Arc::new(store)]).await;
        }
        // Two handles, as two drivers have.
        one_winner(vec![
            Arc::new(file_store(folder.path()).await),
            Arc::new(file_store(folder.path()).await),
        ])
        .await;
    });
    assert_eq!(temporary_files(folder.path()), 0);
}

#[test]
fn entries_survive_reopening_with_fsync() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("a/b");
    let location = format!("file://{}", root.display());
    runtime().block_on(async {
        let store = open(&location, OpenOptions::default()).await.unwrap();
        assert_eq!(store.location(), location);
        probe(store.as_ref()).await.unwrap();
        assert_eq!(
            store
                .put_if_absent("offsets/0", Bytes::from_static(b"x"))
                .await
                .unwrap(),
            PutOutcome::Won
        );
        drop(store);
        let store = open(root.to_str().unwrap(), OpenOptions::default())
            .await
            .unwrap();
        assert_eq!(store.list("").await.unwrap(), ["offsets/0"]);
        assert_eq!(store.get("offsets/0").await.unwrap().unwrap(), "x");
    });
}

#[test]
fn names_that_lead_out_are_refused_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("store");
    std::fs::write(folder.path().join("secret"), "s").unwrap();
    runtime().block_on(async {
        let stores: Vec<Arc<dyn LogStore>> = vec![
            Arc::new(MemoryLogStore::new()),
            Arc::new(file_store(&root).await),
            #[cfg(feature = "s3")]
            Arc::new(object_store("")),
        ];
        for store in stores {
            let name = "../secret";
            assert!(matches!(
                store.put_if_absent(name, Bytes::new()).await,
                Err(Error::Name { .. })
            ));
            assert!(matches!(store.get(name).await, Err(Error::Name { .. })));
            assert!(matches!(store.delete(name).await, Err(Error::Name { .. })));
            assert!(matches!(store.list("../").await, Err(Error::Name { .. })));
        }
    });
    assert!(folder.path().join("secret").exists());
}

#[test]
fn old_temporary_files_are_swept_and_young_ones_left() {
    let folder = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        file_store(folder.path()).await;
        let (old, young) = (
            folder.path().join(".tmp/old"),
            folder.path().join(".tmp/young"),
        );
        std::fs::write(&young, "half").unwrap();
        std::fs::write(&old, "half").unwrap();
        let long_ago = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        std::fs::File::options()
            .write(true)
            .open(&old)
            .unwrap()
            .set_modified(long_ago)
            .unwrap();
        let store = file_store(folder.path()).await;
        assert!(!old.exists());
        assert!(young.exists());
        assert!(
            store.list("").await.unwrap().is_empty(),
            "a temporary file is no entry"
        );
    });
}

#[test]
fn a_folder_that_cannot_be_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    runtime().block_on(async {
        for root in [file.clone(), file.join("below")] {
            let error = FileLogStore::open(&root, FileOptions::default())
                .await
                .unwrap_err();
            assert!(
                error
                    .to_string()
                    .contains("a file stands where a folder is needed"),
                "{error}"
            );
            assert!(
                error.to_string().contains(file.to_str().unwrap()),
                "{error}"
            );
        }
    });
}

/// A store that overwrites, as some object stores do.
#[derive(Debug)]
struct Overwriting(parking_lot::Mutex<BTreeMap<String, Bytes>>);

#[async_trait]
impl LogStore for Overwriting {
    async fn put_if_absent(&self, name: &str, bytes: Bytes) -> Result<PutOutcome, Error> {
        self.0.lock().insert(name.to_owned(), bytes);
        Ok(PutOutcome::Won)
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, Error> {
        Ok(self.0.lock().get(name).cloned())
    }

    async fn list(&self, _prefix: &str) -> Result<Vec<String>, Error> {
        Ok(self.0.lock().keys().cloned().collect())
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        self.0.lock().remove(name);
        Ok(())
    }

    fn location(&self) -> String {
        "overwriting://".to_owned()
    }
}

#[test]
fn the_probe_refuses_a_store_that_overwrites() {
    runtime().block_on(async {
        probe(&MemoryLogStore::new()).await.unwrap();
        let error = probe(&Overwriting(parking_lot::Mutex::default()))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("overwriting:// can't hold a checkpoint: it let two puts"),
            "{error}"
        );
    });
}

#[cfg(not(feature = "s3"))]
#[test]
fn an_object_store_is_refused_with_the_command_that_adds_it() {
    runtime().block_on(async {
        let error = open("s3://bucket/prefix", OpenOptions::default())
            .await
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains("`s3://bucket/prefix`")
                && error.contains("cargo add millstream --features s3"),
            "{error}"
        );
    });
}

#[test]
fn a_full_disk_may_pass_and_a_forbidden_one_does_not() {
    let retry = |kind: std::io::ErrorKind| {
        let error = Error::Io {
            action: "write",
            path: "offsets/1".into(),
            advice: "",
            source: kind.into(),
        };
        error.retry()
    };
    for kind in [
        std::io::ErrorKind::StorageFull,
        std::io::ErrorKind::QuotaExceeded,
        std::io::ErrorKind::TimedOut,
    ] {
        assert_eq!(retry(kind), Retry::Backoff, "{kind}");
    }
    for kind in [
        std::io::ErrorKind::PermissionDenied,
        std::io::ErrorKind::ReadOnlyFilesystem,
    ] {
        assert_eq!(retry(kind), Retry::Never, "{kind}");
    }
}
