//! Employees by job: a table on the screen that each new file of a folder updates.
//!
//! ```sh
//! cargo run --release -p millstream-examples-structured --example employees -- FOLDER
//! ```

use std::process::ExitCode;

use millstream::sql::{Args, OutputMode, Result, Session};

const SCHEMA: &str =
    "emp_id INT, emp_name STRING, job_name STRING, manager_id INT, salary DOUBLE, dept_name STRING";

/// Counts employees by job, whenever a CSV file appears in a folder.
#[derive(Args)]
struct Employees {
    /// Folder in which files appear, each with a header line
    folder: String,
    /// What is printed after each file: complete or update
    #[arg(long, default_value_t = OutputMode::Complete)]
    output_mode: OutputMode,
}

fn employees(session: &Session, args: Employees) -> Result<()> {
    session
        .read_stream()
        .schema(SCHEMA)
        .option("header", true)
        .csv(&args.folder)?
        .group_by(["job_name"])?
        .count()?
        .write_stream()
        .format("console")
        .output_mode(args.output_mode)
        .start()?
        .await_termination()
}

fn main() -> ExitCode {
    millstream::sql::launch(employees)
}
