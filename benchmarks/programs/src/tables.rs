//! CSV files for the structured queries: employees, and rows of numbered groups. The same for every run.

use std::{
    fs,
    io::{BufWriter, Write},
    path::Path,
    time::{Duration, SystemTime},
};

use rand::{Rng, SeedableRng, rngs::SmallRng};

use crate::Error;

const EMPLOYEES_HEADER: &str = "emp_id,emp_name,job_name,manager_id,salary,dept_name";
/// The jobs of a file's ten employees.
const JOBS: [&str; 10] = [
    "ANALYST",
    "ANALYST",
    "SALESMAN",
    "SALESMAN",
    "SALESMAN",
    "CLERK",
    "MANAGER",
    "MANAGER",
    "MANAGER",
    "PRESIDENT",
];
/// Files that a batch of groups takes.
const FILES_PER_BATCH: u64 = 2;
/// When the first file was changed, seconds since 1970; each further one a second later, as files are read by their times.
const FIRST_CHANGE: u64 = 1_700_000_000;
const SEED: u64 = 7;

/// Writes files of ten employees each, with a header.
///
/// # Errors
/// When a file can't be written.
pub fn write_employees(folder: &Path, files: u64) -> Result<(), Error> {
    fs::create_dir_all(folder)?;
    for number in 0..files {
        let mut text = format!("{EMPLOYEES_HEADER}\n");
        for (row, job) in JOBS.iter().enumerate() {
            text.push_str(&format!("{row},n{row},{job},1,100.0,X\n"));
        }
        write(folder, number, |out| Ok(out.write_all(text.as_bytes())?))?;
    }
    Ok(())
}

/// Which groups come in which batch.
#[derive(Clone, Copy, Debug)]
pub struct Groups {
    /// All there are.
    pub groups: u64,
    /// Batches that come first, in which each group comes once.
    pub fills: u64,
    /// Groups of each batch after that, evenly spread over all.
    pub touched: u64,
    /// How many batches there are after that.
    pub batches: u64,
}

/// Writes the numbers of groups, two files a batch.
///
/// # Errors
/// When a file can't be written.
pub fn write_groups(folder: &Path, groups: Groups) -> Result<(), Error> {
    fs::create_dir_all(folder)?;
    let mut random = SmallRng::seed_from_u64(SEED);
    let fills = groups.fills * FILES_PER_BATCH;
    for file in 0..fills {
        let until = groups.groups * (file + 1) / fills;
        write(folder, file, |out| {
            for group in groups.groups * file / fills..until {
                writeln!(out, "{group}")?;
            }
            Ok(())
        })?;
    }
    let apart = (groups.groups / groups.touched.max(1)).max(1);
    for file in 0..groups.batches * FILES_PER_BATCH {
        let part = file % FILES_PER_BATCH;
        let from = groups.touched * part / FILES_PER_BATCH;
        let until = groups.touched * (part + 1) / FILES_PER_BATCH;
        write(folder, fills + file, |out| {
            for place in from..until {
                writeln!(out, "{}", place * apart + random.random_range(0..apart))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

type Content<'c> = &'c mut BufWriter<fs::File>;

fn write(
    folder: &Path,
    number: u64,
    content: impl FnOnce(Content<'_>) -> Result<(), Error>,
) -> Result<(), Error> {
    let path = folder.join(format!("part-{number:05}.csv"));
    let mut writer = BufWriter::with_capacity(1 << 20, fs::File::create(path)?);
    content(&mut writer)?;
    let file = writer.into_inner()?;
    let changed = Duration::from_secs(FIRST_CHANGE + number);
    file.set_modified(SystemTime::UNIX_EPOCH + changed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn numbers(folder: &Path, files: std::ops::Range<u64>) -> Vec<u64> {
        let mut numbers = Vec::new();
        for file in files {
            let text = fs::read_to_string(folder.join(format!("part-{file:05}.csv"))).unwrap();
            numbers.extend(text.lines().map(|line| line.parse::<u64>().unwrap()));
        }
        numbers
    }

    #[test]
    fn each_group_comes_once_and_then_so_many_a_batch() {
        let folder = tempfile::tempdir().unwrap();
        let groups = Groups {
            groups: 1_000,
            fills: 3,
            touched: 50,
            batches: 2,
        };
        write_groups(folder.path(), groups).unwrap();
        let filled = numbers(folder.path(), 0..6);
        assert_eq!(filled, (0..1_000).collect::<Vec<_>>());
        for batch in 0..2 {
            let first = 6 + 2 * batch;
            let touched = numbers(folder.path(), first..first + 2);
            let distinct: BTreeSet<u64> = touched.iter().copied().collect();
            assert_eq!((touched.len(), distinct.len()), (50, 50));
            assert!(distinct.last() > Some(&900), "{distinct:?}");
        }
        let changed = |file: u64| {
            let path = folder.path().join(format!("part-{file:05}.csv"));
            fs::metadata(path).unwrap().modified().unwrap()
        };
        assert!(changed(5) < changed(6));
    }
}
