//! Random orders of everything: answers late, drivers asleep, several at once, killed at any moment.

use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::{
    super::{error::QueryError, event::Event},
    sim::{Driver, World, options},
};

const MAX_DRIVERS: usize = 3;

struct Actor {
    driver: Driver,
    asleep: bool,
}

fn run(seed: u64, steps: u32, retained: u64) -> usize {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut world = World::new();
    let mut actors: Vec<Actor> = Vec::new();
    for _ in 0..steps {
        match random.random_range(0..400) {
            0..2 if actors.len() < MAX_DRIVERS => actors.push(Actor {
                driver: Driver::start(&world, options(retained)),
                asleep: false,
            }),
            2..4 if !actors.is_empty() => {
                let index = random.random_range(0..actors.len());
                let actor = actors.swap_remove(index);
                actor.driver.crash(&mut world, || random.random());
            }
            4..10 if !actors.is_empty() => {
                let index = random.random_range(0..actors.len());
                actors[index].asleep = !actors[index].asleep;
            }
            10..12 if !actors.is_empty() => {
                let index = random.random_range(0..actors.len());
                let graceful = random.random();
                actors[index].driver.tell(&world, Event::Stop { graceful });
            }
            12..30 => world.advance(random.random_range(1..1_500)),
            30..40 => world.numbers += random.random_range(0..3),
            40..50 => world.files += random.random_range(0..2),
            _ => {
                if actors.is_empty() {
                    continue;
                }
                let index = random.random_range(0..actors.len());
                if !actors[index].asleep {
                    step(&mut random, &mut world, &mut actors[index].driver);
                }
            }
        }
        actors.retain(|actor| match &actor.driver.ended {
            None => true,
            Some(Ok(_) | Err(QueryError::Superseded { .. })) => false,
            Some(Err(error)) => panic!("seed {seed}: {error}"),
        });
    }
    for actor in actors {
        actor.driver.crash(&mut world, || random.random());
    }
    finish(&mut world, retained);
    world.everything_is_committed();
    world.logged.len()
}

fn step(random: &mut SmallRng, world: &mut World, driver: &mut Driver) {
    if driver.fire_timer(world) {
        return;
    }
    let mut choices = Vec::new();
    if !driver.replies.is_empty() {
        choices.push(0);
    }
    if !driver.todo.is_empty() {
        choices.push(1);
    }
    for source in 0..2 {
        if !driver.source_todo[source].is_empty() {
            choices.push(2 + source);
        }
    }
    if choices.is_empty() {
        return;
    }
    match choices[random.random_range(0..choices.len())] {
        0 => {
            let index = random.random_range(0..driver.replies.len());
            driver.hear(world, index);
        }
        1 => {
            let index = random.random_range(0..driver.todo.len());
            driver.do_one(world, index);
        }
        choice => driver.do_source(world, choice - 2),
    }
}

/// One last driver, undisturbed, takes what is there.
fn finish(world: &mut World, retained: u64) {
    let mut driver = Driver::start(world, options(retained));
    world.numbers += 1;
    for _ in 0..3 {
        driver.settle(world);
        world.advance(1_000);
    }
    driver.settle(world);
    driver.tell(world, Event::Stop { graceful: true });
    driver.settle(world);
    assert!(matches!(driver.ended, Some(Ok(_))), "{:?}", driver.ended);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]
    #[test]
    fn whatever_happens_each_input_is_committed_once(seed: u64, steps in 1u32..4_000, retained in prop_oneof![Just(2u64), Just(3), Just(20)]) {
        run(seed, steps, retained);
    }
}

#[test]
fn the_model_gets_somewhere() {
    let batches: Vec<usize> = (0..8).map(|seed| run(seed, 6_000, 2)).collect();
    assert!(batches.iter().all(|batches| *batches > 10), "{batches:?}");
}
