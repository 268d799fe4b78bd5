//! The driver half: runs the receiver and hands out what has arrived.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use millstream_common::{
    failure::{Failure, FailureKind},
    ids::BatchId,
    time::Clock,
};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
};

use super::{
    Settings,
    buffer::LineBuffer,
    receiver::{Received, Receiver, Shared},
};
use crate::source::{PlanRequest, PlannedInput, SourceDriver, SourceHistory, Split};

/// Receives lines, and plans those that have arrived.
pub struct SocketDriver {
    settings: Arc<Settings>,
    clock: Arc<dyn Clock>,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    receiver: Option<JoinHandle<()>>,
    /// Rows given to batches.
    planned: u64,
    /// Bytes of lines given to batches that are not over.
    bytes_of: BTreeMap<BatchId, u64>,
}

impl SocketDriver {
    /// A driver half; it connects when it starts.
    pub fn new(settings: Arc<Settings>, clock: Arc<dyn Clock>) -> Self {
        let received = Received {
            lines: LineBuffer::new(&settings),
            planned: 0,
            failure: None,
        };
        let shared = Shared {
            buffer: Mutex::new(received),
            drained: Notify::new(),
        };
        Self {
            settings,
            clock,
            shared: Arc::new(shared),
            stop: watch::Sender::new(false),
            receiver: None,
            planned: 0,
            bytes_of: BTreeMap::new(),
        }
    }

    /// Lines that have arrived and were not planned.
    pub fn waiting_rows(&self) -> u64 {
        self.shared.buffer.lock().lines.rows()
    }

    /// The batches that hold lines are others now: there may be room.
    fn planned_changed(&self) {
        self.shared.buffer.lock().planned = self.bytes_of.values().sum();
        self.shared.drained.notify_waiters();
    }

    fn begin_receiving(&mut self) {
        if self.receiver.is_some() {
            return;
        }
        let receiver = Receiver {
            settings: Arc::clone(&self.settings),
            clock: Arc::clone(&self.clock),
            shared: Arc::clone(&self.shared),
            stop: self.stop.subscribe(),
        };
        self.receiver = Some(tokio::spawn(receiver.run()));
    }

    fn max_rows(&self, request: &PlanRequest) -> u64 {
        let asked = request.max_rows.unwrap_or(u64::MAX);
        match self.settings.max_rate {
            Some(rate) if request.interval_millis > 0 => {
                let rows = rate.saturating_mul(request.interval_millis) / 1_000;
                asked.min(rows.max(1))
            }
            _ => asked,
        }
    }
}

#[async_trait]
impl SourceDriver for SocketDriver {
    async fn start(&mut self) -> Result<Value, Failure> {
        self.begin_receiving();
        Ok(json!({ "rows": 0 }))
    }

    async fn restore(&mut self, history: SourceHistory) -> Result<(), Failure> {
        let newest = history.logged.last().map(|(_, input)| &input.position);
        let position = newest.unwrap_or(&history.start);
        self.planned = position
            .get("rows")
            .and_then(Value::as_u64)
            .unwrap_or_default();
        self.bytes_of.clear();
        self.planned_changed();
        self.begin_receiving();
        Ok(())
    }

    async fn plan(&mut self, request: PlanRequest) -> Result<PlannedInput, Failure> {
        let blocks = {
            let mut received = self.shared.buffer.lock();
            // What came before the malformed line is still given.
            if let (0, Some(failure)) = (received.lines.rows(), &received.failure) {
                return Err(failure.clone());
            }
            let max_rows = self.max_rows(&request);
            received.lines.take(self.settings.max_batch_bytes, max_rows)
        };
        let bytes = blocks.iter().map(|block| block.text.len() as u64).sum();
        if bytes > 0 {
            self.bytes_of.insert(request.batch, bytes);
        }
        self.planned_changed();
        let mut splits = Vec::with_capacity(blocks.len());
        for block in blocks {
            self.planned += block.rows;
            let split = serde_json::to_value(&block).map_err(|error| {
                let message = "received lines can't be written down";
                Failure::caused_by(FailureKind::Internal, message, &error)
            })?;
            splits.push(Split {
                split,
                locality: None,
                rows: Some(block.rows),
            });
        }
        Ok(PlannedInput {
            splits,
            position: json!({ "rows": self.planned }),
        })
    }

    async fn committed(&mut self, batch: BatchId, _input: &PlannedInput) -> Result<(), Failure> {
        self.bytes_of.retain(|held, _| *held > batch);
        self.planned_changed();
        Ok(())
    }

    fn lag(&self) -> Vec<(String, u64)> {
        vec![(self.settings.address.clone(), self.waiting_rows())]
    }

    async fn stop(&mut self) {
        self.stop.send_replace(true);
        if let Some(receiver) = self.receiver.take()
            && let Err(error) = receiver.await
        {
            tracing::warn!(%error, "the receiver broke off");
        }
    }
}

impl Drop for SocketDriver {
    fn drop(&mut self) {
        self.stop.send_replace(true);
    }
}
