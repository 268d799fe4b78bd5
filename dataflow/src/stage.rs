//! A pipeline and its end as a [`StageProgram`]: opens the pipeline for a task, runs it to the end, and turns a panic of a user function into a
//! failure that names the operator.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use millstream_common::{
    failure::{Failure, FailureKind},
    protocol::TaskOutput,
};

use crate::{
    program::{StageProgram, TaskContext},
    rows::{BoxRows, Opener},
    task::{Task, current_operator, leave_operators},
};

/// What becomes of a stage's rows.
pub trait Exit<T>: Send + Sync {
    /// Pulls the rows to their end, or as far as they are wanted. Counts are added by the caller.
    ///
    /// # Errors
    /// Ends the attempt.
    fn run(&self, rows: BoxRows<'_, T>, task: &Task<'_>) -> Result<TaskOutput, Failure>;
}

/// A stage's code. `operators` has the stable id of every operator of the query, by its index.
pub fn stage_program<T: 'static>(
    open: Opener<T>,
    exit: impl Exit<T> + 'static,
    operators: Arc<[String]>,
) -> Arc<dyn StageProgram> {
    Arc::new(Stage {
        open,
        exit: Box::new(exit),
        operators,
    })
}

struct Stage<T> {
    open: Opener<T>,
    exit: Box<dyn Exit<T>>,
    operators: Arc<[String]>,
}

impl<T: 'static> StageProgram for Stage<T> {
    fn run(&self, context: &mut TaskContext<'_>) -> Result<TaskOutput, Failure> {
        leave_operators();
        let task = Task::new(context);
        // What a panic may leave half done is the pipeline and the task, and neither is used again.
        let ended = catch_unwind(AssertUnwindSafe(|| {
            let rows = (self.open)(&task)?;
            self.exit.run(rows, &task)
        }));
        context.counts = task.with(|context| context.counts.clone());
        let failure = match ended {
            Ok(Ok(mut output)) => {
                output.counts = context.counts.clone();
                return Ok(output);
            }
            Ok(Err(failure)) => failure,
            Err(panic) => of_panic(panic),
        };
        let failure = failure.in_task(context.id);
        match self.current_operator() {
            Some(operator) if failure.kind == FailureKind::UserCode => {
                Err(failure.in_operator(operator))
            }
            _ => Err(failure),
        }
    }
}

impl<T> Stage<T> {
    fn current_operator(&self) -> Option<&str> {
        let index = current_operator()?.0 as usize;
        self.operators.get(index).map(String::as_str)
    }
}

/// A connector that is called within a user function (a record's text) unwinds with the failure itself.
fn of_panic(panic: Box<dyn Any + Send>) -> Failure {
    match panic.downcast::<Failure>() {
        Ok(failure) => *failure,
        Err(panic) => Failure::new(
            FailureKind::UserCode,
            format!("a user function panicked: {}", panic_message(&*panic)),
        ),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    if let Some(message) = panic.downcast_ref::<String>() {
        return message;
    }
    match panic.downcast_ref::<&'static str>() {
        Some(message) => message,
        None => "without a message",
    }
}
