use super::{
    super::fake::{Fake, Fault},
    *,
};
use crate::time::SystemClock;

fn bucket(fake: &Arc<Fake>, patience: Duration) -> Bucket {
    let backend = Arc::clone(fake);
    Bucket::over(backend, "fake", patience, Arc::new(SystemClock::new()))
}

#[tokio::test]
async fn a_404_of_a_proxy_is_no_answer() {
    let fake = Fake::new();
    let bucket = bucket(&fake, Duration::from_secs(20));
    fake.next_puts(&[Fault::NoSuchPage]);
    bucket.put("a", Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(fake.puts(), 2);
    assert_eq!(bucket.length("a").await.unwrap(), Some(1));
    assert_eq!(bucket.length("b").await.unwrap(), None);
}

#[tokio::test]
async fn a_proxy_without_a_store_says_nothing_of_what_is_there() {
    let fake = Fake::new();
    let bucket = bucket(&fake, Duration::from_millis(300));
    fake.always(Some(Fault::NoSuchPage));
    let errors = [
        bucket.get("a").await.unwrap_err(),
        bucket.length("a").await.unwrap_err(),
        bucket.list("a").await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::Away { .. }), "{error}");
        assert!(error.to_string().contains("404 page not found"), "{error}");
    }
}

#[tokio::test]
async fn what_was_not_stored_or_listed_is_an_error() {
    let fake = Fake::new();
    let bucket = bucket(&fake, Duration::from_secs(20));
    fake.always(Some(Fault::NoSuchKey));
    let errors = [
        bucket.put("a", Bytes::from_static(b"x")).await.unwrap_err(),
        bucket.list("a").await.unwrap_err(),
        bucket.check("a").await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::Refused { .. }), "{error}");
    }
    assert_eq!(bucket.get("a").await.unwrap(), None);
}

#[tokio::test]
async fn without_credentials_nothing_is_waited_for() {
    let fake = Fake::new();
    let bucket = bucket(&fake, Duration::from_secs(600));
    fake.lack_credentials(true);
    let bytes = Bytes::from_static(b"x");
    let errors = [
        bucket.put("a", bytes.clone()).await.unwrap_err(),
        bucket.try_create("a", bytes.clone()).await.unwrap_err(),
        bucket.list("a").await.unwrap_err(),
        bucket.check("a").await.unwrap_err(),
        bucket.check_access("a").await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, Error::Credentials { .. }), "{error}");
    }
    assert_eq!(fake.puts(), 0);

    // Where there were some once, new ones are the client's affair.
    fake.lack_credentials(false);
    bucket.put("a", bytes.clone()).await.unwrap();
    fake.lack_credentials(true);
    bucket.put("a", bytes).await.unwrap();
}

#[tokio::test]
async fn a_refusal_is_known_before_there_is_work() {
    let fake = Fake::new();
    let bucket = bucket(&fake, Duration::from_secs(600));
    fake.always(Some(Fault::Skewed));
    let error = bucket.check_access("a").await.unwrap_err();
    assert!(matches!(error, Error::Clock { .. }), "{error}");
    // A store that is away is waited for by who has work.
    fake.always(Some(Fault::Busy));
    bucket.check_access("a").await.unwrap();
}

#[tokio::test]
async fn a_large_object_is_read_in_pieces() {
    let fake = Fake::new();
    let bucket = bucket(&fake, Duration::from_millis(300));
    let bytes = Bytes::from_iter((0..PIECE * 2 + 7).map(|at| at.to_le_bytes()[0]));
    bucket.put("a", bytes.clone()).await.unwrap();
    // Longer answers take more time than a request has.
    fake.answers_end_after(PIECE);
    let whole = (bytes.len() as u64, xxhash_rust::xxh3::xxh3_64(&bytes));
    assert_eq!(bucket.digest("a").await.unwrap(), Some(whole));
    assert_eq!(bucket.digest("b").await.unwrap(), None);
}
