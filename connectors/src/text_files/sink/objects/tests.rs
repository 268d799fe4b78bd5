use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use millstream_common::{
    failure::{Failure, FailureKind, Retry},
    ids::QueryId,
    protocol::SinkCommit,
    s3::{Bucket, Completed},
    time::SystemClock,
};

use super::{
    super::{
        TextRows,
        tests::{OUTPUT_ID, batch, chunk, start, write},
    },
    *,
};
use crate::{
    conformance::{Attempt, SinkUnderTest, check_sink},
    sink::{Sink, SinkBatch, SinkDriver},
};

const PART_BYTES: usize = 16;

struct Scene {
    bucket: Bucket,
    settings: Settings,
}

impl Scene {
    fn new() -> Self {
        Self {
            bucket: Bucket::in_memory(Arc::new(SystemClock::new())),
            settings: Settings::new(OUTPUT_ID, "s3://bucket/out/counts"),
        }
    }

    fn publisher(&self) -> ObjectPublisher {
        ObjectPublisher::over(&self.settings, &self.bucket)
    }

    fn write(&self, attempt: Attempt, text: &str) -> Result<SinkCommit, Failure> {
        let sink = ObjectSink::over(&self.settings, &self.bucket, PART_BYTES);
        write(&sink, attempt, text)
    }

    async fn objects(&self, hidden: bool) -> BTreeMap<String, String> {
        let mut objects = BTreeMap::new();
        for (key, _) in self.bucket.list("").await.unwrap() {
            if key.contains(".staging/") == hidden {
                let bytes = self.bucket.get(&key).await.unwrap().unwrap();
                objects.insert(key, String::from_utf8(bytes.to_vec()).unwrap());
            }
        }
        objects
    }

    async fn is_open(&self, commit: &SinkCommit) -> bool {
        let staged: StagedObject = serde_json::from_value(commit.payload.clone()).unwrap();
        let key = format!("out/counts-1000/{}", staged.name);
        let part = self.bucket.put_part(&key, &staged.upload, 0, Bytes::new());
        part.await.is_ok()
    }
}

#[async_trait]
impl SinkUnderTest for Scene {
    type Chunk = TextRows;
    const OUTPUT: &'static str = OUTPUT_ID;

    fn driver(&self) -> Box<dyn SinkDriver> {
        Box::new(self.publisher())
    }

    fn executor(&self) -> Box<dyn Sink<TextRows>> {
        Box::new(ObjectSink::over(&self.settings, &self.bucket, PART_BYTES))
    }

    fn chunk(&self, rows: &[String]) -> TextRows {
        chunk(rows)
    }

    async fn visible(&self) -> Vec<String> {
        let objects = self.objects(false).await;
        let contents = objects.values().flat_map(|content| content.lines());
        contents.map(str::to_owned).collect()
    }

    async fn publish_partly(&self, batch: SinkBatch, winners: &[SinkCommit], count: usize) -> bool {
        for winner in &winners[..count] {
            let staged: StagedObject = serde_json::from_value(winner.payload.clone()).unwrap();
            let key = format!("out/counts-{}/{}", batch.batch_time.0, staged.name);
            let completed = self.bucket.complete(&key, &staged.upload, &staged.parts);
            assert_eq!(completed.await.unwrap(), Completed::Done);
        }
        true
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conforms() {
    check_sink(&Scene::new()).await.unwrap();
    let mut scene = Scene::new();
    scene.settings.success_file = false;
    check_sink(&scene).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_have_their_documented_keys() {
    let scene = Scene::new();
    let query = QueryId::random();
    let publisher = scene.publisher();
    assert!(publisher.check(&start(query)).await.unwrap().is_empty());
    assert!(
        scene.objects(true).await.is_empty(),
        "the check leaves something"
    );
    let long = "a line of some length\n".repeat(5);
    let winners = [
        scene.write(Attempt::first(query, 0, 0), &long).unwrap(),
        scene.write(Attempt::first(query, 0, 1), "").unwrap(),
    ];
    assert!(scene.objects(false).await.is_empty());
    publisher.publish(batch(query, 1), &winners).await.unwrap();
    let expected = [
        ("out/counts-1000/_SUCCESS", ""),
        ("out/counts-1000/part-00000", long.as_str()),
        ("out/counts-1000/part-00001", ""),
    ];
    let expected = expected.map(|(name, content)| (name.to_owned(), content.to_owned()));
    assert_eq!(scene.objects(false).await, BTreeMap::from(expected));
    publisher.sweep(batch(query, 1)).await;
    let left: Vec<String> = scene.objects(true).await.into_keys().collect();
    assert_eq!(left.len(), 1);
    assert!(left[0].ends_with("/0.published"), "{left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_losers_left_open_is_aborted() {
    let scene = Scene::new();
    let query = QueryId::random();
    let mut late = Attempt::first(query, 0, 0);
    let loser = scene.write(late, "a\n").unwrap();
    late.attempt = 1;
    let winner = scene.write(late, "a\n").unwrap();
    let publisher = scene.publisher();
    publisher.publish(batch(query, 1), &[winner]).await.unwrap();
    assert!(scene.is_open(&loser).await);
    publisher.sweep(batch(query, 1)).await;
    assert!(!scene.is_open(&loser).await);
    assert_eq!(
        scene.objects(false).await["out/counts-1000/part-00000"],
        "a\n"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_that_someone_else_wrote_is_refused_by_name() {
    let scene = Scene::new();
    let query = QueryId::random();
    let winner = scene.write(Attempt::first(query, 0, 0), "a\n").unwrap();
    let publisher = scene.publisher();
    for name in ["_SUCCESS", "part-00000", "part-00009", "notes"] {
        let key = format!("out/counts-1000/{name}");
        scene
            .bucket
            .put(&key, Bytes::from_static(b"other\n"))
            .await
            .unwrap();
        let failure = scene.write(Attempt::first(query, 0, 1), "b\n").unwrap_err();
        assert_eq!(
            (failure.code.as_str(), failure.retry),
            ("sink.output_exists", Retry::Never)
        );
        let published = publisher
            .publish(batch(query, 1), std::slice::from_ref(&winner))
            .await;
        let failure = published.unwrap_err();
        assert_eq!(failure.code, "sink.output_exists", "{name}");
        assert!(
            failure.message.contains("s3://bucket/out/counts-1000"),
            "{failure}"
        );
        assert_eq!(scene.objects(false).await[&key], "other\n");
        scene.bucket.delete(&key).await.unwrap();
    }
    // Nothing was lost by that.
    publisher.publish(batch(query, 1), &[winner]).await.unwrap();
    assert_eq!(
        scene.objects(false).await["out/counts-1000/part-00000"],
        "a\n"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_vanished_before_it_was_published_is_named() {
    let scene = Scene::new();
    let query = QueryId::random();
    let winner = scene.write(Attempt::first(query, 0, 0), "a\n").unwrap();
    let staged: StagedObject = serde_json::from_value(winner.payload.clone()).unwrap();
    scene
        .bucket
        .abort_upload("out/counts-1000/part-00000", &staged.upload)
        .await
        .unwrap();
    let published = scene.publisher().publish(batch(query, 1), &[winner]).await;
    let failure = published.unwrap_err();
    assert_eq!(failure.kind, FailureKind::DataLoss);
    assert!(
        failure.message.contains("out/counts-1000/part-00000"),
        "{failure}"
    );
    assert!(scene.objects(false).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_that_a_consumer_took_away_are_not_missed_after_a_restart() {
    let scene = Scene::new();
    let query = QueryId::random();
    let winners = [scene.write(Attempt::first(query, 0, 0), "a\n").unwrap()];
    let publisher = scene.publisher();
    publisher.publish(batch(query, 1), &winners).await.unwrap();
    publisher.sweep(batch(query, 1)).await;
    for key in scene.objects(false).await.keys() {
        scene.bucket.delete(key).await.unwrap();
    }
    scene
        .publisher()
        .publish(batch(query, 2), &winners)
        .await
        .unwrap();
    assert!(scene.objects(false).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_can_not_name_other_objects() {
    let scene = Scene::new();
    let query = QueryId::random();
    let mut winner = scene.write(Attempt::first(query, 0, 0), "a\n").unwrap();
    winner.payload["name"] = "../secret".into();
    let published = scene.publisher().publish(batch(query, 1), &[winner]).await;
    assert_eq!(published.unwrap_err().retry, Retry::Never);
}
