//! When batches run.

use std::time::Duration;

use millstream_driver::query::event;

/// When the batches of a query run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trigger {
    /// As soon as the batch before is over and there is something new.
    #[default]
    Default,
    /// At multiples of this, where there is something new. A batch that takes longer is followed by the next at once.
    ProcessingTime(Duration),
    /// One batch of everything that is there, whatever the limits of the sources; then the query ends.
    Once,
    /// Everything that is there when the query starts, in as many batches as the limits of the sources want; then the query ends.
    AvailableNow,
}

impl Trigger {
    pub(crate) fn rule(self) -> event::Trigger {
        match self {
            Self::Default => event::Trigger::Interval,
            Self::ProcessingTime(every) if every.is_zero() => event::Trigger::Interval,
            Self::ProcessingTime(every) => {
                let millis = u64::try_from(every.as_millis()).unwrap_or(u64::MAX);
                event::Trigger::ProcessingTime(millis.max(1))
            }
            Self::Once => event::Trigger::Once,
            Self::AvailableNow => event::Trigger::AvailableNow,
        }
    }
}
