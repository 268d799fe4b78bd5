//! The machine's processes, read from `/proc`.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use super::WATCHDOG;
use crate::Error;
use crate::wait::wait_until;

/// A process as `/proc` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Process id.
    pub pid: u32,
    /// The parent's process id.
    pub parent: u32,
    /// The state's letter, `T` for a stopped one.
    pub state: char,
    /// The command line, its arguments parted by spaces.
    pub command: String,
}

/// All live processes; zombies and the harness's own watchdogs are left out.
pub fn processes() -> Vec<ProcessInfo> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let pid = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        // A process may end between the listing and the look at it.
        found.extend(pid.and_then(process));
    }
    found.sort_by_key(|process| process.pid);
    found
}

/// The children of `pid`, theirs, and so on.
pub fn descendants(pid: u32) -> Vec<ProcessInfo> {
    let mut children: BTreeMap<u32, Vec<ProcessInfo>> = BTreeMap::new();
    for process in processes() {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut parents = vec![pid];
    while let Some(parent) = parents.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            parents.push(child.pid);
            found.push(child);
        }
    }
    found
}

/// The live processes that carry `marker` in their environment or command line.
pub fn processes_with(marker: &str) -> Vec<ProcessInfo> {
    let own = std::process::id();
    let mut found = processes();
    found.retain(|process| {
        process.pid != own
            && (process.command.contains(marker) || environment_has(process.pid, marker))
    });
    found
}

/// Fails unless every process that carries `marker` is gone after `within` at the latest.
pub fn assert_no_process_left(marker: &str, within: Duration) -> Result<(), Error> {
    let mut left = Vec::new();
    let gone = wait_until(within, "processes to end", || {
        left = processes_with(marker);
        left.is_empty()
    });
    gone.map_err(|_| {
        let list: Vec<String> = left
            .iter()
            .map(|process| format!("{} ({})", process.pid, process.command))
            .collect();
        Error::Left(list.join(", "))
    })
}

fn process(pid: u32) -> Option<ProcessInfo> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name stands in parentheses and may hold any character.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    if state == 'Z' || state == 'X' {
        return None;
    }
    let arguments = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let command = String::from_utf8_lossy(&arguments)
        .replace('\0', " ")
        .trim_end()
        .to_owned();
    if command.contains(WATCHDOG) {
        return None;
    }
    Some(ProcessInfo {
        pid,
        parent,
        state,
        command,
    })
}

fn environment_has(pid: u32, marker: &str) -> bool {
    // Other users' processes can't be read, and aren't ours.
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environment| String::from_utf8_lossy(&environment).contains(marker))
}
