//! Logs as objects of a bucket, put by `If-None-Match: *`.
//!
//! A put whose answer was lost, or that was told of a conflict, says nothing of what the store holds: it is read back. These bytes are their
//! writer's own, so finding them means that the put won; finding nothing means that it may be tried again.

use async_trait::async_trait;
use bytes::Bytes;

use super::{Error, LogStore, PutOutcome, name};
use crate::s3::{Bucket, Created};

/// How often a put starts over when the name it lost to is gone.
const PUT_TRIES: u32 = 5;

/// A store below a prefix of a bucket.
#[derive(Clone, Debug)]
pub struct ObjectLogStore {
    bucket: Bucket,
    /// Without slashes at its ends; may be empty.
    prefix: String,
}

impl ObjectLogStore {
    /// The store below `prefix`. Sends nothing.
    pub fn new(bucket: Bucket, prefix: &str) -> Self {
        Self {
            bucket,
            prefix: prefix.trim_matches('/').to_owned(),
        }
    }

    fn key(&self, name: &str) -> String {
        if self.prefix.is_empty() {
            return name.to_owned();
        }
        format!("{}/{name}", self.prefix)
    }

    /// The name of the entry that an object is; nothing if it can't be one.
    fn name_of<'a>(&self, key: &'a str) -> Option<&'a str> {
        let name = if self.prefix.is_empty() {
            key
        } else {
            key.strip_prefix(&self.prefix)?.strip_prefix('/')?
        };
        name::check(name).is_ok().then_some(name)
    }
}

#[async_trait]
impl LogStore for ObjectLogStore {
    async fn put_if_absent(&self, name: &str, bytes: Bytes) -> Result<PutOutcome, Error> {
        name::check(name)?;
        let key = self.key(name);
        let mut waiting = self.bucket.waiting("put", &key);
        let mut taken_and_gone = 0;
        loop {
            let unknown = match self.bucket.try_create(&key, bytes.clone()).await? {
                Created::Stored => return Ok(PutOutcome::Won),
                Created::Taken => None,
                Created::Unknown(detail) => Some(detail),
            };
            match self.bucket.get(&key).await? {
                Some(found) if found == bytes => return Ok(PutOutcome::Won),
                Some(found) => return Ok(PutOutcome::Lost(found)),
                None => {}
            }
            let detail = match unknown {
                Some(detail) => detail,
                None => {
                    taken_and_gone += 1;
                    "another put was in its way".to_owned()
                }
            };
            if taken_and_gone >= PUT_TRIES {
                return Err(Error::Contended {
                    name: name.to_owned(),
                    location: self.location(),
                });
            }
            waiting.pause(&detail).await?;
        }
    }

    async fn get(&self, name: &str) -> Result<Option<Bytes>, Error> {
        name::check(name)?;
        Ok(self.bucket.get(&self.key(name)).await?)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<String>, Error> {
        let folder = name::folder_of(prefix)?;
        let folder = self.key(folder);
        let listed = self.bucket.list(folder.trim_end_matches('/')).await?;
        let names = listed.iter().filter_map(|(key, _)| self.name_of(key));
        let mut names: Vec<String> = names
            .filter(|name| name.starts_with(prefix))
            .map(str::to_owned)
            .collect();
        names.sort_unstable();
        Ok(names)
    }

    async fn delete(&self, name: &str) -> Result<(), Error> {
        name::check(name)?;
        Ok(self.bucket.delete(&self.key(name)).await?)
    }

    fn location(&self) -> String {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        format!("s3://{}{slash}{}", self.bucket.name(), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{
        log_store::probe,
        s3::fake::{Fake, Fault},
        time::SystemClock,
    };

    fn store(fake: &Arc<Fake>) -> ObjectLogStore {
        let backend = Arc::clone(fake);
        let patience = Duration::from_secs(20);
        let bucket = Bucket::over(backend, "fake", patience, Arc::new(SystemClock::new()));
        ObjectLogStore::new(bucket, "jobs/wordcount")
    }

    const NAME: &str = "commits/00000000000000000007";

    #[tokio::test]
    async fn a_put_whose_answer_was_lost_has_won() {
        let fake = Fake::new();
        let store = store(&fake);
        fake.next_puts(&[Fault::LoseAnswer]);
        let ours = Bytes::from_static(b"epoch 1 nonce a");
        assert_eq!(
            store.put_if_absent(NAME, ours.clone()).await.unwrap(),
            PutOutcome::Won
        );
        assert_eq!(fake.puts(), 1, "it was read back, not put again");
        assert_eq!(store.get(NAME).await.unwrap(), Some(ours));
    }

    #[tokio::test]
    async fn a_put_that_did_not_arrive_is_tried_again() {
        let fake = Fake::new();
        let store = store(&fake);
        fake.next_puts(&[Fault::LoseRequest, Fault::Busy, Fault::ConflictWithNothing]);
        let ours = Bytes::from_static(b"epoch 1 nonce a");
        assert_eq!(
            store.put_if_absent(NAME, ours).await.unwrap(),
            PutOutcome::Won
        );
        assert_eq!(fake.puts(), 4);
    }

    #[tokio::test]
    async fn a_put_whose_answer_was_lost_to_another_has_lost() {
        let fake = Fake::new();
        let store = store(&fake);
        let theirs = Bytes::from_static(b"epoch 2 nonce b");
        store.put_if_absent(NAME, theirs.clone()).await.unwrap();
        fake.next_puts(&[Fault::LoseAnswer]);
        let ours = Bytes::from_static(b"epoch 1 nonce a");
        let outcome = store.put_if_absent(NAME, ours).await.unwrap();
        assert_eq!(outcome, PutOutcome::Lost(theirs));
    }

    #[tokio::test]
    async fn conflicts_without_end_are_an_error() {
        let fake = Fake::new();
        let store = store(&fake);
        fake.next_puts(&[Fault::ConflictWithNothing; 20]);
        let error = store
            .put_if_absent(NAME, Bytes::from_static(b"x"))
            .await
            .unwrap_err();
        assert!(matches!(error, Error::Contended { .. }), "{error}");
    }

    #[tokio::test]
    async fn what_never_passes_ends_in_time() {
        let fake = Fake::new();
        let bucket = Bucket::over(
            Arc::clone(&fake) as _,
            "fake",
            Duration::from_millis(300),
            Arc::new(SystemClock::new()),
        );
        let store = ObjectLogStore::new(bucket, "");
        fake.always(Some(Fault::Busy));
        let error = store
            .put_if_absent("a", Bytes::from_static(b"x"))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("did not answer for"), "{error}");
        assert!(store.get("a").await.is_err() && store.list("").await.is_err());
        fake.always(None);
        assert_eq!(store.get("a").await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_probe_takes_a_store_that_honours_if_none_match_and_no_other() {
        let fake = Fake::new();
        let store = store(&fake);
        probe(&store).await.unwrap();
        assert!(store.list("").await.unwrap().is_empty());
        fake.ignore_if_none_match();
        let error = probe(&store).await.unwrap_err().to_string();
        assert!(
            error.starts_with("s3://fake/jobs/wordcount can't hold a checkpoint: it let two puts"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn others_below_the_bucket_are_not_seen() {
        let fake = Fake::new();
        let store = store(&fake);
        let other = ObjectLogStore::new(store.bucket.clone(), "jobs/wordcount2");
        for store in [&store, &other] {
            store
                .put_if_absent("offsets/0", Bytes::from(store.location()))
                .await
                .unwrap();
        }
        assert_eq!(store.list("").await.unwrap(), ["offsets/0"]);
        assert_eq!(store.list("off").await.unwrap(), ["offsets/0"]);
        assert!(store.list("offsets/1").await.unwrap().is_empty());
    }
}
