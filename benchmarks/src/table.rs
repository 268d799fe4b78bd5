//! Rows, their bounds, and how they are shown.

use serde::Serialize;
use serde_json::{Value, json};

use crate::samples;

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Lines a second.
    LinesPerSecond,
    /// Tasks a second.
    TasksPerSecond,
    /// Milliseconds.
    Millis,
    /// Seconds.
    Seconds,
    /// Mebibytes.
    Mebibytes,
    /// A ratio in itself.
    Times,
}

impl Unit {
    /// Whether more is better.
    fn more_is_better(self) -> bool {
        matches!(self, Self::LinesPerSecond | Self::TasksPerSecond)
    }

    fn show(self, value: f64) -> String {
        match self {
            Self::LinesPerSecond => format!("{:.2} M lines/s", value / 1e6),
            Self::TasksPerSecond => format!("{:.0},000/s", value / 1e3),
            Self::Millis if value < 100.0 => format!("{value:.1} ms"),
            Self::Millis => format!("{value:.0} ms"),
            Self::Seconds => format!("{value:.2} s"),
            Self::Mebibytes => format!("{value:.0} MiB"),
            Self::Times => format!("{value:.2}×"),
        }
    }
}

/// A measured value with all that it is the median of.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// The value.
    pub value: f64,
    /// What it counts.
    pub unit: Unit,
    /// What it was made from.
    pub samples: Vec<f64>,
}

impl Figure {
    /// The median of samples.
    pub fn median(unit: Unit, samples: Vec<f64>) -> Self {
        Self {
            value: samples::median(&samples),
            unit,
            samples,
        }
    }

    fn show(&self) -> String {
        self.unit.show(self.value)
    }
}

/// What floor and goal are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Judged {
    /// How many times as good as the peer, shown in percent.
    Share,
    /// How many times as good as the peer.
    Ratio,
    /// Our figure itself.
    Value,
}

/// A row of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// Ours.
    pub ours: Figure,
    /// Whom it is compared with, and theirs.
    pub peer: Option<(String, Figure)>,
    /// What floor and goal are compared with.
    pub judged: Judged,
    /// What it must reach.
    pub floor: Option<f64>,
    /// What it should reach.
    pub goal: Option<f64>,
}

impl Row {
    /// A row that is judged by our figure alone.
    pub fn of(what: impl Into<String>, ours: Figure) -> Self {
        Self {
            what: what.into(),
            ours,
            peer: None,
            judged: Judged::Value,
            floor: None,
            goal: None,
        }
    }

    /// Beside a peer, judged by our figure.
    pub fn beside(mut self, name: &str, figure: Figure) -> Self {
        self.peer = Some((name.to_owned(), figure));
        self
    }

    /// Judged by how many times as good as the peer it is.
    pub fn by_ratio(mut self) -> Self {
        self.judged = Judged::Ratio;
        self
    }

    /// Judged by which share of the peer it reaches.
    pub fn by_share(mut self) -> Self {
        self.judged = Judged::Share;
        self
    }

    /// What it must reach.
    pub fn floor(mut self, floor: f64) -> Self {
        self.floor = Some(floor);
        self
    }

    /// What it should reach.
    pub fn goal(mut self, goal: f64) -> Self {
        self.goal = Some(goal);
        self
    }

    /// How many times as good as the peer ours is: the median of the rounds' ratios, as a machine's speed changes from minute to minute; without a
    /// sample of both in each round, the ratio of the medians.
    pub fn ratio(&self) -> Option<f64> {
        let (_, peer) = self.peer.as_ref()?;
        let ratio = |ours: f64, theirs: f64| {
            let (better, worse) = match self.ours.unit.more_is_better() {
                true => (ours, theirs),
                false => (theirs, ours),
            };
            (worse > 0.0).then(|| better / worse)
        };
        if self.ours.samples.len() != peer.samples.len() {
            return ratio(self.ours.value, peer.value);
        }
        let rounds = self.ours.samples.iter().zip(&peer.samples);
        let ratios: Option<Vec<f64>> = rounds.map(|(ours, theirs)| ratio(*ours, *theirs)).collect();
        ratios.map(|ratios| samples::median(&ratios))
    }

    /// All that is known of the row.
    pub fn to_json(&self) -> Value {
        json!({"row": self, "ratio": self.ratio(), "met": self.verdict()})
    }

    fn reaches(&self, bound: f64) -> bool {
        match self.judged {
            Judged::Share | Judged::Ratio => self.ratio().is_some_and(|ratio| ratio >= bound),
            Judged::Value if self.ours.unit.more_is_better() => self.ours.value >= bound,
            Judged::Value => self.ours.value <= bound,
        }
    }

    /// `goal`, `floor`, `missed`, or nothing where there is no bound.
    pub fn verdict(&self) -> &'static str {
        match (self.floor, self.goal) {
            (None, None) => "",
            (_, Some(goal)) if self.reaches(goal) => "goal",
            (Some(floor), _) if self.reaches(floor) => "floor",
            (Some(_), _) => "missed",
            (None, Some(_)) => "no",
        }
    }

    fn show_ratio(&self, ratio: f64) -> String {
        match self.judged {
            Judged::Share => format!("{:.0}%", ratio * 100.0),
            Judged::Ratio | Judged::Value => format!("{ratio:.1}×"),
        }
    }

    fn show_bound(&self, bound: Option<f64>) -> String {
        let Some(bound) = bound else {
            return String::new();
        };
        match self.judged {
            Judged::Value => self.ours.unit.show(bound),
            _ => self.show_ratio(bound),
        }
    }

    fn cells(&self) -> [String; 7] {
        let peer = match &self.peer {
            Some((name, figure)) => format!("{name}: {}", figure.show()),
            None => String::new(),
        };
        [
            self.what.clone(),
            self.ours.show(),
            peer,
            self.ratio()
                .map(|ratio| self.show_ratio(ratio))
                .unwrap_or_default(),
            self.show_bound(self.floor),
            self.show_bound(self.goal),
            self.verdict().to_owned(),
        ]
    }
}

const HEADER: [&str; 7] = ["what", "ours", "peer", "ratio", "floor", "goal", "met"];

/// The rows as a Markdown table, its columns lined up.
pub fn show(rows: &[Row]) -> String {
    let mut lines = vec![HEADER.map(str::to_owned)];
    lines.extend(rows.iter().map(Row::cells));
    let width = |column: usize| {
        let widths = lines.iter().map(|cells| cells[column].chars().count());
        widths.max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..HEADER.len()).map(width).collect();
    let mut text = Vec::new();
    for (number, cells) in lines.iter().enumerate() {
        let padded = cells.iter().zip(&widths);
        let padded: Vec<String> = padded
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        text.push(format!("| {} |", padded.join(" | ")));
        if number == 0 {
            let rule: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
            text.push(format!("| {} |", rule.join(" | ")));
        }
    }
    text.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(unit: Unit, value: f64) -> Figure {
        Figure::median(unit, vec![value])
    }

    #[test]
    fn more_lines_a_second_and_fewer_milliseconds_are_better() {
        let rate = Row::of("rate", figure(Unit::LinesPerSecond, 3e6))
            .beside("Spark", figure(Unit::LinesPerSecond, 1e6))
            .by_ratio();
        assert_eq!(rate.ratio(), Some(3.0));
        let time =
            Row::of("time", figure(Unit::Millis, 5.0)).beside("Spark", figure(Unit::Millis, 100.0));
        assert_eq!(time.ratio(), Some(20.0));
    }

    #[test]
    fn rounds_are_compared_with_themselves() {
        // Twice as fast in each round, on a machine that gets slower.
        let ours = Figure::median(Unit::LinesPerSecond, vec![8e6, 2e6, 4e6]);
        let theirs = Figure::median(Unit::LinesPerSecond, vec![4e6, 1e6, 2e6]);
        let other_order = Figure::median(Unit::LinesPerSecond, vec![4e6, 3e6, 2e6]);
        let row = Row::of("rate", ours);
        assert_eq!(row.clone().beside("peer", theirs).ratio(), Some(2.0));
        assert_eq!(row.clone().beside("peer", other_order).ratio(), Some(2.0));
        // Without a round of both.
        let one = Figure::median(Unit::LinesPerSecond, vec![2e6]);
        assert_eq!(row.beside("peer", one).ratio(), Some(2.0));
    }

    #[test]
    fn a_row_meets_its_goal_its_floor_or_neither() {
        let row = |value| {
            Row::of("time", figure(Unit::Millis, value))
                .floor(5.0)
                .goal(3.0)
        };
        assert_eq!(row(3.0).verdict(), "goal");
        assert_eq!(row(5.0).verdict(), "floor");
        assert_eq!(row(5.1).verdict(), "missed");
        let shared = |value| {
            Row::of("rate", figure(Unit::LinesPerSecond, value))
                .beside("hand-written", figure(Unit::LinesPerSecond, 1e6))
                .by_share()
                .floor(0.7)
                .goal(0.9)
        };
        assert_eq!(shared(0.95e6).verdict(), "goal");
        assert_eq!(shared(0.8e6).verdict(), "floor");
        assert_eq!(shared(0.6e6).verdict(), "missed");
        let only_goal = Row::of("rate", figure(Unit::TasksPerSecond, 1.0)).goal(2.0);
        assert_eq!(only_goal.verdict(), "no");
        assert_eq!(
            Row::of("rate", figure(Unit::TasksPerSecond, 1.0)).verdict(),
            ""
        );
    }

    #[test]
    fn the_table_lines_up() {
        let row = Row::of("word count", figure(Unit::LinesPerSecond, 1.26e6))
            .beside("hand-written", figure(Unit::LinesPerSecond, 1.4e6))
            .by_share()
            .floor(0.7)
            .goal(0.9);
        let table = show(&[row]);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(
            lines[2],
            "| word count | 1.26 M lines/s | hand-written: 1.40 M lines/s | 90%   | 70%   | 90%  | goal |"
        );
        let lengths: Vec<usize> = lines.iter().map(|line| line.chars().count()).collect();
        assert_eq!(lengths[0], lengths[1]);
        assert_eq!(lengths[0], lengths[2]);
    }
}
