//! Between those who want everything coded now and the one thread that sees
//! to it: demands, answers, and the bell that wakes it.
//!
//! Generic over the lock, so that a test can try out schedules of threads.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::error::{Error, Result};

use super::DrainProgress;

/// A value behind a lock, and a bell for those who wait for a change of it.
pub trait Monitor<T> {
    fn new(value: T) -> Self;

    /// Looks at the value or changes it.
    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R;

    /// Asks `f` now and whenever the bell rings, until it has an answer or
    /// `within` is over.
    fn wait<R>(&self, within: Duration, f: impl FnMut(&mut T) -> Option<R>) -> Option<R>;

    fn ring(&self);
}

/// The monitor of real threads.
pub struct Threads<T> {
    value: Mutex<T>,
    bell: Condvar,
}

impl<T> Monitor<T> for Threads<T> {
    fn new(value: T) -> Self {
        Self {
            value: Mutex::new(value),
            bell: Condvar::new(),
        }
    }

    fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
        f(&mut self.value.lock())
    }

    fn wait<R>(&self, within: Duration, mut f: impl FnMut(&mut T) -> Option<R>) -> Option<R> {
        let until = Instant::now() + within;
        let mut value = self.value.lock();
        loop {
            let answer = f(&mut value);
            if answer.is_some() || self.bell.wait_until(&mut value, until).timed_out() {
                return answer.or_else(|| f(&mut value));
            }
        }
    }

    fn ring(&self) {
        self.bell.notify_all();
    }
}

/// Take everything committed up to a time (milliseconds since 1970), quiet or
/// not. Two demands are never equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    number: u64,
    pub upto: u64,
}

#[derive(Default)]
pub struct State {
    stop: bool,
    /// The queue may hold something new.
    rung: bool,
    demands: u64,
    /// What is wanted now.
    demand: Option<Demand>,
    /// How the demand of this number ended.
    ended: Option<(u64, Result<()>)>,
    progress: DrainProgress,
}

/// See the module's description.
pub struct Handover<M = Threads<State>> {
    monitor: M,
}

impl<M: Monitor<State>> Handover<M> {
    pub fn new() -> Self {
        Self {
            monitor: M::new(State::default()),
        }
    }

    /// Ends everything soon.
    pub fn stop(&self) {
        self.monitor.with(|state| state.stop = true);
        self.monitor.ring();
    }

    pub fn stopped(&self) -> bool {
        self.monitor.with(|state| state.stop)
    }

    /// There may be something to do.
    pub fn ring(&self) {
        self.monitor.with(|state| state.rung = true);
        self.monitor.ring();
    }

    /// Changes the progress of the demand, or looks at it.
    pub fn progress<R>(&self, f: impl FnOnce(&mut DrainProgress) -> R) -> R {
        self.monitor.with(|state| f(&mut state.progress))
    }

    /// Makes a demand in the place of an earlier one.
    pub fn ask(&self, upto: u64, progress: DrainProgress) -> Demand {
        let demand = self.monitor.with(|state| {
            state.demands += 1;
            state.progress = progress;
            state.ended = None;
            let demand = Demand {
                number: state.demands,
                upto,
            };
            state.demand = Some(demand);
            demand
        });
        self.monitor.ring();
        demand
    }

    /// Nobody waits for a demand any more.
    pub fn withdraw(&self, demand: Demand) {
        self.monitor.with(|state| {
            state.demand = state.demand.filter(|wanted| *wanted != demand);
        });
    }

    /// How a demand ended, if it does so in time.
    pub fn outcome(&self, demand: Demand, within: Duration) -> Option<Result<()>> {
        self.monitor.wait(within, |state| match &state.ended {
            Some((number, _)) if *number == demand.number => {
                state.ended.take().map(|(_, result)| result)
            }
            _ if state.stop => Some(Err(Error::Other("the volume is being closed".into()))),
            _ => None,
        })
    }

    /// What is wanted.
    pub fn demand(&self) -> Option<Demand> {
        self.monitor.with(|state| state.demand)
    }

    /// Answers a demand, if it is still wanted.
    pub fn answer(&self, demand: Demand, result: Result<()>) {
        self.monitor.with(|state| {
            if state.demand == Some(demand) {
                state.demand = None;
                state.ended = Some((demand.number, result));
            }
        });
        self.monitor.ring();
    }

    /// Waits for a demand or the end; with `heed`, also for something new in
    /// the queue.
    pub fn rest(&self, within: Duration, heed: bool) {
        self.monitor.wait(within, |state| {
            (state.stop || state.demand.is_some() || heed && state.rung).then_some(())
        });
        self.monitor.with(|state| state.rung = false);
    }
}

#[cfg(test)]
pub(super) mod tests {
    use shuttle::rand::Rng;
    use shuttle::sync::atomic::{AtomicU64, Ordering};
    use shuttle::{sync, thread};

    use super::*;

    /// The monitor of threads whose schedule is tried out. Time stands still:
    /// whoever is never woken waits for ever, which is found.
    pub(in super::super) struct Scheduled<T> {
        value: sync::Mutex<T>,
        bell: sync::Condvar,
    }

    impl<T> Monitor<T> for Scheduled<T> {
        fn new(value: T) -> Self {
            Self {
                value: sync::Mutex::new(value),
                bell: sync::Condvar::new(),
            }
        }

        fn with<R>(&self, f: impl FnOnce(&mut T) -> R) -> R {
            f(&mut self.value.lock().unwrap())
        }

        fn wait<R>(&self, _: Duration, mut f: impl FnMut(&mut T) -> Option<R>) -> Option<R> {
            let mut value = self.value.lock().unwrap();
            loop {
                if let Some(answer) = f(&mut value) {
                    return Some(answer);
                }
                value = self.bell.wait(value).unwrap();
            }
        }

        fn ring(&self) {
            self.bell.notify_all();
        }
    }

    struct World {
        handover: Handover<Scheduled<State>>,
        /// Chunks in the queue, and how many of them are coded.
        queued: AtomicU64,
        coded: AtomicU64,
        /// One demand at a time.
        turn: sync::Mutex<()>,
    }

    /// As the leader of the drain: a pass ends early once nobody wants it.
    fn lead(world: &World) {
        while !world.handover.stopped() {
            if let Some(demand) = world.handover.demand() {
                let all = world.queued.load(Ordering::SeqCst);
                if world.handover.demand() == Some(demand) {
                    world.coded.fetch_max(all, Ordering::SeqCst);
                }
                world.handover.answer(demand, Ok(()));
            }
            world.handover.rest(Duration::ZERO, true);
        }
    }

    /// Two threads ask in the same moment, and may give up: an answer always
    /// comes, and only when everything that was queued before is coded.
    fn ask_and_give_up() {
        let world = std::sync::Arc::new(World {
            handover: Handover::new(),
            queued: AtomicU64::new(0),
            coded: AtomicU64::new(0),
            turn: sync::Mutex::new(()),
        });
        let leader = {
            let world = world.clone();
            thread::spawn(move || lead(&world))
        };
        let askers: Vec<_> = (0..2)
            .map(|_| {
                let world = world.clone();
                thread::spawn(move || {
                    for _ in 0..2 {
                        let _turn = world.turn.lock().unwrap();
                        let mine = world.queued.fetch_add(1, Ordering::SeqCst) + 1;
                        world.handover.ring();
                        let demand = world.handover.ask(7, DrainProgress::default());
                        if shuttle::rand::thread_rng().gen_bool(0.5) {
                            world.handover.withdraw(demand);
                            continue;
                        }
                        let ended = world.handover.outcome(demand, Duration::ZERO);
                        ended.unwrap().unwrap();
                        assert!(world.coded.load(Ordering::SeqCst) >= mine);
                    }
                })
            })
            .collect();
        askers.into_iter().for_each(|asker| asker.join().unwrap());
        world.handover.stop();
        leader.join().unwrap();
    }

    #[test]
    fn demands_are_answered_whatever_the_schedule() {
        shuttle::check_random(ask_and_give_up, 2000);
        shuttle::check_pct(ask_and_give_up, 2000, 3);
    }

    /// Whoever waits hears of the end.
    #[test]
    fn closing_answers_everyone() {
        shuttle::check_random(
            || {
                let handover = std::sync::Arc::new(Handover::<Scheduled<State>>::new());
                let waiting = handover.clone();
                let waits = thread::spawn(move || {
                    let demand = waiting.ask(7, DrainProgress::default());
                    let ended = waiting.outcome(demand, Duration::ZERO);
                    assert!(ended.unwrap().is_err());
                });
                handover.stop();
                waits.join().unwrap();
            },
            1000,
        );
    }

    #[test]
    fn real_threads_give_up_in_time() {
        let handover = Handover::<Threads<State>>::new();
        let demand = handover.ask(7, DrainProgress::default());
        assert!(handover.outcome(demand, Duration::from_millis(1)).is_none());
        handover.answer(demand, Ok(()));
        assert!(handover.outcome(demand, Duration::ZERO).unwrap().is_ok());
        handover.rest(Duration::from_millis(1), true);
    }
}
