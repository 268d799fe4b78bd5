//! What is asked of a store before there is work for it.

use std::time::Duration;

use super::{
    super::{
        Error,
        answers::{Answer, meaning, said},
    },
    Bucket, path,
};
use crate::time::Timer;

/// A store that never answered yet is not waited for longer than this: its address may be wrong.
const FIRST_CONTACT: Duration = Duration::from_secs(15);
/// How long the machine's or container's role may take to give credentials.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an executor that registers waits for the store to say no: much less than a driver waits for the executor.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

impl Bucket {
    /// Whether there are credentials, and a bucket that they may list. A store that doesn't answer is not waited for as long as later.
    ///
    /// # Errors
    /// What is missing, and the way out.
    pub async fn check(&self, folder: &str) -> Result<(), Error> {
        let shared = &self.shared;
        let mut waiting = self.waiting("list", folder);
        waiting.patience = waiting.patience.min(FIRST_CONTACT);
        let prefix = path(folder)?;
        let listed = waiting
            .until_answered(|| shared.backend.list_with_delimiter(Some(&prefix)))
            .await?;
        listed.map(drop).ok_or_else(|| self.absent("list", folder))
    }

    /// Whether the store would take this process's requests: its credentials and its clock. One request finds out; a store that doesn't answer it may
    /// be away, which is no refusal.
    ///
    /// # Errors
    /// What is missing, and the way out.
    pub async fn check_access(&self, folder: &str) -> Result<(), Error> {
        self.check_credentials().await?;
        let asking = self
            .shared
            .access
            .get_or_try_init(|| self.ask_for_access(folder));
        asking.await.copied()
    }

    async fn ask_for_access(&self, folder: &str) -> Result<(), Error> {
        let shared = &self.shared;
        let prefix = path(folder)?;
        let deadline = shared.clock.now().after(REFUSAL_TIMEOUT);
        let listing = shared.backend.list_with_delimiter(Some(&prefix));
        let Some(Err(error)) = within(shared.clock.until(deadline), listing).await else {
            return Ok(());
        };
        match meaning(&error) {
            Answer::Final(why) => Err(self.refused("list", folder, why)),
            Answer::Absent | Answer::Taken | Answer::Passing(_) => Ok(()),
        }
    }

    /// Whether there are credentials. Every request asks that first, until there were some: without, the wait for an answer would be in vain.
    ///
    /// # Errors
    /// When there are none.
    pub(super) async fn check_credentials(&self) -> Result<(), Error> {
        let asking = self
            .shared
            .credentials
            .get_or_try_init(|| self.ask_for_credentials());
        asking.await.copied()
    }

    async fn ask_for_credentials(&self) -> Result<(), Error> {
        let shared = &self.shared;
        let deadline = shared.clock.now().after(CREDENTIALS_TIMEOUT);
        let found = within(shared.clock.until(deadline), shared.backend.credentials()).await;
        let detail = match found {
            Some(Ok(())) => return Ok(()),
            Some(Err(error)) => said(&error),
            None => "there are none in the environment, and this machine has no role".to_owned(),
        };
        Err(Error::Credentials {
            location: format!("s3://{}", shared.name),
            detail,
        })
    }
}

/// What a future gives before the timer is due.
async fn within<T>(timer: Timer, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        value = work => Some(value),
        () = timer => None,
    }
}
