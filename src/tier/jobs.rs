//! Between the leader of the drain and its coders: jobs given out, taken, done,
//! and called back.
//!
//! Nobody waits for a coder in the background. Its thread is at idle priority,
//! and beside others that want the machine it may get no time for minutes.
//! When its job is wanted elsewhere, the job is called back: the coder is told
//! to stop, and what it may still return is thrown away. The chunk is where it
//! was all the time, in the store and in the queue.
//!
//! Generic over the lock, as [`handover`](super::handover).

use std::collections::{HashMap, VecDeque};
use std::marker::PhantomData;
use std::time::Duration;

use crate::interrupt::Interrupt;

use super::handover::{Monitor, Threads};

/// For whom something is coded, and so by which coders: a thread that has made
/// itself idle may not take its ordinary priority back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coders {
    /// Work when nobody else wants the machine.
    Background,
    /// Work for someone who waits.
    Awaited,
}

/// Names a job while a coder has it.
type Ticket = u64;

/// Jobs `J` and their results `R`.
pub struct State<J, R> {
    closed: bool,
    /// The leader shall look up.
    nudged: bool,
    tickets: Ticket,
    /// Jobs that no coder has taken yet.
    waiting: [VecDeque<J>; 2],
    /// What the coders have.
    held: HashMap<Ticket, Interrupt>,
    /// What they returned.
    done: VecDeque<(J, R)>,
}

/// Jobs that a coder does side by side.
pub struct Taken<J> {
    pub jobs: Vec<(Ticket, J)>,
    /// Raised when nobody wants them any more.
    pub interrupt: Interrupt,
}

/// See the module's description. The lock is held for moments only, so that a
/// thread at idle priority is all but never caught with it.
pub struct Jobs<J, R, M = Threads<State<J, R>>> {
    monitor: M,
    of: PhantomData<fn(J) -> R>,
}

impl<J, R, M: Monitor<State<J, R>>> Jobs<J, R, M> {
    pub fn new() -> Self {
        Self {
            monitor: M::new(State {
                closed: false,
                nudged: false,
                tickets: 0,
                waiting: [VecDeque::new(), VecDeque::new()],
                held: HashMap::new(),
                done: VecDeque::new(),
            }),
            of: PhantomData,
        }
    }

    /// The leader gives a job.
    pub fn give(&self, coders: Coders, job: J) {
        self.monitor
            .with(|state| state.waiting[coders as usize].push_back(job));
        self.monitor.ring();
    }

    /// Jobs that were given and have not come back.
    pub fn busy(&self) -> usize {
        self.monitor.with(|state| {
            let waiting: usize = state.waiting.iter().map(VecDeque::len).sum();
            waiting + state.held.len() + state.done.len()
        })
    }

    /// The leader takes what came back, waiting for it if need be, but not
    /// beyond a nudge.
    pub fn result(&self, within: Duration) -> Option<(J, R)> {
        let come = self.monitor.wait(within, |state| {
            let nudged = std::mem::take(&mut state.nudged);
            let come = state.done.pop_front();
            (nudged || come.is_some()).then_some(come)
        });
        come.flatten()
    }

    /// Has the leader look what is wanted of it.
    pub fn nudge(&self) {
        self.monitor.with(|state| state.nudged = true);
        self.monitor.ring();
    }

    /// The leader calls all jobs back. Returns those that were done by now;
    /// nothing more will come of the others, whoever has them.
    pub fn call_back(&self) -> Vec<(J, R)> {
        let (done, _waiting) = self.monitor.with(|state| {
            state.held.values().for_each(Interrupt::raise);
            state.held.clear();
            (
                std::mem::take(&mut state.done),
                std::mem::take(&mut state.waiting),
            )
        });
        self.monitor.ring();
        done.into()
    }

    /// Calls all jobs back and has the coders end.
    pub fn close(&self) {
        self.monitor.with(|state| state.closed = true);
        self.call_back();
    }

    /// A coder takes what is its share, one of `coders`, but at most `most`
    /// jobs; waits until there is one. `None`: it shall end.
    pub fn take(&self, mine: Coders, coders: usize, most: usize) -> Option<Taken<J>> {
        loop {
            let found = self.monitor.wait(Duration::from_secs(3600), |state| {
                if state.closed {
                    return Some(None);
                }
                let waiting = &mut state.waiting[mine as usize];
                let share = waiting.len().div_ceil(coders.max(1)).min(most);
                if share == 0 {
                    return None;
                }
                let interrupt = Interrupt::default();
                let jobs = waiting.drain(..share).map(|job| {
                    state.tickets += 1;
                    state.held.insert(state.tickets, interrupt.clone());
                    (state.tickets, job)
                });
                let jobs = jobs.collect();
                Some(Some(Taken { jobs, interrupt }))
            });
            if let Some(found) = found {
                return found;
            }
        }
    }

    /// A coder returns a job. Forgotten if it was called back.
    pub fn finish(&self, ticket: Ticket, job: J, result: R) {
        let mut come = Some((job, result));
        self.monitor.with(|state| {
            if state.held.remove(&ticket).is_some() {
                state.done.extend(come.take());
            }
        });
        self.monitor.ring();
    }

    /// Lets a coder rest, unless everything ends.
    pub fn breathe(&self, within: Duration) {
        if !within.is_zero() {
            self.monitor
                .wait(within, |state| state.closed.then_some(()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shuttle::rand::Rng;
    use shuttle::{sync, thread};

    use super::super::DrainProgress;
    use super::super::handover::tests::Scheduled;
    use super::super::handover::{self, Demand, Handover};
    use super::*;

    type Here = Jobs<usize, (), Scheduled<State<usize, ()>>>;

    /// A tier, but for its chunks: of each it is known whether it is coded.
    struct World {
        handover: Handover<Scheduled<handover::State>>,
        jobs: Here,
        queue: sync::Mutex<Vec<bool>>,
        /// Idle threads get time again.
        over: (sync::Mutex<bool>, sync::Condvar),
        /// One demand at a time.
        turn: sync::Mutex<()>,
    }

    impl World {
        /// Notes that a chunk is coded, which must happen once.
        fn swap(&self, chunk: usize) {
            let before = std::mem::replace(&mut self.queue.lock().unwrap()[chunk], true);
            assert!(!before, "{chunk} is coded twice");
        }

        /// As a pass of the leader.
        fn pass(&self, demand: Option<Demand>) {
            let coders = match demand {
                Some(_) => Coders::Awaited,
                None => Coders::Background,
            };
            let mut next = 0;
            loop {
                if self.handover.stopped() || self.handover.demand() != demand {
                    for (chunk, ()) in self.jobs.call_back() {
                        self.swap(chunk);
                    }
                    return;
                }
                while self.jobs.busy() < 3 {
                    let coded = self.queue.lock().unwrap().get(next).copied();
                    match coded {
                        Some(false) => self.jobs.give(coders, next),
                        Some(true) => {}
                        None => break,
                    }
                    next += 1;
                }
                if self.jobs.busy() == 0 {
                    return;
                }
                if let Some((chunk, ())) = self.jobs.result(Duration::ZERO) {
                    self.swap(chunk);
                }
            }
        }

        fn lead(&self) {
            while !self.handover.stopped() {
                let demand = self.handover.demand();
                self.pass(demand);
                if let Some(demand) = demand {
                    self.handover.answer(demand, Ok(()));
                }
                self.handover.rest(Duration::ZERO, true);
            }
            self.jobs.close();
        }

        /// A coder; one in the background may get no time until all is over.
        fn code(&self, mine: Coders) {
            while let Some(taken) = self.jobs.take(mine, 2, 2) {
                if mine == Coders::Background && thread_rng().gen_bool(0.5) {
                    let mut over = self.over.0.lock().unwrap();
                    while !*over {
                        over = self.over.1.wait(over).unwrap();
                    }
                }
                for (ticket, chunk) in taken.jobs {
                    self.jobs.finish(ticket, chunk, ());
                }
            }
        }

        /// Writes chunks and asks for all to be coded, or gives up.
        fn ask(&self) {
            for _ in 0..2 {
                let _turn = self.turn.lock().unwrap();
                self.queue.lock().unwrap().push(false);
                self.handover.ring();
                if thread_rng().gen_bool(0.3) {
                    continue;
                }
                let there = self.queue.lock().unwrap().len();
                let demand = self.handover.ask(7, DrainProgress::default());
                self.jobs.nudge();
                if thread_rng().gen_bool(0.3) {
                    self.handover.withdraw(demand);
                    self.jobs.nudge();
                    continue;
                }
                let ended = self.handover.outcome(demand, Duration::ZERO);
                ended.unwrap().unwrap();
                let queue = self.queue.lock().unwrap();
                assert!(queue[..there].iter().all(|coded| *coded));
            }
        }
    }

    use shuttle::rand::thread_rng;

    /// Demands are answered, and the leader ends, though coders in the
    /// background may not move at all; every chunk is coded once.
    fn starving() {
        let world = Arc::new(World {
            handover: Handover::new(),
            jobs: Jobs::new(),
            queue: sync::Mutex::default(),
            over: Default::default(),
            turn: sync::Mutex::default(),
        });
        let spawn = |work: fn(&World)| {
            let world = world.clone();
            thread::spawn(move || work(&world))
        };
        let leader = spawn(World::lead);
        let coders = [
            spawn(|world| world.code(Coders::Background)),
            spawn(|world| world.code(Coders::Background)),
            spawn(|world| world.code(Coders::Awaited)),
        ];
        let askers = [spawn(World::ask), spawn(World::ask)];
        askers.into_iter().for_each(|asker| asker.join().unwrap());
        world.handover.stop();
        world.jobs.nudge();
        leader.join().unwrap();
        *world.over.0.lock().unwrap() = true;
        world.over.1.notify_all();
        coders.into_iter().for_each(|coder| coder.join().unwrap());
        assert_eq!(world.jobs.busy(), 0);
    }

    #[test]
    fn nobody_waits_for_the_background_whatever_the_schedule() {
        shuttle::check_random(starving, 2000);
        shuttle::check_pct(starving, 2000, 3);
    }

    #[test]
    fn what_is_called_back_is_given_anew_and_counts_once() {
        let jobs = Jobs::<&str, u8>::new();
        for job in ["a", "b", "c"] {
            jobs.give(Coders::Background, job);
        }
        let first = jobs.take(Coders::Background, 1, 2).unwrap();
        let (ticket, job) = first.jobs[0];
        jobs.finish(ticket, job, 1);
        assert_eq!(jobs.busy(), 3);
        assert_eq!(jobs.call_back(), [("a", 1)]);
        assert_eq!(jobs.busy(), 0);
        assert!(first.interrupt.is_raised());

        jobs.give(Coders::Awaited, "b");
        let second = jobs.take(Coders::Awaited, 1, 2).unwrap();
        let (late, job) = first.jobs[1];
        jobs.finish(late, job, 2);
        assert!(jobs.result(Duration::ZERO).is_none());
        assert!(!second.interrupt.is_raised());
        jobs.finish(second.jobs[0].0, "b", 3);
        assert_eq!(jobs.result(Duration::ZERO), Some(("b", 3)));
        jobs.close();
        assert!(jobs.take(Coders::Awaited, 1, 2).is_none());
    }
}
